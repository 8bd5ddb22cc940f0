"""Why a candidate is not the first choice, and the smallest change that would make it so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference
from ravenxterm_lab.selection.constraints import in_words
from ravenxterm_lab.selection.evidence import Qualities
from ravenxterm_lab.selection.limits import rounded_up
from ravenxterm_lab.selection.smallest import smallest
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.constraints import Rejection
    from ravenxterm_lab.selection.evidence import Evidence
    from ravenxterm_lab.selection.explain import Part, Recommendation, Recommendations

__all__ = ["Asked", "WhyNot", "shown", "why_behind", "why_rejected"]

_MOST_WEIGHT = 100.0
#: Half of the last digit of a score.
_SHOWN = 0.0005
#: Numbers of further judged runs that are tried, fewest first.
_MORE_RUNS = (1, 2, 5, 10, 20, 50)
#: A change that moves a model may bring another limit to light; no more than these follow.
_MOST_STEPS = 4


class Asked(Protocol):
    """A decision that can be asked what a change would do."""

    @property
    def preferences(self) -> UserPreferences:
        """In force at the decision."""

    @property
    def evidence(self) -> Evidence:
        """What was measured by then."""

    @property
    def task(self) -> str:
        """Normalised name."""

    def after(self, change: Mapping[str, Any], evidence: Evidence | None = None) -> Recommendations:
        """Return the ranking after a change of requirements and preferences, or of evidence.

        Parameters
        ----------
        change : mapping
            Requirements and preferences by name; None leaves a requirement out.
        evidence : Evidence, optional
            In place of what was measured.
        """


@dataclass(frozen=True, slots=True)
class WhyNot(Displayed):
    """Why a model is not the first choice, and what would change that.

    Attributes
    ----------
    name : str
        The model.
    reason : str
        The binding constraint, or the part of the score that lost and by how much, and what
        helps.
    change : dict
        The smallest change of requirements and preferences that makes it feasible, or first if
        it is; all of it is needed. Empty when none does, or none is needed.
    alternatives : tuple of dict
        Other changes of preferences, each of which would make a feasible model first.
    gaps : dict of str to float
        For a feasible model, by how much each part of the score and each multiplier puts it
        behind the one that leads (below 0: ahead); they add up to the distance.
    more_runs : tuple of int and float, or None
        So many more judged runs, each of at least that quality (0-1), would make it first.
    """

    name: str
    reason: str
    change: dict[str, Any]
    alternatives: tuple[dict[str, Any], ...] = ()
    gaps: dict[str, float] = field(default_factory=dict)
    more_runs: tuple[int, float] | None = None

    def _card(self) -> Card:
        rows = [
            [name, f"{gap:+.3f}".replace("-", "−")]
            for name, gap in self.gaps.items()
            if abs(gap) >= _SHOWN
        ]
        if rows:
            rows.append(["together", f"{sum(self.gaps.values()):+.3f}"])
        tables = [Table(["part of the score", "behind by"], rows, [False, True])] if rows else []
        return Card(self.name, "", tables, body=self.reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def shown(part: Part) -> str:
    """Return the value of a part with its unit and its 90% interval.

    Parameters
    ----------
    part : Part
        Of a recommendation.
    """
    if part.name == "quality":
        if not part.n:
            return f"{NOT_MEASURED} (prior {part.value:.2f}; {part.low:.2f} to {part.high:.2f})"
        return f"{part.value:.2f} ({part.low:.2f} to {part.high:.2f}, n = {part.n:.0f})"
    form = format_seconds if part.name == "latency" else format_bytes
    if part.low == part.high:
        return form(part.value)
    return f"{form(part.value)} ({form(part.low)} to {form(part.high)})"


def why_rejected(rejection: Rejection, situation: Asked | None) -> WhyNot:
    """Return why a candidate fell out, with a change that was tried and does make it feasible.

    Parameters
    ----------
    rejection : Rejection
        Of the candidate.
    situation : Asked or None
        To try the change in; without it the change is given as it was derived.
    """
    name, change = rejection.model.name, dict(rejection.change)
    if not change or situation is None:
        return WhyNot(name, str(rejection), change)

    def fallen(change: Mapping[str, Any]) -> Rejection | None:
        rejected = situation.after(change).rejected
        return next((one for one in rejected if one.model.name == name), None)

    for _ in range(_MOST_STEPS):
        again = fallen(change)
        if again is None:
            change = smallest(change, lambda one: fallen(one) is None)
            words = rejection.remedy if change == rejection.change else in_words(change)
            return WhyNot(name, f"{rejection.reason} → {words}", change)
        if not again.change:
            break
        # Placed elsewhere, it or its neighbours may be of another speed than was derived.
        change.update(again.change)
    return WhyNot(name, rejection.reason, {})


def why_behind(
    item: Recommendation, ranked: Sequence[Recommendation], situation: Asked | None
) -> WhyNot:
    """Return why a feasible candidate is not first, and what would put it there.

    Parameters
    ----------
    item : Recommendation
        The candidate.
    ranked : sequence of Recommendation
        All feasible ones, in the order of the decision.
    situation : Asked or None
        To try changes in; without it only a weight is offered.
    """
    name, first = item.model.name, ranked[0]
    best = min(ranked, key=_place)
    if item is first:
        return WhyNot(name, _ahead(item, ranked), {})
    if item is best:
        return WhyNot(
            name,
            f"it leads on what is known, with {item.score:.3f} against {first.score:.3f} of "
            f"{first.model.name}, which goes first now so that more is learned of it",
            {},
        )
    gaps = _gaps(item, best)
    lost = max(gaps, key=lambda key: gaps[key])
    behind = best.score - item.score
    goes_first = ""
    if best is not first:
        goes_first = f" ({first.model.name} goes first now so that more is learned of it)"
    if behind > 0:
        reason = f"feasible, but {behind:.3f} behind {best.model.name}{goes_first}; most of it is "
        reason += f"{lost} ({gaps[lost]:.3f}): {_against(lost, item, best)}"
    else:
        reason = f"feasible, and level with {best.model.name}{goes_first}, which is smaller, or "
        reason += "else comes first by its name"
    changes = [*_weight(item, best, situation), *_modes(name, situation)]
    change = changes[0] if changes else {}
    more = _more_runs(item, situation)
    ways = [f"{in_words(_named(one, name))} puts it first" for one in changes[:1]]
    ways += [f"so does {in_words(one)}" for one in changes[1:]]
    if more is not None:
        runs = format_number(more[0], "more judged run")
        ways.append(f"{'or ' if ways else ''}a quality of {more[1]:g} or more in {runs}")
    if ways:
        reason += f" → {'; '.join(ways)}"
    return WhyNot(name, reason, change, tuple(changes[1:]), gaps, more)


def _place(item: Recommendation) -> tuple[float, float, str]:
    return -item.score, item.part("memory").value, item.model.name


def _ahead(item: Recommendation, ranked: Sequence[Recommendation]) -> str:
    others = [one for one in ranked if one is not item]
    if not others:
        return "it is the first choice, and the only one"
    best = min(others, key=_place)
    if best.score > item.score:
        return (
            f"it is the first choice so that more is learned of it, though {best.model.name} leads "
            f"on what is known ({best.score:.3f} against {item.score:.3f})"
        )
    if best.score == item.score:
        return (
            f"it is the first choice: level with {best.model.name}, and of the smaller size, "
            "else the first by name"
        )
    gaps = _gaps(best, item)
    most = max(gaps, key=lambda key: gaps[key])
    return (
        f"it is the first choice, {item.score - best.score:.3f} ahead of {best.model.name}; most "
        f"of it is {most} ({gaps[most]:.3f}): {_against(most, item, best)}"
    )


def _gaps(item: Recommendation, best: Recommendation) -> dict[str, float]:
    """Return what each part and multiplier contributes to the distance; they add up to it.

    A product of two factors that both differ is split at the mean of the other factor.
    """
    factors = [one.reliability * one.person_weight for one in (item, best)]
    sums = [sum(part.contribution for part in one.parts) for one in (item, best)]
    factor, total = sum(factors) / 2, sum(sums) / 2
    gaps = {
        part.name: factor * (best.part(part.name).contribution - part.contribution)
        for part in item.parts
    }
    weight = (item.person_weight + best.person_weight) / 2
    reliability = (item.reliability + best.reliability) / 2
    gaps["reliability"] = total * weight * (best.reliability - item.reliability)
    gaps["your weight"] = total * reliability * (best.person_weight - item.person_weight)
    return gaps


def _against(name: str, item: Recommendation, other: Recommendation) -> str:
    if name == "reliability":
        return f"{item.reliability:.2f} against {other.reliability:.2f}"
    if name == "your weight":
        return f"{item.person_weight:g} against {other.person_weight:g}"
    return f"{shown(item.part(name))} against {shown(other.part(name))}"


def _named(change: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a change with, of the weights, only that of the model in question."""
    if "model_weights" not in change:
        return dict(change)
    return {**change, "model_weights": {name: change["model_weights"][name]}}


