"""Worlds to select in: measured answers of open-weight models, on a machine that is simulated.

The protocol is that of the design page on selection. A world is one task of one dataset on one
machine (the seed): real scores, and output lengths where the data has them; what a run takes is
drawn. Models are at 4.85 bits a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection import Arm, weights_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).parents[3] / "shared" / "data"
DATASETS = ("zeroeval", "llmrouter")
BUDGET = 48 * 10**9
MODES = {
    "speed": UserPreferences(performance_mode="speed"),
    "balanced": UserPreferences(),
    "quality-first": UserPreferences(accuracy_preference="high"),
}
_BITS, _OVERHEAD = 4.85, 1.5e9
_FIRST_TOKEN = 0.3
_HARDWARE_SD, _ARM_SD, _NOISE_SD = 0.2, 0.25, 0.2
# Where output lengths were not recorded: the spread that the prior of ln output tokens says.
_LN_TOKENS, _TASK_SD, _MODEL_SD, _QUERY_SD = math.log(200), 1.0, 0.4, 0.5
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one execution showed: quality 0–1, output tokens, tokens/s, seconds to the first."""

    quality: float
    tokens: float
    rate: float
    first_token: float

    @property
    def latency(self) -> float:
        """Seconds from asking to the last token."""
        return self.first_token + self.tokens / self.rate


@dataclass(frozen=True, slots=True)
class World:
    """One task on one machine: candidates with their answers, and the order of the questions.

    Attributes
    ----------
    scores, tokens : array (models, questions)
        Quality and output tokens of every answer.
    rate : array (models,)
        True tokens per second.
    slowness : array (models,)
        Multiplies every latency; 1 before anything changed.
    questions, noise : array (pulls,)
        Which question each pull asks, and the ln of its latency's factor.
    """

    dataset: str
    task: str
    arms: tuple[Arm, ...]
    scores: NDArray[np.float64]
    tokens: NDArray[np.float64]
    rate: NDArray[np.float64]
    slowness: NDArray[np.float64]
    questions: NDArray[np.intp]
    noise: NDArray[np.float64]

    def outcome(self, arm: int, pull: int) -> Outcome:
        """Return what running a model at a pull shows."""
        question = self.questions[pull]
        factor = self.slowness[arm] * math.exp(self.noise[pull])
        return Outcome(
            float(self.scores[arm, question]),
            float(self.tokens[arm, question]),
            float(self.rate[arm] / factor),
            _FIRST_TOKEN * factor,
        )

    def scale(self, preferences: UserPreferences) -> float:
        """Return the seconds at which the latency term is worth half, from the true latencies."""
        latency = (_FIRST_TOKEN + self.tokens / self.rate[:, None]).mean(1)
        return weights_for(preferences).patience * float(np.median(latency))

    def utility(self, arm: int, seen: Outcome, preferences: UserPreferences) -> float:
        """Return what one execution was worth: the reward of those who learn a scalar."""
        w = weights_for(preferences)
        return (
            w.quality * seen.quality
            + w.latency / (1 + seen.latency / self.scale(preferences))
            + w.memory * (1 - self.arms[arm].memory_bytes / BUDGET)
        )

    def mean_utility(self, preferences: UserPreferences) -> NDArray[np.float64]:
        """Return each model's mean utility over all questions: the truth that regret is on."""
        w = weights_for(preferences)
        latency = (_FIRST_TOKEN + self.tokens / self.rate[:, None]) * self.slowness[:, None]
        memory = np.array([arm.memory_bytes for arm in self.arms])
        total: NDArray[np.float64] = (
            w.quality * self.scores.mean(1)
            + w.latency * (1 / (1 + latency / self.scale(preferences))).mean(1)
            + w.memory * (1 - memory / BUDGET)
        )
        return total

    def among(self, names: frozenset[str], task: str | None = None) -> World:
        """Return the same world with some of its models only, maybe under another task's name."""
        kept = [index for index, arm in enumerate(self.arms) if arm.model.name in names]
        return replace(
            self,
            task=task or self.task,
            arms=tuple(self.arms[index] for index in kept),
            scores=self.scores[kept],
            tokens=self.tokens[kept],
            rate=self.rate[kept],
            slowness=self.slowness[kept],
        )

    def with_quality(self, arm: int, factor: float) -> World:
        """Return the same world after the quality of one model was multiplied."""
        scores = self.scores.copy()
        scores[arm] *= factor
        # A right answer stays right or becomes wrong, so that scores keep their kind.
        if set(np.unique(self.scores[arm])) <= {0.0, 1.0}:
            keep = np.random.default_rng(0).random(scores.shape[1]) < factor
            scores[arm] = self.scores[arm] * keep
        return replace(self, scores=scores)

    def with_latency(self, arm: int, factor: float) -> World:
        """Return the same world after one model's first token and decoding became slower."""
        slowness = self.slowness.copy()
        slowness[arm] *= factor
        return replace(self, slowness=slowness)


