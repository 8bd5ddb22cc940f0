"""Run a task: select, load, run, record, and go on to the next candidate when one fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import (
    FailureKind,
    RequirementError,
    RuntimeFailureError,
)
from ravenxterm_lab.models.fallback import Planner, Step, Walk, tokens_needed
from ravenxterm_lab.models.predicting import record_forecast, record_memory
from ravenxterm_lab.models.progress import tell
from ravenxterm_lab.models.run_report import Attempt, RunReport, no_suitable_model
from ravenxterm_lab.store.schema import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.metadata import HardwareType
    from ravenxterm_lab.models.progress import OnProgress
    from ravenxterm_lab.models.selector import Selection
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import ModelPool, RunResult
    from ravenxterm_lab.store import ExecutionId

__all__ = ["Request", "go_on", "make_planner", "not_tried", "run_selection"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a run was asked for.

    Attributes
    ----------
    inputs : object
        What the task takes.
    parameters : mapping or None
        For the engine.
    on_token : callable or None
        Called with each piece of text.
    timeout : float or None
        Seconds for the run itself.
    on_progress : callable or None
        Told when a load begins, and when the run does.
    """

    inputs: Any
    parameters: Mapping[str, Any] | None = None
    on_token: Callable[[str], None] | None = None
    timeout: float | None = None
    on_progress: OnProgress | None = None


def make_planner(
    bench: Workbench, selection: Selection, wanted: TaskRequirements, request: Request
) -> Planner:
    """Return what says how each candidate of a selection could be loaded otherwise."""

    def devices() -> tuple[HardwareType, ...]:
        present = bench.machine(bench.preferences).devices
        if not wanted.required_hardware:
            return present
        return tuple(device for device in present if device in wanted.required_hardware)

    def budget() -> int:
        return bench.machine(bench.preferences, reclaimable=bench.resident()[1]).limit

    task = selection.ranked.task
    return Planner(
        selection,
        bench.estimator.frozen(),
        budget=budget,
        devices=devices,
        least_context=tokens_needed(task, request.inputs, request.parameters, wanted),
    )


def run_selection(
    bench: Workbench,
    pool: ModelPool,
    selection: Selection,
    wanted: TaskRequirements,
    request: Request,
) -> RunReport:
    """Go through the plan until a step has run; record every attempt.

    Raises
    ------
    NoSuitableModelError
        If none is left; it lists what happened to each.
    RequirementError
        If the inputs or parameters suit no engine; nothing is tried after that.
    """
    attempts: list[Attempt] = []
    walk = Walk(make_planner(bench, selection, wanted, request), iter(selection.ranked))
    try:
        while (step := walk.next()) is not None:
            report = _try(bench, pool, selection, walk, step, request, attempts)
            if report is not None:
                return report
    finally:
        selection.id  # noqa: B018 - recorded by now, whatever happened
    raise no_suitable_model(selection.ranked, [*attempts, *not_tried(walk)])


def not_tried(walk: Walk) -> list[Attempt]:
    """Return the candidates that were passed over, each with the reason."""
    return [
        Attempt(item.model.name, FailureKind.MISSING_RUNTIME, reason, step="not tried")
        for item, reason in walk.skipped
    ]


def go_on(
    bench: Workbench, walk: Walk, step: Step, error: RuntimeFailureError, *, died: bool
) -> None:
    """Say that a step failed, and what is tried next.

    Parameters
    ----------
    bench : Workbench
        For the message.
    walk : Walk
        Takes note of it.
    step : Step
        What was tried.
    error : RuntimeFailureError
        How it failed.
    died : bool
        Whether the model was loaded and its worker ended by itself.
    """
    walk.failed(step, error.kind, died=died)
    following = walk.peek()
    then = f"Trying {following} next." if following else "Nothing is left to try."
    bench.messages.add("warning", step.item.model.name, f"{error} {then}")


