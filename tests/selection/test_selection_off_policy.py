"""The value of other choices: on logs whose true answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import replay_scenes as scenes

from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection.off_policy import (
    CellPrior,
    Menu,
    Outcomes,
    believe,
    effective_size,
    snips,
)
from ravenxterm_lab.selection.replay import redecide
from ravenxterm_lab.selection.replay_policies import POLICIES
from ravenxterm_lab.selection.valuing import Comparison, compare


def valued(log: scenes.Log) -> tuple[Comparison, float, float, float]:
    """Return the estimates, the true values of now and then, and the plain IPS estimate."""
    made = list(redecide(log.decisions, log.executions, POLICIES["adaptive"]))
    now, then, weighed = [], [], []
    for one, execution in zip(made, log.executions, strict=True):
        assert one.expected is not None
        task = scenes.TASKS.index(one.past.task)
        worth = dict(
            zip(
                [arm.model.name for arm in log.world.arms],
                log.world.worth(task, log.now, one.expected.latency_scale),
                strict=True,
            )
        )
        now.append(sum(worth[name] * share for name, share in one.probability.items()))
        then.append(sum(worth[name] * share for name, share in one.past.probability.items()))
        assert one.past.chosen is not None
        ratio = one.probability[one.past.chosen] / max(
            one.past.probability[one.past.chosen], 1 / 257
        )
        weighed.append(ratio * scenes.seen_worth(log, execution, one.expected))
    found = compare(made, log.executions)
    return found, float(np.mean(now)), float(np.mean(then)), float(np.mean(weighed))


def check_coverage(decisions: int, *, seeds: int = 100, least: int = 90) -> None:
    held = {"now": 0, "then": 0, "difference": 0, "snips": 0}
    errors: dict[str, list[float]] = {"arm means": [], "snips": [], "ips": []}
    for seed in range(seeds):
        found, now, then, ips = valued(scenes.adaptive_log(seed, decisions))
        was, becomes, difference = found.means["utility"]
        held["now"] += becomes.holds(now)
        held["then"] += was.holds(then)
        held["difference"] += difference.holds(now - then)
        assert found.snips is not None
        held["snips"] += found.snips.holds(now)
        errors["arm means"].append(becomes.value - now)
        errors["snips"].append(found.snips.value - now)
        errors["ips"].append(ips - now)
    rmse = {name: math.sqrt(np.mean(np.square(each))) for name, each in errors.items()}
    print(f"{decisions} decisions: inside of {seeds}: {held}; RMSE {rmse}")
    for name in ("now", "then", "difference"):
        assert held[name] >= least, (name, held)
    assert rmse["arm means"] < rmse["snips"] < rmse["ips"]


def test_the_true_value_lies_in_the_interval() -> None:
    """In 90 of 100 short logs or more, made by the product's own policy while it learned."""
    check_coverage(24)


@pytest.mark.slow
def test_the_true_value_lies_in_the_interval_of_a_longer_log() -> None:
    """The same with a few weeks of decisions, where what is left of the priors is little."""
    check_coverage(200)


def one_choice(then: float, now: float) -> Menu:
    """Three decisions between two arms that differ in quality alone."""
    lines = np.arange(6)
    return Menu(
        decision=lines // 2, cell=lines % 2,
        then=np.tile([then, 1 - then], 3), now=np.tile([now, 1 - now], 3),
        waiting=np.zeros(6), loading=np.zeros(6), waits=np.ones(6),
        memory=np.zeros(6), person=np.ones(6),
        weights=np.tile([1.0, 0.0, 0.0], (3, 1)), scale=np.ones(3),
    )  # fmt: skip


