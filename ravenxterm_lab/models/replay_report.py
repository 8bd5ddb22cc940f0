"""Past decisions, then and now: one row each, what both are worth, and why they differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.selection.off_policy import FEW_OUTCOMES, LEVEL
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import pandas as pd
    import polars as pl

    from ravenxterm_lab.selection.off_policy import Estimate
    from ravenxterm_lab.selection.replay import Redecision
    from ravenxterm_lab.selection.valuing import Comparison, Worth

__all__ = ["Replay", "ReplayRow", "rows_of"]

_SHOWN = 15


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One decision, then and now. What is expected of both is what all of the log says.

    Attributes
    ----------
    at : datetime
        When it was made (UTC).
    task : str
        Normalised name.
    then, now : str or None
        Names of the models; None where none was chosen.
    changed : bool
        Whether they differ.
    why : str
        What made the difference, by what was known at that time.
    probability_then, probability_now : float or None
        With which the model of then was chosen, and would be (0–1).
    utility_then, utility_now : float or None
        Expected, under the preferences of the replay (no unit).
    quality_then, quality_now, latency_then, latency_now : float or None
        Expected (0–1; s, with the load where it was not loaded).
    memory_then, memory_now : int or None
        When loaded (bytes).
    """

    at: datetime
    task: str
    then: str | None
    now: str | None
    changed: bool
    why: str
    probability_then: float | None
    probability_now: float | None
    utility_then: float | None
    utility_now: float | None
    quality_then: float | None
    quality_now: float | None
    latency_then: float | None
    latency_now: float | None
    memory_then: int | None
    memory_now: int | None