def worlds(dataset: str, seed: int, pulls: int) -> list[World]:
    """Return one world for each task of a dataset, all on the same machine.

    Parameters
    ----------
    dataset : str
        ``"zeroeval"`` or ``"llmrouter"``.
    seed : int
        Of the machine, of what was not recorded, and of the order of the questions.
    pulls : int
        How many questions to ask of each task.
    """
    answers, sizes = _read(dataset)
    models = sorted(answers["model"].unique())
    machine = np.random.default_rng([seed, 1])
    hardware = _HARDWARE_SD * machine.standard_normal()
    offset = dict(zip(models, _ARM_SD * machine.standard_normal(len(models)), strict=True))
    length = dict(zip(models, _MODEL_SD * machine.standard_normal(len(models)), strict=True))
    made = []
    for number, task in enumerate(sorted(answers["task"].unique())):
        rng = np.random.default_rng([seed, 2, number])
        table = answers.filter(pl.col("task") == task)
        scores = table.pivot(on="model", index="query_id", values="score").drop_nulls()
        names = sorted(set(scores.columns) - {"query_id"})
        names = [name for name in names if _memory(sizes[name][0]) <= BUDGET]
        matrix = scores.select(names).to_numpy().T.astype(np.float64)
        if "out_chars" in table.columns:
            wide = table.pivot(on="model", index="query_id", values="out_chars")
            wide = scores.select("query_id").join(wide, on="query_id", maintain_order="left")
            tokens = np.maximum(wide.select(names).to_numpy().T / _CHARACTERS_PER_TOKEN, 1.0)
        else:
            level = _LN_TOKENS + _TASK_SD * rng.standard_normal()
            level = level + np.array([length[name] for name in names])
            noise = _QUERY_SD * rng.standard_normal(matrix.shape)
            tokens = np.maximum(np.exp(level[:, None] + noise), 1.0)
        predicted = np.array([_decode_rate(sizes[name][1]) for name in names])
        factor = np.exp(hardware + np.array([offset[name] for name in names]))
        rounds = math.ceil(pulls / matrix.shape[1])
        order = np.concatenate([rng.permutation(matrix.shape[1]) for _ in range(rounds)])
        made.append(
            World(
                dataset=dataset,
                task=task,
                arms=tuple(_arm(name, sizes[name][0], sizes[name][1]) for name in names),
                scores=matrix,
                tokens=tokens,
                rate=predicted * factor,
                slowness=np.ones(len(names)),
                questions=order[:pulls],
                noise=_NOISE_SD * rng.standard_normal(pulls),
            )
        )
    return made


def _read(dataset: str) -> tuple[pl.DataFrame, dict[str, tuple[float, float]]]:
    sizes = pl.read_csv(DATA / "model_sizes.csv")
    known = {name: (total, active) for name, total, active in sizes.iter_rows()}
    answers = pl.read_parquet(DATA / f"{dataset}.parquet").with_columns(
        pl.col("task", "query_id", "model").cast(pl.String)
    )
    return answers.filter(pl.col("model").is_in(list(known))), known


def _weight_bytes(billions: float) -> float:
    return billions * 1e9 * _BITS / 8


def _memory(billions: float) -> float:
    return _weight_bytes(billions) + _OVERHEAD


def _decode_rate(active: float) -> float:
    # The law that measured speeds follow; what the speed estimator would say.
    return math.exp(4.99) * (_weight_bytes(active) / 1e9) ** -0.77


def _arm(name: str, billions: float, active: float) -> Arm:
    model = ModelMetadata(
        name=name,
        model_type=ModelType.GGUF,
        path=Path(name),
        size_bytes=int(_weight_bytes(billions)),
        fingerprint=name,
        parameter_count=int(billions * 1e9),
    )
    return Arm(
        model=model,
        memory_bytes=int(_memory(billions)),
        decode_rate=_decode_rate(active),
        first_token_seconds=_FIRST_TOKEN,
        load_seconds=0.0,
        resident=True,
    )
