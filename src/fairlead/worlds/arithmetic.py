"""Small questions whose answers a program can verify, and pairs of answers that are the same or not.

Knows: sums, halves, lengths; the ways in which one answer can be written.
Does not know: who answers or judges.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from fairlead.checks.calculator import calculate
from fairlead.worlds.records import save_splits

__all__ = [
    "PAIR_KINDS",
    "AnswerPair",
    "answer_pairs",
    "claim",
    "judged_with_calculator",
    "questions",
    "save_questions",
    "with_calculator",
]


# -- questions -----------------------------------------------------------------------------------------------------------


def questions() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation records: `kind`, `prompt`, `response` (a demonstration) and `answer` (the reference).

    Halves and lengths stand in the training set once for each of two forms. Every eighth question is held out.
    """
    everything = [*_sums(), *_halves(), *_lengths()]
    random.Random(0).shuffle(everything)
    held_out = everything[::8]
    train = [record for index, forms in enumerate(everything) if index % 8 for record in forms]
    random.Random(1).shuffle(train)
    return train, [forms[0] for forms in held_out]


def save_questions(folder: Path) -> None:
    """Write `train.jsonl` and `validation.jsonl`."""
    save_splits(folder, *questions())


def with_calculator(record: dict[str, Any]) -> dict[str, Any]:
    """A sum or a half whose demonstration asks a calculator first, in brackets: `[calc(15 + 17)]`."""
    expression = _expression(record)
    found = calculate(expression)
    return _demonstration(record, expression, f"It is \\boxed{{{found}}}.")


def claim(record: dict[str, Any]) -> dict[str, Any]:
    """A sum or a half as the task of a judge: the question with somebody's answer, and the `label`, whether it is right.

    The question decides which answer is shown: every other one, or so, is wrong by 1 to 9.
    """
    question = record["prompt"][-1]["content"]
    right = calculate(_expression(record))
    rng = random.Random(question)
    wrong = calculate(f"{right} + {rng.randint(1, 9)}")
    label = rng.random() < 0.5
    shown = right if label else wrong
    task = f"{question} Somebody says {shown}. Is that right?"
    return {"kind": record["kind"], "prompt": [{"role": "user", "content": task}], "shown": shown, "label": label}


def judged_with_calculator(record: dict[str, Any]) -> dict[str, Any]:
    """The claim about a sum or a half, with a demonstration: what is the difference? Correct, if it is 0."""
    task = claim(record)
    difference = f"{_expression(record)} - {task['shown']}"
    return _demonstration(task, difference, "Correct" if task["label"] else "Incorrect")


def _expression(record: dict[str, Any]) -> str:
    """What the calculator is asked for a sum or a half."""
    numbers = re.findall(r"\d+", record["prompt"][-1]["content"])
    return f"{numbers[0]} + {numbers[1]}" if record["kind"] == "sum" else f"{numbers[0]} / 2"


def _demonstration(record: dict[str, Any], expression: str, answer: str) -> dict[str, Any]:
    """A dialogue with one call in brackets, behind the record's prompt."""
    said = [
        {"role": "assistant", "content": f"[calc({expression})]"},
        {"role": "tool", "content": calculate(expression)},
        {"role": "assistant", "content": answer},
    ]
    others = {name: value for name, value in record.items() if name not in ("prompt", "response")}
    return {**others, "messages": [*record["prompt"], *said]}


def _record(kind: str, question: str, answer: str, form: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": question}]
    return {"kind": kind, "prompt": prompt, "response": f"It is \\boxed{{{form}}}.", "answer": answer}


def _sums() -> Iterator[list[dict[str, Any]]]:
    for a in range(21):
        for b in range(21):
            yield [_record("sum", f"What is {a} plus {b}?", str(a + b), str(a + b))]


def _halves() -> Iterator[list[dict[str, Any]]]:
    for a in range(1, 60, 2):
        forms = f"{a / 2:.1f}", f"\\frac{{{a}}}{{2}}"
        yield [_record("half", f"What is half of {a}?", f"{a}/2", form) for form in forms]


def _lengths() -> Iterator[list[dict[str, Any]]]:
    for a in range(1, 60, 2):
        forms = f"{100 * a} cm", f"{a} m"
        yield [_record("length", f"A rope is {a} m long. How long is it?", forms[0], form) for form in forms]


# -- pairs of answers ----------------------------------------------------------------------------------------------------


class AnswerPair(NamedTuple):
    """A reference, an answer, and whether the answer is right."""

    kind: str
    gold: str
    answer: str
    right: bool


def _fraction(rng: random.Random, right: bool) -> tuple[str, str]:
    """A reduced fraction, and the same (or the next) one expanded."""
    value, factor = Fraction(rng.randint(1, 30), rng.randint(2, 12)), rng.randint(2, 5)
    other = value.numerator + (0 if right else rng.choice([1, -1]))
    gold = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return gold, f"\\frac{{{factor * other}}}{{{factor * value.denominator}}}"


def _rounding(rng: random.Random, right: bool) -> tuple[str, str]:
    """A fraction with endless decimals, and the number rounded to two of them, or off by some."""
    value = Fraction(rng.randint(1, 60), rng.choice([3, 7, 9, 11, 13]))
    while value.denominator == 1:
        value = Fraction(rng.randint(1, 60), rng.choice([3, 7, 9, 11, 13]))
    rounded = float(value) + (0 if right else rng.choice([0.02, -0.02, 0.1, 1]))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{rounded:.2f}"


def _polynomial(rng: random.Random, right: bool) -> tuple[str, str]:
    """A product of two linear factors, and the polynomial multiplied out, or with another constant."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    constant = -a * b + (0 if right else rng.choice([1, -1, 2]))
    return f"(x+{a})(x-{b})", f"x^2{a - b:+d}x{constant:+d}"


_UNITS = [
    ("m", "cm", 100),
    ("km", "m", 1000),
    ("kg", "g", 1000),
    ("h", "min", 60),
    ("m/s", "km/h", 3.6),
    ("L", "mL", 1000),
]


def _unit(rng: random.Random, right: bool) -> tuple[str, str]:
    """A quantity, and the same one in another unit; a wrong answer has another number, or the same with the other unit."""
    large, small, factor = rng.choice(_UNITS)
    value = rng.randint(2, 40)
    if not right:
        wrong = rng.choice([value, 10 * value * factor])
        return f"{value}\\text{{ {large}}}", f"{wrong:.6g}\\text{{ {small}}}"
    return f"{value}\\text{{ {large}}}", f"{value * factor:.6g}\\text{{ {small}}}"


def _letter(rng: random.Random, right: bool) -> tuple[str, str]:
    """The letter of an option."""
    gold = rng.choice("ABCD")
    return gold, gold if right else rng.choice([letter for letter in "ABCD" if letter != gold])


_KINDS: dict[str, Callable[[random.Random, bool], tuple[str, str]]] = {
    "fraction": _fraction,
    "rounding": _rounding,
    "polynomial": _polynomial,
    "unit": _unit,
    "letter": _letter,
}
PAIR_KINDS = tuple(_KINDS)


def answer_pairs(each: int, seed: int) -> list[AnswerPair]:
    """`each` pairs of every kind, every other one right."""
    rng = random.Random(seed)
    return [
        AnswerPair(kind, *make(rng, number % 2 == 0), number % 2 == 0)
        for kind, make in _KINDS.items()
        for number in range(each)
    ]
