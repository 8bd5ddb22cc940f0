"""An exact Gaussian posterior over (model, task) cells, and joint draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ravenxterm_lab.selection.effects import solve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        total = np.full(same_model.shape, self.common**2)
        if self.task or self.cell:
            same_task = a[:, None, 1] == b[None, :, 1]
            total += self.task**2 * same_task + self.cell**2 * (same_model & same_task)
        total += self.model**2 * same_model
        if self.slope:
            total += self.slope**2 * x[a[:, 0]][:, None] * x[b[:, 0]][None, :]
        return total


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
    draws : array (count, m)
        Joint draws.
    shared : callable
        Returns the variance of each that another wanted cell shares: array (m,).
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    draws: NDArray[np.float64]
    shared: Callable[[], NDArray[np.float64]]

    @property
    def own(self) -> NDArray[np.float64]:
        """Standard deviation without what another wanted cell shares, array (m,).

        What two cells share tells none of them from the other.
        """
        own: NDArray[np.float64] = np.sqrt(np.maximum(self.deviation**2 - self.shared(), 0.0))
        return own


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
    eq. 2.25), and joint draws from that posterior; `effects.solve` finds both without K.

    Parameters
    ----------
    prior : FieldPrior
        Effects and noise.
    prior_mean : dict
        Prior mean of every wanted and observed cell.
    wanted : sequence of (int, int)
        Cells to return, as (model index, task index).
    observed : sequence of Observation
        The data; each cell once.
    covariate : array (models,)
        For the slope; pass zeros when it has none.
    rng : numpy.random.Generator
        Source of the draws.
    count : int
        How many joint draws.
    """
    mean_wanted = np.array([prior_mean[cell] for cell in wanted])
    residual = np.array([one.mean - prior_mean[one.cell] for one in observed], dtype=np.float64)
    found = solve(prior, residual, wanted, observed, covariate, rng, count)
    draws = found.draws
    draws += mean_wanted
    return Posterior(
        mean_wanted + found.shift,
        np.sqrt(np.maximum(found.variance, 0.0)),
        draws,
        found.shared,
    )
