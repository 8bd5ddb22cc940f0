"""What a live figure tells the page when its data changes."""

from __future__ import annotations

from typing import Any

from ravenxterm_lab import plots
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.plots.live import LiveFigure, replace_traces
from ravenxterm_lab.plots.theme import Figure


def test_other_data_leaves_the_axes_what_they_are(busy: ModelManager) -> None:
    """plotly.js forgets the types of axes with each change of the data: each change tells them."""
    widget = plots.history(busy, metric="latency").live()
    sent: list[dict[str, Any]] = []
    widget.observe(lambda change: sent.append(change["new"]), "_py2js_update")
    with widget.batch_update():
        widget.data[0].x = [1_795_000_000_000.0]
        widget.layout.xaxis.range = (1_795_000_000_000.0, 1_795_000_060_000.0)
    told = [message["layout_data"] for message in sent if message]
    assert {layout.get("xaxis.type") for layout in told} == {"date"}


def test_what_is_gone_leaves_the_legend_until_it_comes_back() -> None:
    """Zoomed to a few, the marks that count many give way; back again, they return as they are."""
    many, few = Figure(), Figure()
    many.add_scatter(meta="counted", x=[1.0, 2.0], y=[0, 0], marker={"size": [3.0, 9.0]})
    few.add_scatter(meta="each", x=[1.0], y=[0], marker={"size": 10})
    widget = LiveFigure(many)
    replace_traces(widget, few)
    assert [trace.meta for trace in widget.data if trace.visible is not False] == ["each"]
    many.data[0].marker.size = [5.0, 6.0]
    replace_traces(widget, many)
    (counted,) = (trace for trace in widget.data if trace.visible is not False)
    assert counted.meta == "counted"
    assert list(counted.marker.size) == [5.0, 6.0]