def _weight(
    item: Recommendation, best: Recommendation, situation: Asked | None
) -> Iterator[dict[str, Any]]:
    """Yield the smallest weight of the model that puts it first, if one is allowed."""
    if item.score <= 0:
        return
    name = item.model.name
    others = dict(situation.preferences.model_weights) if situation else {}
    weight = rounded_up(item.person_weight * best.score / item.score)
    for _ in range(2):
        if weight > _MOST_WEIGHT:
            return
        change = {"model_weights": {**others, name: weight}}
        if situation is None or _leads(situation.after(change), name):
            yield change
            return
        weight = rounded_up(math.nextafter(weight, math.inf))


def _modes(name: str, situation: Asked | None) -> Iterator[dict[str, Any]]:
    """Yield the other modes that put it first: one of the two settings, or else both."""
    if situation is None:
        return
    now = situation.preferences
    modes = [one for one in PerformancePreference if one is not now.performance_mode]
    levels = [one for one in AccuracyPreference if one is not now.accuracy_preference]
    single: list[dict[str, Any]] = [{"performance_mode": mode.value} for mode in modes]
    single += [{"accuracy_preference": level.value} for level in levels]
    found = [change for change in single if _leads(situation.after(change), name)]
    if not found:
        both = (
            {"performance_mode": mode.value, "accuracy_preference": level.value}
            for mode in modes
            for level in levels
        )
        found = [change for change in both if _leads(situation.after(change), name)][:1]
    yield from found


