"""A load is waited for once: it counts for one of the executions that it serves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.estimation import Estimator
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection import Arm, CellEvidence, Decision, Evidence, decide, recommend
from ravenxterm_lab.selection.policy import latency_worth, weights_for

TASK = "voice_activity_detection"
GIB = 2**30


def arm(name: str, **values: object) -> Arm:
    model = ModelMetadata(name, ModelType.ONNX, Path(name), GIB, fingerprint=name)
    return Arm(model, GIB, 1000.0, 0.001, **{"load_seconds": 1.25, **values})


def run(arms: list[Arm], *, explore: bool = False, **quality: float) -> Decision:
    cells = {
        (name, TASK): CellEvidence(runs=6, succeeded=6, quality_n=6.0, quality_mean=value)
        for name, value in quality.items()
    }
    return decide(
        arms, TASK, Evidence(cells), UserPreferences(), budget_bytes=8 * GIB,
        explore=explore, rng=np.random.default_rng(0),
    )  # fmt: skip


@given(
    st.floats(0.001, 100), st.floats(0.001, 100), st.floats(0, 1000), st.integers(1, 200)
)  # fmt: skip
def test_the_mean_is_that_of_one_that_waits_and_the_others(
    seconds: float, scale: float, loading: float, n: int
) -> None:
    """By hand: n executions, of which the first one takes the load too."""
    each = [1 / (1 + (seconds + (loading if k == 0 else 0)) / scale) for k in range(n)]
    found = latency_worth(np.array(seconds), scale, np.array(loading), np.array(1 / n))
    assert float(found) == pytest.approx(sum(each) / n)


@pytest.mark.parametrize("explore", [False, True])
def test_what_is_resident_is_not_kept_for_that_alone(explore: bool) -> None:
    """A load of seconds before runs of milliseconds decides a single run, and no session."""
    quality = {"resident": 0.6, "better": 0.9}
    for n, expected in ((1.0, "resident"), (20.0, "better")):
        arms = [arm("resident", resident=True, runs_per_load=n), arm("better", runs_per_load=n)]
        decision = run(arms, explore=explore, **quality)
        assert arms[decision.order()[0]].model.name == expected


def test_what_a_load_takes_from_the_score_falls_with_the_runs_that_it_serves() -> None:
    """Of two alike the resident one stays ahead, by less and less."""
    behind = []
    for n in (1.0, 2.0, 10.0, 100.0):
        arms = [arm("a", resident=True, runs_per_load=n), arm("b", runs_per_load=n)]
        score = run(arms).score
        behind.append(float(score[0] - score[1]))
        assert behind[-1] <= weights_for(UserPreferences()).latency / n
    assert behind == sorted(behind, reverse=True)
    assert behind[-1] > 0


def test_the_seconds_that_are_shown_are_those_of_this_run() -> None:
    """The whole load is in the latency, its share in the score; the source says so."""
    arms = [arm("a", runs_per_load=12.0), arm("b", resident=True, runs_per_load=12.0)]
    decision = run(arms)
    machine = Estimator(HardwareProfile.simulate("16 GiB RAM, 8 cores"))
    memory = machine.memory(arms[0].model, budget_bytes=8 * GIB)
    items = {one.model.name: one for one in recommend(decision, [memory] * 2, 8 * GIB)}
    cold, warm = items["a"].part("latency"), items["b"].part("latency")
    assert cold.value - warm.value == pytest.approx(1.25)
    assert "its load of 1.25 s counts for one of 12 runs" in cold.source
    assert "load" not in warm.source
    for one in items.values():
        total = sum(part.contribution for part in one.parts)
        assert math.isclose(one.score, total * one.reliability * one.person_weight)
