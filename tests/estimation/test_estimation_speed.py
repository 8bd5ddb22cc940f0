"""The speed estimator: tiers, intervals, and a check against published runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ravenxterm_lab.estimation import estimate_speed
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType


def model(size: int, **changes: object) -> ModelMetadata:
    return ModelMetadata("m", ModelType.GGUF, Path("m.gguf"), size, **changes)


def test_published_gpu_runs_lie_in_the_interval(shared_data: Path) -> None:
    """At least nine of ten published decode speeds of Llama 3 lie in the predicted interval."""
    rows = list(csv.DictReader((shared_data / "llama3_decode_speed.csv").read_text().splitlines()))
    inside = 0
    for row in rows:
        estimate = estimate_speed(
            model(int(row["file_bytes"])),
            memory_bandwidth=float(row["memory_bandwidth_gb_s"]) * 1e9,
            device=HardwareType.CUDA,
        )
        inside += estimate.low <= float(row["decode_tokens_s"]) <= estimate.high
    assert inside >= 0.9 * len(rows)


def test_a_mixture_of_experts_is_judged_by_its_active_parameters() -> None:
    """Decoding reads the active weights only, so a sparse model of equal size is faster."""
    dense = estimate_speed(model(10**10), memory_bandwidth=1e11)
    sparse = estimate_speed(
        model(10**10, parameter_count=8 * 10**9, active_parameter_count=10**9),
        memory_bandwidth=1e11,
    )
    assert sparse.decode_rate > 3 * dense.decode_rate


def test_measurements_come_first_and_narrow_the_interval() -> None:
    """A measured rate is the prediction; more runs make its interval no wider."""
    few = estimate_speed(model(10**9), memory_bandwidth=1e10, measured_rate=50.0, measured_runs=1)
    many = estimate_speed(model(10**9), memory_bandwidth=1e10, measured_rate=50.0, measured_runs=50)
    prior = estimate_speed(model(10**9), memory_bandwidth=1e10)
    assert few.tier == many.tier == "measured"
    assert few.decode_rate == 50.0
    assert many.high - many.low < few.high - few.low
    assert prior.tier == "roofline"
    assert prior.high / prior.low > few.high / few.low


def test_without_a_bandwidth_nothing_is_claimed() -> None:
    """With neither a bandwidth nor a measurement there is no rate, and the source says why."""
    estimate = estimate_speed(model(10**9), memory_bandwidth=None)
    assert estimate.decode_rate is None
    assert estimate.tier == "none"
    assert "bandwidth" in estimate.source


@pytest.mark.parametrize("context_bytes", [0, 10**9])
def test_a_longer_context_is_never_faster(context_bytes: int) -> None:
    """The KV cache of the context is read once a token."""
    empty = estimate_speed(model(10**9), memory_bandwidth=1e10)
    filled = estimate_speed(model(10**9), memory_bandwidth=1e10, kv_read_bytes=context_bytes)
    assert filled.decode_rate <= empty.decode_rate
