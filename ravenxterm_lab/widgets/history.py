"""The history of executions: what happened, how it is spread, and how good the guesses were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab import plots
from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.plots.window import moment_of
from ravenxterm_lab.widgets.figures import FigurePanel, labelled

if TYPE_CHECKING:
    from datetime import datetime

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots import View

__all__ = ["HistoryExplorer"]

_METRICS = ("throughput", "latency", "time_to_first_token", "peak_memory")
_PREDICTED = ("throughput", "peak_memory", "time_to_first_token", "load_seconds")
#: View: (in words, the metrics that it can show).
_VIEWS = {
    "history": ("over time", _METRICS),
    "success": ("success over time", ()),
    "distributions": ("distribution", _METRICS),
    "frontier": ("speed × quality × memory", ()),
    "predictions": ("prediction against outcome", _PREDICTED),
    "decisions": ("decisions over time", ()),
}
#: In words, and in days.
_WINDOWS = (
    ("last hour", 1 / 24),
    ("last 24 hours", 1.0),
    ("last 7 days", 7.0),
    ("last 30 days", 30.0),
    ("last year", 365.0),
    ("everything", 36_500.0),
)
#: Columns of pixels of a wide screen hold more than a figure that is saved by itself.
_POINTS = 8000
_CHOICES = """
SELECT 'task', task FROM execution_hours WHERE task IS NOT NULL GROUP BY task
UNION ALL
SELECT 'model', model FROM execution_hours WHERE model IS NOT NULL GROUP BY model
ORDER BY 1, 2
"""


class HistoryExplorer(FigurePanel):
    """Executions over time, their spread, the frontier, predictions and decisions.

    Dragging over a figure of times zooms, and reads the store anew for what is shown; the box
    takes the same as text. A double click, or an empty box, goes back.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.

    Attributes
    ----------
    kind, metric, model, task, window : Dropdown
        What is drawn: which view, of which metric, model and task, how far back.
    zoom : Text
        ``"2026-05-01 14:30 to 2026-05-01 15:00"`` (UTC) instead of the window; empty for none.

    Examples
    --------
    >>> import tempfile
    >>> from ravenxterm_lab import ModelManager
    >>> explorer = HistoryExplorer(ModelManager(home=tempfile.mkdtemp(), models_dir=[]))
    >>> explorer.refresh()
    >>> explorer.summary.partition(":")[0]
    'No executions yet'
    """

    def __init__(self, manager: ModelManager) -> None:
        self.kind = labelled(
            widgets.Dropdown, "view", width="270px",
            options=[(words, name) for name, (words, _) in _VIEWS.items()],
        )  # fmt: skip
        self.metric = labelled(widgets.Dropdown, "metric", width="230px", options=_named(_METRICS))
        self.model = labelled(
            widgets.Dropdown, "model", width="280px", options=[("all models", "")]
        )
        self.task = labelled(widgets.Dropdown, "task", width="220px", options=[("all tasks", "")])
        days = manager.preferences.history_window_days
        windows = dict(_WINDOWS)
        if days not in windows.values():
            windows[f"last {days:g} days"] = days
        self.window = labelled(
            widgets.Dropdown, "window", width="190px", value=days,
            options=sorted(windows.items(), key=lambda item: item[1]),
        )  # fmt: skip
        self.zoom = labelled(
            widgets.Text, "zoom (UTC)", width="480px", continuous_update=False,
            placeholder="from … to …; drag over the figure, or type",
        )  # fmt: skip
        controls = [self.kind, self.metric, self.model, self.task, self.window, self.zoom]
        super().__init__(manager, self._view, controls, zoom=self.zoom)
        self._listening = False
        for control in controls:
            control.observe(self._changed, "value")
        self._listening = True

    def _changed(self, change: dict[str, Any]) -> None:
        if not self._listening:
            return
        if change["owner"] is self.kind:
            metrics = _VIEWS[self.kind.value][1]
            self._set(self.metric, _named(metrics) if metrics else [("none", "")])
            self.metric.disabled = not metrics
        elif change["owner"] is self.window:
            self._set_value(self.zoom, "")
        self.refresh()

    def _set(self, control: widgets.Dropdown, options: list[tuple[str, str]]) -> None:
        """Offer other options, and keep what was chosen where it is still among them."""
        if tuple(options) == tuple(control.options):
            return
        chosen, values = control.value, [value for _, value in options]
        self._listening = False
        control.options = options
        control.value = chosen if chosen in values else values[0]
        self._listening = True

    def _set_value(self, control: widgets.Widget, value: Any) -> None:
        self._listening = False
        control.value = value
        self._listening = True

    def _shown(self) -> tuple[datetime, datetime] | None:
        return _times(self.zoom.value)

    def _view(self) -> View:
        self._offer()
        model, task = self.model.value or None, self.task.value or None
        kind, metric = self.kind.value, self.metric.value
        if kind == "frontier":
            return plots.frontier(self.manager.get_model_recommendations(task or "text_generation"))
        chosen: dict[str, Any] = {"model": model, "task": task}
        times = _times(self.zoom.value)
        if times is None:
            chosen["days"] = self.window.value
        else:
            chosen |= {"start": times[0], "end": times[1]}
        if kind == "history":
            return plots.history(self.manager, metric=metric, points=_POINTS, **chosen)
        if kind == "success":
            return plots.success(self.manager, **chosen)
        if kind == "distributions":
            return plots.distributions(self.manager, metric=metric, **chosen)
        if kind == "predictions":
            return plots.predictions(self.manager, quantity=metric, **chosen)
        return plots.decisions(self.manager, **chosen)

    def _offer(self) -> None:
        found: dict[str, list[str]] = {"task": [], "model": []}
        for what, name in self.manager.sql(_CHOICES).fetchall():
            found[what].append(name)
        tasks = [(task.replace("_", " "), task) for task in found["task"]]
        self._set(self.task, [("all tasks", ""), *tasks])
        self._set(self.model, [("all models", ""), *((name, name) for name in found["model"])])


def _named(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), name) for name in names]


def _times(text: str) -> tuple[datetime, datetime] | None:
    """Read the box of the zoom.

    Raises
    ------
    RequirementError
        If it holds no two times.
    """
    if not text.strip():
        return None
    first, to, last = text.partition(" to ")
    if not to:
        raise RequirementError(
            f"zoom is {text!r}; it must be two times, as in '2026-05-01 14:30 to 2026-05-01 15:00'."
        )
    return moment_of(first, "zoom"), moment_of(last, "zoom")
