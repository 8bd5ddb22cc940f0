"""The value of learning, against the index that dynamic programming finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.selection.gittins import learning_value

positive = st.floats(1e-4, 10)


def exact(variance: float, noise: float, horizon: float) -> float:
    """Return the charge at which playing on or never again are worth the same (Gittins 1979).

    Backwards induction over the posterior mean on a grid, from a time at which the discount
    has left nothing.
    """
    discount = math.exp(-1 / horizon)
    steps = int(6 * horizon)
    nodes, shares = np.polynomial.hermite_e.hermegauss(21)
    shares /= shares.sum()
    grid = np.linspace(-6, 6, 801) * math.sqrt(variance)
    low, high = 0.0, 6 * math.sqrt(variance)
    for _ in range(12):
        charge = (low + high) / 2
        value = np.zeros_like(grid)
        for played in reversed(range(steps)):
            before = 1 / (1 / variance + played / noise)
            moves = math.sqrt(before**2 / (before + noise)) * nodes
            after = np.interp(grid[:, None] + moves, grid, value) @ shares
            value = np.maximum(grid - charge + discount * after, 0)
        low, high = (charge, high) if np.interp(0.0, grid, value) > 0 else (low, charge)
    return low


@pytest.mark.parametrize(("variance", "horizon"), [(0.005, 30), (0.03, 10), (0.03, 60)])
def test_the_closed_form_is_near_the_exact_index(variance: float, horizon: float) -> None:
    """Within a tenth of what dynamic programming finds, at the variances that the policy sees."""
    value = learning_value(np.array([variance]), np.array([0.16]), horizon)[0]
    assert value == pytest.approx(exact(variance, 0.16, horizon), rel=0.1)


@given(positive, positive, positive, st.floats(1, 1000), st.floats(1, 1000))
def test_more_to_learn_or_longer_to_use_it_is_worth_more(
    variance: float, more: float, noise: float, horizon: float, longer: float
) -> None:
    """The value never falls with variance or horizon, and is finite and positive."""
    both = learning_value(np.array([variance, variance + more]), np.full(2, noise), horizon)
    later = learning_value(np.array([variance]), np.array([noise]), horizon + longer)
    assert np.isfinite(both).all()
    assert 0 <= both[0] <= both[1] * 1.1
    assert later[0] >= both[0] * 0.9


def test_nothing_to_learn_is_worth_nothing() -> None:
    """A candidate that is known exactly gets no bonus."""
    assert learning_value(np.zeros(1), np.ones(1), 100.0)[0] == pytest.approx(0, abs=1e-12)
