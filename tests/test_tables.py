"""Cards and tables: nothing that is shown can act, and numbers stay with their units."""

from __future__ import annotations

import html
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.tables import Card, Table


class Tags(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


OURS = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td"}


@given(st.text(), st.text(), st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=3))
def test_no_text_becomes_markup(title: str, body: str, rows: list[list[str]]) -> None:
    """Whatever stands in a title, a cell or a body, only our own tags come out."""
    card = Card(title, "note", [Table(["a", "b"], rows)], body=body)
    page = Tags()
    page.feed(card.html())
    assert page.tags <= OURS
    assert all(character.isprintable() or character == "\n" for character in card.text())


def test_a_row_cannot_forge_another() -> None:
    """A newline or an escape sequence in a cell stays within its cell."""
    text = Table(["model", "why"], [["a\nb", "\x1b[31mred"]]).text()
    assert len(text.splitlines()) == 2
    assert "\x1b" not in text


def test_columns_line_up_and_only_the_last_may_be_long() -> None:
    """Cells are padded to their column; a long cell in front is cut, the last one is not."""
    long = "x" * 100
    header, first, second = Table(["a", "b"], [["1", long], [long, "2"]]).text().splitlines()
    assert header.index("b") == first.index("x") == second.rindex("2")
    assert first.endswith(long)
    assert long not in second


def test_html_shows_the_text_and_follows_the_theme() -> None:
    """The text is there, escaped; colours are JupyterLab's variables only."""
    page = Card("t & t", "n", [Table(["h"], [["<b>"]])], body="one\ntwo").html()
    assert html.escape("t & t") in page
    assert "&lt;b&gt;" in page
    assert "one\ntwo" in page
    assert "var(--jp-content-font-color1" in page


def test_a_long_text_does_not_give_way_to_a_letter_a_line() -> None:
    """A short cell and a number stay whole; a long text wraps, and keeps some width."""
    row = ["216.7 MiB", "1,234,567,890 executions", "a text that is much longer than the others"]
    cells = Table(["a", "b", "c"], [row], [False, True, False]).html().split("<tbody>")[1]
    short, number, long = cells.split("<td")[1:]
    assert "nowrap" in short
    assert "nowrap" in number
    assert "nowrap" not in long
    assert "min-width:13em" in long
