"""Run a task from a panel: the text streams in, counters follow, a thumb records quality."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.units import format_bytes, format_rate, format_seconds
from ravenxterm_lab.widgets.look import escape, status
from ravenxterm_lab.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ravenxterm_lab.models import ModelManager, RunReport

__all__ = ["TEXT_TASKS", "RunPanel"]

_LOGGER = logging.getLogger("ravenxterm_lab")

#: Tasks whose input can be typed; the others take arrays.
TEXT_TASKS = frozenset({"text_generation", "embedding", "language_identification"})
#: Seconds between two updates of the answer: a page need not be drawn for every token.
_PAINT_SECONDS = 0.05
_CLOSE_SECONDS = 2.0


class _StoppedError(Exception):
    """Raised out of ``on_token``, which ends the generation and keeps the model."""


class RunPanel(Panel):
    """A prompt, *Run* and *Stop*, the answer as it comes, and a judgement of it.

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
    """

    def __init__(
        self, manager: ModelManager, demand: Callable[[], tuple[str, Mapping[str, Any]]]
    ) -> None:
        self.report: RunReport | None = None
        self._demand = demand
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._text = ""
        self._busy = False
        self._able = True
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
        self.stop_button = _button("Stop", "End this generation; the model stays loaded", "stop")
        self.good = _button("Good answer", "Record quality 1 for this execution", "thumbs-up")
        self.bad = _button("Bad answer", "Record quality 0 for this execution", "thumbs-down")
        self._answer = widgets.HTML()
        self._state = widgets.HTML(status("Nothing was run from here yet."))
        row = {"flex_flow": "row wrap", "align_items": "center"}
        super().__init__(
            manager,
            [
                self.prompt,
                widgets.HBox([self.max_tokens, self.run_button, self.stop_button], layout=row),
                self._state,
                self._answer,
                widgets.HBox([self.good, self.bad], layout=row),
            ],
        )
        self.run_button.on_click(lambda _: self.run())
        self.stop_button.on_click(lambda _: self.stop())
        self.good.on_click(lambda _: self.judge(1.0))
        self.bad.on_click(lambda _: self.judge(0.0))
        self._enable()

    @property
    def text(self) -> str:
        """The answer so far, as plain text."""
        return self._text

    @property
    def running(self) -> bool:
        """Whether an execution is going on."""
        return self._busy

    @property
    def summary(self) -> str:
        """What happened last, in one sentence."""
        if self.running:
            return "An execution is going on."
        return "Nothing was run from here yet." if self.report is None else _counters(self.report)

    def offer(self, task: str | None) -> None:
        """Fit the prompt to a task; one that takes arrays cannot be run from here."""
        self._able = task in TEXT_TASKS
        generates = task in (None, "text_generation")
        self.prompt.description = "prompt" if generates else "texts"
        self.prompt.tooltip = "What to answer" if generates else "One text a line"
        self.max_tokens.disabled = not generates
        if task is not None and not self._able:
            self._say(
                f"{task.replace('_', ' ')} takes arrays, not text: "
                f"call manager.run('{task}', {{name: array}}) in a cell."
            )
        self._enable()

    def run(self) -> None:
        """Start the execution in a thread of its own; returns at once."""
        if self.running or self._closed:
            return
        try:
            task, requirements = self._demand()
        except RavenXTermError as error:
            self._say(str(error), error=True)
            return
        inputs: Any = self.prompt.value
        if task != "text_generation":
            inputs = [line for line in inputs.splitlines() if line.strip()]
        self._stop.clear()
        self.report = None
        self._show("")
        self._say("Selecting, loading, and waiting for the first token …")
        self._thread = threading.Thread(
            target=self._execute, args=(task, inputs, requirements), name="run-panel", daemon=True
        )
        self._busy = True
        self._enable(stoppable=task == "text_generation")
        self._thread.start()

    def stop(self) -> None:
        """End the generation at its next token; the model stays loaded."""
        if self.running:
            self._stop.set()
            self.stop_button.disabled = True
            self._say("Stopping at the next token …")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the execution to end.

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
        self._say(f"{_counters(self.report)} Judged: quality {quality:g}.")
        self._board.tell("executions")

    def close(self) -> None:
        """End it, and the generation that is going on."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)
        super().close()

    # -- in the thread ---------------------------------------------------------------------------

    def _execute(self, task: str, inputs: Any, requirements: Mapping[str, Any]) -> None:
        pieces: list[str] = []
        painted = 0.0

        def on_token(piece: str) -> None:
            nonlocal painted
            if self._stop.is_set():
                raise _StoppedError
            pieces.append(piece)
            now = time.monotonic()
            if now - painted >= _PAINT_SECONDS:
                painted = now
                self._show("".join(pieces))
                self._say("Writing …")

        generating = task == "text_generation"
        try:
            report = self.manager.run(
                task,
                inputs,
                requirements,
                parameters={"max_tokens": _whole(self.max_tokens.value)} if generating else None,
                on_token=on_token if generating else None,
            )
        except _StoppedError:
            self._show("".join(pieces))
            self._end(
                f"Stopped by you after {len(pieces)} pieces; "
                "the run is kept, and not held against the model."
            )
        except RavenXTermError as error:
            self._show("".join(pieces))
            self._end(str(error), error=True)
        except Exception as error:
            # Nobody waits for this thread, so what nobody foresaw must be shown and logged here.
            _LOGGER.exception("The execution in a panel failed")
            self._end(f"{type(error).__name__}: {error}", error=True)
        else:
            self.report = report
            self._show(report.output if isinstance(report.output, str) else _described(report))
            self._end(_counters(report))
        # One that was stopped or failed is in the history as well.
        if not self._closed:
            self._board.tell("executions")

    def _end(self, text: str, *, error: bool = False) -> None:
        self._busy = False
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
        self.run_button.disabled = self._busy or not self._able
        self.stop_button.disabled = not stoppable
        nothing = self._busy or self.report is None or self.report.execution is None
        self.good.disabled = self.bad.disabled = nothing


def _whole(value: float) -> float | int:
    # What is not whole is left to the engine's own check, which says what is allowed.
    return int(value) if value == value // 1 else value


def _counters(report: RunReport) -> str:
    result = report.result
    said = [report.model.name]
    if result.tokens_out:
        said += [
            f"{result.tokens_out:,} tokens",
            f"first token {format_seconds(result.time_to_first_token)}",
        ]
    said += [
        format_rate(result.throughput, "tok" if result.tokens_out else "items"),
        f"latency {format_seconds(result.latency)}",
        f"peak {format_bytes(result.peak_memory or None)}",
        f"loaded in {format_seconds(report.load_seconds)}" if report.cold else "resident already",
    ]
    failed = [attempt for attempt in report.attempts if attempt.failure]
    text = " · ".join(said) + "."
    if failed:
        names = ", ".join(f"{item.model} ({item.failure})" for item in failed)
        text += f" Tried before: {names}; see the messages."
    return text


def _described(report: RunReport) -> str:
    output = report.output
    if hasattr(output, "shape"):
        head = ", ".join(f"{value:.3f}" for value in output.reshape(-1)[:6])
        return f"array of {output.dtype}, shape {tuple(output.shape)}: {head}, …"
    if isinstance(output, list) and all(isinstance(labels, list) for labels in output):
        return "\n".join(
            ", ".join(f"{one['label']} ({one['probability']:.0%})" for one in labels) or "no label"
            for labels in output
        )
    return str(output)


def _button(label: str, tooltip: str, icon: str) -> widgets.Button:
    return widgets.Button(description=label, tooltip=tooltip, icon=icon, layout={"width": "auto"})
