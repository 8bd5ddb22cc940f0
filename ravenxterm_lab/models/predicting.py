"""Storing each prediction beside what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.estimation import basis_of, model_key
from ravenxterm_lab.estimation.learning import Subject

if TYPE_CHECKING:
    from ravenxterm_lab.estimation import Forecast, MemoryForecast
    from ravenxterm_lab.exceptions import FailureKind
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions
    from ravenxterm_lab.store import ExecutionId

__all__ = ["record_forecast", "record_memory"]


def record_forecast(
    bench: Workbench,
    quantity: str,
    forecast: Forecast | None,
    actual: float | None,
    model: ModelMetadata,
    engine: str,
    options: LoadOptions,
    *,
    task: str | None = None,
    execution: ExecutionId | None = None,
) -> None:
    """Record a forecast of a speed or a time beside its outcome, where there are both.

    Parameters
    ----------
    bench : Workbench
        Whose store it goes to.
    quantity : str
        ``"throughput"``, ``"time_to_first_token"`` or ``"load_seconds"``.
    forecast : Forecast or None
        As it was made before the outcome was known.
    actual : float or None
        What was measured (1/s, s, s).
    model, engine, options
        What it was made for.
    task, execution
        The run that followed, if one did.
    """
    if forecast is None or actual is None or actual <= 0:
        return
    bench.record(
        "predictions",
        **_about(bench, model, engine, options, task, execution),
        quantity=quantity,
        tier=forecast.tier,
        predicted=forecast.value,
        low=forecast.low,
        high=forecast.high,
        level=forecast.level,
        spread=forecast.spread,
        actual=float(actual),
        basis=basis_of(forecast.subject),
    )


def record_memory(
    bench: Workbench,
    memory: MemoryForecast,
    actual: int | None,
    model: ModelMetadata,
    engine: str,
    options: LoadOptions,
    *,
    task: str | None = None,
    execution: ExecutionId | None = None,
    failure: FailureKind | None = None,
) -> None:
    """Record what a load was said to take beside its peak, or beside its failure.

    Parameters
    ----------
    bench : Workbench
        Whose store it goes to.
    memory : MemoryForecast
        As it was made before the load.
    actual : int or None
        The measured peak (bytes); None when a failure left nothing to measure.
    model, engine, options
        What it was made for.
    task, execution
        The run that followed, if one did.
    failure : FailureKind, optional
        Why the load failed.
    """
    total = memory.total_bytes
    if total is None or (actual is None and failure is None):
        return
    bench.record(
        "predictions",
        **_about(bench, model, engine, options, task, execution),
        quantity="peak_memory",
        tier=memory.tier,
        predicted=float(total),
        low=None if memory.low_bytes is None else float(memory.low_bytes),
        high=None if memory.high_bytes is None else float(memory.high_bytes),
        level=memory.level,
        spread=memory.above if actual is None or actual >= total else memory.below,
        actual=None if actual is None else float(actual),
        verdict=memory.verdict.value,
        failure=None if failure is None else failure.value,
        basis=basis_of(Subject({}, model_key(model), settings=options.settings)),
    )


def _about(
    bench: Workbench,
    model: ModelMetadata,
    engine: str,
    options: LoadOptions,
    task: str | None,
    execution: ExecutionId | None,
) -> dict[str, str | None]:
    return {
        "execution": str(execution) if execution else None,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "task": task,
        "engine": engine,
        "device": options.device.value,
        "settings": options.settings,
        "hardware": bench.hardware.fingerprint,
    }
