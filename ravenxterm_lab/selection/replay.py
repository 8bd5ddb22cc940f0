"""Decide the past again: under other preferences, on other hardware, by another policy.

Every decision sees the evidence as it was at its time: the executions and judgements that were
recorded before it, and nothing later. What is not simulated is what the other choice would have
led to: the log tells how the models that were run did, not what others would have taught.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.selection.evidence import Evidence
from ravenxterm_lab.selection.ledger import Ledger
from ravenxterm_lab.selection.policy import Decision, blend, decide
from ravenxterm_lab.selection.reading import Whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.policy import Arm
    from ravenxterm_lab.selection.reading import Run

__all__ = [
    "POLICIES",
    "Execution",
    "Judgement",
    "Moment",
    "PastDecision",
    "Policy",
    "Redecision",
    "policy_named",
    "redecide",
]

#: Executions that the policy "last-10" averages.
LAST = 10


class Execution(NamedTuple):
    """One recorded execution.

    Attributes
    ----------
    run : Run
        What of it is evidence.
    seconds : float or None
        It took, without a load.
    load_seconds : float
        The load before it took.
    """

    run: Run
    seconds: float | None = None
    load_seconds: float = 0.0

    @property
    def at(self) -> datetime:
        """When it was recorded (UTC, without a zone)."""
        return self.run.mark.at

    @property
    def place(self) -> tuple[str, str]:
        """Key of the model, and the task."""
        return self.run.key, self.run.task or ""


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


@dataclass(frozen=True)
class Moment:
    """What a policy may look at: one decision, and what was known at its time.

    Attributes
    ----------
    at : datetime
        When.
    task : str
        Normalised name.
    arms, beside : tuple of Arm
        Feasible candidates, at least one, each with ``model``, ``memory_bytes``,
        ``decode_rate`` (1/s), ``first_token_seconds``, ``load_seconds``, ``resident``; and what
        is no candidate.
    evidence : Evidence
        Every model's statistics on every task, as they were.
    preferences : UserPreferences
        To decide under.
    budget_bytes : int
        Memory budget.
    seed : int or None
        Of the recorded draw; None where nothing was explored.
    recent : mapping of (str, str) to sequence of Execution
        The last executions by model key and task, oldest first, with their qualities as judged
        by then.
    """

    at: datetime
    task: str
    arms: tuple[Arm, ...]
    beside: tuple[Arm, ...]
    evidence: Evidence
    preferences: UserPreferences
    budget_bytes: int
    seed: int | None
    recent: Mapping[tuple[str, str], Sequence[Execution]]

    @cached_property
    def expected(self) -> Decision:
        """The scores at the posterior means, without exploration."""
        drawn: Decision | None = self.__dict__.get("drawn")
        if drawn is None:
            return self.decide(explore=False)
        surely = np.zeros(len(self.arms))
        surely[np.argmax(drawn.score)] = 1.0
        return replace(drawn, explored=drawn.score, probability_chosen=surely)

    @cached_property
    def drawn(self) -> Decision:
        """The scores at the recorded draw, and the probability of each candidate."""
        return self.decide(explore=True)

    @property
    def names(self) -> list[str]:
        """Names of the candidates, in the order of ``arms``."""
        return [arm.model.name for arm in self.arms]

    def decide(self, *, explore: bool, evidence: Evidence | None = None) -> Decision:
        """Decide as the product does.

        Parameters
        ----------
        explore : bool
            Whether to draw, with the recorded seed.
        evidence : Evidence, optional
            In place of what was known.
        """
        return decide(
            self.arms,
            self.task,
            self.evidence if evidence is None else evidence,
            self.preferences,
            budget_bytes=self.budget_bytes,
            explore=explore,
            rng=np.random.default_rng(self.seed or 0),
            beside=self.beside,
        )


#: Returns the name of the chosen candidate, or the probability of each by name.
Policy: TypeAlias = Callable[[Moment], "str | Mapping[str, float]"]


def adaptive(moment: Moment) -> str | Mapping[str, float]:
    """Choose as the product does now; explore where the recorded decision did.

    Parameters
    ----------
    moment : Moment
        What was known.
    """
    if not moment.preferences.enable_adaptive_selection:
        return static(moment)
    if moment.seed is None:
        return moment.names[moment.expected.order()[0]]
    decision = moment.drawn
    return _Drawn(moment.names[decision.order()[0]], _by_name(moment, decision.probability_chosen))


def thompson(moment: Moment) -> Mapping[str, float]:
    """Choose each candidate with the probability that it is the best (Thompson 1933).

    Parameters
    ----------
    moment : Moment
        What was known.
    """
    return _by_name(moment, moment.expected.probability_best)


def static(moment: Moment) -> str:
    """Choose from predictions alone, as the product does with adaptive selection off.

    Parameters
    ----------
    moment : Moment
        What was known; its evidence is not looked at.
    """
    return moment.names[moment.decide(explore=False, evidence=Evidence.none()).order()[0]]


def last_ten(moment: Moment) -> str:
    """Choose the best mean utility of the last 10 executions; the prior's where there are none.

    Parameters
    ----------
    moment : Moment
        What was known.
    """
    decision = moment.expected
    weights = decision.weights
    parts = np.array([weights.quality, weights.latency, weights.memory])
    best, highest = "", -math.inf
    for index, arm in enumerate(moment.arms):
        runs = [
            one
            for one in moment.recent.get((model_key(arm.model), moment.task), ())
            if one.seconds is not None or not one.run.success
        ]
        score = float(decision.score[index])
        if runs:
            prior = float(decision.quality.mean[index])
            load = 0.0 if arm.resident else arm.load_seconds
            worths = blend(
                parts,
                np.array([prior if one.run.quality is None else one.run.quality for one in runs]),
                np.array([(one.seconds or 0.0) + load for one in runs]),
                decision.latency_scale,
                np.array(arm.memory_bytes / max(moment.budget_bytes, 1)),
            )
            worked = np.array([one.run.success for one in runs])
            score = float(np.mean(worths * worked) * decision.person_weight[index])
        if score > highest:
            best, highest = arm.model.name, score
    return best


#: Policies by name.
POLICIES: Mapping[str, Policy] = {
    "adaptive": adaptive,
    "static": static,
    "last-10": last_ten,
    "thompson": thompson,
}


def policy_named(policy: str | Policy) -> tuple[str, Policy]:
    """Return a policy and its name.

    Parameters
    ----------
    policy : str or callable
        A name in `POLICIES`, or a function of a `Moment`.

    Raises
    ------
    RequirementError
        On an unknown name; it suggests the nearest.
    """
    if callable(policy):
        name = getattr(policy, "__name__", type(policy).__name__)
        return "a function" if name == "<lambda>" else name, policy
    if policy not in POLICIES:
        known = ", ".join(repr(name) for name in POLICIES)
        raise RequirementError(
            f"Unknown policy {policy!r}.{did_you_mean(str(policy), POLICIES)} It is one of "
            f"{known}, or a function that takes a Moment and returns the name of a candidate."
        )
    return policy, POLICIES[policy]


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


@dataclass(frozen=True)
class _Drawn(Mapping[str, float]):
    """Probabilities by name, and which candidate the recorded seed draws."""

    chosen: str
    shares: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.shares[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shares)

    def __len__(self) -> int:
        return len(self.shares)


def _by_name(moment: Moment, shares: Iterable[float]) -> dict[str, float]:
    return {name: float(share) for name, share in zip(moment.names, shares, strict=True)}


class _Memory(Mapping[tuple[str, str], "list[Execution]"]):
    """What is known so far; as a mapping, the last executions of each model on each task."""

    def __init__(self, end: datetime) -> None:
        self._ledger = Ledger(Whole([], []), end)
        self._runs: dict[str, Execution] = {}
        self._places: dict[tuple[str, str], list[str]] = {}
        self._judged: set[tuple[str, str]] = set()

    def __getitem__(self, key: tuple[str, str]) -> list[Execution]:
        return [self._runs[name] for name in self._places[key][-LAST:]]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, event: Execution | Judgement) -> None:
        if isinstance(event, Judgement):
            known = self._runs.get(event.execution)
            if known is not None:
                run = known.run._replace(quality=event.quality)
                self._runs[event.execution] = known._replace(run=run)
                self._judged.add(known.place)
            return
        if event.run.task is None or event.run.interrupted:
            return
        self._ledger.add(event.run)
        name = event.run.mark.execution
        self._runs[name] = event
        self._places.setdefault(event.place, []).append(name)

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
        See `Policy`.

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
    chosen, probability = _checked(policy(moment), moment)
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


def _checked(answer: object, moment: Moment) -> tuple[str, dict[str, float]]:
    names = moment.names
    if isinstance(answer, str):
        if answer not in names:
            raise RequirementError(
                f"The policy chose {answer!r}, which is no candidate.{did_you_mean(answer, names)}"
            )
        return answer, {name: float(name == answer) for name in names}
    if not isinstance(answer, Mapping) or not answer:
        raise RequirementError(
            "A policy returns the name of a candidate, or probabilities by name; "
            f"it returned {answer!r:.80}."
        )
    unknown = [name for name in answer if name not in names]
    shares = {name: float(answer.get(name, 0.0)) for name in names}
    total = sum(shares.values())
    if unknown or min(shares.values()) < 0 or not math.isclose(total, 1.0, abs_tol=1e-6):
        raise RequirementError(
            "The probabilities that a policy returns must belong to candidates, be at least 0 "
            f"and add up to 1; they add up to {total:g}"
            f"{f', and {unknown[0]!r} is no candidate' if unknown else ''}."
        )
    if isinstance(answer, _Drawn):
        return answer.chosen, shares
    # What shares are given of is shown by the most likely one.
    return max(names, key=lambda name: shares[name]), shares
