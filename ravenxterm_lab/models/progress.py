"""How far a load or a run has come, for whoever waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ravenxterm_lab.estimation import cached_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.models.fallback import Step

__all__ = ["OnProgress", "Progress", "tell"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What begins now.

    Attributes
    ----------
    stage : str
        ``"load"`` before a model is asked for (one that is resident is there at once), ``"run"``
        when it is there and its run begins.
    model : str
        Name of the candidate.
    step : str
        What is different from what was asked, in words (see `FallbackPlan`).
    load_seconds : float or None
        Predicted seconds of the load; None where nothing is known, and when the run begins.
    """

    stage: Literal["load", "run"]
    model: str
    step: str
    load_seconds: float | None


OnProgress: TypeAlias = "Callable[[Progress], None]"


def tell(
    on_progress: OnProgress | None,
    stage: Literal["load", "run"],
    step: Step,
    estimator: Estimator,
) -> None:
    """Tell whoever waits what begins now; what they raise ends the load or the run.

    Parameters
    ----------
    on_progress : callable or None
        Told, if there is one.
    stage : str
        ``"load"`` or ``"run"``.
    step : Step
        What is tried.
    estimator : Estimator
        For the seconds of the load.
    """
    if on_progress is None:
        return
    seconds = _load_seconds(step, estimator) if stage == "load" else None
    on_progress(Progress(stage, step.item.model.name, step.change, seconds))


def _load_seconds(step: Step, estimator: Estimator) -> float | None:
    model = step.item.model
    load = estimator.speed(
        model,
        step.options,
        engine=model.runtimes[0],
        # Whether the file lies in memory decides how long it takes.
        cached=cached_share(model.shards or (model.path,)),
    ).load
    return load.value if load.tier != "none" and math.isfinite(load.value) else None
