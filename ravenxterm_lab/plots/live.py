"""The one live figure: a widget whose zoom asks the store again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ravenxterm_lab.plots.theme import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.plots.view import View

__all__ = ["LiveFigure", "have_same_traces", "live_figure", "replace_traces"]


class LiveFigure(go.FigureWidget):  # type: ignore[misc]  # plotly ships no annotations
    """A ``FigureWidget`` that never offers to upload itself."""

    def __init__(self, *args: Any, summary: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._config = dict(CONFIG)
        #: One sentence that says what it shows.
        self.__dict__["summary"] = summary

    def _send_update_msg(
        self, restyle_data: Any, relayout_data: Any, *args: Any, **kwargs: Any
    ) -> None:
        # With other data, plotly.js forgets the types that its axes were given, and guesses:
        # times, which are sent as numbers, would become numbers.
        types = {
            f"{name}.type": axis["type"]
            for name, axis in self._layout.items()
            if "axis" in name and "type" in axis
        }
        super()._send_update_msg(restyle_data, {**types, **relayout_data}, *args, **kwargs)

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bundle: Any = super()._repr_mimebundle_(*args, **kwargs)
        data = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        return {**data, "text/plain": self.__dict__["summary"]}


def live_figure(view: View, zoom: Callable[[datetime, datetime], View] | None = None) -> LiveFigure:
    """Return a widget of a view's figure.

    Parameters
    ----------
    view : View
        What it shows first.
    zoom : callable, optional
        Returns the view of a window of time (UTC); it is asked whenever the first axis shows
        another one, and with the first window when the axis is set back.
    """
    figure = LiveFigure(view.figure, summary=view.summary)
    if zoom is None or not view.figure.data:
        return figure

    def follow(_layout: Any, shown: Any) -> None:
        # Set back (double click), the axis takes its range from the data again.
        wanted = view if shown is None else zoom(*map(_moment, shown))
        figure.__dict__["summary"] = wanted.summary
        replace_traces(figure, wanted.figure)

    figure.layout.on_change(follow, "xaxis.range")
    return figure


def have_same_traces(figure: go.FigureWidget, wanted: go.Figure) -> bool:
    """Say whether two figures hold the same lines, in the same bands.

    Parameters
    ----------
    figure, wanted
        As for `replace_traces`.
    """
    one, other = ({(trace.meta, trace.yaxis) for trace in each.data} for each in (figure, wanted))
    return one == other


def replace_traces(figure: go.FigureWidget, wanted: go.Figure) -> None:
    """Make a widget show the data of another figure: traces are told by their ``meta``.

    Parameters
    ----------
    figure : FigureWidget
        What is shown.
    wanted : Figure
        What it is to show.
    """
    found = {trace.meta: trace for trace in figure.data}
    fresh = []
    with figure.batch_update():
        for trace in wanted.data:
            old = found.pop(trace.meta, None)
            if old is None:
                fresh.append(trace)
            else:
                old.update(
                    {
                        key: trace[key]
                        for key in _CHANGING
                        if key in trace and trace[key] is not None
                    }
                )
                if old.visible is False:
                    old.visible = True
        for gone in found.values():
            gone.update({key: [] for key in ("x", "y") if key in gone})
            gone.visible = False
        if wanted.layout.title.subtitle.text:
            figure.layout.title.subtitle.text = wanted.layout.title.subtitle.text
    if fresh:
        figure.add_traces(fresh)


_CHANGING = (
    "x", "y", "name", "text", "customdata", "mode", "opacity", "line", "marker", "showlegend",
)  # fmt: skip


def _moment(value: Any) -> datetime:
    """Return what an axis of dates tells as UTC without a zone: text, or milliseconds."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, str):
        text = value.strip()
        # plotly writes what is needed only: a day, minutes, or down to 0.1 ms.
        head, dot, fraction = text.partition(".")
        return datetime.fromisoformat(f"{head}.{fraction[:6].ljust(6, '0')}" if dot else head)
    return datetime.fromtimestamp(float(value) / 1000, UTC).replace(tzinfo=None)
