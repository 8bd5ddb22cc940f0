"""A figure, its sentence and its table in one panel."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.plots.theme import CONFIG
from ravenxterm_lab.widgets.look import rows_table, status
from ravenxterm_lab.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots import View

__all__ = ["FigurePanel", "labelled"]

_PLOTLY_MIME = "application/vnd.plotly.v1+json"
_HEIGHT = 440
_numbers = count()

# A figure in an output tells its kernel nothing. What is shown of its first axis is put into the
# box of the panel, as if it had been typed there: whoever cannot drag types it, and both ask anew.
_FOLLOW_ZOOM = """
const panel = this.closest('.raven-zooms');
if (panel && !panel.ravenFollows) {
  panel.ravenFollows = true;
  const tell = text => {
    const box = panel.querySelector('.raven-zoom input');
    if (!box || box.value === text) return;
    box.value = text;
    for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  const follow = plot => {
    if (plot.ravenFollowed || !plot.on) return;
    plot.ravenFollowed = true;
    plot.on('plotly_relayout', change => {
      const range = change['xaxis.range'] || [change['xaxis.range[0]'], change['xaxis.range[1]']];
      const ends = range.map(end => String(end) + '1970-01-01 00:00:00'.slice(String(end).length));
      const [from, to] = ends.map(end => Date.parse(end.replace(' ', 'T')));
      const words = ends.map(end => end.slice(0, to - from < 20000 ? 24 : 19));
      if (range[0] !== undefined && range[1] !== undefined) tell(words.join(' to '));
      else if (change['xaxis.autorange']) tell('');
    });
  };
  const look = () => panel.querySelectorAll('.js-plotly-plot').forEach(follow);
  new MutationObserver(look).observe(panel, {childList: true, subtree: true});
  look();
}
"""


def labelled(kind: type[Any], label: str, *, width: str, **options: Any) -> Any:
    """Return a control with its label beside it.

    Parameters
    ----------
    kind : type
        Of the control.
    label : str
        What it is called.
    width : str
        Of the whole.
    **options
        Further arguments of the control.
    """
    return kind(
        description=label,
        style={"description_width": "initial"},
        layout={"width": width},
        **options,
    )


class FigurePanel(Panel):
    """A view of `ravenxterm_lab.plots` that is drawn anew by ``refresh``.

    The figure goes into an output as plain JSON: a figure widget would add megabytes to a
    saved notebook, and would show nothing once the kernel is gone. Where there is a box for the
    zoom, what a person zooms to is read from the store again.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    draw : callable
        Returns the view.
    above : sequence of Widget
        What stands above the figure, beside the button that refreshes.
    between : sequence of Widget
        What stands between those and the figure.
    zoom : Text, optional
        The box that takes what is zoomed to.

    Attributes
    ----------
    view : View or None
        What is drawn; None before the first ``refresh``, and when the store cannot be read.
    """

    def __init__(
        self,
        manager: ModelManager,
        draw: Callable[[], View],
        above: Sequence[widgets.Widget] = (),
        between: Sequence[widgets.Widget] = (),
        zoom: widgets.Text | None = None,
    ) -> None:
        self.view: View | None = None
        self._draw = draw
        self._why = "Nothing is drawn yet."
        self._figure = widgets.Output()
        self._mark = f"raven-figure-{next(_numbers)}"
        self._place = widgets.VBox([self._figure])
        self._place.add_class(self._mark)
        self._sentence = widgets.HTML()
        self._table = widgets.HTML()
        self._hook = widgets.HTML(layout={"display": "none"})
        self.refresh_button = widgets.Button(
            description="Refresh",
            icon="refresh",
            tooltip="Read the store again and draw",
            layout={"width": "auto"},
        )
        self.refresh_button.on_click(lambda _: self.refresh())
        row = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 10px"}
        super().__init__(
            manager,
            [
                self._hook,
                widgets.HBox([*above, self.refresh_button], layout=row),
                *between,
                self._sentence,
                self._place,
                self._table,
            ],
        )
        #: Whether it draws anew when an execution has ended; off where its owner sees to that.
        self.follows = True
        self._listen("executions", self._follow)
        if zoom is not None:
            zoom.add_class("raven-zoom")
            self.add_class("raven-zooms")
            self._hook.value = f'<style onload="{_FOLLOW_ZOOM}"></style>'

    @property
    def summary(self) -> str:
        """The view's own sentence, or why there is none."""
        return self._why if self.view is None else self.view.summary

    @property
    def sql(self) -> str | None:
        """The query that the view ran; None when its data came from an object."""
        return None if self.view is None else self.view.sql

    def data(self) -> Any:
        """Return the frame that is drawn; None before the first ``refresh``."""
        return None if self.view is None else self.view.data()

    def refresh(self) -> None:
        """Read the store again and draw."""
        if self._closed:
            return
        try:
            self.view = self._draw()
        except RavenXTermError as error:
            self.view, self._why = None, str(error)
            self._sentence.value = status(str(error), error=True)
            self._figure.outputs, self._table.value = (), ""
            return
        height = self.view.figure.layout.height or _HEIGHT
        self._sentence.value = status(self.view.summary) + self._keep_height(height)
        empty = self.view.rows is None
        self._figure.outputs = () if empty else (self._bundle(self.view),)
        self._table.value = "" if self.view.rows is None else rows_table(self.view.rows)

    def _follow(self) -> None:
        # What was never shown need not be drawn.
        if self.follows and self.view is not None:
            self.refresh()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        if self.view is None:
            self.refresh()
        return super()._repr_mimebundle_(**kwargs)

    def _keep_height(self, height: int) -> str:
        # JupyterLab resizes a figure when its tab is shown again, and plotly then takes the height
        # of a container that has none of its own. JupyterLab's renderer also draws each figure
        # once more, as a picture, before the page shows it, unless its node has no height: the
        # room is a margin then.
        return (
            f"<style>.{self._mark} .svg-container {{ min-height: {height}px; }}"
            f".{self._mark} .jp-RenderedPlotly {{ height: 0; margin-bottom: {height}px;"
            " overflow: visible !important; }</style>"
        )

    def _shown(self) -> tuple[datetime, datetime] | None:
        """Return the part of the axis of times that is zoomed to."""
        return None

    def _bundle(self, view: View) -> dict[str, Any]:
        figure = {**json.loads(view.figure.to_json()), "config": CONFIG}
        figure["layout"].setdefault("height", _HEIGHT)
        shown = self._shown()
        if shown is not None and "xaxis" in figure["layout"]:
            figure["layout"]["xaxis"]["range"] = [moment.isoformat(" ") for moment in shown]
        return {
            "output_type": "display_data",
            "data": {_PLOTLY_MIME: figure, "text/plain": view.summary},
            "metadata": {},
        }
