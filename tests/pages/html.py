"""A parser for panformer's HTML pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID_ELEMENTS = {"meta", "img", "input", "br", "link"}
NASTY = "</script><img src=x onerror=alert(1)>\"'&<!--{{ 7 * 7 }}"


class Html(HTMLParser):
    """Checks that elements are closed in order; collects elements, text, and the content of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, str] = {}
        self.feed(source)
        self.close()
        assert self.open == []

    @classmethod
    def of_file(cls, path: Path) -> Html:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            key = str(self.all(self.open[-1])[-1].get("type") or self.open[-1])
            self.raw[key] = self.raw.get(key, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def lines(self) -> list[str]:
        """Return the text without empty lines."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]
