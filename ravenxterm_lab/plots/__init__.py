"""SHOW: views of history, rankings and hardware. Each computes plain data first, then draws.

Every view has ``.figure`` (a ``plotly.graph_objects.Figure``), ``.data()`` (the frame behind
it), ``.sql`` (the query it ran, where it ran one) and ``.summary`` (one sentence).
"""

from __future__ import annotations

from ravenxterm_lab.plots.hardware import hardware
from ravenxterm_lab.plots.history import history
from ravenxterm_lab.plots.ranking import ranking
from ravenxterm_lab.plots.view import View

__all__ = ["View", "hardware", "history", "ranking"]
