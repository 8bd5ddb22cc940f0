"""Run a task: select, load, run, record, and go on to the next candidate when one fails."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

from ravenxterm_lab.exceptions import (
    FailureKind,
    MetricError,
    NoSuitableModelError,
    RequirementError,
    RuntimeFailureError,
)
from ravenxterm_lab.models.predicting import record_forecast, record_memory
from ravenxterm_lab.store.schema import INTERRUPTED
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_joules, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.selector import Selection
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions, ModelPool, RunResult
    from ravenxterm_lab.selection import Recommendation, Recommendations
    from ravenxterm_lab.store import ExecutionId

__all__ = ["Attempt", "RunReport", "TrackedRun", "no_suitable_model", "run_selection"]

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate that was tried.

    Attributes
    ----------
    model : str
        Its name.
    failure : FailureKind or None
        None when it worked.
    message : str
        What went wrong, or an empty string.
    """

    model: str
    failure: FailureKind | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunReport(Displayed):
    """An execution: the answer, the counters, and how it came about.

    Attributes
    ----------
    output : str, list of str, numpy.ndarray or dict of str to numpy.ndarray
        The answer.
    model : ModelMetadata
        What ran.
    task : str
        Normalised task name.
    result : RunResult
        Counters of the engine (seconds, tokens, tokens/s, bytes).
    cold : bool
        Whether the model had to be loaded first.
    load_seconds : float
        Seconds of that load; 0 when it was resident.
    execution : ExecutionId or None
        Its key in the store; None when recording is off.
    recommendation : Recommendation
        Why this model.
    ranked : Recommendations
        All candidates, in the order in which they were to be tried.
    attempts : tuple of Attempt
        Everything that was tried, the last one successful.
    energy : float or None
        Joules that the device took meanwhile; None where nothing tells it.
    """

    output: Any
    model: ModelMetadata
    task: str
    result: RunResult
    cold: bool
    load_seconds: float
    execution: ExecutionId | None
    recommendation: Recommendation
    ranked: Recommendations
    attempts: tuple[Attempt, ...]
    energy: float | None = None

    def _card(self) -> Card:
        result = self.result
        unit = "tok" if result.tokens_out else "items"
        counters = [
            ("latency", format_seconds(result.latency)),
            ("time to first token", format_seconds(result.time_to_first_token)),
            ("throughput", format_rate(result.throughput, unit)),
            ("tokens in / out", f"{result.tokens_in or 0:,} / {result.tokens_out or 0:,}"),
            ("peak memory", format_bytes(result.peak_memory or None)),
            ("load", format_seconds(self.load_seconds) if self.cold else "resident already"),
        ]
        if self.energy is not None:
            counters.append(("energy", format_joules(self.energy)))
        tables = [Table([name for name, _ in counters], [[value for _, value in counters]])]
        failed = [attempt for attempt in self.attempts if attempt.failure]
        if failed:
            rows = [[item.model, str(item.failure), item.message] for item in failed]
            tables.append(Table(["tried before", "failure", "what happened"], rows))
        return Card(f"{self.model.name} · {self.task}", "", tables, body=_shown(self.output))


def _shown(output: Any) -> str:
    if isinstance(output, str):
        cut = len(output) > _SHOWN_CHARACTERS
        return output[:_SHOWN_CHARACTERS] + ("…" if cut else "")
    if hasattr(output, "shape"):
        return f"array of {output.dtype}, shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return "; ".join(f"{name}: {_shown(value)}" for name, value in output.items())
    return f"{len(output)} answers, the first: {_shown(output[0])}" if output else "no answers"


def no_suitable_model(ranked: Recommendations, tried: list[Attempt]) -> NoSuitableModelError:
    """Return the error that lists every candidate and why it fell out."""
    reasons = {item.model.name: str(item) for item in ranked.rejected}
    reasons.update({item.model: f"{item.failure}: {item.message}" for item in tried})
    if not reasons:
        return NoSuitableModelError(
            f"There is no model for {ranked.task}: the registry is empty. Give models_dir, "
            "or run `raven-lab demo` for a small real set."
        )
    lines = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
    return NoSuitableModelError(
        f"No model can do {ranked.task} under these requirements and preferences. "
        f"{len(reasons)} candidates fell out:\n{lines}",
        reasons,
    )


