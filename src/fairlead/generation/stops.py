"""Strings that end a response.

Knows: how to tell from decoded text that a token completed a stop string, and where the text ends then.
Does not know: models, batches, how tokens were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["StopStrings"]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoders write for a character whose last bytes are still to come
_SLACK = 8


class StopStrings:
    """The stop strings of a request."""

    def __init__(self, strings: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self.strings = [string for string in strings if string]
        self.decode = decode
        # Every token brings at least a byte; the slack is for special tokens (no text) and a cut first character.
        self.window = max((len(string.encode()) for string in self.strings), default=0) + _SLACK

    def __bool__(self) -> bool:
        return bool(self.strings)

    def completed(self, tokens: list[int]) -> bool:
        """True where the last of `tokens` completes a stop string; only the last `window` tokens are looked at."""
        return self._position(tokens[-self.window :]) is not None

    def text(self, tokens: list[int]) -> str:
        """The text of a response that a stop string ended, without the string and what follows it."""
        position = self._position(tokens)
        text = self.decode(tokens)
        return text if position is None else text[:position]

    def _position(self, tokens: list[int]) -> int | None:
        """Where the first stop string that the last token completes begins."""
        text = self.decode(tokens)
        found = [string for string in self.strings if string in text]
        if not found:  # the usual case, with one decoding only
            return None
        # A string that stood before the last token did not end the response (it came before the minimum length).
        before = len(self.decode(tokens[:-1]).rstrip(_UNFINISHED))
        positions = [text.find(string, max(0, before - len(string) + 1)) for string in found]
        return min((position for position in positions if position >= 0), default=None)
