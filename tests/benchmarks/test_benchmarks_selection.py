"""The judge of the policy: its worlds are what they say, and its table is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from selection_environment import BUDGET, DATA, MODES, worlds
from selection_policies import Product, Random

from ravenxterm_lab.selection import weights_for

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured data in ../shared/data is not on this machine"
)
SCRIPT = Path(__file__).with_name("selection.py")


@pytest.mark.parametrize(("dataset", "tasks"), [("zeroeval", 3), ("llmrouter", 14)])
def test_a_world_holds_the_models_that_fit(dataset: str, tasks: int) -> None:
    """Every task has several models, all within the budget, and every figure is sane."""
    made = worlds(dataset, 0, 50)
    assert len(made) == tasks
    for world in made:
        assert len(world.arms) >= 9
        assert max(arm.memory_bytes for arm in world.arms) <= BUDGET
        assert ((world.scores >= 0) & (world.scores <= 1)).all()
        assert (world.tokens >= 1).all()
        for preferences in MODES.values():
            assert (world.mean_utility(preferences) > 0).all()
            assert (world.mean_utility(preferences) < 1).all()


def test_the_mean_utility_is_what_runs_are_worth_on_average() -> None:
    """Runs of one model, every question once, are worth its mean utility."""
    world = worlds("zeroeval", 0, 721)[2]
    preferences = MODES["balanced"]
    worth = [world.utility(3, world.outcome(3, pull), preferences) for pull in range(721)]
    assert np.mean(worth) == pytest.approx(world.mean_utility(preferences)[3], abs=0.01)


def test_a_change_does_what_it_says() -> None:
    """Quality falls to .4 of what it was; three times the latency is three times each part."""
    world = worlds("zeroeval", 0, 50)[0]
    worse, slower = world.with_quality(2, 0.4), world.with_latency(2, 3.0)
    assert worse.scores[2].mean() == pytest.approx(0.4 * world.scores[2].mean(), abs=0.05)
    assert set(np.unique(worse.scores[2])) <= {0.0, 1.0}
    assert (worse.scores[1] == world.scores[1]).all()
    before, after = world.outcome(2, 7), slower.outcome(2, 7)
    assert after.latency == pytest.approx(3 * before.latency)
    assert after.first_token == pytest.approx(3 * before.first_token)
    assert weights_for(MODES["speed"]).latency > 0.5


def test_the_product_beats_chance_on_its_own_evidence() -> None:
    """In 60 pulls on one task it earns more than a random choice by a wide margin."""
    world = worlds("llmrouter", 0, 60)[1]
    preferences = MODES["balanced"]
    truth = world.mean_utility(preferences)
    earned = {}
    for policy in (Product(0), Random(0)):
        total = 0.0
        for pull in range(60):
            arm = policy.choose(world, preferences)
            policy.learn(world, preferences, arm, world.outcome(arm, pull), labelled=True)
            total += truth.max() - truth[arm]
        earned[type(policy)] = total
    assert earned[Product] < 0.5 * earned[Random]


def test_the_table_is_printed(tmp_path: Path) -> None:
    """Two seeds and a few pulls: every policy has a row, every figure a column."""
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, "--seeds", "2", "--pulls", "30",
         "--only", "UCB1 (alpha .1)", "this policy"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for text in ("zeroeval + llmrouter", "UCB1 (alpha .1)", "this policy", "goal",
                 "20% labelled", "interleaved", "90% intervals", "never run"):  # fmt: skip
        assert text in done.stdout
