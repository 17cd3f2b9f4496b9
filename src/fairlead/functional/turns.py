"""Which turn of a dialogue is judged and at which one futures part.

Knows numbers of turns. Does not know dialogues.
"""

from __future__ import annotations

from torch import Tensor

from fairlead.functional._checks import require_choice, require_dimensions, require_same_shape

__all__ = ["branching_turns"]

TURN_CHOICES = ("random", "last")


def branching_turns(
    first: Tensor, second: Tensor, turns: Tensor, judged: str = "random", branch: str = "random"
) -> tuple[Tensor, Tensor]:
    """The turn l at whose end a dialogue is judged, uniform over 0 … turns - 1, and the turn h at which futures part, over 0 … l.

    With five turns P(h) = (0.4567, 0.2567, 0.1567, 0.09, 0.04): early turns are learned from most often. "last" in place of "random"
    takes l = turns - 1, or h = l.
    Source: REFUEL (Gao et al. 2024, arXiv 2410.04612), setting one.

    Shapes: first and second [B], uniform numbers in [0, 1); turns [B] int64; returns l and h, [B] int64.
    Raises: ValueError on other shapes, an unknown choice, or when a dialogue has no turn.
    """
    require_choice("judged", judged, TURN_CHOICES)
    require_choice("branch", branch, TURN_CHOICES)
    require_dimensions("first", first, "B")
    require_same_shape(first=first, second=second, turns=turns)
    if bool((turns < 1).any()):
        raise ValueError(f"a dialogue has at least one turn, got {int(turns.min())}")
    chosen = (first * turns).long() if judged == "random" else turns - 1
    return chosen, (second * (chosen + 1)).long() if branch == "random" else chosen
