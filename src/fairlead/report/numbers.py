"""Numbers as people read them.

Knows: significant digits, a real minus sign, units of time.
Does not know: what was measured.
"""

from __future__ import annotations

import math

__all__ = ["format_number", "format_percent", "format_seconds"]


def format_number(value: float | None, digits: int = 3) -> str:
    """A number for people: three significant digits, a real minus sign, k and M for large ones, a dash for none."""
    if value is None or not math.isfinite(value):
        return "—"
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 1e9 or size < 1e-4:
        text = f"{size:.{digits - 1}e}"
    elif size >= 1e6:
        text = f"{size / 1e6:.{digits}g}M"
    elif size >= 1e4:
        text = f"{size / 1e3:.{digits}g}k" if size < 999_500 else "1M"
    elif size >= 10 ** (digits - 1):
        text = f"{size:,.0f}"
    else:
        text = f"{size:.{digits}g}"
    return ("−" if value < 0 and text != "0" else "") + text


def format_percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage, never apart from its sign; a dash for none."""
    if share is None:
        return "—"
    return f"{share * 100:.{digits}f}\u00a0%".replace("-", "−")


def format_seconds(seconds: float | None) -> str:
    """Wall time for people."""
    if seconds is None:
        return "—"
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"
