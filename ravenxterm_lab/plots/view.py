"""A view: a figure with the data, the query and the sentence behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, Figure, layout

if TYPE_CHECKING:
    import polars as pl

__all__ = ["View", "empty_figure"]


@dataclass(frozen=True, slots=True)
class View:
    """What a plotting function returns; shows itself as its figure.

    Attributes
    ----------
    figure : plotly.graph_objects.Figure
        To show, change or export.
    summary : str
        One sentence that says what the figure shows.
    sql : str or None
        The query that it ran; None when the data came from an object.
    """

    figure: Figure
    summary: str
    sql: str | None
    _frame: pl.DataFrame

    def data(self) -> pl.DataFrame:
        """Return the frame that was drawn."""
        return self._frame

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {**self.figure._repr_mimebundle_(), "text/plain": self.summary}


def empty_figure(title: str, reason: str) -> Figure:
    """Return a figure that says why there is nothing to draw, and what to run."""
    figure = Figure()
    figure.update_layout(**layout(title, reason), height=160)
    figure.update_xaxes(visible=False, **AXIS)
    figure.update_yaxes(visible=False, **AXIS)
    return figure
