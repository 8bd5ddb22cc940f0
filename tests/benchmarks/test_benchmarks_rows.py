"""The made-up year is what it says, and answers that differ stop a benchmark."""

from dataclasses import replace

import bench_history
import history_rows
import numpy as np
import pytest
from history_questions import QUESTIONS, micros


def test_the_year_is_in_order_and_the_same_for_the_same_seed() -> None:
    """Rows come in order of time, each (session, seq) once, and again for the same seed."""
    first, again, other = (list(history_rows.chunks(120_000, seed, 50_000)) for seed in (3, 3, 4))
    assert [len(chunk.ts) for chunk in first] == [50_000, 50_000, 20_000]
    assert all(one.table.equals(two.table) for one, two in zip(first, again, strict=True))
    assert not first[0].table.equals(other[0].table)
    ts = np.concatenate([chunk.ts for chunk in first])
    assert (np.diff(ts) >= 0).all()
    assert micros(history_rows.BEGIN) <= ts[0]
    assert ts[-1] < micros(history_rows.END)
    keys = {
        pair
        for chunk in first
        for pair in zip(
            chunk.table["session"].to_pylist(), chunk.table["seq"].to_pylist(), strict=True
        )
    }
    assert len(keys) == 120_000


def test_what_the_peers_get_is_what_the_store_gets() -> None:
    """The arrays of a chunk hold the values of its table, NaN for NULL."""
    [chunk] = history_rows.chunks(4000, 5, 4000)
    assert chunk.table["model"].to_pylist() == [history_rows.MODELS[at] for at in chunk.model]
    for name in ("latency", "throughput", "quality", "peak_memory", "success"):
        values = [np.nan if v is None else v for v in chunk.table[name].to_pylist()]
        np.testing.assert_array_equal(np.array(values), getattr(chunk, name))


@pytest.mark.parametrize(
    "other",
    [
        [("a", 1, 2.0)],
        [("a", 1, 2.0), ("b", 2, 3.1)],
        [("a", 1, 2.0), ("b", 3, 3.0)],
        [("a", 1, 2.0), ("b", 2, None)],
        [("a", 1, 2.0), ("c", 2, 3.0)],
    ],
)
def test_an_answer_that_differs_stops_the_benchmark(other: list[tuple[object, ...]]) -> None:
    """Another number of rows, key, count or value is refused, beyond the tolerance."""
    exact = [("b", 2, 3.0), ("a", 1, 2.0)]
    question = replace(QUESTIONS[0], keys=1, tolerance={"near": {2: 0.02}})
    bench_history.check(question, "near", exact, [("a", 1, 2.0), ("b", 2, 3.01)])
    for label in ("near", "exact"):
        with pytest.raises(AssertionError):
            bench_history.check(question, label, exact, other)
    with pytest.raises(AssertionError):
        bench_history.check(question, "exact", exact, [("a", 1, 2.0), ("b", 2, 3.01)])
