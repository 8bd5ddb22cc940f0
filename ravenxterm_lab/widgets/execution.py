"""Load and run from a panel: a bar shows how far it is, text streams in, a thumb judges it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.units import format_bytes, format_number
from ravenxterm_lab.widgets.answers import counters, described, loaded
from ravenxterm_lab.widgets.look import escape, status
from ravenxterm_lab.widgets.panel import Panel
from ravenxterm_lab.widgets.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models import ModelManager, Progress, RunReport
    from ravenxterm_lab.widgets.board import Topic

__all__ = ["TEXT_TASKS", "RunPanel"]

_LOGGER = logging.getLogger("ravenxterm_lab")

#: Tasks whose input can be typed; the others take arrays.
TEXT_TASKS = frozenset({"text_generation", "embedding", "language_identification"})
#: Seconds between two updates of the answer: a page need not be drawn for every token.
_PAINT_SECONDS = 0.05
_CLOSE_SECONDS = 2.0
_NOTHING = "Nothing was run from here yet."


class _StoppedError(Exception):
    """Raised out of ``on_token`` or ``on_progress``: ends the run and keeps the model."""


class RunPanel(Panel):
    """A prompt, *Run*, *Load*, *Stop* and *Unload*, the answer as it comes, and a judgement of it.

    Parameters
    ----------
    manager : ModelManager
        What runs it.
    demand : callable
        Returns the task and the requirements to run with.

    Attributes
    ----------
    report : RunReport or None
        The last execution that ended well.
    held : ModelMetadata or None
        What *Unload* unloads: the model that was loaded or run from here last.
    """

    def __init__(
        self, manager: ModelManager, demand: Callable[[], tuple[str, Mapping[str, Any]]]
    ) -> None:
        self.report: RunReport | None = None
        self.held: ModelMetadata | None = None
        self._demand = demand
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._text = ""
        self._pieces: list[str] = []
        self._last = _NOTHING
        self._doing = ""
        self._task: str | None = None
        style = {"description_width": "80px"}
        self.prompt = widgets.Textarea(
            "Explain what a black hole is in one sentence.",
            description="prompt",
            rows=2,
            style=style,
            layout={"width": "auto"},
        )
        self.max_tokens = widgets.FloatText(
            64,
            description="max tokens",
            step=1,
            tooltip="The answer ends after this many tokens",
            style=style,
            layout={"width": "180px"},
        )
        self.run_button = _button("Run", "Select, load, run and record", "play")
        self.run_button.button_style = "primary"
        self.load_button = _button(
            "Load", "Load the first choice now, so that no run has to wait for it", "upload"
        )
        self.stop_button = _button(
            "Stop", "End this generation at its next token; the model stays loaded", "stop"
        )
        self.unload_button = _button("Unload", "", "eject")
        self.good = _button("Good answer", "Record quality 1 for this execution", "thumbs-up")
        self.bad = _button("Bad answer", "Record quality 0 for this execution", "thumbs-down")
        self._answer = widgets.HTML()
        self._state = widgets.HTML(status(_NOTHING))
        self._bar = ProgressBar()
        row = {"flex_flow": "row wrap", "align_items": "center"}
        super().__init__(
            manager,
            [
                self.prompt,
                widgets.HBox(
                    [
                        self.max_tokens,
                        self.run_button,
                        self.load_button,
                        self.stop_button,
                        self.unload_button,
                    ],
                    layout=row,
                ),
                self._state,
                self._bar,
                self._answer,
                widgets.HBox([self.good, self.bad], layout=row),
            ],
        )
        self.run_button.on_click(lambda _: self.run())
        self.load_button.on_click(lambda _: self.load())
        self.stop_button.on_click(lambda _: self.stop())
        self.unload_button.on_click(lambda _: self.unload())
        self.good.on_click(lambda _: self.judge(1.0))
        self.bad.on_click(lambda _: self.judge(0.0))
        self._enable()

    @property
    def text(self) -> str:
        """The answer so far, as plain text."""
        return self._text

    @property
    def running(self) -> bool:
        """Whether an execution or a load is going on."""
        return bool(self._doing)

    @property
    def summary(self) -> str:
        """What goes on, or what happened last, in one sentence."""
        return self._doing or self._last

    def offer(self, task: str | None) -> None:
        """Fit the prompt to a task; one that takes arrays can be loaded from here, but not run."""
        self._task = task
        generates = task in (None, "text_generation")
        self.prompt.description = "prompt" if generates else "texts"
        self.prompt.tooltip = "What to answer" if generates else "One text a line"
        self.max_tokens.disabled = not generates
        if task is not None and task not in TEXT_TASKS:
            self._say(
                f"{task.replace('_', ' ')} takes arrays, not text: "
                f"call manager.run('{task}', {{name: array}}) in a cell."
            )
        self._enable()

    def run(self) -> None:
        """Start the execution in a thread of its own; returns at once."""
        demanded = self._demanded()
        if demanded is None:
            return
        task, requirements = demanded
        inputs: Any = self.prompt.value
        if task != "text_generation":
            inputs = [line for line in inputs.splitlines() if line.strip()]
        self.report = None
        self._show("")
        self._say("Selecting, loading, and waiting for the first token …")
        self._start(
            "An execution is going on.",
            lambda: self._execute(task, inputs, requirements),
            "executions",
            stoppable=task == "text_generation",
        )

    def load(self) -> None:
        """Load the first choice in a thread of its own, and run nothing; returns at once."""
        demanded = self._demanded()
        if demanded is None:
            return
        self._say("Loading the first choice …")
        # Nothing can interrupt a load, so there is nothing to stop.
        self._start("A load is going on.", lambda: self._load(*demanded), "loads", stoppable=False)

    def stop(self) -> None:
        """End the generation at its next token, or before it; the model stays loaded."""
        if not self.running:
            return
        self._stop.set()
        self.stop_button.disabled = True
        self._say(
            "Stopping at the next token …"
            if self._text
            else "Stopping before the first token; a load cannot be interrupted …"
        )

    def unload(self) -> None:
        """Unload the model that was loaded or run from here last."""
        model = self.held
        if model is None or self.running:
            return
        try:
            freed = self.manager.unload(model)
        except RavenXTermError as error:
            self._say(str(error), error=True)
            return
        self.held = None
        self._last = (
            f"{model.name} is unloaded; it held {format_bytes(freed)}."
            if freed
            else f"{model.name} was not loaded any more."
        )
        self._say(self._last)
        self._enable()
        self._board.tell("loads")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the execution or the load to end.

        Parameters
        ----------
        timeout : float, optional
            At most this long (s).

        Returns
        -------
        bool
            Whether it has ended, and the other panels know.
        """
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def judge(self, quality: float) -> None:
        """Record how good the last answer was (0–1); the selector learns from it."""
        if self.report is None:
            return
        try:
            self.manager.feedback(self.report, quality)
        except RavenXTermError as error:
            self._say(str(error), error=True)
            return
        self._say(f"{counters(self.report)} Judged: quality {quality:g}.")
        self._board.tell("executions")

    def close(self) -> None:
        """End it, and the generation that is going on."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _demanded(self) -> tuple[str, Mapping[str, Any]] | None:
        """Return what is asked for; None when it cannot be said, or something is going on."""
        if self.running or self._closed:
            return None
        try:
            return self._demand()
        except RavenXTermError as error:
            self._say(str(error), error=True)
            return None

    def _start(self, doing: str, job: Callable[[], str], topic: Topic, *, stoppable: bool) -> None:
        self._stop.clear()
        self._pieces = []
        self._thread = threading.Thread(
            target=self._work, args=(job, topic), name="run-panel", daemon=True
        )
        self._doing = doing
        self._enable(stoppable=stoppable)
        self._thread.start()

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self, job: Callable[[], str], topic: Topic) -> None:
        try:
            text = job()
        except _StoppedError:
            count = len(self._pieces)
            when = f"after {format_number(count, 'piece')}" if count else "before the first token"
            self._end(f"Stopped by you {when}; the run is kept, and not held against the model.")
        except RavenXTermError as error:
            self._end(str(error), error=True)
        except Exception as error:
            # Nobody waits for this thread, so what nobody foresaw must be shown and logged here.
            _LOGGER.exception("The execution in a panel failed")
            self._end(f"{type(error).__name__}: {error}", error=True)
        else:
            self._end(text)
        # One that was stopped or failed is in the history as well.
        if not self._closed:
            self._board.tell(topic)

    def _execute(self, task: str, inputs: Any, requirements: Mapping[str, Any]) -> str:
        generating = task == "text_generation"
        most = _whole(self.max_tokens.value)
        painted = 0.0

        def on_progress(progress: Progress) -> None:
            self._heed_stop()
            if progress.stage == "load":
                self._bar.load(progress)
            elif generating:
                self._bar.write(progress.model, most)
            else:
                self._bar.work(progress.model)

        def on_token(piece: str) -> None:
            nonlocal painted
            self._heed_stop()
            self._pieces.append(piece)
            self._bar.tokens = len(self._pieces)
            now = time.monotonic()
            if now - painted >= _PAINT_SECONDS:
                painted = now
                self._show("".join(self._pieces))
                self._say("Writing …")

        try:
            report = self.manager.run(
                task,
                inputs,
                requirements,
                parameters={"max_tokens": most} if generating else None,
                on_token=on_token if generating else None,
                on_progress=on_progress,
            )
        except BaseException:
            self._show("".join(self._pieces))
            raise
        self.report, self.held = report, report.model
        self._show(report.output if isinstance(report.output, str) else described(report))
        return counters(report)

    def _load(self, task: str, requirements: Mapping[str, Any]) -> str:
        def on_progress(progress: Progress) -> None:
            # A panel that was closed loads no further candidate.
            self._heed_stop()
            self._bar.load(progress)
            self._say(f"Loading {progress.model} …")

        report = self.manager.load(task, requirements, on_progress=on_progress)
        self.held = report.model
        return loaded(report)

    def _heed_stop(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _end(self, text: str, *, error: bool = False) -> None:
        self._bar.clear()
        self._doing, self._last = "", text
        self._say(text, error=error)
        self._enable()

    # -- what it shows -----------------------------------------------------------------------------

    def _show(self, text: str) -> None:
        self._text = text
        attributes = 'class="raven-answer" tabindex="0" role="region" aria-label="answer"'
        shown = f"<div {attributes}>{escape(text, lines=True)}</div>"
        self._answer.value = shown if text else ""

    def _say(self, text: str, *, error: bool = False) -> None:
        self._state.value = status(text, error=error)

    def _enable(self, *, stoppable: bool = False) -> None:
        self.run_button.disabled = self.running or self._task not in TEXT_TASKS
        self.load_button.disabled = self.running or self._task is None
        self.stop_button.disabled = not stoppable
        self.unload_button.disabled = self.running or self.held is None
        self.unload_button.tooltip = (
            "Free the memory of the model that was loaded from here"
            if self.held is None
            else f"Free the memory of {self.held.name}; the next run loads it again"
        )
        nothing = self.running or self.report is None or self.report.execution is None
        self.good.disabled = self.bad.disabled = nothing


def _whole(value: float) -> float | int:
    # What is not whole is left to the engine's own check, which says what is allowed.
    return int(value) if value == value // 1 else value


def _button(label: str, tooltip: str, icon: str) -> widgets.Button:
    return widgets.Button(description=label, tooltip=tooltip, icon=icon, layout={"width": "auto"})
