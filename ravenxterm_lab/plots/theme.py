"""The look: colours that hold on light and dark, no background, no button that uploads."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

__all__ = ["COLOURS", "CONFIG", "Figure", "style", "symbol_of"]

#: Hold 3:1 against white and against JupyterLab's dark background; told apart by the
#: colour-blind, and each series has a dash and a marker of its own besides.
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")

#: "Share chart…" would upload the data to a cloud service: nothing leaves the machine.
#: Not ``responsive``: JupyterLab fits figures by itself, and plotly would then take the height
#: of an output that has none, which collapses a figure in a tab and ends in an error.
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "plotlyServerURL": "",
}


class Figure(go.Figure):  # type: ignore[misc]  # plotly ships no annotations
    """A ``plotly.graph_objects.Figure`` that never offers to upload itself."""

    # plotly's own would show a bare figure without our configuration, "Share chart…" included.
    _ipython_display_ = None

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        # Not through plotly's renderers: their configuration belongs to the person's own figures.
        content = json.loads(self.to_json())
        return {"application/vnd.plotly.v1+json": {**content, "config": dict(CONFIG)}}

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show the figure through plotly's renderer, with our configuration."""
        config = {**CONFIG, **(kwargs.pop("config", None) or {})}
        super().show(*args, config=config, **kwargs)


def style(index: int) -> dict[str, Any]:
    """Return line and marker of the series with that index, distinct without colour too."""
    colour = COLOURS[index % len(COLOURS)]
    return {
        "line": {"color": colour, "dash": DASHES[(index // len(COLOURS)) % len(DASHES)]},
        "marker": {"color": colour, "symbol": symbol_of(index), "size": 8},
    }


def symbol_of(index: int) -> str:
    """Return the marker symbol of the series with that index."""
    return SYMBOLS[index % len(SYMBOLS)]


def layout(title: str, subtitle: str) -> dict[str, Any]:
    """Return a layout with a title, the sample count and window below it, and no background.

    The text colour is a grey that reads on white and on dark; JupyterLab's own variables
    cannot be used inside an SVG that may be exported.
    """
    return {
        "title": {"text": title, "subtitle": {"text": subtitle}, "x": 0.0, "xanchor": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#7b7b7b", "size": 13},
        "margin": {"l": 70, "r": 20, "t": 80, "b": 90},
        "legend": {"orientation": "h", "yref": "container", "y": 0.0, "traceorder": "normal"},
        "colorway": list(COLOURS),
        # plotly's default template would add 7 kB to every saved figure.
        "template": "none",
    }


AXIS = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}
