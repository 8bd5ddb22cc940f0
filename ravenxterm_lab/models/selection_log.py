"""Record a decision with all its candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.selection import Recommendations

__all__ = ["record_selection"]


def record_selection(
    bench: Workbench,
    ranked: Recommendations,
    wanted: TaskRequirements,
    preferences: UserPreferences,
) -> str | None:
    """Record a decision in the tables ``selections`` and ``candidates``.

    Parameters
    ----------
    bench : Workbench
        Whose store it goes to.
    ranked : Recommendations
        As decided, with what was rejected.
    wanted : TaskRequirements
        What was asked for.
    preferences : UserPreferences
        In force at the decision.

    Returns
    -------
    str or None
        Its key in both tables; None, with a message, when the store cannot be written.
    """
    chosen = ranked[0] if ranked else None
    identity = uuid4().hex
    done = bench.record(
        "selections",
        selection=identity,
        task=ranked.task,
        chosen=chosen.model.name if chosen else None,
        fingerprint=chosen.model.fingerprint if chosen else None,
        probability=chosen.probability_chosen if chosen else None,
        policy="thompson" if preferences.enable_adaptive_selection else "static",
        requirements=wanted.as_dict(),
        preferences=preferences.model_dump(mode="json"),
        reason=chosen.explain() if chosen else "no candidate met the constraints",
    )
    if done is None:
        return None
    for item in ranked:
        bench.record(
            "candidates",
            selection=identity,
            model=item.model.name,
            fingerprint=item.model.fingerprint,
            rank=item.rank,
            score=item.score,
            feasible=True,
            reason=item.evidence,
            parts={part.name: part.contribution for part in item.parts},
        )
    for rejection in ranked.rejected:
        bench.record(
            "candidates",
            selection=identity,
            model=rejection.model.name,
            fingerprint=rejection.model.fingerprint,
            feasible=False,
            reason=str(rejection),
        )
    return identity
