"""Whether a mathematical answer equals the reference, by rule and by the small tools of a verifier.

Knows: Math-Verify's parser and grader, presets for rewards and for evaluation, units, rounding.
Does not know: models, rewards.
"""

from __future__ import annotations

import importlib
import math
import re
from functools import cache
from typing import Any, Literal

from fairlead.checks.quantities import UnitError, convert
from fairlead.checks.texts import answer_of

__all__ = ["Preset", "answer_in", "equal", "equivalent", "score"]

Preset = Literal["reward", "evaluation"]

_BOXED = "\\boxed{"
_ANSWER = re.compile(r"(?:final answer|answer)\s*(?:is|:)\s*(.+?)\.?\s*$", re.IGNORECASE | re.MULTILINE)
_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([A-Za-zµμ°Ω%][\w^/*·µμ°Ω-]*)", re.IGNORECASE)
_PATIENCE = 5
"""Seconds for an evaluation, as the library has them for a parse and a comparison."""
_SAMPLES = (0.37, 1.91, 2.73, 3.59)
"""Where two expressions are compared; generic points, at which roots of ordinary problems do not lie."""


def score(response: str, reference: Any, preset: Preset, decimals: int, units: Literal["drop", "compare"]) -> float:
    """1{verify(parse(gold), parse(prediction))}, for one reference or any of a list.

    Raises: ValueError for a reference that cannot be parsed; ImportError without Math-Verify.
    """
    references = reference if isinstance(reference, list) else [reference]
    return float(any(equal(response, str(gold), preset, decimals, units) for gold in references))


def equal(
    response: str, gold: str, preset: Preset, decimals: int = 6, units: Literal["drop", "compare"] = "drop"
) -> bool:
    """Whether the answer in `response` equals `gold`, by the rules of Math-Verify.

    `reward` reads the last boxed LaTeX only and repairs nothing; `evaluation` reads whatever looks like an answer, and takes
    several boxes for a set. A parse or a comparison that takes longer than the library's 5 s is false. With `units: compare` an answer that names a unit must
    name that of the reference.
    """
    library, reward = _library(), _reward_config()
    wanted = library.parse(gold if "$" in gold or _BOXED in gold else f"${gold}$")
    if not wanted:
        raise ValueError(f"the reference {gold!r:.80} is no mathematical expression that Math-Verify can read")
    text = answer_of(response)
    if preset == "reward":
        found = library.parse(f"{_BOXED}{_boxed(text) or ''}}}", reward)
    else:
        found = library.parse(text)
    if not library.verify(wanted, found, float_rounding=decimals):
        return False
    return units == "drop" or _unit_of(gold) == _unit_of(answer_in(text) or "")


@cache
def _library(module: str = "") -> Any:
    return importlib.import_module(f"math_verify.{module}".rstrip("."))


@cache
def _reward_config() -> list[Any]:
    """Boxed LaTeX and nothing else, with the parser's repairs of malformed operators switched off."""
    normal = importlib.import_module("latex2sympy2_extended").NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="last"
    )
    extraction = _library().LatexExtractionConfig
    return [extraction(try_extract_without_anchor=False, boxed_match_priority=0, normalization_config=normal)]


# -- the tools of a verifier ---------------------------------------------------------------------------------------------


def answer_in(response: str) -> str | None:
    """The final answer as text: what the last `\\boxed{…}` holds, else what follows the last "answer is"; None if neither."""
    if _BOXED in response:
        return _boxed(response)
    found = _ANSWER.findall(response)
    return found[-1].strip() if found else None


def _boxed(text: str) -> str | None:
    """What the last box holds; None where there is none, or it is empty or cut off."""
    start = text.rfind(_BOXED) + len(_BOXED)
    if start < len(_BOXED):
        return None
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip() or None
    return None


def equivalent(answer: str, gold: str, decimals: int = 2) -> bool:
    """Whether an answer equals the reference by tools: units are converted, rounding is that of the coarser side, and
    expressions are compared as numbers at four points.

    A missing unit is fine, an incompatible one is not. Rounding counts when both agree to at least `decimals` decimals of
    a number of magnitude 1 or more, or to as many significant figures below it (or else 0.004 would be 0.00).

    An evaluation of more than 5 s is false.

    Source: the rules stated to the judge of CoSineVerifier (arXiv 2512.01224), made a program; the four points are this
    package's own.
    """
    ours, theirs = _quantity(answer), _quantity(gold)
    if ours is not None and theirs is not None:
        value, unit = ours
        if unit and theirs[1] and unit != theirs[1]:
            try:
                value = f"{convert(float(value), unit, theirs[1]):.12g}"
            except UnitError:
                return False
        return _rounds(value, theirs[0], decimals)
    left, right = _expression(answer), _expression(gold)
    if left is None or right is None:
        return " ".join(answer.split()).casefold() == " ".join(gold.split()).casefold()
    try:
        return bool(_library("utils").timeout(_PATIENCE)(_same_value)((answer, left), (gold, right), decimals))
    except _library("errors").TimeoutException:
        return False


def _same_value(ours: tuple[str, Any], theirs: tuple[str, Any], decimals: int) -> bool:
    """Whether two expressions (as written, and parsed) are the same number, or the same function at four points."""
    (answer, left), (gold, right) = ours, theirs
    if left.free_symbols != right.free_symbols:
        return False
    if not right.free_symbols:
        return _rounds(_written(answer, left), _written(gold, right), decimals)
    names = sorted(right.free_symbols, key=str)
    for shift, point in enumerate(_SAMPLES):
        at = {name: point + 0.61 * place + 0.13 * shift for place, name in enumerate(names)}
        a, b = complex(left.evalf(subs=at)), complex(right.evalf(subs=at))
        if not abs(a - b) <= 1e-9 * max(1.0, abs(b)):
            return False
    return True


def _quantity(text: str) -> tuple[str, str] | None:
    """Number and unit of a text such as `72 km/h`; the unit is "" for a bare number, None for anything else."""
    text = re.sub(r"\\(?:text|mathrm)\{([^}]*)\}|\\[,; ]", r" \1", text).strip().strip("$").strip()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    if re.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", text, re.IGNORECASE):
        return text, ""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    try:
        convert(1.0, found[2], found[2])
    except UnitError:
        return None
    return found[1], found[2]


def _unit_of(text: str) -> str:
    found = _quantity(text)
    return "" if found is None else found[1]


def _rounds(one: str, other: str, decimals: int) -> bool:
    """Whether two numbers agree as far as the coarser of them is written, and that is far enough."""
    a, b = float(one), float(other)
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    if a == b or math.isclose(a, b, rel_tol=1e-9):
        return True
    places = min(_places(one), _places(other))
    size = max(abs(a), abs(b))
    small = 0 if size >= 1 else -math.floor(math.log10(size)) - 1
    return places >= decimals + small and abs(a - b) <= 0.5 * 10.0**-places * (1 + 1e-9)


def _places(number: str) -> float:
    """Decimals that are written; infinitely many for a number that is exact."""
    mantissa, _, exponent = number.lower().partition("e")
    if "." not in mantissa:
        return math.inf
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


def _written(text: str, value: Any) -> str:
    """A constant as written where it is a decimal number, else to 17 digits with an exponent that says it is exact."""
    quantity = _quantity(text)
    number = complex(value.evalf(17))
    if quantity is not None:
        return quantity[0]
    return f"{number.real:.17f}" if abs(number.imag) < 1e-12 else "nan"


def _expression(text: str) -> Any:
    """The SymPy expression of a text; None for what is none (relations, sets, plain words)."""
    parsed = _library().parse(text if "$" in text or _BOXED in text else f"${text}$")
    return parsed[0] if parsed and isinstance(parsed[0], importlib.import_module("sympy").Expr) else None
