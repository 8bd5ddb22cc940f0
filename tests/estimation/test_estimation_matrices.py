"""Products and solves in pieces are those in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from ravenxterm_lab.estimation.matrices import product, solve_covariance

RNG = np.random.default_rng(0)


def covariance(n: int) -> np.ndarray:
    """Return what the law of a hundred models looks like: effects that are shared, and noise."""
    shared = RNG.standard_normal((n, 5))
    return 0.09 * (shared @ shared.T) + 0.1 + np.diag(0.05 / RNG.integers(1, 30, n))


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (0, 3, 2), (3, 0, 2), (7, 5, 3), (257, 100, 100), (5, 700, 700)]
)
def test_a_product_in_pieces(m: int, k: int, n: int) -> None:
    """Of any shape, of few and of many rows at a time."""
    left, right = RNG.standard_normal((m, k)), RNG.standard_normal((k, n))
    np.testing.assert_allclose(product(left, right), left @ right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(product(right.T, left.T), right.T @ left.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 47, 48, 49, 97, 150, 300])
@pytest.mark.parametrize("m", [1, 20])
def test_a_solve_in_blocks(n: int, m: int) -> None:
    """It solves as exactly as LAPACK does in one piece, and leaves what it was given."""
    matrix, right = covariance(n), RNG.standard_normal((n, m))
    given = matrix.copy(), right.copy()
    found = solve_covariance(matrix, right)
    assert np.array_equal(matrix, given[0])
    assert np.array_equal(right, given[1])
    expected = np.linalg.solve(matrix, right)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_what_is_no_covariance_is_refused() -> None:
    """A negative direction in a later block is found, too."""
    matrix = covariance(100)
    matrix[99, 99] = -1.0
    with pytest.raises(np.linalg.LinAlgError):
        solve_covariance(matrix, np.eye(100))
