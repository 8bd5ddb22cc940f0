"""Decide the past again: under other preferences, on other hardware, by another policy.

Every decision sees the evidence as it was at its time: the executions and judgements that were
recorded before it, and nothing later. What is not simulated is what the other choice would have
led to: the log tells how the models that were run did, not what others would have taught.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ravenxterm_lab.selection.ledger import Ledger
from ravenxterm_lab.selection.observed import Whole
from ravenxterm_lab.selection.replay_policies import LAST, Execution, Moment, chosen_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.evidence import Evidence
    from ravenxterm_lab.selection.observed import Mark
    from ravenxterm_lab.selection.policy import Arm, Decision
    from ravenxterm_lab.selection.replay_policies import Policy

__all__ = ["Judgement", "PastDecision", "Redecision", "redecide"]


class Judgement(NamedTuple):
    """How good an execution (``session:seq``) was found to be (0–1), and when."""

    execution: str
    at: datetime
    quality: float


@dataclass(frozen=True, slots=True)
class PastDecision:
    """A recorded decision, with what it is to be decided from now.

    Attributes
    ----------
    id : str
        Its key in the store.
    at : datetime
        When it was made.
    task : str
        Normalised name.
    chosen : str or None
        Name of the model that was chosen then; None when none was.
    probability : mapping of str to float
        Probability with which each candidate was chosen then, by the model's name.
    arms : tuple of Arm
        What meets the constraints now, in the order of the record.
    beside : tuple of Arm
        What does not, and is known all the same.
    rejected : mapping of str to str
        Why not, by the model's name.
    preferences : UserPreferences
        To decide under.
    budget_bytes : int
        Memory budget now.
    seed : int or None
        Of the draw that was made then; None where nothing was explored.
    violates : callable, optional
        Says, given a `Decision` without exploration, why each of its arms breaks a limit on
        what was measured, by the model's name.
    outcome : str or None
        Key of the execution that followed with the chosen model; None where there was none.
    """

    id: str
    at: datetime
    task: str
    chosen: str | None
    probability: Mapping[str, float]
    arms: tuple[Arm, ...]
    beside: tuple[Arm, ...]
    rejected: Mapping[str, str]
    preferences: UserPreferences
    budget_bytes: int
    seed: int | None
    violates: Callable[[Decision], Mapping[str, str]] | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Redecision:
    """One decision, then and now.

    Attributes
    ----------
    past : PastDecision
        As recorded.
    chosen : str or None
        Name of the model that is chosen now; None when nothing meets the constraints.
    probability : mapping of str to float
        Probability with which each candidate is chosen now, by name.
    expected : Decision or None
        Scores at the posterior means of its time, under the preferences of now.
    rejected : mapping of str to str
        Why candidates fell out now, by name.
    """

    past: PastDecision
    chosen: str | None
    probability: Mapping[str, float]
    expected: Decision | None
    rejected: Mapping[str, str]

    @property
    def changed(self) -> bool:
        """Whether another model is chosen."""
        return self.chosen != self.past.chosen


class _Memory(Mapping[tuple[str, str], "list[Execution]"]):
    """What is known so far; as a mapping, the last executions of each model on each task."""

    def __init__(self, end: datetime) -> None:
        self._ledger = Ledger(Whole([], []), end)
        self._runs: dict[str, Execution] = {}
        self._places: dict[tuple[str, str], list[str]] = {}
        self._judged: set[tuple[str, str]] = set()
        self._graded: dict[tuple[str, str], Mark] = {}

    def __getitem__(self, key: tuple[str, str]) -> list[Execution]:
        return [self._runs[name] for name in self._places[key][-LAST:]]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, event: Execution | Judgement) -> None:
        if isinstance(event, Judgement):
            self._judge(event)
            return
        if event.run.task is None or event.run.interrupted:
            return
        self._ledger.add(event.run)
        name = event.run.mark.execution
        self._runs[name] = event
        self._places.setdefault(event.place, []).append(name)
        if event.run.quality is not None:
            self._graded[event.place] = event.run.mark

    def _judge(self, event: Judgement) -> None:
        known = self._runs.get(event.execution)
        if known is None:
            return
        run, place = known.run._replace(quality=event.quality), known.place
        self._runs[event.execution] = known._replace(run=run)
        before = self._graded.get(place)
        if place not in self._judged and (before is None or run.mark > before):
            # Mostly: judged before the next one is, so that the order is kept.
            self._ledger.grade(run)
            self._graded[place] = run.mark
        else:
            self._judged.add(place)

    def evidence(self, now: datetime) -> Evidence:
        for place in self._judged:
            self._ledger.regrade(*place, (self._runs[name].run for name in self._places[place]))
        self._judged.clear()
        return self._ledger.evidence(now)


def redecide(
    decisions: Iterable[PastDecision],
    events: Iterable[Execution | Judgement],
    policy: Policy,
) -> Iterator[Redecision]:
    """Decide past decisions again, one by one, each with the evidence of its time.

    Parameters
    ----------
    decisions : iterable of PastDecision
        In order of time.
    events : iterable of Execution or Judgement
        In order of time; those before a decision are known to it.
    policy : callable
        See `replay_policies.Policy`.

    Raises
    ------
    RequirementError
        If the policy names no candidate, or its probabilities are none.
    """
    waiting, every = deque(events), list(decisions)
    if not every:
        return
    # Ages are counted back from the end, so that no run is newer than what they count from.
    memory = _Memory(every[-1].at)
    for past in every:
        while waiting and waiting[0].at < past.at:
            memory.take(waiting.popleft())
        yield _redecide(past, memory, policy)


def _redecide(past: PastDecision, memory: _Memory, policy: Policy) -> Redecision:
    if not past.arms:
        return Redecision(past, None, {}, None, past.rejected)
    moment = _moment(past, memory, past.arms, past.beside)
    rejected = dict(past.rejected)
    if past.violates is not None:
        late = past.violates(moment.expected)
        if late:
            rejected.update(late)
            left = tuple(arm for arm in past.arms if arm.model.name not in late)
            gone = tuple(arm for arm in past.arms if arm.model.name in late)
            if not left:
                return Redecision(past, None, {}, None, rejected)
            moment = _moment(past, memory, left, (*past.beside, *gone))
    chosen, probability = chosen_by(policy, moment)
    return Redecision(past, chosen, probability, moment.expected, rejected)


def _moment(
    past: PastDecision, memory: _Memory, arms: tuple[Arm, ...], beside: tuple[Arm, ...]
) -> Moment:
    return Moment(
        past.at,
        past.task,
        arms,
        beside,
        memory.evidence(past.at),
        past.preferences,
        past.budget_bytes,
        past.seed,
        memory,
    )
