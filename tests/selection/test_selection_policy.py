"""The policy: faults of other selectors that this one must not have, and its invariants."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference, UserPreferences
from ravenxterm_lab.selection import Arm, CellEvidence, Decision, Evidence, decide, weights_for

TASK = "text_generation"
GIB = 2**30


def arm(name: str, *, memory: int = GIB, rate: float = 50.0, **options: object) -> Arm:
    model = ModelMetadata(
        name, ModelType.GGUF, Path(name), memory, fingerprint=name, parameter_count=10**8
    )
    values: dict[str, object] = {"first_token_seconds": 0.1, "load_seconds": 1.0, "resident": True}
    return Arm(model, memory, rate, **{**values, **options})


def history(**cells: CellEvidence) -> Evidence:
    return Evidence({(name, TASK): cell for name, cell in cells.items()})


def run(
    arms: list[Arm],
    evidence: Evidence | None = None,
    *,
    explore: bool = False,
    seed: int = 0,
    **preferences: object,
) -> Decision:
    return decide(
        arms,
        TASK,
        evidence or Evidence.none(),
        UserPreferences(**preferences),
        budget_bytes=8 * GIB,
        explore=explore,
        rng=np.random.default_rng(seed),
    )


def first(decision: Decision) -> str:
    return decision.arms[decision.order()[0]].model.name


def seen(n: int = 30, *, quality: float | None = None, rate: float = 50.0, work: float = 200.0,
         failed: int = 0, first_token: float | None = None) -> CellEvidence:  # fmt: skip
    return CellEvidence(
        runs=n + failed, succeeded=n, failed=failed,
        quality_n=n if quality is not None else 0, quality_mean=quality,
        speed_n=n, speed_mean=math.log(rate), work_n=n, work_mean=math.log(work),
        first_token_mean=first_token,
    )  # fmt: skip


def test_weights_sum_to_one_and_no_mode_is_dead() -> None:
    """The nine combinations of mode and accuracy give nine different sets of weights."""
    combinations = list(itertools.product(PerformancePreference, AccuracyPreference))
    weights = {
        weights_for(UserPreferences(performance_mode=mode, accuracy_preference=accuracy))
        for mode, accuracy in combinations
    }
    assert len(weights) == len(combinations) == 9
    assert all(math.isclose(w.quality + w.latency + w.memory, 1) for w in weights)


def test_balanced_with_high_accuracy_is_the_measured_quality_first_setting() -> None:
    """Balanced + high reproduces (.80, .15, .05, patience 6) of the design's prototype."""
    weights = weights_for(UserPreferences(accuracy_preference="high"))
    assert weights.quality == pytest.approx(0.80, abs=0.01)
    assert weights.latency == pytest.approx(0.15, abs=0.01)
    assert weights.memory == pytest.approx(0.05, abs=0.01)
    assert weights.patience == 6


@pytest.mark.parametrize("mode", list(PerformancePreference))
def test_faster_never_scores_lower(mode: PerformancePreference) -> None:
    """Latency counts with the right sign in every mode."""
    evidence = history(fast=seen(rate=100), slow=seen(rate=10))
    decision = run([arm("slow"), arm("fast")], evidence, performance_mode=mode)
    assert decision.score[1] > decision.score[0]


def test_a_slow_start_is_not_hidden_by_a_long_answer() -> None:
    """Time to first token is added once, never divided by the number of tokens."""
    evidence = history(
        prompt=seen(rate=50, work=10, first_token=0.1), late=seen(rate=50, work=10, first_token=5.0)
    )
    decision = run([arm("late"), arm("prompt")], evidence)
    assert first(decision) == "prompt"
    assert decision.latency[0] - decision.latency[1] == pytest.approx(4.9)


def test_size_is_no_proxy_for_quality() -> None:
    """Before anything was measured, a bigger model has no higher expected quality."""
    decision = run([arm("small", memory=GIB), arm("big", memory=6 * GIB)])
    assert decision.quality.mean[0] == pytest.approx(decision.quality.mean[1])