def run_selection(
    bench: Workbench,
    pool: ModelPool,
    selection: Selection,
    inputs: Any,
    *,
    parameters: Mapping[str, Any] | None,
    on_token: Callable[[str], None] | None,
    timeout: float | None,
) -> RunReport:
    """Try the ranked candidates in order until one has run; record every attempt.

    Raises
    ------
    NoSuitableModelError
        If none is left; it lists what happened to each.
    RequirementError
        If the inputs or parameters suit no engine; nothing is tried after that.
    """
    attempts: list[Attempt] = []
    task = selection.ranked.task
    for item in selection.ranked:
        model, options = item.model, selection.options[item.model.name]
        context: dict[str, Any] = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "task": task,
            "device": options.device.value,
            "runtime": model.runtimes[0],
            "settings": options.settings,
            "hardware": bench.hardware.fingerprint,
            "selection": selection.id,
        }
        started = time.perf_counter()
        load_seconds = 0.0
        # What is recorded from now on must not be known to the estimates that are judged by it.
        estimator = bench.estimator.frozen()
        try:
            with pool.acquire(bench.runtime(model.runtimes[0]), model, options) as (loaded, cold):
                load_seconds = loaded.report.seconds if cold else 0.0
                energy = bench.monitoring.energy(options.device)
                started = time.perf_counter()
                result = loaded.run(
                    task, inputs, parameters=parameters, on_token=on_token, timeout=timeout
                )
                joules = energy.metrics()
        except RuntimeFailureError as error:
            attempts.append(Attempt(model.name, error.kind, str(error)))
            bench.record_execution(
                metrics={
                    "success": False,
                    "latency": time.perf_counter() - started,
                    "error": str(error),
                    "failure": error.kind.value,
                },
                **context,
            )
            bench.messages.add("warning", model.name, f"{error} Going on to the next candidate.")
            continue
        except RequirementError:
            raise  # nothing was run
        except BaseException as error:
            # Stopped by the person, or by their callback: kept, but not held against the model.
            bench.record_execution(
                metrics={
                    "success": False,
                    "latency": time.perf_counter() - started,
                    "error": f"stopped: {type(error).__name__}",
                    "failure": INTERRUPTED,
                },
                **context,
            )
            raise
        attempts.append(Attempt(model.name, None))
        execution = bench.record_execution(
            metrics={**result.metrics(), **joules, "cold": cold, "load_seconds": load_seconds},
            **context,
        )
        _record_outcome(bench, estimator, item, options, result, execution, task, cold=cold)
        return RunReport(
            output=result.output,
            model=model,
            task=task,
            result=result,
            cold=cold,
            load_seconds=load_seconds,
            execution=execution,
            recommendation=item,
            ranked=selection.ranked,
            attempts=tuple(attempts),
            energy=joules.get("energy"),
        )
    raise no_suitable_model(selection.ranked, attempts)


def _record_outcome(
    bench: Workbench,
    estimator: Estimator,
    item: Recommendation,
    options: LoadOptions,
    result: RunResult,
    execution: ExecutionId | None,
    task: str,
    *,
    cold: bool,
) -> None:
    """Store each prediction beside what happened, and the state of the hardware."""
    model, engine = item.model, item.model.runtimes[0]
    read, written = result.tokens_in or 0, result.tokens_out or 0
    # How long prompt and answer are is part of the question; what the engine had read before
    # is no part of the prompt that it reads now.
    speed = estimator.speed(
        model,
        options,
        context_length=read + written // 2 or None,
        prompt_tokens=int(result.details.get("prompt_n", read)) or None,
    )
    for quantity, forecast, actual in (
        ("throughput", speed.decode, result.throughput),
        ("time_to_first_token", speed.first_token, result.time_to_first_token),
    ):
        record_forecast(
            bench, quantity, forecast, actual, model, engine, options,
            task=task, execution=execution,
        )  # fmt: skip
    if cold:
        # Later runs of a resident model would count the same peak again and again.
        memory = estimator.memory(model, options, budget_bytes=item.memory.budget_bytes)
        record_memory(
            bench, memory, result.peak_memory or None, model, engine, options,
            task=task, execution=execution,
        )  # fmt: skip
    bench.monitoring.sample()


@dataclass(slots=True)
class TrackedRun:
    """Measures a block of a person's own code; use it as ``with manager.track(model) as run``.

    Set what only the code knows inside the block: ``run.metrics["tokens_out"] = 128``.
    An exception is recorded as a failure and raised again.

    Attributes
    ----------
    metrics : dict
        Metrics to record with the latency (s), which is measured here.
    execution : ExecutionId or None
        The key of the recorded execution, once the block has ended.
    """

    _record: Callable[[dict[str, Any]], ExecutionId | None]
    metrics: dict[str, Any] = field(default_factory=dict)
    execution: ExecutionId | None = None
    _started: float = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        latency = time.perf_counter() - self._started
        metrics = {"latency": latency, "success": error is None, **self.metrics}
        if error is not None:
            metrics.update(success=False, error=f"{type(error).__name__}: {error}")
        tokens = metrics.get("tokens_out")
        if "throughput" not in metrics and isinstance(tokens, Integral) and tokens and latency > 0:
            metrics["throughput"] = int(tokens) / latency
        try:
            self.execution = self._record(metrics)
        except MetricError:
            # The error of the block matters more than a bad metric beside it.
            if error is None:
                raise
