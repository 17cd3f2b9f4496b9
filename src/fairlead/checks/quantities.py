"""Units of measurement: conversion with dimensional analysis.

Knows: the units of the International System with their prefixes, and everyday units.
Does not know: where the numbers come from. Nothing is evaluated, so that text of a model can be given to it.
"""

from __future__ import annotations

import math
import re

__all__ = ["UnitError", "convert"]


class UnitError(ValueError):
    """A unit that is not known, or two that do not measure the same."""


_BASE = ("m", "kg", "s", "A", "K", "mol", "cd")
_Size = tuple[float, tuple[int, ...]]


def _dimension(**powers: int) -> tuple[int, ...]:
    return tuple(powers.get(name, 0) for name in _BASE)


_ONE = _dimension()
_LENGTH, _MASS, _TIME, _HEAT = _dimension(m=1), _dimension(kg=1), _dimension(s=1), _dimension(K=1)
_FORCE, _ENERGY, _POWER = _dimension(kg=1, m=1, s=-2), _dimension(kg=1, m=2, s=-2), _dimension(kg=1, m=2, s=-3)
_PRESSURE, _VOLT = _dimension(kg=1, m=-1, s=-2), _dimension(kg=1, m=2, s=-3, A=-1)

_PREFIXED: dict[str, _Size] = {
    "m": (1.0, _LENGTH),
    "g": (1e-3, _MASS),
    "s": (1.0, _TIME),
    "A": (1.0, _dimension(A=1)),
    "K": (1.0, _HEAT),
    "mol": (1.0, _dimension(mol=1)),
    "cd": (1.0, _dimension(cd=1)),
    "Hz": (1.0, _dimension(s=-1)),
    "N": (1.0, _FORCE),
    "Pa": (1.0, _PRESSURE),
    "bar": (1e5, _PRESSURE),
    "J": (1.0, _ENERGY),
    "eV": (1.602176634e-19, _ENERGY),
    "cal": (4.184, _ENERGY),
    "W": (1.0, _POWER),
    "Wh": (3600.0, _ENERGY),
    "C": (1.0, _dimension(A=1, s=1)),
    "V": (1.0, _VOLT),
    "Ω": (1.0, _dimension(kg=1, m=2, s=-3, A=-2)),
    "ohm": (1.0, _dimension(kg=1, m=2, s=-3, A=-2)),
    "F": (1.0, _dimension(kg=-1, m=-2, s=4, A=2)),
    "H": (1.0, _dimension(kg=1, m=2, s=-2, A=-2)),
    "T": (1.0, _dimension(kg=1, s=-2, A=-1)),
    "Wb": (1.0, _dimension(kg=1, m=2, s=-2, A=-1)),
    "L": (1e-3, _dimension(m=3)),
    "l": (1e-3, _dimension(m=3)),
}
_PLAIN: dict[str, _Size] = {
    "min": (60.0, _TIME),
    "h": (3600.0, _TIME),
    "hr": (3600.0, _TIME),
    "day": (86400.0, _TIME),
    "week": (604800.0, _TIME),
    "year": (31557600.0, _TIME),
    "t": (1e3, _MASS),
    "lb": (0.45359237, _MASS),
    "oz": (0.028349523125, _MASS),
    "in": (0.0254, _LENGTH),
    "inch": (0.0254, _LENGTH),
    "ft": (0.3048, _LENGTH),
    "yd": (0.9144, _LENGTH),
    "mi": (1609.344, _LENGTH),
    "mile": (1609.344, _LENGTH),
    "mph": (0.44704, _dimension(m=1, s=-1)),
    "ha": (1e4, _dimension(m=2)),
    "atm": (101325.0, _PRESSURE),
    "rad": (1.0, _ONE),
    "deg": (math.pi / 180, _ONE),
    "°": (math.pi / 180, _ONE),
    "%": (0.01, _ONE),
}
_WORDS = {"metre": "m", "meter": "m", "gram": "g", "second": "s", "minute": "min", "hour": "h", "litre": "L"}
_WORDS |= {"liter": "L", "joule": "J", "watt": "W", "newton": "N", "pascal": "Pa", "volt": "V", "kelvin": "K"}
_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "h": 1e2, "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PREFIXES |= {"µ": 1e-6, "μ": 1e-6, "p": 1e-12}
_LONG_PREFIXES = {"kilo": "k", "centi": "c", "milli": "m", "mega": "M", "micro": "µ", "nano": "n"}
_SCALES = {"°C": (1.0, 273.15), "degC": (1.0, 273.15), "°F": (5 / 9, 459.67 * 5 / 9), "degF": (5 / 9, 459.67 * 5 / 9)}
"""Temperatures that do not begin at zero: kelvin = factor · value + offset. They stand alone, never in a product."""
_FACTOR = re.compile(r"([^\W\d_]+|[°%Ω]+[A-Za-z]?)(?:\^?\(?(-?\d)\)?)?")


def convert(value: float, source: str, target: str) -> float:
    """`value` in the unit `source` as a number of `target`; units are products and quotients of powers, such as `kg*m/s^2`.

    Raises: UnitError for a unit that is not known, and for two units of different dimensions.
    """
    (factor, offset, dimension), (other, zero, wanted) = _unit(source), _unit(target)
    if dimension != wanted:
        raise UnitError(f"cannot convert {source} ({_words(dimension)}) to {target} ({_words(wanted)})")
    return (value * factor + offset - zero) / other


def _unit(text: str) -> tuple[float, float, tuple[int, ...]]:
    """Factor and offset to base units, and the dimension."""
    if text in _SCALES:
        return *_SCALES[text], _HEAT
    factor, powers = 1.0, [0] * len(_BASE)
    pieces = re.split(r"([*/·])", text.replace("**", "^").replace(" ", ""))
    for sign, piece in zip(["*", *pieces[1::2]], pieces[::2], strict=True):
        if piece == "1":
            continue
        found = _FACTOR.fullmatch(piece)
        if found is None:
            raise UnitError(f"{text!r:.40} is no unit: write a product such as kg*m/s^2")
        size, dimension = _named(found[1])
        power = int(found[2] or 1) * (-1 if sign == "/" else 1)
        factor *= size**power
        powers = [have + power * more for have, more in zip(powers, dimension, strict=True)]
    return factor, 0.0, tuple(powers)


def _named(name: str) -> _Size:
    known = _PLAIN.get(name) or _PREFIXED.get(name)
    if known:
        return known
    for long, short in _LONG_PREFIXES.items():
        if name.lower().startswith(long):
            name = short + _WORDS.get(name[len(long) :].lower().removesuffix("s"), "?")
    word = name.lower().removesuffix("s")
    name = _WORDS.get(word, name if len(name) < 4 else word)
    known = _PLAIN.get(name) or _PREFIXED.get(name)
    if known is None and name[:1] in _PREFIXES and name[1:] in _PREFIXED:
        size, dimension = _PREFIXED[name[1:]]
        known = _PREFIXES[name[0]] * size, dimension
    if known is None:
        raise UnitError(f"{name!r:.40} is no unit that is known")
    return known


def _words(dimension: tuple[int, ...]) -> str:
    return "*".join(f"{name}^{power}" for name, power in zip(_BASE, dimension, strict=True) if power) or "a pure number"
