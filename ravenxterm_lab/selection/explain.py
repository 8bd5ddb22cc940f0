"""Recommendations that carry their reasons: parts, evidence, intervals, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from ravenxterm_lab.exceptions import UnknownModelError, did_you_mean
from ravenxterm_lab.selection.why_not import shown, why_behind, why_rejected
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number, format_rate, format_rates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.estimation import MemoryEstimate
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.selection.constraints import Rejection
    from ravenxterm_lab.selection.why_not import Asked, WhyNot

__all__ = ["Part", "Recommendation", "Recommendations"]


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
    weight : float
        The most that it can add: what it weighs under the current preferences.
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
    weight: float
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
    def prior_only(self) -> bool:
        """Whether nothing of quality and speed was measured: neither here, nor judged elsewhere."""
        return not self.runs and not self.part("quality").n and not self.part("latency").n

    @property
    def evidence(self) -> str:
        """How much of this was measured, in words."""
        if self.runs:
            return f"{format_number(self.runs, 'run')} here"
        if self.prior_only:
            return "prior only: never run here on this task"
        judged = self.part("quality").n
        return f"never run here on this task; judged elsewhere, n = {judged:.0f}"

    def explain(self) -> str:
        """Return the reasons in a few lines of plain text."""
        lines = [f"{self.rank}. {self.model.name}  score {self.score:.3f}  ({self.evidence})"]
        lines += [
            f"   {part.name:<8} {shown(part)}  adds {part.contribution:.3f} of {part.weight:.3f}  "
            f"[{part.source}]"
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
                    ["part", "value (90% interval)", "adds", "of at most", "from"],
                    [
                        [
                            part.name,
                            shown(part),
                            f"{part.contribution:.3f}",
                            f"{part.weight:.3f}",
                            part.source,
                        ]
                        for part in self.parts
                    ],
                    [False, False, True, True, False],
                )
            ],
        )

    def __str__(self) -> str:
        return self.explain()


class Recommendations(Displayed, Sequence[Recommendation]):
    """Ranked candidates, best first, and the rejected ones with their reasons.

    A slice keeps what it was cut from for `why_not`; a pickled one no longer knows what a change
    of preferences would do.

    Parameters
    ----------
    items : sequence of Recommendation
        Best first.
    rejected : sequence of Rejection
        Candidates that fell out.
    task : str
        Normalised name.
    situation : Asked, optional
        Ranks again after a change.

    Attributes
    ----------
    task : str
        The task.
    rejected : tuple of Rejection
        Candidates that fell out.
    origin : str
        Says of which history the evidence is, where it is not this machine's.
    hint : str
        What to do where no model was given.
    """

    origin: str = ""
    hint: str = "No models were given: give those of a registry, its available_models."

    def __init__(
        self,
        items: Sequence[Recommendation],
        rejected: Sequence[Rejection],
        task: str,
        situation: Asked | None = None,
    ) -> None:
        # Kept as they are: of a thousand, only those that are looked at are made.
        self._items = self._all = items
        self.rejected = tuple(rejected)
        self.task = task
        self._situation = situation

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> Recommendations: ...
    def __getitem__(self, index: int | slice) -> Recommendation | Recommendations:
        if isinstance(index, slice):
            cut = Recommendations(self._all, self.rejected, self.task, self._situation)
            cut._items = self._items[index]
            cut.origin, cut.hint = self.origin, self.hint
            return cut
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __getstate__(self) -> dict[str, object]:
        whole, items = tuple(self._all), tuple(self._items)
        return {**self.__dict__, "_all": whole, "_items": items, "_situation": None}

    def why_not(self, name: str) -> WhyNot:
        """Say why a model is not the first choice, and what would make it so.

        Raises
        ------
        UnknownModelError
            If it was not among the candidates.
        """
        for rejection in self.rejected:
            if rejection.model.name == name:
                return why_rejected(rejection, self._situation)
        for item in self._all:
            if item.model.name == name:
                return why_behind(item, self._all, self._situation)
        known = [item.model.name for item in self._all]
        known += [rejection.model.name for rejection in self.rejected]
        near = did_you_mean(name, known) if known else f" {self.hint}"
        raise UnknownModelError(f"{name!r} was not a candidate.{near}")

    def _card(self) -> Card:
        title = f"Recommendations for {self.task.replace('_', ' ')}"
        if not self._items and not self.rejected:
            return Card(title, self.hint)
        rows = [
            [
                str(item.rank),
                item.model.name,
                f"{item.score:.3f}",
                _size(item),
                _rate(item, self.task),
                shown(item.part("quality")),
                f"{item.probability_best:.0%}",
                item.evidence,
            ]
            for item in self._items
        ]
        tables = []
        if rows:
            header = ["", "model", "score", "memory", "speed (90%)", "quality (90%)", "P(best)"]
            numeric = [False, False, True, False, False, False, True, False]
            tables.append(Table([*header, "evidence"], rows, numeric))
        if self.rejected:
            tables.append(
                Table(
                    ["rejected", "why"],
                    [[rejection.model.name, str(rejection)] for rejection in self.rejected],
                )
            )
        feasible = f"{len(self._all)} feasible"
        if len(rows) < len(self._all):
            feasible += f" ({len(rows)} shown)"
        evidence = f"; evidence{self.origin}" if self.origin else ""
        note = f"{feasible}, {len(self.rejected)} rejected{evidence}"
        return Card(title, note, tables)

    def __repr__(self) -> str:
        return str(self)


def _size(item: Recommendation) -> str:
    how = "measured" if item.memory.measured else "estimated"
    return f"{format_bytes(item.memory.total_bytes)} ({how})"


def _rate(item: Recommendation, task: str) -> str:
    unit = "tok" if task == "text_generation" else "items"
    rate = format_rate(item.decode_rate, unit)
    return f"{rate} ({format_rates(item.decode_low, item.decode_high)})"
