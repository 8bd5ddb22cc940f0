"""The Gaussian posterior over cells, against algebra done another way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.selection.field import FieldPrior, Observation, condition

PRIOR = FieldPrior(common=0.3, task=0.2, model=0.12, cell=0.1, slope=0.02, noise=0.16)


def test_one_cell_is_the_textbook_update() -> None:
    """With one cell the posterior mean is the precision-weighted mean of prior and data."""
    prior = FieldPrior(model=0.5, noise=0.2)
    out = condition(
        prior, {(0, 0): 1.0}, [(0, 0)], [Observation((0, 0), 4, 2.0)], np.zeros(1),
        np.random.default_rng(0), 10,
    )  # fmt: skip
    precision = 1 / 0.25 + 4 / 0.2
    assert np.isclose(out.mean[0], (1.0 / 0.25 + 2.0 * 4 / 0.2) / precision)
    assert np.isclose(out.deviation[0], precision**-0.5)


def test_draws_have_the_posterior_mean_and_covariance() -> None:
    """Matheron's draws agree with the closed-form posterior of the cells."""
    cells = [(0, 0), (1, 0), (0, 1)]
    observed = [Observation((0, 1), 5, 0.9), Observation((1, 0), 2, 0.2)]
    x = np.array([-1.0, 1.0])
    out = condition(
        PRIOR, dict.fromkeys(cells, 0.5), cells, observed, x, np.random.default_rng(1), 40_000
    )
    seen = [item.cell for item in observed]
    k = PRIOR.covariance(seen, seen, x) + np.diag([0.16 / 5, 0.16 / 2])
    cross = PRIOR.covariance(cells, seen, x)
    covariance = PRIOR.covariance(cells, cells, x) - cross @ np.linalg.inv(k) @ cross.T
    mean = 0.5 + cross @ np.linalg.inv(k) @ (np.array([0.9, 0.2]) - 0.5)
    assert np.allclose(out.mean, mean)
    assert np.allclose(out.draws.mean(0), mean, atol=0.01)
    assert np.allclose(np.cov(out.draws.T), covariance, atol=0.01)
    assert np.allclose(out.deviation**2, np.diag(covariance))


def test_evidence_carries_across_tasks() -> None:
    """A model that did well on one task is expected to do better than an unknown one on another."""
    cells = [(0, 1), (1, 1)]
    out = condition(
        PRIOR, {(0, 0): 0.5, (0, 1): 0.5, (1, 1): 0.5}, cells, [Observation((0, 0), 30, 0.95)],
        np.zeros(2), np.random.default_rng(0), 1,
    )  # fmt: skip
    assert out.mean[0] > out.mean[1] > 0.5


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 50), st.floats(0, 1)),
        max_size=8,
        unique_by=lambda row: row[:2],
    )
)
def test_data_never_widen_the_posterior(rows: list[tuple[int, int, int, float]]) -> None:
    """Whatever was observed, no cell is less certain than under the prior, and all is finite."""
    cells = [(m, t) for m in range(5) for t in range(3)]
    x = np.linspace(-2, 2, 5)
    observed = [Observation((m, t), n, mean) for m, t, n, mean in rows]
    rng = np.random.default_rng(0)
    out = condition(PRIOR, dict.fromkeys(cells, 0.5), cells, observed, x, rng, 3)
    prior_sd = np.sqrt(np.diag(PRIOR.covariance(cells, cells, x)))
    assert (out.deviation <= prior_sd + 1e-9).all()
    assert np.isfinite(out.draws).all()


def test_what_all_share_is_no_one_s_own() -> None:
    """An effect of the task moves all cells alike; what is unknown of one model is its own."""
    cells = [(0, 0), (1, 0), (2, 0)]
    none = np.zeros(3)
    shared = FieldPrior(task=1.0, model=0.3)
    prior = condition(
        shared, dict.fromkeys(cells, 0.0), cells, [], none, np.random.default_rng(0), 1
    )
    assert np.allclose(prior.own, 0.3)
    assert (prior.deviation > 1).all()
    known = condition(
        shared, dict.fromkeys(cells, 0.0), cells, [Observation((0, 0), 1e6, 0.5)], none,
        np.random.default_rng(0), 1,
    )  # fmt: skip
    assert known.own[0] < 0.01
    assert np.allclose(known.own[1:], 0.3, atol=0.02)
    alone = condition(shared, {(0, 0): 0.0}, [(0, 0)], [], none, np.random.default_rng(0), 1)
    assert np.allclose(alone.own, alone.deviation)
