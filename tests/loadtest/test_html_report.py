"""The HTML page: all of its text, escaped, in one file that loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser

from loadtest.chart_model import Axis, Chart, Panel, Series
from loadtest.html_report import Table, page

MARKUP = "<b onclick='x'>&amp; \"{{ 7 * 7 }}\""


class Page(HTMLParser):
    """Texts by enclosing tag and its class, without scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.links: list[str | None] = []
        self._open = ("", "")
        self.feed(source)

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self._open = (tag, given.get("class") or "")
        self.links += [given[name] for name in ("src", "href") if name in given]

    def handle_data(self, data) -> None:
        if data.strip() and self._open[0] not in ("script", "style"):
            self.found.append((self._open[0], self._open[1], data))


def test_texts_are_complete_and_escaped():
    series = Series(f"{MARKUP} line", [1.0, 2.0], [3.0, 4.0], "#000000")
    chart = Chart("c", "A chart?", MARKUP, [Panel("", Axis("x"), Axis("y"), [series])])
    table = Table("Figures", "a note", ["load", MARKUP], [["1", "✓ 99 %"], [MARKUP, "✗ 3 %"]])
    shown = Page(page(MARKUP, [MARKUP, "two"], [MARKUP], [chart], [table], f"{MARKUP}\n  facts"))
    assert [text for tag, _, text in shown.found if tag in ("title", "h1")] == [MARKUP] * 2
    assert ("p", "warning", MARKUP) in shown.found
    assert [text for tag, _, text in shown.found if tag == "li"] == [MARKUP, "two"]
    assert [text for tag, _, text in shown.found if tag == "h2"] == [
        "A chart?",
        "Figures",
        "How it was measured",
    ]
    assert [text for tag, kind, text in shown.found if kind == "note"] == [MARKUP, "a note"]
    assert [text for tag, _, text in shown.found if tag == "th"] == ["load", MARKUP]
    assert [(kind, text) for tag, kind, text in shown.found if tag == "td"] == [
        ("", "1"),
        ("good", "✓ 99 %"),
        ("", MARKUP),
        ("bad", "✗ 3 %"),
    ]
    assert ("pre", "", f"{MARKUP}\n  facts") in shown.found
    assert not shown.links and not [found for found in shown.found if found[0] == "b"]
