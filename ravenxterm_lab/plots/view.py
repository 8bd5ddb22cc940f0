"""A view: a figure with the data, the query, the sentence and the table behind it."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, STYLE, Figure, layout, safe
from ravenxterm_lab.tables import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import plotly.graph_objects as go
    import polars as pl

__all__ = ["Rows", "View", "empty_figure", "empty_view"]


#: Letters that fit into the title of a figure on a page of 800 pixels.
_LINE = 84


@dataclass(frozen=True, slots=True)
class Rows:
    """What a figure shows as a table of text, for those who do not see it.

    Attributes
    ----------
    caption : str
        What it holds.
    header : sequence of str
        Names of the columns, with their units where the cells have none.
    cells : sequence of sequences of str
        The rows.
    """

    caption: str
    header: Sequence[str]
    cells: Sequence[Sequence[str]]

    def html(self) -> str:
        """Return them as HTML that unfolds; a region that scrolls can be reached by keyboard."""
        name = _escape(self.caption)
        head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in self.header)
        body = "".join(
            f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in self.cells
        )
        return (
            f"<details><summary>{name}</summary>"
            f'<div class="raven-scroll" tabindex="0" role="region" aria-label="{name}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
        )


@dataclass(frozen=True, slots=True)
class View:
    """What a plotting function returns; shows itself as its figure, its sentence and its table.

    Attributes
    ----------
    figure : plotly.graph_objects.Figure
        To show, change or export.
    summary : str
        One sentence that says what the figure shows.
    sql : str or None
        The query that it ran; None when the data came from an object.
    parameters : mapping of str to object
        What the query was given: ``manager.sql(view.sql, view.parameters)`` asks again.
    rows : Rows or None
        The figure as a table; None where there is nothing to show.
    """

    figure: Figure
    summary: str
    sql: str | None
    _frame: pl.DataFrame
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows | None = None
    _zoom: Callable[[datetime, datetime], View] | None = None

    def data(self) -> pl.DataFrame:
        """Return the frame that was drawn."""
        return self._frame

    def live(self) -> go.FigureWidget:
        """Return a widget of the figure; where it shows a time, zooming asks the store again.

        A widget carries about 5 MB into a notebook that is saved with its widgets' state, and
        shows nothing once its kernel is gone: keep ``figure`` for what is to be read later.
        """
        from ravenxterm_lab.plots.live import live_figure

        return live_figure(self, self._zoom)

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        publish: Any = publish_display_data
        publish(self._repr_mimebundle_())
        publish({"text/html": self._html(), "text/plain": ""})

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {**self.figure._repr_mimebundle_(), "text/plain": self.summary}

    def _html(self) -> str:
        # An empty figure says its sentence itself.
        below = ""
        if self.rows is not None:
            below = f"<div>{_escape(self.summary)}</div>{self.rows.html()}"
        return f'{STYLE}<div class="raven-view">{below}</div>'


def _escape(text: str) -> str:
    return html.escape(printable(text))


def empty_figure(title: str, reason: str) -> Figure:
    """Return a figure that says why there is nothing to draw, and what to run."""
    # Nothing wraps inside a figure by itself, and a long line would be cut off.
    lines = textwrap.wrap(reason, _LINE, break_on_hyphens=False)
    figure = Figure()
    said = layout(title, "<br>".join(map(safe, lines)))
    figure.update_layout(**said, height=90 + 18 * len(lines))
    figure.update_xaxes(visible=False, **AXIS)
    figure.update_yaxes(visible=False, **AXIS)
    return figure


def empty_view(
    title: str,
    reason: str,
    sql: str | None,
    frame: pl.DataFrame,
    parameters: Mapping[str, Any] | None = None,
    zoom: Callable[[datetime, datetime], View] | None = None,
) -> View:
    """Return the view of nothing.

    Parameters
    ----------
    title, reason : str
        What is empty, and why and what to run next.
    sql, frame, parameters, zoom
        As of `View`.
    """
    reason = reason if reason.endswith(".") else f"{reason}."
    figure = empty_figure(title, reason)
    return View(figure, reason, sql, frame, parameters or {}, None, zoom)
