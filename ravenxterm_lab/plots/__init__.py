"""SHOW: views of history, rankings and hardware. Each computes plain data first, then draws.

Every view has ``.figure`` (a ``plotly.graph_objects.Figure``), ``.data()`` (the frame behind
it), ``.sql`` (the query it ran, where it ran one), ``.summary`` (one sentence), ``.rows`` (the
figure as a table) and ``.live()`` (a widget whose zoom asks the store again).
"""

from __future__ import annotations

from ravenxterm_lab.plots.decisions import decisions
from ravenxterm_lab.plots.disk import disk
from ravenxterm_lab.plots.distributions import distributions
from ravenxterm_lab.plots.frontier import frontier
from ravenxterm_lab.plots.hardware import hardware
from ravenxterm_lab.plots.history import history
from ravenxterm_lab.plots.memory import memory
from ravenxterm_lab.plots.predictions import predictions
from ravenxterm_lab.plots.ranking import ranking
from ravenxterm_lab.plots.replay import replay
from ravenxterm_lab.plots.success import success
from ravenxterm_lab.plots.view import Rows, View

__all__ = [
    "Rows",
    "View",
    "decisions",
    "disk",
    "distributions",
    "frontier",
    "hardware",
    "history",
    "memory",
    "predictions",
    "ranking",
    "replay",
    "success",
]
