"""Record a decision with what was known of each candidate, so that it can be replayed."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ravenxterm_lab.selection import Rejection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.estimation import MemoryForecast
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import LoadOptions
    from ravenxterm_lab.selection import Decision, Machine, Recommendation, Recommendations

__all__ = ["Ranking", "SelectionLog"]


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
    runs_per_load : float
        Executions of the task that a load was expected to serve.
    """

    ranked: Recommendations
    options: Mapping[str, LoadOptions]
    memory: Mapping[str, MemoryForecast]
    machine: Machine
    decision: Decision | None
    seed: int | None
    runs_per_load: float = 1.0


class SelectionLog:
    """Records a decision once in the tables ``selections`` and ``candidates``, when it is asked to.

    A hundred candidates take some milliseconds, which need not pass before the first token.

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
    """

    def __init__(
        self,
        bench: Workbench,
        ranking: Ranking,
        wanted: TaskRequirements,
        preferences: UserPreferences,
    ) -> None:
        self._bench = bench
        self._ranking = ranking
        self._wanted = wanted
        self._preferences = preferences
        self._identity = uuid4().hex
        # In the order in which they were decided upon, by which a draw goes.
        items = {item.model.name: item for item in ranking.ranked}
        arms = ranking.decision.arms if ranking.decision else ()
        self._left: deque[Recommendation | Rejection] = deque(items[arm.model.name] for arm in arms)
        self._left.extend(ranking.ranked.rejected)
        self._lock = threading.RLock()
        self._key: str | None = None
        self._begun = self._done = False

    def record(self) -> str | None:
        """Record it, or what of it an interrupt has left unrecorded.

        Returns
        -------
        str or None
            Its key in both tables; None, with a message, when the store cannot be written.
        """
        if self._done:
            return self._key
        with self._lock:
            if not self._begun:
                head = _head(self._bench, self._ranking, self._wanted, self._preferences)
                done = self._bench.record("selections", selection=self._identity, **head)
                self._begun, self._done = True, done is None
                self._key = None if done is None else self._identity
            if not self._done:
                predicted = _predicted(self._ranking)
                while self._left:
                    fields = _fields(self._ranking, self._left[0], predicted)
                    self._bench.record("candidates", selection=self._identity, **fields)
                    self._left.popleft()
                self._done = True
        return self._key


def _head(
    bench: Workbench, ranking: Ranking, wanted: TaskRequirements, preferences: UserPreferences
) -> dict[str, Any]:
    ranked, machine = ranking.ranked, ranking.machine
    chosen = ranked[0] if ranked else None
    return {
        "task": ranked.task,
        "chosen": chosen.model.name if chosen else None,
        "fingerprint": chosen.model.fingerprint if chosen else None,
        "probability": chosen.probability_chosen if chosen else None,
        "policy": "adaptive" if preferences.enable_adaptive_selection else "static",
        "requirements": wanted.as_dict(),
        "preferences": preferences.model_dump(mode="json"),
        "reason": chosen.explain() if chosen else "no candidate met the constraints",
        "hardware": bench.hardware.fingerprint,
        "seed": ranking.seed,
        "machine": {
            "devices": [device.value for device in machine.devices],
            "present": [device.value for device in machine.present],
            "total": machine.total,
            "available": machine.available,
            "budget": machine.budget,
            "runs_per_load": ranking.runs_per_load,
        },
    }


def _fields(
    ranking: Ranking, item: Recommendation | Rejection, predicted: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return what is recorded of one candidate."""
    name = item.model.name
    if isinstance(item, Rejection):
        return {
            "model": name,
            "fingerprint": item.model.fingerprint,
            "feasible": False,
            "reason": str(item),
            "constraint_name": item.constraint,
            **predicted.get(name, {}),
            **_load(ranking, name),
        }
    return {
        "model": name,
        "fingerprint": item.model.fingerprint,
        "rank": item.rank,
        "score": item.score,
        "feasible": True,
        "reason": item.evidence,
        "parts": {part.name: part.contribution for part in item.parts},
        "probability": item.probability_chosen,
        "reliability": item.reliability,
        **predicted[name],
        **_load(ranking, name),
    }


def _predicted(ranking: Ranking) -> dict[str, dict[str, Any]]:
    """Return what was predicted of each candidate whose history counted, by model name."""
    decision = ranking.decision
    if decision is None:
        return {}
    facts = {
        arm.model.name: {
            "decode_rate": arm.decode_rate,
            "time_to_first_token": arm.first_token_seconds,
            "load_seconds": arm.load_seconds,
            "resident": arm.resident,
        }
        for arm in (*decision.arms, *decision.beside)
    }
    for arm, drawn in zip(decision.arms, decision.explored, strict=True):
        facts[arm.model.name]["drawn"] = float(drawn)
    return facts


def _load(ranking: Ranking, name: str) -> dict[str, Any]:
    options, memory = ranking.options[name], ranking.memory[name]
    return {
        "device": options.device.value,
        "settings": options.settings,
        "memory_bytes": memory.total_bytes,
        "memory_measured": memory.measured,
    }
