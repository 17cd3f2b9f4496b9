"""Patches: the sheet's precedence, and what counts as a change."""

from __future__ import annotations

import pytest

from fairlead.checks.patches import changed_lines, patch

GOLD = """--- a/calc.py
+++ b/calc.py
@@ -1,3 +1,3 @@
 def add(a, b):
-    return a - b
+    return a + b
 
"""
ELSEWHERE = GOLD.replace("@@ -1,3 +1,3 @@", "@@ -11,3 +11,3 @@").replace(" def add(a, b):", " # add")


def test_identical_changes_are_one_whatever_stands_around_them() -> None:
    assert patch(GOLD, GOLD) == 1
    assert patch(ELSEWHERE, GOLD) == 1
    assert patch(f"I mend it so:\n```diff\n{GOLD}```\nThat is all.", GOLD) == 1


def test_a_patch_that_changes_nothing_is_zero() -> None:
    assert patch(GOLD.replace("+    return a + b", "+    return a - b"), GOLD) == 0
    assert patch("--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n def add(a, b):\n", GOLD) == 0


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "return a + b",
        "+    return a + b",
        GOLD.replace("@@ -1,3 +1,3 @@", "@@ -1,9 +1,9 @@"),
        GOLD + "@@ -1 +1 @@\nx",
    ],
)
def test_what_is_no_patch_is_minus_one(garbage: str) -> None:
    assert patch(garbage, GOLD) == -1


def test_any_other_lies_between_and_nearer_ones_higher() -> None:
    near = patch(GOLD.replace("a + b", "b + a"), GOLD)
    far = patch(GOLD.replace("a + b", "sum((a, b))"), GOLD)
    assert 0 < far < near < 1
    assert 0 < patch(GOLD.replace("calc.py", "other.py"), GOLD) < 1


def test_files_belong_to_the_changes_and_counts_may_be_left_out() -> None:
    assert changed_lines("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n") == ["+++ b/x", "-a", "+b"]
    assert changed_lines("no diff") is None


def test_a_reference_that_is_no_patch_is_the_data_s_mistake() -> None:
    with pytest.raises(ValueError, match="the reference is no patch"):
        patch(GOLD, "return a + b")
