"""Turn a decision into recommendations: each part with its evidence and a 90% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, overload

from ravenxterm_lab.selection.explain import Part, Recommendation
from ravenxterm_lab.selection.policy import QUALITY_MEAN
from ravenxterm_lab.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.estimation import MemoryEstimate
    from ravenxterm_lab.selection.field import Posterior
    from ravenxterm_lab.selection.policy import Decision

__all__ = ["recommend"]

_Z90 = NormalDist().inv_cdf(0.95)


def recommend(
    decision: Decision, memory: Sequence[MemoryEstimate], budget_bytes: int
) -> Sequence[Recommendation]:
    """Turn a decision into recommendations, best first; each is made when it is looked at.

    Parameters
    ----------
    decision : Decision
        As the policy made it.
    memory : sequence of MemoryEstimate
        One for each arm, in the arms' order.
    budget_bytes : int
        What the policy held their memory against.
    """
    order = decision.order()
    # Whoever keeps a ranking need not keep the draws behind it.
    decision = replace(
        decision,
        quality=_without_draws(decision.quality),
        ln_speed=_without_draws(decision.ln_speed),
        ln_work=_without_draws(decision.ln_work),
    )

    def make(place: int) -> Recommendation:
        index = order[place]
        return _recommendation(decision, memory[index], budget_bytes, index, place + 1)

    return _Explained(make, range(len(order)))


def _without_draws(posterior: Posterior) -> Posterior:
    return replace(posterior, draws=posterior.draws[:0].copy())


class _Explained(Sequence[Recommendation]):
    """Recommendations of which only those that are looked at are made: of a thousand, few are."""

    def __init__(
        self,
        make: Callable[[int], Recommendation],
        places: range,
        made: dict[int, Recommendation] | None = None,
    ) -> None:
        self._make = make
        self._places = places
        self._made = {} if made is None else made

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> _Explained: ...
    def __getitem__(self, index: int | slice) -> Recommendation | _Explained:
        if isinstance(index, slice):
            return _Explained(self._make, self._places[index], self._made)
        place = self._places[index]
        if place not in self._made:
            self._made[place] = self._make(place)
        return self._made[place]

    def __len__(self) -> int:
        return len(self._places)


def _recommendation(
    decision: Decision, memory: MemoryEstimate, budget_bytes: int, index: int, rank: int
) -> Recommendation:
    arm, cell = decision.arms[index], decision.cells[index]
    ln_rate = float(decision.ln_speed.mean[index])
    rate_sd = _Z90 * float(decision.ln_speed.deviation[index])
    return Recommendation(
        model=arm.model,
        score=float(decision.score[index]),
        rank=rank,
        parts=(
            _quality(decision, index),
            _latency(decision, index),
            _memory(decision, memory, budget_bytes, index),
        ),
        reliability=float(decision.reliability[index]),
        person_weight=float(decision.person_weight[index]),
        memory=memory,
        decode_rate=math.exp(ln_rate),
        decode_low=math.exp(ln_rate - rate_sd),
        decode_high=math.exp(ln_rate + rate_sd),
        runs=cell.runs,
        probability_best=float(decision.probability_best[index]),
        probability_chosen=float(decision.probability_chosen[index]),
    )


def _quality(decision: Decision, index: int) -> Part:
    cell, weight = decision.cells[index], decision.weights.quality
    mean = float(decision.quality.mean[index])
    half = _Z90 * float(decision.quality.deviation[index])
    prior = f"prior: {QUALITY_MEAN:g} for every model"
    if abs(mean - QUALITY_MEAN) > 1e-9:
        prior += ", moved by other tasks and models"
    return Part(
        "quality",
        _share(mean),
        _share(mean - half),
        _share(mean + half),
        weight * _share(mean),
        weight,
        cell.quality_n,
        _measured(cell.quality_n) if cell.quality_n > 0 else prior,
    )


def _measured(n: float) -> str:
    # Runs of long ago count for less than one, and not for none.
    return f"measured, n = {n:,.0f}" if n >= 1 else "measured, n < 1"


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _latency(decision: Decision, index: int) -> Part:
    arm, cell, weight = decision.arms[index], decision.cells[index], decision.weights.latency
    latency = float(decision.latency[index])
    working = math.exp(float(decision.ln_work.mean[index] - decision.ln_speed.mean[index]))
    waiting = max(latency - working, 0.0)
    # In ln, output length and speed are independent, so their variances add.
    spread = math.hypot(
        _Z90 * float(decision.ln_speed.deviation[index]),
        _Z90 * float(decision.ln_work.deviation[index]),
    )
    source = _measured(cell.speed_n) if cell.speed_n > 0 else arm.speed_source
    if cell.speed_n <= 0:
        source = f"estimate: {source}"
    if cell.work_n <= 0:
        source += "; length of the answer: prior"
    if not arm.resident and arm.load_seconds > 0 and arm.runs_per_load > 1:
        source += (
            f"; its load of {format_seconds(arm.load_seconds)} counts for one of "
            f"{arm.runs_per_load:.0f} runs"
        )
    return Part(
        "latency",
        latency,
        waiting + working * math.exp(-spread),
        waiting + working * math.exp(spread),
        weight * float(decision.latency_worth[index]),
        weight,
        cell.speed_n,
        source,
    )


def _memory(decision: Decision, memory: MemoryEstimate, budget_bytes: int, index: int) -> Part:
    used, weight = decision.arms[index].memory_bytes, decision.weights.memory
    runs = getattr(memory, "runs", 0)
    return Part(
        "memory",
        used,
        memory.low_bytes or used,
        memory.high_bytes or used,
        weight * (1 - min(used / max(budget_bytes, 1), 1.0)),
        weight,
        max(float(runs), 1.0) if memory.measured else 0.0,
        f"measured, n = {max(runs, 1)}" if memory.measured else f"estimate: {memory.source}",
    )
