"""What the pool asks of the estimator, and what it tells the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import estimate_memory
from ravenxterm_lab.runtimes import LoadReport

if TYPE_CHECKING:
    from ravenxterm_lab.exceptions import RuntimeFailureError
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions, Runtime

__all__ = ["estimate_load", "record_load"]


def estimate_load(bench: Workbench, model: ModelMetadata, options: LoadOptions) -> int | None:
    """Return the bytes that a load will take, or None when it cannot be said."""
    return estimate_memory(
        model,
        context_length=options.context_length,
        kv_type=options.kv_type,
        instruction_sets=bench.hardware.instruction_sets,
    ).total_bytes


def record_load(
    bench: Workbench,
    model: ModelMetadata,
    runtime: Runtime,
    options: LoadOptions,
    outcome: LoadReport | RuntimeFailureError,
    predicted: int | None,
) -> None:
    """Record a load, or why it failed, beside what was predicted (bytes)."""
    fields: dict[str, Any] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "runtime": runtime.name,
        "device": options.device.value,
        "settings": options.settings,
        "hardware": bench.hardware.fingerprint,
        "predicted_bytes": predicted,
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
    else:
        fields.update(success=False, failure=outcome.kind.value, error=str(outcome))
    bench.record("loads", **fields)
