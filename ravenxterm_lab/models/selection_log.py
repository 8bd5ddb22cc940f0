"""Record a decision with what was known of each candidate, so that it can be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.estimation import MemoryForecast
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import LoadOptions
    from ravenxterm_lab.selection import Decision, Machine, Recommendations

__all__ = ["Ranking", "record_selection"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A decision, and all that it was made from but the history.

    Attributes
    ----------
    ranked : Recommendations
        In the order in which the candidates are to be tried, with what was rejected.
    options : mapping of str to LoadOptions
        How each would be loaded, by model name.
    memory : mapping of str to MemoryForecast
        What each would take (bytes), by model name.
    machine : Machine
        What the constraints were held against.
    decision : Decision or None
        Scores, draws and facts of the candidates; None when all were rejected.
    seed : int or None
        Of the draw that ordered the candidates; None when nothing was explored.
    """

    ranked: Recommendations
    options: Mapping[str, LoadOptions]
    memory: Mapping[str, MemoryForecast]
    machine: Machine
    decision: Decision | None
    seed: int | None


def record_selection(
    bench: Workbench,
    ranking: Ranking,
    wanted: TaskRequirements,
    preferences: UserPreferences,
) -> str | None:
    """Record a decision in the tables ``selections`` and ``candidates``.

    Parameters
    ----------
    bench : Workbench
        Whose store it goes to.
    ranking : Ranking
        As decided.
    wanted : TaskRequirements
        What was asked for.
    preferences : UserPreferences
        In force at the decision.

    Returns
    -------
    str or None
        Its key in both tables; None, with a message, when the store cannot be written.
    """
    ranked, machine = ranking.ranked, ranking.machine
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
        hardware=bench.hardware.fingerprint,
        seed=ranking.seed,
        machine={
            "devices": [device.value for device in machine.devices],
            "total": machine.total,
            "available": machine.available,
            "budget": machine.budget,
        },
    )
    if done is None:
        return None
    predicted = _predicted(ranking)
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
            probability=item.probability_chosen,
            reliability=item.reliability,
            **predicted[item.model.name],
            **_load(ranking, item.model.name),
        )
    for rejection in ranked.rejected:
        bench.record(
            "candidates",
            selection=identity,
            model=rejection.model.name,
            fingerprint=rejection.model.fingerprint,
            feasible=False,
            reason=str(rejection),
            constraint_name=rejection.constraint,
            **_load(ranking, rejection.model.name),
        )
    return identity


def _predicted(ranking: Ranking) -> dict[str, dict[str, Any]]:
    """Return what was predicted of each candidate that was scored, by model name."""
    decision = ranking.decision
    if decision is None:
        return {}
    return {
        arm.model.name: {
            "drawn": float(drawn),
            "decode_rate": arm.decode_rate,
            "time_to_first_token": arm.first_token_seconds,
            "load_seconds": arm.load_seconds,
            "resident": arm.resident,
        }
        for arm, drawn in zip(decision.arms, decision.explored, strict=True)
    }


def _load(ranking: Ranking, name: str) -> dict[str, Any]:
    options, memory = ranking.options[name], ranking.memory[name]
    return {
        "device": options.device.value,
        "settings": options.settings,
        "memory_bytes": memory.total_bytes,
        "memory_measured": memory.measured,
    }
