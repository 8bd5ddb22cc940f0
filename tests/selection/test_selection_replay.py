"""Deciding the past again: with the evidence of its time, by any policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
import replay_scenes as scenes

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection import Decision
from ravenxterm_lab.selection.ledger import Ledger
from ravenxterm_lab.selection.reading import Mark, Whole
from ravenxterm_lab.selection.replay import Judgement, redecide
from ravenxterm_lab.selection.replay_policies import POLICIES, Execution, Moment, policy_named

BALANCED = UserPreferences()


@pytest.fixture(scope="module")
def log() -> scenes.Log:
    return scenes.adaptive_log(1, 40, now=BALANCED)


def choices(log: scenes.Log, policy: str = "adaptive", **events: object) -> list[str | None]:
    told = events.get("events", log.executions)
    return [one.chosen for one in redecide(log.decisions, told, POLICIES[policy])]  # type: ignore[arg-type]


def test_the_same_again_decides_the_same(log: scenes.Log) -> None:
    """With nothing changed, every choice and every probability is that of the record."""
    made = list(redecide(log.decisions, log.executions, POLICIES["adaptive"]))
    assert not any(one.changed for one in made)
    for one in made:
        assert one.probability == pytest.approx(dict(one.past.probability))
    assert len({one.chosen for one in made}) > 2, "a log that never explored shows little"


def test_the_future_is_not_known(log: scenes.Log) -> None:
    """What comes after a decision changes nothing about it, however drastic."""
    decided = choices(log)
    bad = [
        one._replace(run=one.run._replace(quality=0.0, throughput=0.01))
        for one in log.executions[20:]
    ]
    told = choices(log, events=[*log.executions[:20], *bad])
    assert told[:21] == decided[:21]
    assert told != decided
    assert choices(log, events=log.executions[:20])[:21] == decided[:21]


def test_a_judgement_counts_from_when_it_was_made(log: scenes.Log) -> None:
    """Judged late, an execution counts as before until then, and as judged from then on."""
    at = log.decisions[20].at - timedelta(seconds=1)
    judged = [
        Judgement(one.run.mark.execution, at, 1.0 - (one.run.quality or 0.0))
        for one in log.executions[:20]
    ]
    events = sorted([*log.executions, *judged], key=lambda event: event.at)
    seen: list[Moment] = []
    latest: list[float | None] = []

    def look(moment: Moment) -> str:
        seen.append(moment)
        runs = moment.recent.get(log.executions[19].place)
        latest.append(runs[-1].run.quality if runs else None)
        return moment.names[0]

    list(redecide(log.decisions, events, look))
    plain = Ledger(Whole([], []), scenes.END)
    turned = Ledger(Whole([], []), scenes.END)
    for one in log.executions[:20]:
        quality = 1.0 - (one.run.quality or 0.0)
        plain.add(one.run)
        turned.add(one.run._replace(quality=quality))
    for place, cell in turned.evidence(log.decisions[20].at).cells.items():
        assert seen[20].evidence.cells[place].quality_n == cell.quality_n
        assert seen[20].evidence.cells[place].quality_mean == pytest.approx(cell.quality_mean)
    before = seen[19].evidence
    assert sum(c.quality_n for c in before.cells.values()) < sum(
        c.quality_n for c in seen[20].evidence.cells.values()
    )
    assert latest[20] == 1.0 - (log.executions[19].run.quality or 0.0)


def test_other_preferences_re_score_the_same_evidence(log: scenes.Log) -> None:
    """Who cares for speed alone gets faster models, from what was known then."""
    hurried = [
        replace(past, preferences=UserPreferences(performance_mode="speed"))
        for past in log.decisions
    ]
    made = list(redecide(hurried, log.executions, POLICIES["adaptive"]))
    assert any(one.changed for one in made)
    rate = {arm.model.name: arm.decode_rate for arm in log.world.arms}
    then = sum(rate[one.past.chosen or ""] for one in made)
    now = sum(rate[one.chosen or ""] for one in made)
    assert now > then


def test_static_looks_at_no_evidence(log: scenes.Log) -> None:
    """The static policy decides as with adaptive selection off, whatever was recorded."""
    assert choices(log, "static") == choices(log, "static", events=[])
    off = UserPreferences(enable_adaptive_selection=False)
    switched = [replace(past, preferences=off) for past in log.decisions]
    made = redecide(switched, log.executions, POLICIES["adaptive"])
    assert [one.chosen for one in made] == choices(log, "static")


def test_last_ten_follows_the_latest_outcomes(log: scenes.Log) -> None:
    """A model whose last runs were perfect and quick is chosen; before them it was not."""
    slowest = min(log.world.arms, key=lambda arm: arm.decode_rate).model
    past = log.decisions[-1]
    runs = [
        Execution(
            log.executions[0].run._replace(
                mark=Mark(past.at - timedelta(minutes=number + 1), "t", number + 1),
                model=slowest.name, key=slowest.fingerprint, task=past.task, success=True,
                quality=1.0, throughput=1e4, work=100.0,
            ),
            0.01,
        )
        for number in range(10)
    ]  # fmt: skip
    [before] = redecide([past], log.executions, POLICIES["last-10"])
    events = sorted([*log.executions, *runs], key=lambda event: event.at)
    [after] = redecide([past], events, POLICIES["last-10"])
    assert before.chosen != slowest.name
    assert after.chosen == slowest.name


def test_thompson_chooses_by_the_probability_of_being_best(log: scenes.Log) -> None:
    """Its probabilities add up to 1 and are those that a recommendation shows as P(best)."""
    for one in redecide(log.decisions, log.executions, POLICIES["thompson"]):
        assert one.expected is not None
        assert sum(one.probability.values()) == pytest.approx(1)
        assert list(one.probability.values()) == one.expected.probability_best.tolist()


def test_a_function_is_a_policy_too(log: scenes.Log) -> None:
    """It sees candidates, evidence and preferences, and names one or gives probabilities."""

    def fastest(moment: Moment) -> str:
        return max(moment.arms, key=lambda arm: arm.decode_rate).model.name

    def halves(moment: Moment) -> Mapping[str, float]:
        return {moment.names[0]: 0.5, moment.names[1]: 0.5}

    name = max(log.world.arms, key=lambda arm: arm.decode_rate).model.name
    assert {one.chosen for one in redecide(log.decisions, [], fastest)} == {name}
    [half, *_] = redecide(log.decisions, [], halves)
    assert half.probability["m0"] == half.probability["m1"] == 0.5
    assert policy_named(fastest) == ("fastest", fastest)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("m00", "no candidate. Did you mean 'm0'"),
        (None, "returns the name"),
        ({}, "returns the name"),
        ({"m0": 0.5}, "add up to 0.5"),
        ({"m0": 1.5, "m1": -0.5}, "at least 0"),
        ({"m0": 1.0, "x": 0.0}, "'x' is no candidate"),
    ],
)
def test_a_policy_that_answers_nonsense_is_told(
    log: scenes.Log, answer: object, message: str
) -> None:
    """The error says what a policy may return."""
    with pytest.raises(RequirementError, match=message):
        list(redecide(log.decisions, [], lambda _: answer))  # type: ignore[arg-type,return-value]


def test_an_unknown_policy_suggests() -> None:
    """A misspelt name is an error that names the nearest and all."""
    with pytest.raises(RequirementError, match=r"Did you mean 'adaptive'.*'last-10'"):
        policy_named("adaptiv")


def test_without_a_candidate_nothing_is_chosen(log: scenes.Log) -> None:
    """Neither where the constraints leave none, nor where the limits on what was measured do."""
    past = log.decisions[0]

    def all_too_slow(decision: Decision) -> dict[str, str]:
        return {arm.model.name: "too slow" for arm in decision.arms}

    def first_too_slow(decision: Decision) -> dict[str, str]:
        return {decision.arms[0].model.name: "too slow"}

    none = replace(past, arms=(), beside=past.arms, rejected={"m0": "no room"})
    late = replace(past, violates=all_too_slow)
    some = replace(past, violates=first_too_slow)
    [one, two, three] = redecide([none, late, some], [], POLICIES["adaptive"])
    assert (one.chosen, one.rejected) == (None, {"m0": "no room"})
    assert two.chosen is None
    assert two.rejected == {arm.model.name: "too slow" for arm in past.arms}
    assert three.chosen != "m0"
    assert three.rejected == {"m0": "too slow"}
    assert "m0" not in three.probability
