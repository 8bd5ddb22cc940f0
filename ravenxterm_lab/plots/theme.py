"""The look: colours that hold on light and dark, no background, no button that uploads."""

from __future__ import annotations

import html
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ravenxterm_lab.tables import printable

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "AXIS", "COLOURS", "CONFIG", "FOLLOW_THEME", "OTHERS", "STYLE", "Figure", "band_of", "floats",
    "layout", "log_axis", "milliseconds", "safe", "see_through", "series_style", "style",
    "symbol_of", "text_on", "time_axis",
]  # fmt: skip

#: Hold 3:1 against white and against JupyterLab's dark background; told apart by the
#: colour-blind, and each series has a dash and a marker of its own besides.
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
DASHES = ("solid", "dash", "dot", "dashdot")
#: What stands for several series at once.
OTHERS = "#7b7b7b"
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")

#: "Share chart…" would upload the data to a cloud service: nothing leaves the machine.
#: Not ``responsive``: JupyterLab fits figures by itself, and plotly would then take the height
#: of an output that has none, which collapses a figure in a tab and ends in an error.
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "plotlyServerURL": "",
}


#: Of every axis: a title little larger than the ticks, and ticks apart from the bars.
_PLAIN_AXIS = {"title": {"font": {"size": 14}, "standoff": 14}, "ticklabelstandoff": 4}


class Figure(go.Figure):  # type: ignore[misc]  # plotly ships no annotations
    """A ``plotly.graph_objects.Figure`` that never offers to upload itself."""

    # plotly's own would show a bare figure without our configuration, "Share chart…" included.
    _ipython_display_ = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not args and not kwargs:
            # plotly's default template would add 7 kB to every saved figure.
            self.layout.template = {"layout": {"xaxis": _PLAIN_AXIS, "yaxis": _PLAIN_AXIS}}

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


def series_style(index: int, name: str | None) -> dict[str, Any]:
    """Return line and marker of a series; those that share one, named None, are grey.

    Parameters
    ----------
    index : int
        Of the series, from 0.
    name : str or None
        Of the series.
    """
    if name is not None:
        return style(index)
    return {
        "line": {"color": OTHERS, "dash": "dot"},
        "marker": {"color": OTHERS, "symbol": "circle-open", "size": 6},
    }


def symbol_of(index: int) -> str:
    """Return the marker symbol of the series with that index."""
    return SYMBOLS[index % len(SYMBOLS)]


def band_of(index: int, alpha: float = 0.15) -> str:
    """Return the colour of the series with that index as a film, for areas."""
    return _film(COLOURS[index % len(COLOURS)], alpha)


def _film(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def see_through(marker: dict[str, Any]) -> dict[str, Any]:
    """Return a marker through which others are seen, in an outline that keeps its contrast.

    Parameters
    ----------
    marker : dict
        With its ``color``, one of `COLOURS` or `OTHERS`.
    """
    colour = marker["color"]
    return {**marker, "color": _film(colour, 0.6), "line": {"width": 1.5, "color": colour}}


def text_on(colour: str) -> str:
    """Return black or white, whichever reads better on one of `COLOURS` (WCAG 2.2, 1.4.3)."""
    return "#ffffff" if colour in {COLOURS[0], OTHERS} else "#000000"


def milliseconds(times: pl.Series) -> NDArray[np.float64]:
    """Return times as milliseconds since the epoch, which plotly sends as 8 bytes each."""
    import polars as pl

    return times.cast(pl.Datetime("us")).dt.epoch("us").to_numpy() / 1e3


def floats(values: pl.Series, factor: float = 1.0) -> NDArray[np.float32]:
    """Return values as 4 bytes each, which is finer than a pixel; NaN for what is missing."""
    import polars as pl

    return (values.cast(pl.Float64).to_numpy() * factor).astype(np.float32)


def safe(text: str) -> str:
    """Return text that plotly shows as it is: in its texts, tags are markup and ``%{`` a field."""
    return html.escape(printable(text), quote=False).replace("%{", "% {")


def time_axis(**more: Any) -> dict[str, Any]:
    """Return an axis of times in UTC.

    Parameters
    ----------
    **more
        Further properties of the axis.
    """
    # Ticks of times are long: few of them read better than slanted ones, into which plotly would
    # turn them where the date below the first is wider than a step.
    ticks = {"nticks": 5, "tickangle": 0}
    title = {"text": "time (UTC)"}
    return {"title": title, "type": "date", "automargin": True, **ticks, **AXIS, **more}


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis whose ticks read as numbers, such as 1, 2 and 5 of each decade.

    Parameters
    ----------
    title : str
        With its unit.
    low, high : float
        What it must hold, in that unit, above 0.
    """
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    span = math.log10(high / low)
    digits = (1, 2, 3, 4, 6, 8) if span < 1.2 else (1, 2, 5) if span < 3 else (1,)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    room = max(0.05 * span, 0.02)
    return {
        "title": {"text": title},
        "type": "log",
        "range": [math.log10(low) - room, math.log10(high) + room],
        "tickvals": ticks,
        "ticktext": [f"{tick:,.12g}" for tick in ticks],
        "automargin": True,
        **AXIS,
    }


def layout(title: str, subtitle: str) -> dict[str, Any]:
    """Return a layout with a title, the sample count and window below it, and no background.

    The text colour is a grey that reads on white and on dark, for where `FOLLOW_THEME` does not
    reach; JupyterLab's own variables cannot be used inside an SVG that may be exported.
    """
    return {
        "title": {"text": title, "subtitle": {"text": subtitle}, "x": 0.0, "xanchor": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#7b7b7b", "size": 13},
        "margin": {"l": 70, "r": 20, "t": 80 + 20 * subtitle.count("<br>"), "b": 90},
        "legend": {"orientation": "h", "yref": "container", "y": 0.0, "traceorder": "normal"},
        "colorway": list(COLOURS),
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#7b7b7b", "activecolor": COLOURS[0]},
        "hoverlabel": {"namelength": -1},
    }


AXIS = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}

_TEXT = ".js-plotly-plot svg text:not(.slicetext):not(.hoverlayer *)"
#: Text of our figures takes the colour of JupyterLab's theme, whatever it is switched to; what
#: stands on a colour of its own (tiles, hover labels) keeps its own. Figures of other
#: packages in other cells are left as they are.
FOLLOW_THEME = (
    f".jp-OutputArea:has(.raven-view) {_TEXT}, .raven-lab {_TEXT} "
    "{ fill: var(--jp-ui-font-color1) !important; }"
)
# In a saved notebook plotly's extension shows a picture of the figure first, without a name.
_NAME_PICTURES = (
    "this.closest('.jp-OutputArea')?.querySelectorAll('img.plot-img')"
    ".forEach(picture => { picture.alt = 'A figure; the text below says what it shows.'; })"
)
#: For what stands below a figure.
STYLE = (
    f'<style onload="{_NAME_PICTURES}">{FOLLOW_THEME} '
    """.raven-view { color: var(--jp-ui-font-color1, inherit); font-size: 13px; }
.raven-view summary { cursor: pointer; }
.raven-view .raven-scroll { overflow-x: auto; }
.raven-view table { border-collapse: collapse; margin: 4px 0; }
.raven-view th, .raven-view td { text-align: left; vertical-align: top; padding: 2px 12px 2px 0; }
.raven-view th { border-bottom: 1px solid var(--jp-border-color2, #bdbdbd); }</style>"""
)
