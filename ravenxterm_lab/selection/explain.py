"""Recommendations that carry their reasons: parts, evidence, intervals, and why not the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from ravenxterm_lab.exceptions import UnknownModelError, did_you_mean
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.estimation import MemoryEstimate
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.selection.constraints import Rejection
    from ravenxterm_lab.selection.policy import Decision

__all__ = ["Part", "Recommendation", "Recommendations", "WhyNot", "recommend"]

_Z90 = 1.645


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a score.

    Attributes
    ----------
    name : str
        ``"quality"``, ``"latency"`` or ``"memory"``.
    value, low, high : float
        In its own unit (0–1, seconds, bytes), with a 90% interval.
    contribution : float
        What it adds to the score, before the multipliers.
    n : float
        Measurements behind it (older speed measurements count less).
    source : str
        ``"measured"`` or which prior.
    """

    name: str
    value: float
    low: float
    high: float
    contribution: float
    n: float
    source: str


@dataclass(frozen=True, slots=True)
class Recommendation(Displayed):
    """One candidate with its score and everything behind it. Unpacks as ``model, score``.

    Attributes
    ----------
    model : ModelMetadata
        The candidate.
    score : float
        Utility under the current preferences (higher is better).
    rank : int
        1 is best.
    parts : tuple of Part
        Quality, latency, memory.
    reliability, person_weight : float
        The two multipliers on the sum of the parts.
    memory : MemoryEstimate
        With the fit verdict.
    decode_rate, decode_low, decode_high : float
        Tokens (items) per second, with a 90% interval.
    runs : int
        Executions of this model on this task here.
    probability_best : float
        Share of the posterior in which it is the best candidate.
    probability_chosen : float
        Probability with which this decision would have chosen it.
    """

    model: ModelMetadata
    score: float
    rank: int
    parts: tuple[Part, ...]
    reliability: float
    person_weight: float
    memory: MemoryEstimate
    decode_rate: float
    decode_low: float
    decode_high: float
    runs: int
    probability_best: float
    probability_chosen: float

    def __iter__(self) -> Iterator[ModelMetadata | float]:
        yield self.model
        yield self.score

    def part(self, name: str) -> Part:
        """Return one part by name.

        Raises
        ------
        KeyError
            If there is no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    @property
    def evidence(self) -> str:
        """How much of this was measured, in words."""
        if not self.runs:
            return "prior only: never run here on this task"
        return f"{self.runs} run{'s' if self.runs != 1 else ''} here"

    def explain(self) -> str:
        """Return the reasons in a few lines of plain text."""
        lines = [f"{self.rank}. {self.model.name}  score {self.score:.3f}  ({self.evidence})"]
        lines += [
            f"   {part.name:<8} {_shown(part)}  adds {part.contribution:.3f}  [{part.source}]"
            for part in self.parts
        ]
        lines.append(
            f"   × reliability {self.reliability:.2f} × your weight {self.person_weight:g}; "
            f"P(best) {self.probability_best:.0%}; {self.memory.describe()}"
        )
        return "\n".join(lines)

    def _card(self) -> Card:
        return Card(
            f"{self.model.name} · score {self.score:.3f}",
            f"{self.evidence}; P(best) {self.probability_best:.0%}; {self.memory.describe()}",
            [
                Table(
                    ["part", "value (90% interval)", "adds", "from"],
                    [
                        [part.name, _shown(part), f"{part.contribution:.3f}", part.source]
                        for part in self.parts
                    ],
                )
            ],
        )

    def __str__(self) -> str:
        return self.explain()


@dataclass(frozen=True, slots=True)
class WhyNot(Displayed):
    """Why a model is not the first choice, and what would change that.

    Attributes
    ----------
    name : str
        The model.
    reason : str
        The binding constraint, or the part of the score that lost and by how much.
    change : dict
        The smallest change that makes it feasible, as requirement or preference; empty when
        none does, or when it is feasible already.
    """

    name: str
    reason: str
    change: dict[str, object]

    def _card(self) -> Card:
        return Card(self.name, self.reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Recommendations(Displayed, Sequence[Recommendation]):
    """Ranked candidates, best first, and the rejected ones with their reasons.

    Attributes
    ----------
    task : str
        The task.
    rejected : tuple of Rejection
        Candidates that fell out.
    """

    def __init__(
        self, items: Sequence[Recommendation], rejected: Sequence[Rejection], task: str
    ) -> None:
        self._items = tuple(items)
        self.rejected = tuple(rejected)
        self.task = task

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> Recommendations: ...
    def __getitem__(self, index: int | slice) -> Recommendation | Recommendations:
        if isinstance(index, slice):
            return Recommendations(self._items[index], self.rejected, self.task)
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def why_not(self, name: str) -> WhyNot:
        """Say why a model is not the first choice.

        Raises
        ------
        UnknownModelError
            If it was not among the candidates.
        """
        for rejection in self.rejected:
            if rejection.model.name == name:
                return WhyNot(name, str(rejection), dict(rejection.change))
        for item in self._items:
            if item.model.name == name:
                return _why_behind(item, self._items[0])
        known = [item.model.name for item in self._items]
        known += [rejection.model.name for rejection in self.rejected]
        raise UnknownModelError(f"{name!r} was not a candidate.{did_you_mean(name, known)}")

    def _card(self) -> Card:
        title = f"Recommendations for {self.task.replace('_', ' ')}"
        if not self._items and not self.rejected:
            return Card(title, "No models were given. Scan a directory that holds some.")
        rows = [
            [
                str(item.rank),
                item.model.name,
                f"{item.score:.3f}",
                item.memory.describe(),
                _rate(item, self.task),
                _shown(item.part("quality")),
                f"{item.probability_best:.0%}",
                item.evidence,
            ]
            for item in self._items
        ]
        tables = []
        if rows:
            header = ["", "model", "score", "fits", "speed (90%)", "quality (90%)", "P(best)"]
            tables.append(Table([*header, "evidence"], rows))
        if self.rejected:
            tables.append(
                Table(
                    ["rejected", "why"],
                    [[rejection.model.name, str(rejection)] for rejection in self.rejected],
                )
            )
        note = f"{len(rows)} feasible, {len(self.rejected)} rejected"
        return Card(title, note, tables)

    def __repr__(self) -> str:
        return str(self)


def recommend(decision: Decision, memory: Sequence[MemoryEstimate]) -> list[Recommendation]:
    """Turn a decision into recommendations, best first.

    Parameters
    ----------
    decision : Decision
        As the policy made it.
    memory : sequence of MemoryEstimate
        One for each arm, in the arms' order.
    """
    return [
        _recommendation(decision, memory[index], index, rank)
        for rank, index in enumerate(decision.order(), start=1)
    ]


def _recommendation(
    decision: Decision, memory: MemoryEstimate, index: int, rank: int
) -> Recommendation:
    arm, cell, weights = decision.arms[index], decision.cells[index], decision.weights
    quality = float(decision.quality.mean[index])
    quality_sd = float(decision.quality.deviation[index])
    latency = float(decision.latency[index])
    # In ln, output length and speed are independent, so their variances add.
    latency_sd = math.hypot(
        float(decision.ln_speed.deviation[index]), float(decision.ln_work.deviation[index])
    )
    ln_rate, rate_sd = (
        float(decision.ln_speed.mean[index]),
        float(decision.ln_speed.deviation[index]),
    )
    budget = memory.budget_bytes or 1
    used = memory.total_bytes or arm.memory_bytes
    parts = (
        Part(
            "quality",
            quality,
            max(quality - _Z90 * quality_sd, 0.0),
            min(quality + _Z90 * quality_sd, 1.0),
            weights.quality * min(max(quality, 0.0), 1.0),
            cell.quality_n,
            _source(cell.quality_n, "prior: 0.5 for every model, shared across tasks"),
        ),
        Part(
            "latency",
            latency,
            latency * math.exp(-_Z90 * latency_sd),
            latency * math.exp(_Z90 * latency_sd),
            weights.latency / (1 + latency / decision.latency_scale),
            cell.speed_n,
            _source(cell.speed_n, f"estimate: {arm.speed_source}"),
        ),
        Part(
            "memory",
            used,
            memory.low_bytes or used,
            memory.high_bytes or used,
            weights.memory * (1 - min(used / budget, 1.0)),
            1.0 if memory.measured else 0.0,
            "measured" if memory.measured else f"estimate: {memory.source}",
        ),
    )
    return Recommendation(
        model=arm.model,
        score=float(decision.score[index]),
        rank=rank,
        parts=parts,
        reliability=float(decision.reliability[index]),
        person_weight=float(decision.person_weight[index]),
        memory=memory,
        decode_rate=math.exp(ln_rate),
        decode_low=math.exp(ln_rate - _Z90 * rate_sd),
        decode_high=math.exp(ln_rate + _Z90 * rate_sd),
        runs=cell.runs,
        probability_best=float(decision.probability_best[index]),
        probability_chosen=float(decision.probability_chosen[index]),
    )


def _source(n: float, prior: str) -> str:
    return f"measured, n = {n:.3g}" if n > 0 else prior


def _rate(item: Recommendation, task: str) -> str:
    unit = "tok" if task == "text_generation" else "items"
    rate = format_rate(item.decode_rate, unit)
    return f"{rate} ({item.decode_low:,.0f} to {item.decode_high:,.0f})"


def _shown(part: Part) -> str:
    if part.name == "quality":
        if not part.n:
            return f"{NOT_MEASURED} (prior {part.value:.2f})"
        return f"{part.value:.2f} ({part.low:.2f} to {part.high:.2f}, n = {part.n:.0f})"
    form = format_seconds if part.name == "latency" else format_bytes
    if part.low == part.high:
        return form(part.value)
    return f"{form(part.value)} ({form(part.low)} to {form(part.high)})"


def _why_behind(item: Recommendation, first: Recommendation) -> WhyNot:
    name = item.model.name
    if item is first:
        return WhyNot(name, "it is the first choice", {})
    behind = first.score - item.score
    if behind <= 0:
        return WhyNot(
            name,
            f"it scores {item.score:.3f} against {first.score:.3f} of {first.model.name}, which "
            "was drawn first to learn more of it",
            {},
        )
    gaps = {
        part.name: first.part(part.name).contribution - part.contribution for part in item.parts
    }
    gaps["reliability"] = (first.reliability - item.reliability) * item.score / item.reliability
    lost = max(gaps, key=lambda key: gaps[key])
    weight = first.score / item.score * item.person_weight if item.score > 0 else math.inf
    reason = (
        f"feasible, but {behind:.3f} behind {first.model.name}; most of it is {lost} "
        f"(−{gaps[lost]:.3f})"
    )
    if lost in {"quality", "latency", "memory"}:
        mine, theirs = item.part(lost), first.part(lost)
        reason += f": {_shown(mine)} against {_shown(theirs)}"
    # Rounded up, so that applying it really puts the model first.
    wanted = math.ceil(weight * 1000 + 1) / 1000
    if wanted <= 100:
        return WhyNot(
            name,
            f"{reason} → model_weights['{name}'] ≥ {wanted:g} puts it first",
            {"model_weights": {name: wanted}},
        )
    return WhyNot(name, reason, {})
