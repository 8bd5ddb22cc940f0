"""Intervals: smooth from the prior to the history, as often right as they say, and they adapt."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from speed_rows import COMMUNITY_DEVICES, replay

from ravenxterm_lab.estimation.conformal import (
    DEFAULT_LEVEL,
    Calibrator,
    Group,
    Score,
    normal_interval,
)

HERE = Group("throughput", "measured", "llama_cpp", "cpu")


def test_without_history_the_interval_is_the_predictors_own() -> None:
    """No score yet: the central interval of a normal distribution of the stated spread."""
    low, high = Calibrator().quantiles(HERE)
    assert (low, high) == pytest.approx(normal_interval(DEFAULT_LEVEL), rel=0.05)


def test_with_much_history_it_is_the_quantiles_of_the_errors() -> None:
    """Both ends follow a lopsided history, each by itself."""
    rng = np.random.default_rng(0)
    values = rng.exponential(1.0, 200) - 0.2
    low, high = Calibrator(Score(HERE, value) for value in values).quantiles(HERE)
    assert low == pytest.approx(np.quantile(values, 0.1), abs=0.15)
    assert high == pytest.approx(np.quantile(values, 0.9), abs=0.35)
    assert high > 5 * -low


def test_no_single_outcome_makes_it_jump() -> None:
    """One further score, however wild, moves an end by little."""
    calibrator, before = Calibrator(), Calibrator().quantiles(HERE)
    for _ in range(60):
        calibrator.add(Score(HERE, 0.1))
        after = calibrator.quantiles(HERE)
        assert abs(after[0] - before[0]) < 0.3
        assert abs(after[1] - before[1]) < 0.3
        before = after
    assert before[1] - before[0] < 1.0
    calibrator.add(Score(HERE, 50.0))
    assert calibrator.quantiles(HERE)[1] - before[1] < 0.3


def test_a_group_with_few_scores_leans_on_its_relatives() -> None:
    """Where another device's errors are known to be wide, a new device begins wide."""
    rng = np.random.default_rng(1)
    relative = Group("throughput", "measured", "llama_cpp", "cuda")
    calibrator = Calibrator(Score(relative, value) for value in rng.normal(0, 5, 100))
    fresh = calibrator.quantiles(HERE)[1]
    assert fresh > 1.5 * Calibrator().quantiles(HERE)[1]
    for value in rng.normal(0, 0.2, 200):
        calibrator.add(Score(HERE, value))
    assert calibrator.quantiles(HERE)[1] < 0.5
    assert Calibrator().quantiles(Group("load_seconds"))[1] < fresh


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_future_outcomes_are_held_as_often_as_asked(level: float) -> None:
    """Whatever the distribution of the errors, a fixed one is covered at the level asked for."""
    rng = np.random.default_rng(2)
    errors = rng.standard_t(3, 1200) * 0.7 + 0.3
    calibrator, held = Calibrator(), []
    for error in errors:
        low, high = calibrator.quantiles(HERE, level)
        held.append(low <= error <= high)
        calibrator.add(Score(HERE, error, low, high, level))
    assert np.mean(held[200:]) == pytest.approx(level, abs=0.04)


def test_after_a_change_the_intervals_hold_again() -> None:
    """The machine becomes three spreads slower: within 150 predictions they hold as before."""
    rng = np.random.default_rng(3)
    calibrator, held = Calibrator(), []
    for turn in range(500):
        error = rng.normal(0, 1) - (3 if turn >= 250 else 0)
        low, high = calibrator.quantiles(HERE)
        held.append(low <= error <= high)
        calibrator.add(Score(HERE, error, low, high))
    assert np.mean(held[400:]) >= 0.7


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, math.nan])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    """The message says what is allowed."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Calibrator().quantiles(HERE, level)


def test_community_runs_are_held_as_often_as_said(shared_data: Path) -> None:
    """955 runs on 19 machines, each predicted from those before it, the first ones included.

    Of the 80% intervals 70–90% hold, over all and in every tier that many runs fell to.
    """
    pl = pytest.importorskip("polars")
    rows = pl.read_parquet(shared_data / "local_speed.parquet").to_dicts()
    done = list(replay(rows))
    assert len(done) == 955
    assert {run.hardware for run in done} == set(COMMUNITY_DEVICES)
    assert 0.7 <= np.mean([run.held for run in done]) <= 0.9
    for tier in ("measured", "scaled", "device"):
        runs = [run.held for run in done if run.tier == tier]
        assert 0.7 <= np.mean(runs) <= 0.9, (tier, len(runs))
    # 32 runs, and the first on any machine: one standard error is 7 in a hundred.
    first = [run.held for run in done if run.tier == "roofline"]
    assert np.mean(first) >= 0.6
    errors = {
        tier: np.median([abs(math.log(r.actual / r.predicted)) for r in done if r.tier == tier])
        for tier in ("measured", "scaled", "device", "roofline")
    }
    assert list(errors.values()) == sorted(errors.values())
