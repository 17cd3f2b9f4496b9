"""How near a patch is to another one, without running either.

Knows: unified diffs.
Does not know: files, programs, what a change is for.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from fairlead.checks.texts import block_of

__all__ = ["changed_lines", "patch"]

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def patch(response: str, gold: str) -> float:
    """1 for the changes of the gold patch, 0 for none at all, −1 for what is no patch, else how alike the changed lines are.

    Only changed lines count, with the files they are in; where they stand and what is around them does not. The response is a unified
    diff, or has one in its last fenced block. The likeness, between 0 and 1, is the share of characters in common blocks.
    Source: Nemotron-Cascade (arXiv 2512.13607), its stage for software engineering, after SWE-RL (Wei et al. 2025, arXiv 2502.18449).

    Raises: ValueError when the gold patch is none.
    """
    wanted = changed_lines(gold)
    if not wanted:
        raise ValueError(
            "the reference is no patch: a unified diff with a hunk (@@ -1,2 +1,3 @@) that changes something is expected"
        )
    made = changed_lines(block_of(response))
    if made is None:
        return -1.0
    if not made:
        return 0.0
    if made == wanted:
        return 1.0
    alike = SequenceMatcher(None, "\n".join(made), "\n".join(wanted), autojunk=False).ratio()
    return min(max(alike, 1e-6), 1 - 1e-6)  # neither of the verdicts above


def changed_lines(diff: str) -> list[str] | None:
    """`+++ file`, `-line` and `+line` of a unified diff, in their order; empty where hunks put back what they take; None for no diff.

    A hunk must have as many lines as its head says.
    """
    changed: list[str] = []
    lines = diff.strip("\n").splitlines()
    place, hunks = 0, 0
    while place < len(lines):
        line = lines[place]
        place += 1
        if line.startswith("+++ "):
            changed.append(line.split("\t")[0].rstrip())
        head = _HUNK.match(line)
        if head is None:
            continue
        hunks += 1
        old, new = (1 if count is None else int(count) for count in head.groups())
        removed: list[str] = []
        added: list[str] = []
        while old > 0 or new > 0:
            if place == len(lines):
                return None
            line = lines[place] or " "
            place += 1
            if line[0] not in " +-\\":
                return None
            old -= line[0] in " -"
            new -= line[0] in " +"
            if line[0] in "+-":
                (added if line[0] == "+" else removed).append(line)
        if old or new:
            return None
        if [line[1:] for line in removed] != [line[1:] for line in added]:
            changed += removed + added
    if not hunks:
        return None
    return changed if any(not line.startswith("+++ ") for line in changed) else []
