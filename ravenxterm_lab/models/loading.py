"""What the pool asks of the estimator, and what it tells the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import Estimator, cached_share, model_key
from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.models.budgeting import device_bytes
from ravenxterm_lab.models.predicting import record_forecast, record_memory
from ravenxterm_lab.runtimes import LoadReport
from ravenxterm_lab.runtimes.hours import HoursOfUse

if TYPE_CHECKING:
    from ravenxterm_lab.exceptions import RuntimeFailureError
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions, Runtime

__all__ = ["BeforeLoad", "engine_of", "estimate_load", "hours_of_use", "past_uses", "record_load"]

_MOST_UNDER_WAY = 16
#: Older uses have faded from the pattern that the pool learns.
_PAST_USES = 500
#: Days after which a day of use counts half: what one does at which hour changes with the seasons,
#: and with what one works on.
_HABIT_HALF_LIFE_DAYS = 30
_HOURS_SQL = """
SELECT
    runtime, fingerprint, settings, extract(hour FROM hour),
    sum(pow(0.5, date_diff('day', hour, CAST($now AS TIMESTAMP)) / $half_life))
FROM (
    SELECT DISTINCT hour, runtime, fingerprint, settings FROM execution_hours
    WHERE hardware = $hardware AND runtime IS NOT NULL AND fingerprint IS NOT NULL
        AND settings IS NOT NULL AND hour < date_trunc('day', CAST($now AS TIMESTAMP))
)
GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class BeforeLoad:
    """What was known just before a load.

    Attributes
    ----------
    estimator : Estimator
        With the history up to then.
    cached : float or None
        Share of the model's files that lay in the page cache (0–1).
    """

    estimator: Estimator
    cached: float | None


def estimate_load(
    bench: Workbench, model: ModelMetadata, options: LoadOptions
) -> dict[str, int] | None:
    """Return the bytes that a load will take by device, or None when it cannot be said."""
    before = BeforeLoad(bench.estimator.frozen(), cached_share(model.shards or (model.path,)))
    bench.before_load[model_key(model), options.settings] = before
    # What is loaded already is asked about too, and no load follows.
    while len(bench.before_load) > _MOST_UNDER_WAY:
        bench.before_load.pop(next(iter(bench.before_load)), None)
    return device_bytes(bench.hardware, before.estimator.memory(model, options), options)


def past_uses(bench: Workbench) -> list[tuple[str, str, str]]:
    """Return runtime, model and settings of the last executions here, oldest first."""
    try:
        rows = bench.store.sql(
            "SELECT runtime, fingerprint, settings FROM executions WHERE hardware = ? "
            "AND runtime IS NOT NULL AND fingerprint IS NOT NULL AND settings IS NOT NULL "
            "ORDER BY ts DESC, seq DESC LIMIT ?",
            [bench.hardware.fingerprint, _PAST_USES],
        ).fetchall()
    except StoreError as error:
        text = f"What is likely to be needed next is not known, history cannot be read: {error}"
        bench.messages.add("warning", "store", text)
        return []
    return [(runtime, model, settings) for runtime, model, settings in reversed(rows)]


def hours_of_use(bench: Workbench) -> HoursOfUse:
    """Return on how many earlier days each model was used here in which hour of the day.

    Of today nothing counts: what is used today says itself what follows.
    """
    if bench.store.blank:
        return HoursOfUse()
    asked = {
        "now": bench.now(),
        "half_life": _HABIT_HALF_LIFE_DAYS,
        "hardware": bench.hardware.fingerprint,
    }
    try:
        rows = bench.store.rows(_HOURS_SQL, asked)
    except StoreError as error:
        text = f"What is used at this hour is not known, history cannot be read: {error}"
        bench.messages.add("warning", "store", text)
        return HoursOfUse()
    return HoursOfUse(
        ((runtime, model, settings), hour, days) for runtime, model, settings, hour, days in rows
    )


def record_load(
    bench: Workbench,
    model: ModelMetadata,
    runtime: Runtime,
    options: LoadOptions,
    outcome: LoadReport | RuntimeFailureError,
    predicted: int | None,
) -> None:
    """Record a load, or why it failed, beside what was predicted."""
    before = bench.before_load.pop(
        (model_key(model), options.settings), BeforeLoad(bench.estimator.frozen(), None)
    )
    fields: dict[str, Any] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "runtime": runtime.name,
        "device": options.device.value,
        "settings": options.settings,
        "hardware": bench.hardware.fingerprint,
        "predicted_bytes": predicted,
        "engine": engine_of(runtime),
    }
    if isinstance(outcome, LoadReport):
        fields.update(
            success=True,
            seconds=outcome.seconds,
            memory_bytes=outcome.memory_bytes,
            anonymous_bytes=outcome.anonymous_bytes,
            file_bytes=outcome.file_bytes,
            buffers=dict(outcome.buffers),
        )
        speed = before.estimator.speed(model, options, engine=runtime.name, cached=before.cached)
        record_forecast(
            bench, "load_seconds", speed.load, outcome.seconds, model, runtime.name, options
        )
    else:
        fields.update(success=False, failure=outcome.kind.value, error=str(outcome))
        memory = before.estimator.memory(
            model, options, engine=runtime.name, budget_bytes=bench.load_budget()
        )
        record_memory(bench, memory, None, model, runtime.name, options, failure=outcome.kind)
    bench.record("loads", **fields)


def engine_of(runtime: Runtime) -> str:
    """Return the name of a runtime with the version of its engine.

    Parameters
    ----------
    runtime : Runtime
        Which.
    """
    return " ".join(part for part in (runtime.name, runtime.version()) if part)
