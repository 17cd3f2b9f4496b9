"""Checks that a page is well-formed and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Checker(HTMLParser):
    """Every element that opens closes, in order; collects elements, attributes and ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def check(path: Path) -> Checker:
    """Parse a page; assert that it is whole and loads nothing."""
    page = path.read_text()
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    ids = [value for name, value in checker.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert not {"iframe", "img", "link", "object", "embed", "base"} & set(checker.tags)
    assert checker.tags.count("script") == 1
    for name, value in checker.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "action", "data", "xlink:href"):
            assert value.startswith("#"), value
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert set(re.findall(r"https?://[^\s\"'<>)]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert len(page.encode()) < 3_000_000
    return checker


def text(checker: Checker) -> str:
    return " ".join(" ".join(checker.text).split())
