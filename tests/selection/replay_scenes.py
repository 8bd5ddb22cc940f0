"""Logs whose true answer is known: a world of models, a policy that chose, what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection import Arm, Decision, decide
from ravenxterm_lab.selection.ledger import Ledger
from ravenxterm_lab.selection.policy import blend, weights_for
from ravenxterm_lab.selection.reading import Mark, Run, Whole
from ravenxterm_lab.selection.replay import PastDecision
from ravenxterm_lab.selection.replay_policies import Execution

BEGIN = datetime(2026, 10, 1, 8)  # noqa: DTZ001 - as the store's timestamps
END = BEGIN + timedelta(days=60)
BUDGET = 48_000_000_000
TASKS = ("chat", "summarise")
FIRST_TOKEN = 0.3
#: Standard deviation of ln of the speed and of the output's length from run to run.
LN_SPEED_SD, LN_WORK_SD = 0.2, 0.5
SUCCESS = 0.97


@dataclass(frozen=True)
class World:
    """Models as they truly are: quality (models × tasks), tokens/s (models), tokens (× tasks)."""

    arms: tuple[Arm, ...]
    quality: NDArray[np.float64]
    speed: NDArray[np.float64]
    work: NDArray[np.float64]

    @classmethod
    def made(cls, rng: np.random.Generator, models: int) -> World:
        """Draw a world as the design page on selection describes its environment."""
        size = np.exp(rng.normal(math.log(4e9), 0.8, models))
        guess = math.exp(4.99) * (size / 1e9) ** -0.77
        speed = guess * np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.25, models))
        base = rng.normal(0.55, 0.15, (models, 1))
        quality = np.clip(base + rng.normal(0, 0.1, (models, len(TASKS))), 0.05, 0.95)
        length = rng.normal(math.log(200), 0.3, (models, 1))
        work = np.exp(length + rng.normal(0, 0.25, (models, len(TASKS))))
        arms = tuple(
            Arm(
                ModelMetadata(
                    f"m{i}", ModelType.GGUF, Path(f"m{i}"), int(size[i]),
                    fingerprint=f"print-{i}", parameter_count=int(size[i] * 1.65),
                ),
                int(size[i] + 1.5e9), float(guess[i]), FIRST_TOKEN, 2.0, True,
            )
            for i in range(models)
        )  # fmt: skip
        return cls(arms, quality, speed, work)

    def worth(self, task: int, preferences: UserPreferences, scale: float) -> NDArray[np.float64]:
        """Return the true expected utility of a run of each model."""
        nodes, shares = np.polynomial.hermite_e.hermegauss(31)
        spread = math.hypot(LN_SPEED_SD, LN_WORK_SD)
        typical = (self.work[:, task] / self.speed)[:, None]
        seconds = FIRST_TOKEN + typical * np.exp(spread * nodes)[None, :]
        weights = weights_for(preferences)
        parts = np.array([weights.quality, weights.latency, weights.memory])
        memory = np.array([arm.memory_bytes for arm in self.arms]) / BUDGET
        quality = self.quality[:, task][:, None]
        worths = blend(parts, quality, seconds, scale, memory[:, None])
        found: NDArray[np.float64] = SUCCESS * (worths @ (shares / shares.sum()))
        return found

    def run(self, rng: np.random.Generator, number: int, model: int, task: int, at: datetime,
            labelled: float) -> Execution:  # fmt: skip
        """Run a model once."""
        name = f"m{model}"
        key, mark = f"print-{model}", Mark(at, "s", number + 1)
        told = (mark, name, key, key, TASKS[task], None, None, None, True, False)
        if rng.random() > SUCCESS:
            return Execution(Run(*told, False, None, None, None, None), 1.0)
        speed = self.speed[model] * math.exp(rng.normal(0, LN_SPEED_SD))
        work = self.work[model, task] * math.exp(rng.normal(0, LN_WORK_SD))
        good = float(rng.random() < self.quality[model, task])
        graded = good if rng.random() < labelled else None
        return Execution(
            Run(*told, True, speed, work, FIRST_TOKEN, graded), FIRST_TOKEN + work / speed
        )


@dataclass(frozen=True)
class Log:
    """What was decided and run in a world; the decisions are to be made under ``now``."""

    world: World
    decisions: list[PastDecision]
    executions: list[Execution]
    now: UserPreferences


def adaptive_log(
    seed: int,
    decisions: int,
    *,
    models: int = 6,
    labelled: float = 0.5,
    then: UserPreferences | None = None,
    now: UserPreferences | None = None,
) -> Log:
    """Let the product's own policy choose, run and learn, one decision an hour or so."""
    rng = np.random.default_rng(seed)
    # Ages count back from the end of the log.
    world, ledger, at = World.made(rng, models), Ledger(Whole([], []), END), BEGIN
    then, now = then or UserPreferences(), now or UserPreferences(performance_mode="speed")
    past, runs = [], []
    for number in range(decisions):
        at += timedelta(minutes=40 + 40 * rng.random())
        task, draw = int(rng.integers(len(TASKS))), int(rng.integers(2**63))
        decision = decide(
            world.arms, TASKS[task], ledger.evidence(at), then,
            budget_bytes=BUDGET, explore=True, rng=np.random.default_rng(draw),
        )  # fmt: skip
        chosen = decision.order()[0]
        names = [arm.model.name for arm in world.arms]
        past.append(
            PastDecision(
                f"d{number}", at, TASKS[task], names[chosen],
                dict(zip(names, decision.probability_chosen.tolist(), strict=True)),
                world.arms, (), {}, now, BUDGET, draw, outcome=f"s:{number + 1}",
            )
        )  # fmt: skip
        run = world.run(rng, number, chosen, task, at + timedelta(minutes=1), labelled)
        ledger.add(run.run)
        runs.append(run)
    return Log(world, past, runs, now)


def seen_worth(log: Log, execution: Execution, expected: Decision) -> float:
    """Return what one outcome was worth under the preferences of now; ungraded quality is .5."""
    run = execution.run
    if not run.success:
        return 0.0
    weights = weights_for(log.now)
    parts = np.array([weights.quality, weights.latency, weights.memory])
    quality = 0.5 if run.quality is None else run.quality
    memory = log.world.arms[int(run.model[1:])].memory_bytes / BUDGET
    return float(
        blend(
            parts, np.array(quality), np.array(execution.seconds), expected.latency_scale,
            np.array(memory),
        )
    )  # fmt: skip