def test_snips_is_the_weighted_mean_of_what_was_seen() -> None:
    """Three outcomes by hand: (2·1 + 0.4·0 + 2·0.5) / (2 + 0.4 + 2)."""
    menu = one_choice(then=0.4, now=0.8)
    menu.then[:] = [0.4, 0.6, 0.5, 0.5, 0.4, 0.6]
    seen = Outcomes(
        cell=np.array([0, 1, 0]), line=np.array([0, 3, 4]),
        quality=np.array([1.0, 0.0, 0.5]), ln_speed=np.zeros(3), ln_work=np.zeros(3),
        seconds=np.ones(3), succeeded=np.array([True, True, True]),
    )  # fmt: skip
    belief = believe([CellPrior(0, 0, 0, 0), CellPrior(1, 0, 0, 0)], seen, np.random.default_rng(0))
    found, effective = snips(menu, seen, belief, np.random.default_rng(0))
    assert found is not None
    assert found.value == pytest.approx((2 * 1.0 + 0.4 * 0.0 + 2 * 0.5) / 4.4)
    assert found.low <= found.value <= found.high
    assert effective == pytest.approx(4.4**2 / (4 + 0.16 + 4))


def test_a_failure_is_worth_nothing_and_an_ungraded_run_what_is_believed() -> None:
    """Neither is left out, which would make what fails or is not graded look better."""
    menu = one_choice(then=0.5, now=1.0)
    seen = Outcomes(
        cell=np.array([0, 0, 0]), line=np.array([0, 2, 4]),
        quality=np.array([1.0, np.nan, np.nan]), ln_speed=np.zeros(3), ln_work=np.zeros(3),
        seconds=np.array([1.0, np.nan, 1.0]), succeeded=np.array([True, False, True]),
    )  # fmt: skip
    belief = believe([CellPrior(0, 0, 0, 0), CellPrior(1, 0, 0, 0)], seen, np.random.default_rng(0))
    found, _ = snips(menu, seen, belief, np.random.default_rng(0))
    assert found is not None
    assert 0.5 < belief.quality[0, 0] < 1.0
    assert found.value == pytest.approx((1.0 + 0.0 + belief.quality[0, 0]) / 3)


def test_policies_that_never_agree_leave_nothing_to_weigh() -> None:
    """No outcome of the recorded policy says anything of one that always chose otherwise."""
    menu = one_choice(then=1.0, now=0.0)
    seen = Outcomes(
        cell=np.zeros(3, int), line=np.array([0, 2, 4]), quality=np.ones(3),
        ln_speed=np.zeros(3), ln_work=np.zeros(3), seconds=np.ones(3),
        succeeded=np.ones(3, bool),
    )  # fmt: skip
    belief = believe([CellPrior(0, 0, 0, 0), CellPrior(1, 0, 0, 0)], seen, np.random.default_rng(0))
    assert snips(menu, seen, belief, np.random.default_rng(0)) == (None, 0.0)
    assert effective_size(np.zeros(3)) == 0.0
    assert effective_size(np.ones(3)) == 3.0


def test_the_scores_are_the_policys_own() -> None:
    """With a posterior that is certain, a candidate is worth what `decide` says of it."""
    log = scenes.adaptive_log(3, 30)
    made = list(redecide(log.decisions, log.executions, POLICIES["adaptive"]))
    last = made[-1].expected
    assert last is not None
    weights = last.weights
    size = len(last.arms)
    menu = Menu(
        decision=np.zeros(size, int), cell=np.arange(size), then=np.zeros(size),
        now=np.zeros(size), waiting=np.zeros(size), loading=np.zeros(size), waits=np.ones(size),
        memory=np.array([arm.memory_bytes for arm in last.arms]) / scenes.BUDGET,
        person=last.person_weight,
        weights=np.array([[weights.quality, weights.latency, weights.memory]]),
        scale=np.array([last.latency_scale]),
    )  # fmt: skip
    worth = menu.worth(np.arange(size), last.quality.mean, last.latency) * last.reliability
    assert worth == pytest.approx(last.score)


def test_nothing_to_compare_is_said_so() -> None:
    """Without a decision that had candidates there is no value, and no error."""
    assert compare([], []).means == {}
    log = scenes.adaptive_log(0, 2, now=UserPreferences())
    made = list(redecide(log.decisions, [], POLICIES["static"]))
    assert compare(made, []).snips is None