@dataclass(frozen=True, slots=True)
class Replay(Displayed):
    """The result of ``ModelManager.replay``.

    Attributes
    ----------
    policy : str
        What decided.
    setting : str
        What is different from the record, in words.
    since : datetime
        From when on (UTC).
    rows : tuple of ReplayRow
        One a decision, in order of time.
    comparison : Comparison
        What then and now are worth, on the mean, with intervals.
    notes : tuple of str
        What was left out, and what to know about the numbers.
    sql : str
        The query that read the decisions; ``$since`` and ``$task`` are its parameters.
    next_step : str
        What to run where there are none.
    """

    policy: str
    setting: str
    since: datetime
    rows: tuple[ReplayRow, ...]
    comparison: Comparison
    notes: tuple[str, ...]
    sql: str
    next_step: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def changed(self) -> int:
        """How many decisions fall on another model."""
        return sum(row.changed for row in self.rows)

    @property
    def value(self) -> Estimate | None:
        """Utility of the choices of now, a mean over decisions; None without decisions."""
        means = self.comparison.means.get("utility")
        return means[1] if means else None

    @property
    def gain(self) -> Estimate | None:
        """Utility of now less that of then; None without decisions."""
        means = self.comparison.means.get("utility")
        return means[2] if means else None

    def moves(self) -> list[tuple[str, str, int]]:
        """Return from which model to which how many decisions move, most first."""
        pairs = Counter((_name(row.then), _name(row.now)) for row in self.rows if row.changed)
        return [(then, now, count) for (then, now), count in pairs.most_common()]

    @property
    def summary(self) -> str:
        """What came out, in a sentence or two."""
        if not self.rows:
            reason = f" {self.notes[0]}." if self.notes else ""
            return (
                f"No decision since {self.since:%Y-%m-%d %H:%M} UTC can be replayed: "
                f"{self.next_step or 'run manager.run(…)'}. Each run records its decision.{reason}"
            )
        many = format_number(len(self.rows), "decision")
        if not self.changed:
            text = f"All {many} since {self.since:%Y-%m-%d} fall on the same models."
        else:
            then, now, count = self.moves()[0]
            text = (
                f"{self.changed} of {many} since {self.since:%Y-%m-%d} fall on another model, "
                f"most often {now} instead of {then} ({count})."
            )
        gain = self.gain
        if gain is None or not self.changed:
            return text
        quality, latency = (self.comparison.means[name] for name in ("quality", "latency"))
        return (
            f"{text} Utility changes by {gain.value:+.3f} ({LEVEL:.0%}: {gain.low:+.3f} to "
            f"{gain.high:+.3f}): latency {format_seconds(latency[1].value)} instead of "
            f"{format_seconds(latency[0].value)}, quality {quality[1].value:.2f} instead of "
            f"{quality[0].value:.2f}."
        )

    def data(self) -> pl.DataFrame:
        """Return a polars frame with a row a decision (see `ReplayRow`)."""
        import polars as pl

        return pl.DataFrame([asdict(row) for row in self.rows], schema=_schema())

    def df(self) -> pd.DataFrame:
        """Return a pandas frame with a row a decision (see `ReplayRow`)."""
        return self.data().to_pandas()

    def _card(self) -> Card:
        title = f"Replay · {self.policy}" + (f" · {self.setting}" if self.setting else "")
        if not self.rows:
            return Card(title, self.summary)
        tables = [self._worth_table()] if self.comparison.means else []
        moves = self.moves()
        if moves:
            tables.append(self._moves_table(moves))
            tables.append(self._rows_table())
        if self.notes:
            tables.append(Table(["to know"], [[note] for note in self.notes]))
        return Card(title, self.summary, tables)

    def _worth_table(self) -> Table:
        forms: dict[str, Callable[[float], str]] = {
            "utility": lambda v: f"{v:.3f}",
            "quality": lambda v: f"{v:.2f}",
            "latency": format_seconds,
            "memory": lambda v: f"{v:.0%} of budget",
        }
        lines = []
        for name, form in forms.items():
            then, now, change = self.comparison.means[name]
            sign = "+" if change.value >= 0 else "−"
            moved = f"{sign}{form(abs(change.value)).removesuffix(' of budget')}"
            lines.append([name, _shown(then, form), _shown(now, form), moved])
        weighed = self.comparison.snips
        if weighed is not None and self.comparison.effective >= FEW_OUTCOMES:
            seen = f"{_shown(weighed, forms['utility'])}, {self.comparison.effective:.0f} in effect"
            lines.append(["utility, outcomes weighed (SNIPS)", "", seen, ""])
        header = ["mean a decision", f"then ({LEVEL:.0%})", f"now ({LEVEL:.0%})", "change"]
        return Table(header, lines)

    def _moves_table(self, moves: Sequence[tuple[str, str, int]]) -> Table:
        lines = []
        for then, now, count in moves[:_SHOWN]:
            whys = Counter(
                row.why.split(":")[0]
                for row in self.rows
                if row.changed and (_name(row.then), _name(row.now)) == (then, now)
            )
            lines.append([then, now, str(count), whys.most_common(1)[0][0]])
        if len(moves) > _SHOWN:
            lines.append([f"… and {len(moves) - _SHOWN} more", "", "", ""])
        return Table(["then", "now", "decisions", "mostly since"], lines)

    def _rows_table(self) -> Table:
        changed = [row for row in self.rows if row.changed]
        lines = [
            [f"{row.at:%Y-%m-%d %H:%M}", row.task, _name(row.then), _name(row.now), row.why]
            for row in changed[-_SHOWN:]
        ]
        if len(changed) > _SHOWN:
            lines.insert(0, [f"… {len(changed) - _SHOWN} earlier: .data()", "", "", "", ""])
        return Table(["time (UTC)", "task", "then", "now", "why"], lines)


