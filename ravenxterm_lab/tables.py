"""Cards and tables as HTML and plain text: the one place that turns facts into a display.

The HTML uses JupyterLab's CSS variables only, so it follows a live switch of the theme, and
every value is escaped: names come from files that anyone may have made.
"""

from __future__ import annotations

import html
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Card", "Displayed", "Table", "printable"]

_TEXT = "var(--jp-content-font-color1, inherit)"
_DIM = "var(--jp-content-font-color2, inherit)"
_LINE = "var(--jp-border-color2, #bdbdbd)"
_CARD_STYLE = (
    f"border:1px solid {_LINE};border-radius:4px;padding:8px 12px;margin:4px 0;"
    f"max-width:100%;overflow-x:auto;color:{_TEXT};"
    "font-family:var(--jp-content-font-family, sans-serif);font-size:13px"
)
_CELL_STYLE = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_HEAD_STYLE = f"{_CELL_STYLE};font-weight:600;border-bottom:1px solid {_LINE}"
_MAX_TEXT_COLUMN = 60
#: Letters of a cell that is never broken, and the least width of one that is.
_SHORT_CELL, _LONG_CELL = 14, 28
#: As many columns fit on a page of 800 pixels.
_MANY_COLUMNS = 4


def printable(value: object, keep: str = "") -> str:
    """Return a value as text in which nothing can forge what is beside it.

    Control characters, and marks such as those that turn the direction of writing, become a
    replacement character; those in ``keep`` stay.
    """
    return "".join(
        c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )


def _cell(text: str, *, numeric: bool, head: bool = False) -> str:
    # A number must not be parted from its unit by a line break.
    extra = ";white-space:nowrap"
    if len(text) > _SHORT_CELL and (head or not numeric):
        # On a narrow page a long text would give way to all others, down to a letter a line.
        least = 9 if len(text) <= _LONG_CELL else 13
        extra = f";overflow-wrap:anywhere;min-width:{least}em"
    if numeric:
        extra += ";text-align:right"
    if head:
        return f'<th scope="col" style="{_HEAD_STYLE}{extra}">{html.escape(text)}</th>'
    return f'<td style="{_CELL_STYLE}{extra}">{html.escape(text)}</td>'


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; every cell is shown as text.

    Attributes
    ----------
    header : sequence of str
        Column names.
    rows : sequence of sequences
        Cells.
    numeric : sequence of bool
        Columns that are aligned to the right; empty for none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[bool] = ()

    def html(self) -> str:
        """Return a ``<table>`` with every cell escaped."""
        head = self._line(self.header, head=True)
        body = "".join(self._line(row) for row in self.rows)
        return (
            '<table style="border-collapse:collapse;margin:6px 0">'
            f"<thead>{head}</thead><tbody>{body}</tbody></table>"
        )

    def _line(self, cells: Sequence[object], *, head: bool = False) -> str:
        numeric = self.numeric or [False] * len(cells)
        shown = (
            _cell(printable(cell), numeric=right, head=head)
            for cell, right in zip(cells, numeric, strict=True)
        )
        return f"<tr>{''.join(shown)}</tr>"

    def text(self) -> str:
        """Return aligned columns; the last one may be long, others are cut at 60 characters."""
        lines = [[printable(value) for value in row] for row in [self.header, *self.rows]]
        last = len(self.header) - 1
        cut = [
            [
                cell
                if column == last or len(cell) <= _MAX_TEXT_COLUMN
                else cell[: _MAX_TEXT_COLUMN - 1] + "…"
                for column, cell in enumerate(line)
            ]
            for line in lines
        ]
        widths = [max(len(line[column]) for line in cut) for column in range(last + 1)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cut
        )


@dataclass(frozen=True, slots=True)
class Card:
    """A title, one sentence below it, tables, and before them the text that matters most."""

    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    body: str = ""

    def html(self) -> str:
        """Return the card as HTML."""
        note = ""
        if self.note:
            note = f'<div style="color:{_DIM}">{html.escape(printable(self.note))}</div>'
        body = ""
        if self.body:
            text = html.escape(printable(self.body, keep="\n"))
            body = f'<div style="white-space:pre-wrap;margin:6px 0">{text}</div>'
        tables = "".join(table.html() for table in self.tables)
        title = f"<strong>{html.escape(printable(self.title))}</strong>" if self.title else ""
        # What may be too wide for a page scrolls, and must be reachable by keyboard then.
        reached = ""
        if any(len(table.header) > _MANY_COLUMNS for table in self.tables):
            name = html.escape(printable(self.title or self.tables[0].header[0]))
            reached = f' tabindex="0" role="region" aria-label="{name}"'
        return f'<div style="{_CARD_STYLE}"{reached}>{title}{note}{body}{tables}</div>'

    def text(self) -> str:
        """Return the card as plain text."""
        blocks = [printable(self.title), printable(self.note), printable(self.body, keep="\n")]
        blocks += [table.text() for table in self.tables]
        return "\n".join(block for block in blocks if block)


class Displayed:
    """Mixin: an object that shows itself as a card, in a notebook and as text."""

    __slots__ = ()

    @abstractmethod
    def _card(self) -> Card: ...

    def __str__(self) -> str:
        return self._card().text()

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        card = self._card()
        return {"text/html": card.html(), "text/plain": card.text()}
