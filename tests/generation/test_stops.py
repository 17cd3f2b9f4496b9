"""Stop strings: which token completes one, and what remains of the text."""

from fairlead.generation.stops import StopStrings


def stops(*strings: str) -> StopStrings:
    return StopStrings(strings, lambda ids: bytes(ids).decode(errors="replace"))


def tokens(text: str) -> list[int]:
    return list(text.encode())


def test_completed_by_the_last_token_only() -> None:
    end = stops("END")
    assert not end.completed(tokens("the EN"))
    assert end.completed(tokens("the END"))
    assert not end.completed(tokens("the END."))


def test_text_without_the_string() -> None:
    assert stops("END", "\n\n").text(tokens("the END")) == "the "
    assert stops("END", "\n\n").text(tokens("a\n\n")) == "a"


def test_the_earliest_of_several_strings_cuts() -> None:
    assert stops("b", "ab").text(tokens("xxab")) == "xx"


def test_a_string_before_the_last_token_does_not_cut() -> None:
    # It stood there before the minimum length, so it did not end the response.
    assert stops("#").text(tokens("a#b#")) == "a#b"


def test_characters_of_several_bytes() -> None:
    end = stops("é")
    partial = tokens("aé")[:-1]
    assert not end.completed(partial)
    assert end.completed(tokens("aé"))
    assert end.text(tokens("aé")) == "a"


def test_empty_strings_are_ignored() -> None:
    assert not stops("")
    assert not stops()


def test_the_window_is_enough_for_a_long_string() -> None:
    end = stops("0123456789" * 5)
    assert end.completed(tokens("x" * 500 + "0123456789" * 5))