def test_recorded_outcomes_are_read() -> None:
    """Measured quality decides between models that are alike in all else."""
    evidence = history(good=seen(quality=0.95), bad=seen(quality=0.1))
    assert first(run([arm("bad"), arm("good")], evidence)) == "good"


def test_modes_end_on_different_models_where_the_frontier_says_so() -> None:
    """Speed, memory and accuracy each find their own best model among three."""
    arms = [arm("fast", memory=3 * GIB), arm("small", memory=GIB // 8), arm("good", memory=6 * GIB)]
    evidence = history(
        fast=seen(quality=0.6, rate=200),
        small=seen(quality=0.6, rate=40),
        good=seen(quality=0.95, rate=30),
    )
    assert first(run(arms, evidence, performance_mode="speed", accuracy_preference="low")) == "fast"
    assert (
        first(run(arms, evidence, performance_mode="memory", accuracy_preference="low")) == "small"
    )
    assert first(run(arms, evidence, accuracy_preference="high")) == "good"


def test_a_change_of_preferences_needs_no_new_run() -> None:
    """The same history, re-scored, changes its answer when the preferences change."""
    arms = [arm("quick"), arm("wise")]
    evidence = history(quick=seen(quality=0.5, rate=200), wise=seen(quality=0.9, rate=20))
    assert (
        first(run(arms, evidence, performance_mode="speed", accuracy_preference="low")) == "quick"
    )
    assert first(run(arms, evidence, accuracy_preference="high")) == "wise"


def test_merely_having_run_is_no_merit() -> None:
    """Where nothing ever failed, none is thought more reliable; one failure is held against one."""
    arms = [arm("often"), arm("once"), arm("never")]
    calm = run(arms, history(often=seen(500), once=seen(1)))
    assert list(calm.reliability) == [1.0, 1.0, 1.0]
    often, once, never = run(arms, history(often=seen(500), once=seen(2, failed=1))).reliability
    assert once < 0.95 < never < often < 1


def test_rounding_makes_no_share_of_successes_greater_than_one() -> None:
    """Runs weighed by their age add up to no whole numbers, and the store takes 0 to 1."""
    arms = [arm("a"), arm("b"), arm("c")]
    for tenth in range(1, 200):
        aged = {
            name: replace(seen(3), recent_runs=weight, recent_succeeded=weight)
            for name, weight in (("a", tenth / 10), ("b", tenth / 7), ("c", tenth / 3))
        }
        assert max(run(arms, history(**aged)).reliability) <= 1.0


def test_failures_count_against_a_model_and_wear_off() -> None:
    """A model that fails falls behind, and successes bring it back (no ratchet)."""
    arms = [arm("a"), arm("b")]
    failing = run(arms, history(a=seen(1, failed=20), b=seen(21)))
    assert first(failing) == "b"
    recovered = run(arms, history(a=seen(2000, failed=20), b=seen(21)))
    assert recovered.reliability[0] > 0.98


def test_a_person_s_weight_multiplies_the_score() -> None:
    """model_weights scales the score of that model and of no other."""
    plain = run([arm("a"), arm("b")])
    weighted = run([arm("a"), arm("b")], model_weights={"a": 2.0})
    assert weighted.score[0] == pytest.approx(2 * plain.score[0])
    assert weighted.score[1] == pytest.approx(plain.score[1])


def test_a_display_is_the_same_every_time_and_exploration_follows_the_seed() -> None:
    """A display ignores the seed; an exploring decision follows it."""
    arms = [arm(f"m{i}") for i in range(6)]
    assert run(arms, seed=1).order() == run(arms, seed=2).order()
    assert run(arms, explore=True, seed=3).order() == run(arms, explore=True, seed=3).order()
    orders = {tuple(run(arms, explore=True, seed=s).order()) for s in range(20)}
    assert len(orders) > 1


def test_exploration_narrows_as_evidence_comes() -> None:
    """After many runs the best model is chosen nearly always; before any, no one is."""
    arms = [arm("good"), arm("bad")]
    known = run(
        arms, history(good=seen(200, quality=0.9), bad=seen(200, quality=0.2)), explore=True
    )
    unknown = run(arms, explore=True)
    assert known.probability_chosen[0] > 0.99
    assert max(unknown.probability_chosen) < 0.9


def test_what_is_unknown_is_tried_before_what_is_known_to_be_as_good() -> None:
    """An execution that teaches something is preferred, and only where one follows."""
    arms = [arm("known"), arm("unknown")]
    evidence = history(known=seen(50, quality=0.5))
    decision = run(arms, evidence, explore=True)
    assert decision.probability_chosen[1] > 0.8
    assert decision.explored[1] - decision.score[1] > decision.explored[0] - decision.score[0]
    shown = run(arms, evidence)
    assert (shown.explored == shown.score).all()


def test_where_there_are_many_tasks_each_is_explored_less() -> None:
    """A lesson on one of six tasks serves fewer executions than one on the only task."""
    elsewhere = {("stranger", f"task {i}"): seen(1, quality=0.5) for i in range(5)}
    bonus = []
    for evidence in (Evidence.none(), Evidence(elsewhere)):
        decision = run([arm("a"), arm("b")], evidence, explore=True)
        bonus.append(float((decision.explored - decision.score).mean()))
    assert 0 < bonus[1] < 0.6 * bonus[0]


def test_the_probability_is_how_often_it_is_chosen() -> None:
    """Over 400 seeds each candidate comes first as often as the decision says."""
    arms = [arm("a"), arm("b"), arm("c", rate=45.0)]
    evidence = history(a=seen(3, quality=0.6), b=seen(5, quality=0.55))
    said = run(arms, evidence, explore=True).probability_chosen
    firsts = [first(run(arms, evidence, explore=True, seed=seed)) for seed in range(400)]
    for index, name in enumerate("abc"):
        assert said[index] == pytest.approx(firsts.count(name) / 400, abs=0.08)
    assert (said > 0.005).all()


def test_fewer_draws_change_no_score() -> None:
    """The number of draws is how finely the probabilities are known, nothing else."""
    arms = [arm("a"), arm("b")]
    model = {"budget_bytes": 8 * GIB, "explore": True}
    one, many = (
        decide(arms, TASK, Evidence.none(), UserPreferences(), rng=np.random.default_rng(0),
               draws=draws, **model)
        for draws in (1, 64)
    )  # fmt: skip
    assert (one.score == many.score).all()
    assert set(one.probability_best) <= {0.0, 1.0}


cell = st.builds(
    seen,
    st.integers(1, 200),
    quality=st.none() | st.floats(0, 1),
    rate=st.floats(0.1, 1000),
    work=st.floats(1, 5000),
    failed=st.integers(0, 50),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 8 * GIB), st.floats(0.1, 500), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.dictionaries(st.sampled_from([f"m{i}" for i in range(8)]), cell),
    st.sampled_from(list(PerformancePreference)),
    st.sampled_from(list(AccuracyPreference)),
    st.booleans(),
)
def test_scores_are_finite_and_probabilities_sum_to_one(
    rows: list[tuple[int, float, bool]],
    cells: dict[str, CellEvidence],
    mode: PerformancePreference,
    accuracy: AccuracyPreference,
    explore: bool,
) -> None:
    """Whatever the history and the preferences, every number of a decision is sane."""
    arms = [
        arm(f"m{i}", memory=memory, rate=rate, resident=resident)
        for i, (memory, rate, resident) in enumerate(rows)
    ]
    out = run(
        arms, history(**cells), explore=explore, performance_mode=mode, accuracy_preference=accuracy
    )
    assert np.isfinite(out.score).all()
    assert (out.score >= 0).all()
    assert math.isclose(out.probability_best.sum(), 1)
    assert math.isclose(out.probability_chosen.sum(), 1)
    assert sorted(out.order()) == list(range(len(arms)))
