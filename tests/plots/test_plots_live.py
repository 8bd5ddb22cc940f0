"""What a live figure tells the page when its data changes."""

from __future__ import annotations

from typing import Any

from ravenxterm_lab import plots
from ravenxterm_lab.models import ModelManager


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
