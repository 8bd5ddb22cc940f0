"""Choose a model for a task, see why and why not, run it, and judge the answer."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import RavenXTermError, RequirementError
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.tables import printable
from ravenxterm_lab.units import format_number
from ravenxterm_lab.widgets.execution import RunPanel
from ravenxterm_lab.widgets.look import escape, note, status
from ravenxterm_lab.widgets.panel import Panel
from ravenxterm_lab.widgets.ranking import ranking_html, ranking_summary

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models import ModelManager, Recommendations

__all__ = ["SelectionPanel"]

#: Requirement: (label, the factor from what is typed, width, tooltip).
_LIMITS = {
    "min_context_length": (
        "min context (tokens)",
        1,
        "220px",
        "Tokens that the model must accept, at least",
    ),
    "max_latency": ("max latency (s)", 1, "190px", "Seconds for a typical run, at most"),
    "max_size_bytes": ("max size (MiB)", 2**20, "190px", "Size on disk, at most"),
}


class SelectionPanel(Panel):
    """Task and requirements, the ranking with its reasons, why not, a load and an execution.

    Nothing is recorded by ranking; *Run* records its decision and its execution, *Load* its load.

    Parameters
    ----------
    manager : ModelManager
        Whose models, preferences and history it ranks with.

    Attributes
    ----------
    task : Dropdown
        Tasks that the registered models have.
    limits : dict of str to Text
        Boxes by requirement; an empty one constrains nothing.
    live : Checkbox
        Rank again whenever inputs, preferences, the history or what is loaded change.
    runner : RunPanel
        Prompt, *Run*, *Load*, *Stop*, *Unload*, answer, judgement.
    recommendations : Recommendations or None
        The ranking that is shown; None while the requirements are not valid.

    Examples
    --------
    >>> import tempfile
    >>> from ravenxterm_lab import ModelManager
    >>> panel = SelectionPanel(ModelManager(home=tempfile.mkdtemp(), models_dir=[]))
    >>> panel.summary.partition(":")[0]
    'No models yet'
    """

    def __init__(self, manager: ModelManager) -> None:
        self.recommendations: Recommendations | None = None
        # The thread of an execution ranks as well when it has ended.
        self._ranking = threading.RLock()
        self._filling = False
        self.task = widgets.Dropdown(
            description="task",
            tooltip="Tasks that the models found here have",
            style={"description_width": "40px"},
            layout={"width": "290px"},
        )
        self.limits = {
            name: widgets.Text(
                description=label,
                placeholder="any",
                tooltip=tooltip,
                # A ranking a key would lag behind the typing: Enter or leaving the box ranks.
                continuous_update=False,
                style={"description_width": "initial"},
                layout={"width": width},
            )
            for name, (label, _, width, tooltip) in _LIMITS.items()
        }
        self.live = widgets.Checkbox(
            True,
            description="live",
            indent=False,
            tooltip="Rank again whenever inputs, preferences or history change",
            layout={"width": "56px"},
        )
        self.select_button = widgets.Button(
            description="Select",
            icon="search",
            tooltip="Rank the models now",
            layout={"width": "auto"},
        )
        self.scan_button = widgets.Button(
            description="Scan",
            icon="refresh",
            tooltip="Look for models again",
            layout={"width": "auto"},
        )
        self.why = widgets.Dropdown(
            options=[],
            description="why not",
            tooltip="Why this model is not the first choice, and what would change that",
            style={"description_width": "60px"},
            layout={"width": "340px"},
        )
        self.runner = RunPanel(manager, self.demand)
        self._state = widgets.HTML()
        self._table = widgets.HTML()
        self._reason = widgets.HTML()
        row = {"flex_flow": "row wrap", "align_items": "center"}
        super().__init__(
            manager,
            [
                widgets.HTML("<h3>Selection</h3>"),
                widgets.HBox(
                    [self.task, self.live, self.select_button, self.scan_button], layout=row
                ),
                widgets.HBox(list(self.limits.values()), layout=row),
                self._state,
                self._table,
                widgets.HBox([self.why, self._reason], layout=row),
                self.runner,
            ],
        )
        for control in (self.task, *self.limits.values(), self.live):
            control.observe(self._edited, "value")
        self.why.observe(self._asked, "value")
        self.select_button.on_click(lambda _: self.select())
        self.scan_button.on_click(lambda _: self.scan())
        self._listen("preferences", self._changed)
        self._listen("executions", self._changed)
        # The latency of a resident model has no load in it.
        self._listen("loads", self._changed)
        self._listen("models", self._changed)
        self.runner.offer(None)
        self.select()

    @property
    def selected(self) -> ModelMetadata | None:
        """The first choice of the ranking that is shown; None when there is none."""
        return self.recommendations[0].model if self.recommendations else None

    @property
    def summary(self) -> str:
        """Who leads and how many fell out, or why there is no ranking, in one sentence."""
        if self.task.value is None:
            registry = self.manager.registry
            return (
                f"No models yet: {registry.next_step}, or press Scan."
                if not registry.available_models
                else "No model here says which task it is for, so there is nothing to rank: "
                "manager.registry lists them."
            )
        if self.recommendations is None:
            return "Nothing is ranked: the requirements are not valid."
        return ranking_summary(self.recommendations)

    def demand(self) -> tuple[str, dict[str, Any]]:
        """Return the task and the requirements as they stand.

        Raises
        ------
        RequirementError
            If there is no task, or a box holds what is not allowed.
        """
        if self.task.value is None:
            raise RequirementError(self.summary)
        given: dict[str, Any] = {}
        for name, box in self.limits.items():
            text = box.value.strip()
            if text:
                label, factor, *_ = _LIMITS[name]
                try:
                    number = float(text) * factor
                except ValueError:
                    raise RequirementError(f"{label} must be a number, got {text!r}.") from None
                whole = name == "max_size_bytes" and math.isfinite(number)
                given[name] = round(number) if whole else number
        TaskRequirements.parse(given, self.task.value)
        return self.task.value, given

    def select(self) -> Recommendations | None:
        """Rank now, show the ranking, and return it; None when the requirements are not valid."""
        with self._ranking:
            self._offer_tasks()
            try:
                task, requirements = self.demand()
                ranked = self.manager.get_model_recommendations(task, requirements)
            except RavenXTermError as error:
                self.recommendations = None
                self._state.value = status(str(error), error=self.task.value is not None)
                self._table.value = ""
                self._offer_reasons([])
                return None
            self.recommendations = ranked
            self._state.value = status(self.summary)
            self._table.value = ranking_html(ranked)
            self._offer_reasons(
                [item.model.name for item in ranked[1:]]
                + [item.model.name for item in ranked.rejected]
            )
            return ranked

    def scan(self) -> None:
        """Look for models again, and rank what there is; the other panels follow."""
        self._state.value = status("Looking for models …")
        try:
            self.manager.scan()
        except RavenXTermError as error:
            self._state.value = status(str(error), error=True)
            return
        self._board.look(self.manager)
        if not self.live.value:
            self.select()

    def _edited(self, change: dict[str, Any]) -> None:
        if self._filling:
            return
        if change["owner"] is self.task:
            self.runner.offer(self.task.value)
        if self.live.value:
            self.select()

    def _changed(self) -> None:
        if self.live.value and not self._closed:
            self.select()

    def _offer_tasks(self) -> None:
        """Take in the tasks of models that a scan has found meanwhile."""
        tasks, chosen = _tasks(self.manager), self.task.value
        if tuple(tasks) == self.task.options:
            return
        self._filling = True
        names = [task for _, task in tasks]
        self.task.options = tasks
        self.task.value = chosen if chosen in names else names[0] if names else None
        self.task.disabled = not tasks
        self._filling = False
        self.runner.offer(self.task.value)

    def _offer_reasons(self, names: list[str]) -> None:
        chosen = self.why.value
        options = [(printable(name), name) for name in names]
        if tuple(options) != self.why.options:
            # Other options move the choice about; the reason is worked out once, at the end.
            self._filling = True
            self.why.options = options
            self.why.value = chosen if chosen in names else names[0] if names else None
            self._filling = False
        self.why.disabled = not names
        self._explain()

    def _asked(self, _change: dict[str, Any]) -> None:
        if not self._filling:
            self._explain()

    def _explain(self) -> None:
        with self._ranking:
            name, ranked = self.why.value, self.recommendations
            if name is None or ranked is None:
                self._reason.value = note("")
                return
            try:
                self._reason.value = f"<div>{escape(ranked.why_not(name))}</div>"
            except RavenXTermError as error:
                self._reason.value = note(str(error))


def _tasks(manager: ModelManager) -> list[tuple[str, str]]:
    counts: dict[str, int] = {}
    runnable: set[str] = set()
    for model in manager.registry.available_models.values():
        for task in model.task_types:
            counts[task] = counts.get(task, 0) + 1
            if model.runtimes:
                runnable.add(task)
    # What most models can do, and can be run, comes first.
    order = sorted(counts, key=lambda task: (task not in runnable, -counts[task], task))
    return [
        (f"{task.replace('_', ' ')} ({format_number(counts[task], 'model')})", task)
        for task in order
    ]