def _try(
    bench: Workbench,
    pool: ModelPool,
    selection: Selection,
    walk: Walk,
    step: Step,
    request: Request,
    attempts: list[Attempt],
) -> RunReport | None:
    """Try one step, record what became of it, and return its report; None when it failed."""
    model, options, task = step.item.model, step.options, selection.ranked.task
    context: dict[str, Any] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "task": task,
        "device": options.device.value,
        "runtime": model.runtimes[0],
        "settings": options.settings,
        "hardware": bench.hardware.fingerprint,
    }
    asked = started = time.perf_counter()
    load_seconds = 0.0
    died = False
    # What is recorded from now on must not be known to the estimates that are judged by it.
    estimator = bench.estimator.frozen()

    def record(metrics: dict[str, Any]) -> ExecutionId | None:
        numbered = {"attempt": len(attempts) + 1, "step": step.change}
        return bench.record_execution(
            metrics={**metrics, **numbered}, selection=selection.id, **context
        )

    def record_failure(error: str, failure: str) -> None:
        latency = time.perf_counter() - started
        record({"success": False, "latency": latency, "error": error, "failure": failure})

    def attempt(failure: FailureKind | None, message: str = "") -> Attempt:
        seconds = time.perf_counter() - asked
        return Attempt(model.name, failure, message, step.change, options.settings, seconds)

    try:
        tell(request.on_progress, "load", step, estimator)
        with pool.acquire(bench.runtime(model.runtimes[0]), model, options) as (loaded, cold):
            load_seconds = loaded.report.seconds if cold else 0.0
            tell(request.on_progress, "run", step, estimator)
            energy = bench.monitoring.energy(options.device)
            started = time.perf_counter()
            try:
                result = loaded.run(
                    task,
                    request.inputs,
                    parameters=request.parameters,
                    on_token=_recording(selection, request.on_token),
                    timeout=request.timeout,
                )
            except RuntimeFailureError:
                # Asked here: at the end of the block the pool may unload it.
                died = not loaded.alive
                raise
            joules = energy.metrics()
    except RuntimeFailureError as error:
        record_failure(str(error), error.kind.value)
        attempts.append(attempt(error.kind, str(error)))
        go_on(bench, walk, step, error, died=died)
        return None
    except RequirementError:
        raise  # nothing was run
    except BaseException as error:
        # Stopped by the person, or by their callback: kept, but not held against the model.
        record_failure(f"stopped: {type(error).__name__}", INTERRUPTED)
        raise
    execution = record({**result.metrics(), **joules, "cold": cold, "load_seconds": load_seconds})
    attempts.append(attempt(None))
    _record_outcome(bench, estimator, step, result, execution, task, cold=cold)
    return RunReport(
        output=result.output,
        model=model,
        task=task,
        result=result,
        cold=cold,
        load_seconds=load_seconds,
        execution=execution,
        recommendation=step.item,
        ranked=selection.ranked,
        attempts=tuple(attempts),
        energy=joules.get("energy"),
    )


def _recording(
    selection: Selection, on_token: Callable[[str], None] | None
) -> Callable[[str], None] | None:
    """Return an ``on_token`` that records the decision behind the first piece of the answer."""
    if on_token is None:
        return None
    log = selection.log

    def heard(text: str) -> None:
        nonlocal log
        on_token(text)
        if log is not None:
            log.record()
            log = None

    return heard


def _record_outcome(
    bench: Workbench,
    estimator: Estimator,
    step: Step,
    result: RunResult,
    execution: ExecutionId | None,
    task: str,
    *,
    cold: bool,
) -> None:
    """Store each prediction beside what happened, and the state of the hardware."""
    model, options = step.item.model, step.options
    engine = model.runtimes[0]
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
        memory = estimator.memory(model, options, budget_bytes=step.memory.budget_bytes)
        record_memory(
            bench, memory, result.peak_memory or None, model, engine, options,
            task=task, execution=execution,
        )  # fmt: skip
    bench.monitoring.sample()