def _more_runs(item: Recommendation, situation: Asked | None) -> tuple[int, float] | None:
    """Return the fewest further judged runs, and their least quality, that put it first."""
    if situation is None or not situation.preferences.enable_adaptive_selection:
        return None
    key = model_key(item.model), situation.task

    def leads(runs: int, percent: int) -> bool:
        cell = situation.evidence.cell(*key)
        n = cell.quality_n + runs
        total = cell.quality_n * (cell.quality_mean or 0.0) + runs * percent / 100
        judged = replace(cell, quality_n=n, quality_mean=total / n)
        parts = dict(situation.evidence.parts)
        if key in parts:
            speeds, qualities = parts[key]
            parts[key] = speeds, [*qualities, Qualities(None, runs, runs * percent / 100)]
        cells = {**situation.evidence.cells, key: judged}
        evidence = replace(situation.evidence, cells=cells, parts=parts)
        return _leads(situation.after({}, evidence), item.model.name)

    runs = next((runs for runs in _MORE_RUNS if leads(runs, 100)), None)
    if runs is None:
        return None
    fails, enough = -1, 100
    while enough - fails > 1:
        middle = (enough + fails) // 2
        if leads(runs, middle):
            enough = middle
        else:
            fails = middle
    return runs, enough / 100


def _leads(ranked: Recommendations, name: str) -> bool:
    return bool(ranked) and ranked[0].model.name == name
