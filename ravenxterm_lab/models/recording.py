"""What people record themselves: metrics of their own runs, and judgements of any run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.requirements import normalize_task
from ravenxterm_lab.store import ExecutionId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["check_model", "record_feedback", "record_metrics"]


def check_model(model: object) -> None:
    """Refuse what is neither a model nor a name.

    Parameters
    ----------
    model : object
        What the person gave.

    Raises
    ------
    RequirementError
        It says where a None may come from.
    """
    if not isinstance(model, (ModelMetadata, str)):
        raise RequirementError(
            f"model must be a ModelMetadata or a name, got {model!r}. select_model returns "
            "None when no model meets the requirements; see manager.messages."
        )


def record_metrics(
    bench: Workbench,
    registered: Mapping[str, ModelMetadata],
    model: ModelMetadata | str,
    metrics: Mapping[str, Any],
    task_type: str | None,
) -> ExecutionId | None:
    """Record one execution that happened elsewhere (see ``ModelManager``)."""
    check_model(model)
    known = model if isinstance(model, ModelMetadata) else registered.get(model)
    task = normalize_task(task_type) if task_type else None
    if task is None and known is not None and known.task_types:
        task = known.task_types[0]
    return bench.record_execution(
        model=known.name if known else str(model),
        fingerprint=known.fingerprint if known else None,
        task=task,
        hardware=bench.hardware.fingerprint,
        external=known is None,
        metrics=metrics,
    )


def record_feedback(
    bench: Workbench, execution: ExecutionId | str | None, quality: float, note: str
) -> None:
    """Record a judgement of an execution (see ``ModelManager``)."""
    if execution is None:
        raise RequirementError("That run was not recorded, so it cannot be judged.")
    if not _is_share(quality):
        raise RequirementError(f"quality must be between 0 and 1, got {quality!r}.")
    if isinstance(execution, str):
        execution = ExecutionId.parse(execution)
    bench.record("feedback", execution=str(execution), quality=float(quality), note=note or None)


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
