"""The posterior by effects, against the same posterior by the covariance of all cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.selection.effects import solve
from ravenxterm_lab.selection.field import FieldPrior, Observation

CELLS = [(model, task) for model in range(5) for task in range(4)]
sizes = st.sampled_from([0.0, 0.1, 0.35, 1.0])


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        FieldPrior, common=sizes, task=sizes, model=sizes, cell=sizes, slope=sizes,
        noise=st.sampled_from([0.05, 0.25]),
    ),
    st.lists(st.sampled_from(CELLS), min_size=1, max_size=8),
    st.lists(st.sampled_from(CELLS), max_size=12, unique=True),
    st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_the_posterior_of_the_textbook(
    prior: FieldPrior, wanted: list[tuple[int, int]], seen: list[tuple[int, int]], seed: int
) -> None:
    """Means, variances and covariances equal those of a dense solve, whichever effects there are.

    Cells may be wanted twice, observed or not, of models and tasks that nothing is known of.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=5)
    observed = [Observation(cell, float(rng.integers(1, 40)), 0.0) for cell in seen]
    residual = rng.normal(size=len(seen))
    found = solve(prior, residual, wanted, observed, x, rng, 6000)
    covariance = prior.covariance(wanted, wanted, x)
    mean = np.zeros(len(wanted))
    if seen:
        noise = np.diag([prior.noise / one.n for one in observed])
        cross = prior.covariance(wanted, seen, x)
        gain = cross @ np.linalg.inv(prior.covariance(seen, seen, x) + noise)
        mean, covariance = gain @ residual, covariance - gain @ cross.T
    assert found.shift == pytest.approx(mean, abs=1e-9)
    assert found.variance == pytest.approx(np.diag(covariance), abs=1e-9)
    others = covariance - np.diag(np.full(len(wanted), np.inf))
    assert found.shared() == pytest.approx(np.maximum(others.max(1), 0), abs=1e-9)
    largest = max(float(covariance.max()), 1e-6)
    # Five standard errors of a covariance from 6,000 draws: √(2/6000) × 5 = 0.09.
    assert np.atleast_2d(np.cov(found.draws.T)) == pytest.approx(covariance, abs=0.1 * largest)
    assert found.draws.mean(0) == pytest.approx(mean, abs=0.07 * largest**0.5)
