"""The exact posterior of a sum of effects, without a matrix as large as the data.

A cell is what all share, plus what its task shares, plus what its model shares, plus what is its
own. Given the first two (`u`, some fifteen numbers) the models are independent of each other, and
given a model's effect so are its cells: both are summed out cell by cell, and what is left to
solve is as large as `u` (block elimination, or Schur complement; for the same Gaussian the answer
is that of Rasmussen & Williams 2006, eq. 2.25, which a test holds it to). A thousand models take
milliseconds, and no BLAS threads have to wake for it (see `estimation.matrices`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.estimation.matrices import product

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ravenxterm_lab.selection.field import Cell, FieldPrior, Observation

__all__ = ["Solved", "solve"]


@dataclass(frozen=True, slots=True)
class Solved:
    """Beliefs about the wanted cells, relative to their prior means.

    Attributes
    ----------
    shift : array (m,)
        Posterior mean less prior mean.
    variance : array (m,)
        Of each cell.
    shared : callable
        Returns the largest covariance of each with another wanted cell, 0 where there is none:
        array (m,). Who only looks need not wait for it.
    draws : array (count, m)
        Joint draws.
    """

    shift: NDArray[np.float64]
    variance: NDArray[np.float64]
    shared: Callable[[], NDArray[np.float64]]
    draws: NDArray[np.float64]


def solve(
    prior: FieldPrior,
    residual: NDArray[np.float64],
    wanted: Sequence[Cell],
    observed: Sequence[Observation],
    covariate: NDArray[np.float64],
    rng: np.random.Generator,
    count: int,
) -> Solved:
    """Condition the effects on observations.

    Parameters
    ----------
    prior : FieldPrior
        Effects and noise.
    residual : array (k,)
        Observed mean less prior mean, by observation; each cell is observed once.
    wanted : sequence of (int, int)
        Cells to return, as (model index, task index).
    observed : sequence of Observation
        The data.
    covariate : array (models,)
        For the slope.
    rng : numpy.random.Generator
        Source of the draws.
    count : int
        How many joint draws.
    """
    cells = np.array([*wanted, *(one.cell for one in observed)], dtype=np.intp).reshape(-1, 2)
    m = len(wanted)
    _, model = np.unique(cells[:, 0], return_inverse=True)
    names, task = np.unique(cells[:, 1], return_inverse=True)
    models, tasks = int(model.max()) + 1, len(names)
    # Columns of u, each of prior variance 1.
    design = np.zeros((len(cells), 2 + tasks))
    design[:, 0] = prior.common
    design[:, 1] = prior.slope * covariate[cells[:, 0]]
    design[np.arange(len(cells)), 2 + task] = prior.task
    z, seen = design[:m], design[m:]
    own_model, of = model[:m], model[m:]

    own = prior.cell**2
    noise = prior.noise / np.array([one.n for one in observed], dtype=np.float64)
    weight = 1 / (noise + own)
    weighted = seen * weight[:, None]
    # By model: the weights of its cells, and what they say.
    into = np.stack(
        [np.bincount(of, column, models) for column in weighted.T], axis=1, dtype=np.float64
    )  # models × u
    said = np.bincount(of, weight * residual, models).astype(np.float64, copy=False)
    spread = np.zeros(models)
    if prior.model:
        spread = 1 / (1 / prior.model**2 + np.bincount(of, weight, models))
    into_spread = into * spread[:, None]
    precision = np.eye(design.shape[1]) + product(seen.T, weighted) - product(into.T, into_spread)
    root = np.linalg.inv(np.linalg.cholesky(precision))
    u = root.T @ (root @ (_times(weighted.T, residual) - _times(into_spread.T, said)))

    # How much of a cell its own observation decides, and what is left open of its own effect.
    place = np.full(models * tasks, -1)
    place[of * tasks + task[m:]] = np.arange(len(observed))
    at = place[own_model * tasks + task[:m]]
    here = at >= 0
    share, open_, told = np.zeros(m), np.full(m, own), np.zeros(m)
    share[here] = own * weight[at[here]]
    open_[here] = own * noise[at[here]] * weight[at[here]]
    told[here] = share[here] * residual[at[here]]
    rest = 1 - share
    base = _times(z, u) + (spread * (said - _times(into, u)))[own_model]
    loading = rest[:, None] * product(z - into_spread[own_model], root.T)
    alone = rest**2 * spread[own_model] + open_
    shift = rest * base + told
    variance = np.einsum("ij,ij->i", loading, loading) + alone
    draws = product(rng.standard_normal((count, design.shape[1])), loading.T)
    code = own_model * tasks + task[:m]
    apart = len(np.unique(own_model)) == m
    if apart:
        # In place: draws for a thousand cells are megabytes, and each copy of them takes time.
        alike = rng.standard_normal((count, m))
        alike *= np.sqrt(alone)
        draws += alike
    else:
        effects = rng.standard_normal((count, models))[:, own_model]
        draws += effects * (rest * np.sqrt(spread[own_model]))
        _, cell = np.unique(code, return_inverse=True)
        draws += rng.standard_normal((count, int(cell.max()) + 1))[:, cell] * np.sqrt(open_)

    def shared() -> NDArray[np.float64]:
        together = product(loading, loading.T)
        if not apart:
            same = own_model[:, None] == own_model[None, :]
            together += same * (rest[:, None] * rest[None, :] * spread[own_model])
            together += (code[:, None] == code[None, :]) * open_
        np.fill_diagonal(together, -np.inf)
        largest: NDArray[np.float64] = np.maximum(together.max(axis=1), 0.0)
        return largest

    draws += shift
    return Solved(shift, variance, shared, draws)


def _times(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product, for which OpenBLAS would wake its threads from 9,216 numbers on."""
    found: NDArray[np.float64] = np.einsum("ij,j->i", matrix, vector)
    return found