def rows_of(
    made: Sequence[Redecision], comparison: Comparison, policy: str
) -> tuple[ReplayRow, ...]:
    """Put decisions, then and now, into rows.

    Parameters
    ----------
    made : sequence of Redecision
        In order of time.
    comparison : Comparison
        What each choice is worth.
    policy : str
        What decided.
    """
    rows = []
    for one in made:
        past = one.past
        worth = comparison.worth.get(past.id, {})
        then, now = worth.get(past.chosen or ""), worth.get(one.chosen or "")
        budget = past.budget_bytes
        rows.append(
            ReplayRow(
                at=past.at,
                task=past.task,
                then=past.chosen,
                now=one.chosen,
                changed=one.changed,
                why=_why(one, policy) if one.changed else "",
                probability_then=past.probability.get(past.chosen or ""),
                probability_now=one.probability.get(past.chosen or "", 0.0),
                utility_then=then.utility if then else None,
                utility_now=now.utility if now else None,
                quality_then=then.quality if then else None,
                quality_now=now.quality if now else None,
                latency_then=then.latency if then else None,
                latency_now=now.latency if now else None,
                memory_then=_bytes(then, budget),
                memory_now=_bytes(now, budget),
            )
        )
    return tuple(rows)


def _why(one: Redecision, policy: str) -> str:
    then, now = one.past.chosen, one.chosen
    if now is None:
        reason = next(iter(one.rejected.values()), "there was no candidate")
        return f"nothing meets the constraints: {reason}"
    if then is None:
        return "a candidate meets the constraints: none did then"
    expected = one.expected
    assert expected is not None  # something was chosen
    names = [arm.model.name for arm in expected.arms]
    if then not in names:
        return f"{then} falls out: {one.rejected.get(then, 'it is no candidate')}"
    a, b = names.index(then), names.index(now)
    gains = {
        "better": expected.weights.quality
        * float(expected.quality.mean[b] - expected.quality.mean[a]),
        "faster": expected.weights.latency
        * float(expected.latency_worth[b] - expected.latency_worth[a]),
        "smaller": expected.weights.memory
        * (expected.arms[a].memory_bytes - expected.arms[b].memory_bytes)
        / max(one.past.budget_bytes, 1),
    }
    seconds = [format_seconds(float(expected.latency[k])) for k in (b, a)]
    sizes = [format_bytes(expected.arms[k].memory_bytes) for k in (b, a)]
    words = {
        "better": f"quality {expected.quality.mean[b]:.2f}, not {expected.quality.mean[a]:.2f}",
        "faster": f"{seconds[0]}, not {seconds[1]}",
        "smaller": f"{sizes[0]}, not {sizes[1]}",
    }
    gain = float(expected.score[b] - expected.score[a])
    if gain <= 0:
        explored = policy == "adaptive" and one.past.seed is not None
        word = "to learn more of it" if explored else f"{policy} has another view"
        return f"{word}: it scores {-gain:.3f} less at what was known"
    if max(gains.values()) <= 0:
        return f"more reliable or preferred: it scores {gain:.3f} more"
    most = max(gains, key=lambda name: gains[name])
    rest = [f"{words[name]} ({gains[name]:+.3f})" for name in gains if name != most]
    return f"{most}: {words[most]} ({gains[most]:+.3f}); {'; '.join(rest)}"


def _bytes(worth: Worth | None, budget: int) -> int | None:
    return None if worth is None else round(worth.memory * budget)


def _name(model: str | None) -> str:
    return model or "none"


def _shown(estimate: Estimate, form: Callable[[float], str]) -> str:
    low, high = form(estimate.low), form(estimate.high)
    if low == high:
        return form(estimate.value)
    return f"{form(estimate.value)} ({low} to {high})"


def _schema() -> dict[str, Any]:
    import polars as pl

    kinds: dict[str, Any] = dict.fromkeys(ReplayRow.__slots__, pl.Float64)
    kinds.update(dict.fromkeys(("task", "then", "now", "why"), pl.String))
    kinds.update(at=pl.Datetime("us"), changed=pl.Boolean)
    kinds.update(memory_then=pl.Int64, memory_now=pl.Int64)
    return kinds
