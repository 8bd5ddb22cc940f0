"""Put past decisions, decided again, beside all that was measured, and value both choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.selection.off_policy import (
    CellPrior,
    Estimate,
    Menu,
    Outcomes,
    believe,
    mean_of,
    snips,
)
from ravenxterm_lab.selection.policy import WORK_MEAN, WORK_MEAN_OTHER
from ravenxterm_lab.selection.replay import Judgement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from ravenxterm_lab.selection.policy import Arm
    from ravenxterm_lab.selection.replay import Redecision
    from ravenxterm_lab.selection.replay_policies import Execution

__all__ = ["Comparison", "Worth", "compare"]


@dataclass(frozen=True, slots=True)
class Worth:
    """What a choice is expected to be, after all of the log.

    Attributes
    ----------
    utility, quality, latency : float
        No unit, 0–1, seconds.
    memory : float
        Share of the budget.
    """

    utility: float
    quality: float
    latency: float
    memory: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the recorded choices were worth, and what the others would have been.

    Attributes
    ----------
    means : dict of str to (Estimate, Estimate, Estimate)
        Then, now and the difference, by ``"utility"``, ``"quality"``, ``"latency"`` (s) and
        ``"memory"`` (share of the budget); empty without a decision that can be compared.
    snips : Estimate or None
        Utility now by the outcomes that were seen; None where they do not tell.
    effective : float
        How many of these outcomes count, in effect.
    overlap : float
        Share of what is chosen now that might have been chosen then (0–1).
    worth : dict of str to dict of str to Worth
        By decision and model.
    """

    means: dict[str, tuple[Estimate, Estimate, Estimate]]
    snips: Estimate | None
    effective: float
    overlap: float
    worth: dict[str, dict[str, Worth]]


def compare(
    made: Sequence[Redecision],
    events: Iterable[Execution | Judgement],
    *,
    outcomes_count: bool = True,
    seed: int = 0,
) -> Comparison:
    """Value the choices of then and of now, on the decisions that have both.

    Parameters
    ----------
    made : sequence of Redecision
        From `redecide`.
    events : iterable of Execution or Judgement
        All of the log: this looks back, unlike the decisions.
    outcomes_count : bool
        Whether the outcomes were made on the hardware that is decided for.
    seed : int
        Of draws and resamples.
    """
    rng = np.random.default_rng(seed)
    runs = _latest(events)
    table = _Table(made, runs)
    if not table.decisions:
        return Comparison({}, None, 0.0, 0.0, {})
    menu, cells = table.menu(), table.cells()
    seen = table.outcomes(runs, cells)
    belief = believe(list(cells.values()), seen, rng)
    means = mean_of(menu, belief)
    weighed, effective = None, 0.0
    if outcomes_count:
        weighed, effective = snips(menu, seen, belief, rng)
    at_mean = belief.metrics(menu, slice(0, 1))
    worth: dict[str, dict[str, Worth]] = {}
    for line, (row, arm) in enumerate(table.lines):
        worth.setdefault(table.decisions[row].past.id, {})[arm.model.name] = Worth(
            *(float(at_mean[name][0, line]) for name in Worth.__dataclass_fields__)
        )
    overlap = float(menu.now[menu.then > 0].sum() / len(table.decisions))
    return Comparison(means, weighed, effective, overlap, worth)


def _latest(events: Iterable[Execution | Judgement]) -> dict[str, Execution]:
    """Return the executions by key, with the qualities that count in the end."""
    found: dict[str, Execution] = {}
    for event in events:
        if not isinstance(event, Judgement):
            if event.run.task is not None and not event.run.interrupted:
                found[event.run.mark.execution] = event
        elif event.execution in found:
            known = found[event.execution]
            run = known.run._replace(quality=event.quality)
            found[event.execution] = known._replace(run=run)
    return found


