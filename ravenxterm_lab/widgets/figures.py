"""A figure, its sentence and its table in one panel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.plots.theme import CONFIG
from ravenxterm_lab.widgets.look import note, status
from ravenxterm_lab.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots import View

__all__ = ["FigurePanel"]

_PLOTLY_MIME = "application/vnd.plotly.v1+json"
#: Fixed, here and in the page: JupyterLab resizes a figure when its tab is shown again, and
#: plotly then takes the height of a container that has none of its own.
_HEIGHT = 440
_STYLE = f"<style>.raven-lab .js-plotly-plot .svg-container {{ min-height: {_HEIGHT}px; }}</style>"


class FigurePanel(Panel):
    """A view of `ravenxterm_lab.plots` that is drawn anew by ``refresh``.

    The figure goes into an output as plain JSON: a figure widget would add megabytes to a
    saved notebook, and would show nothing once the kernel is gone.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    draw : callable
        Returns the view.
    tabulate : callable
        Returns the same data as an HTML table.
    above : sequence of Widget
        What stands above the figure, beside the button that refreshes.
    between : sequence of Widget
        What stands between those and the figure.

    Attributes
    ----------
    view : View or None
        What is drawn; None before the first ``refresh``, and when the store cannot be read.
    """

    def __init__(
        self,
        manager: ModelManager,
        draw: Callable[[], View],
        tabulate: Callable[[View], str],
        above: Sequence[widgets.Widget] = (),
        between: Sequence[widgets.Widget] = (),
    ) -> None:
        self.view: View | None = None
        self._draw = draw
        self._tabulate = tabulate
        self._why = "Nothing is drawn yet."
        self._figure = widgets.Output()
        self._sentence = widgets.HTML()
        self._table = widgets.HTML()
        self.refresh_button = widgets.Button(
            description="Refresh",
            icon="refresh",
            tooltip="Read the store again and draw",
            layout={"width": "auto"},
        )
        self.refresh_button.on_click(lambda _: self.refresh())
        row = {"flex_flow": "row wrap", "align_items": "center"}
        super().__init__(
            manager,
            [
                widgets.HBox([*above, self.refresh_button], layout=row),
                *between,
                self._sentence,
                self._figure,
                self._table,
            ],
        )

    @property
    def summary(self) -> str:
        """The view's own sentence, or why there is none."""
        return self._why if self.view is None else self.view.summary

    def refresh(self) -> None:
        """Read the store again and draw."""
        if self._closed:
            return
        try:
            self.view = self._draw()
            data, table = _bundle(self.view), self._tabulate(self.view)
        except RavenXTermError as error:
            self.view, self._why = None, str(error)
            self._sentence.value = status(str(error), error=True)
            self._figure.outputs, self._table.value = (), ""
            return
        self._sentence.value = status(self.view.summary) + _STYLE
        empty = self.view.data().is_empty()
        self._figure.outputs = () if empty else (data,)
        self._table.value = note("") if empty else table


def _bundle(view: View) -> dict[str, Any]:
    figure = {**json.loads(view.figure.to_json()), "config": CONFIG}
    figure["layout"]["height"] = _HEIGHT
    return {
        "output_type": "display_data",
        "data": {_PLOTLY_MIME: figure, "text/plain": view.summary},
        "metadata": {},
    }
