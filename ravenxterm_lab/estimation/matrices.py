"""Products and solves of some hundred rows, in pieces for which OpenBLAS wakes no threads.

Its threads wait for each other by spinning. Where other programs keep the cores busy, as a model
that runs does, the inverse of 200 × 200 numbers then takes many times as long as alone;
``tests/benchmarks/bench_matrices.py`` prints both ways, idle and busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["product", "solve_covariance"]

#: Multiplications of one product up to which OpenBLAS stays in its caller's thread: its
#: ``SMP_THRESHOLD_MIN`` times ``GEMM_MULTITHREAD_THRESHOLD`` is 262,144 (``interface/gemm.c``).
_MOST = 250_000
#: Rows up to which its factorisations and inverses do.
_BLOCK = 48


def product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix product, some rows at a time.

    Parameters
    ----------
    left : array (m, k)
    right : array (k, n)
    """
    each = right.shape[0] * right.shape[1]
    step = max(1, _MOST // max(each, 1))
    out = np.empty((len(left), right.shape[1]))
    for start in range(0, len(left), step):
        np.matmul(left[start : start + step], right, out=out[start : start + step])
    return out


def solve_covariance(
    covariance: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve ``covariance @ x = right`` by Cholesky's factors, a block of rows at a time.

    Blocked factorisation and substitution as in G. Golub and C. Van Loan, "Matrix Computations",
    sections 4.2.9 and 3.1.4; only the blocks on the diagonal are inverted.

    Parameters
    ----------
    covariance : array (n, n)
        Symmetric and positive definite.
    right : array (n, m)

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite.
    """
    n = len(covariance)
    blocks = [slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]
    left, factor = covariance.copy(), np.zeros_like(covariance)
    inverses: list[NDArray[np.float64]] = []
    for block in blocks:
        below = slice(block.stop, n)
        factor[block, block] = np.linalg.cholesky(left[block, block])
        inverses.append(np.asarray(np.linalg.inv(factor[block, block]), dtype=np.float64))
        factor[below, block] = product(left[below, block], inverses[-1].T)
        left[below, below] -= product(factor[below, block], factor[below, block].T)
    x = right.copy()
    for block, inverse in zip(blocks, inverses, strict=True):
        x[block] -= product(factor[block, : block.start], x[: block.start])
        x[block] = product(inverse, x[block])
    for block, inverse in zip(reversed(blocks), reversed(inverses), strict=True):
        x[block] -= product(factor[block.stop :, block].T, x[block.stop :])
        x[block] = product(inverse.T, x[block])
    return x
