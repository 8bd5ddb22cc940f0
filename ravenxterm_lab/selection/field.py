"""An exact Gaussian posterior over (model, task) cells, and joint draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Cell", "FieldPrior", "Observation", "Posterior", "condition"]


#: A cell's model index and task index.
Cell: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FieldPrior:
    """Standard deviations of independent effects that add up to a cell's value, and the noise.

    Attributes
    ----------
    common : float
        Shared by all cells (such as "this machine is faster than thought").
    task, model, cell : float
        Shared by the cells of a task, of a model, and of neither.
    slope : float
        Per unit of the model's covariate (log2 parameters).
    noise : float
        Variance of a single observation around its cell.
    """

    common: float = 0.0
    task: float = 0.0
    model: float = 0.0
    cell: float = 0.0
    slope: float = 0.0
    noise: float = 1.0

    def covariance(
        self,
        left: Sequence[tuple[int, int]],
        right: Sequence[tuple[int, int]],
        x: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the prior covariance (len(left) × len(right)) between (model, task) cells."""
        a = np.asarray(left, dtype=np.intp).reshape(-1, 2)
        b = np.asarray(right, dtype=np.intp).reshape(-1, 2)
        same_model = a[:, None, 0] == b[None, :, 0]
        same_task = a[:, None, 1] == b[None, :, 1]
        total: NDArray[np.float64] = (
            self.common**2
            + self.task**2 * same_task
            + self.model**2 * same_model
            + self.cell**2 * (same_model & same_task)
            + self.slope**2 * x[a[:, 0]][:, None] * x[b[:, 0]][None, :]
        )
        return total

    def draw(
        self,
        cells: Sequence[Cell],
        x: NDArray[np.float64],
        rng: np.random.Generator,
        count: int,
    ) -> NDArray[np.float64]:
        """Draw the cells jointly from the prior (count × cells), by drawing each effect."""
        index = np.asarray(cells, dtype=np.intp).reshape(-1, 2)
        models, model_of = np.unique(index[:, 0], return_inverse=True)
        tasks, task_of = np.unique(index[:, 1], return_inverse=True)
        pairs, pair_of = np.unique(index, axis=0, return_inverse=True)
        return (
            self.common * rng.standard_normal((count, 1))
            + self.task * rng.standard_normal((count, len(tasks)))[:, task_of]
            + self.model * rng.standard_normal((count, len(models)))[:, model_of]
            + self.cell * rng.standard_normal((count, len(pairs)))[:, pair_of.reshape(-1)]
            + self.slope * rng.standard_normal((count, 1)) * x[index[:, 0]][None, :]
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """The mean of ``n`` observations of one (model, task) cell."""

    cell: Cell
    n: float
    mean: float


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior of the wanted cells.

    Attributes
    ----------
    mean, deviation : array (m,)
        Mean and standard deviation of each cell.
    own : array (m,)
        Standard deviation without the variance that another wanted cell shares, which tells
        none of the two from the other.
    draws : array (count, m)
        Joint draws.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    own: NDArray[np.float64]
    draws: NDArray[np.float64]


def condition(
    prior: FieldPrior,
    prior_mean: dict[Cell, float],
    wanted: Sequence[Cell],
    observed: Sequence[Observation],
    covariate: NDArray[np.float64],
    rng: np.random.Generator,
    count: int,
) -> Posterior:
    """Condition a prior on observations, exactly.

    Mean ``m + K(K + D)⁻¹(ȳ − m)`` with ``D = diag(noise / n)`` (Rasmussen & Williams 2006,
    eq. 2.25); joint draws by Matheron's rule: a prior draw plus the same gain applied to what
    that draw misses of the data (Wilson et al. 2020, "Efficiently sampling functions from
    Gaussian process posteriors").

    Parameters
    ----------
    prior : FieldPrior
        Effects and noise.
    prior_mean : dict
        Prior mean of every wanted and observed cell.
    wanted : sequence of (int, int)
        Cells to return, as (model index, task index).
    observed : sequence of Observation
        The data.
    covariate : array (models,)
        For the slope; pass zeros when it has none.
    rng : numpy.random.Generator
        Source of the draws.
    count : int
        How many joint draws.
    """
    mean_wanted = np.array([prior_mean[cell] for cell in wanted])
    covariance = prior.covariance(wanted, wanted, covariate)
    seen = [item.cell for item in observed]
    drawn = prior.draw([*wanted, *seen], covariate, rng, count)
    draws = mean_wanted + drawn[:, : len(wanted)]
    if not observed:
        return Posterior(mean_wanted, *_deviations(covariance), draws)
    mean_seen = np.array([prior_mean[cell] for cell in seen])
    data = np.array([item.mean for item in observed])
    noise = prior.noise / np.array([item.n for item in observed])
    cross = prior.covariance(wanted, seen, covariate)
    # OpenBLAS wakes its threads to solve for a hundred models, which takes 11 ms where this
    # takes 0.4; the noise keeps the matrix well away from a singular one.
    gain = cross @ np.linalg.inv(prior.covariance(seen, seen, covariate) + np.diag(noise))
    missed = (data - mean_seen) - drawn[:, len(wanted) :]
    missed -= rng.standard_normal(missed.shape) * np.sqrt(noise)
    covariance -= gain @ cross.T
    return Posterior(
        mean_wanted + gain @ (data - mean_seen),
        *_deviations(covariance),
        draws + missed @ gain.T,
    )


def _deviations(
    covariance: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    variance = np.diag(covariance)
    shared = covariance - np.diag(np.full(len(covariance), np.inf))
    own = variance - np.maximum(shared.max(1), 0.0)
    return np.sqrt(np.maximum(variance, 0.0)), np.sqrt(np.maximum(own, 0.0))
