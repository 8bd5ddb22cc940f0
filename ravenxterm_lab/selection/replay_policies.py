"""What decides in a replay: the product's own policy, others by name, or a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.selection.evidence import Evidence
from ravenxterm_lab.selection.policy import Decision, blend, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.observed import Run
    from ravenxterm_lab.selection.policy import Arm

__all__ = ["LAST", "POLICIES", "Execution", "Moment", "Policy", "chosen_by", "policy_named"]

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
        by then. To be read while deciding: it goes on with the log.
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
            worths = blend(
                parts,
                np.array([prior if one.run.quality is None else one.run.quality for one in runs]),
                np.array([one.seconds or 0.0 for one in runs]),
                decision.latency_scale,
                np.array(arm.memory_bytes / max(moment.budget_bytes, 1)),
                0.0 if arm.resident else arm.load_seconds,
                1 / max(arm.runs_per_load, 1.0),
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


def chosen_by(policy: Policy, moment: Moment) -> tuple[str, dict[str, float]]:
    """Ask a policy, and check what it answers.

    Parameters
    ----------
    policy : callable
        See `Policy`.
    moment : Moment
        What it may look at.

    Returns
    -------
    (str, dict of str to float)
        The name of the chosen candidate, and the probability of each.

    Raises
    ------
    RequirementError
        If it names no candidate, or its probabilities are none.
    """
    answer: object = policy(moment)
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