class _Table:
    """The lines of a menu: each candidate of each decision, then or now."""

    def __init__(self, made: Sequence[Redecision], runs: Mapping[str, Execution]) -> None:
        self.decisions = [one for one in made if one.expected is not None]
        self.lines: list[tuple[int, Arm]] = []
        for row, one in enumerate(self.decisions):
            assert one.expected is not None
            known = list(one.expected.arms)
            names = {arm.model.name for arm in known}
            # What does not fit now and was chosen then is scored as if it did.
            known += [
                arm
                for arm in (*one.past.arms, *one.past.beside)
                if arm.model.name not in names and one.past.probability.get(arm.model.name)
            ]
            self.lines += [(row, arm) for arm in known]
        self._keys = {model_key(arm.model): arm for _, arm in self.lines}
        self._first = _first_tokens(runs.values())

    def menu(self) -> Menu:
        weights, scale = [], []
        for one in self.decisions:
            assert one.expected is not None
            w = one.expected.weights
            weights.append((w.quality, w.latency, w.memory))
            scale.append(one.expected.latency_scale)
        then, now, waiting, loading, waits, memory, person = [], [], [], [], [], [], []
        for row, arm in self.lines:
            one, name = self.decisions[row], arm.model.name
            key = model_key(arm.model), one.past.task
            then.append(one.past.probability.get(name, 0.0))
            now.append(one.probability.get(name, 0.0))
            waiting.append(self._first.get(key, arm.first_token_seconds))
            loading.append(0.0 if arm.resident else arm.load_seconds)
            waits.append(1 / max(arm.runs_per_load, 1.0))
            memory.append(arm.memory_bytes / max(one.past.budget_bytes, 1))
            person.append(one.past.preferences.model_weights.get(name, 1.0))
        number = {key: index for index, key in enumerate(self.cells())}
        return Menu(
            decision=np.array([row for row, _ in self.lines], dtype=np.intp),
            cell=np.array(
                [
                    number[model_key(arm.model), self.decisions[row].past.task]
                    for row, arm in self.lines
                ],
                dtype=np.intp,
            ),
            then=np.array(then),
            now=np.array(now),
            waiting=np.array(waiting),
            loading=np.array(loading),
            waits=np.array(waits),
            memory=np.array(memory),
            person=np.array(person),
            weights=np.array(weights),
            scale=np.array(scale),
        )

    def cells(self) -> dict[tuple[str, str], CellPrior]:
        """Return every model of the table on every task of its decisions."""
        tasks = {task: n for n, task in enumerate(sorted({d.past.task for d in self.decisions}))}
        return {
            (key, task): CellPrior(
                row,
                column,
                math.log(arm.decode_rate),
                math.log(WORK_MEAN.get(task, WORK_MEAN_OTHER)),
            )
            for row, (key, arm) in enumerate(self._keys.items())
            for task, column in tasks.items()
        }

    def outcomes(
        self, runs: Mapping[str, Execution], cells: Mapping[tuple[str, str], CellPrior]
    ) -> Outcomes:
        number = {place: index for index, place in enumerate(cells)}
        lines = {
            (self.decisions[row].past.id, model_key(arm.model)): line
            for line, (row, arm) in enumerate(self.lines)
        }
        follows = {d.past.outcome: d.past.id for d in self.decisions if d.past.outcome}
        used = [(name, one) for name, one in runs.items() if one.place in number]

        def column(values: Iterable[float | None]) -> NDArray[np.float64]:
            return np.array([math.nan if v is None else v for v in values], dtype=np.float64)

        return Outcomes(
            cell=np.array([number[one.place] for _, one in used], dtype=np.intp),
            line=np.array(
                [lines.get((follows.get(name, ""), one.run.key), -1) for name, one in used],
                dtype=np.intp,
            ),
            quality=column(one.run.quality for _, one in used),
            ln_speed=column(_ln(one.run.throughput if one.run.here else None) for _, one in used),
            ln_work=column(_ln(one.run.work) for _, one in used),
            seconds=column(
                None if one.seconds is None else one.seconds + one.load_seconds for _, one in used
            ),
            succeeded=np.array([one.run.success for _, one in used], dtype=np.bool_),
        )


def _ln(value: float | None) -> float | None:
    return math.log(value) if value is not None and value > 0 else None


def _first_tokens(runs: Iterable[Execution]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], list[float]] = {}
    for one in runs:
        if one.run.here and one.run.success and one.run.first_token is not None:
            sums.setdefault(one.place, []).append(one.run.first_token)
    return {place: sum(values) / len(values) for place, values in sums.items()}
