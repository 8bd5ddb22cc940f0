"""The memory estimator against llama.cpp's own logs and measured loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import discover, sources_for
from ravenxterm_lab.estimation import Verdict, estimate_memory, judge
from ravenxterm_lab.metadata import AttentionGeometry, ModelMetadata, ModelType

MIB = 2**20
LLAMA3_8B = AttentionGeometry(heads_kv=(8,) * 32, key_length=128, value_length=128)


def gguf(**changes: object) -> ModelMetadata:
    base = ModelMetadata(
        name="m",
        model_type=ModelType.GGUF,
        path=Path("m.gguf"),
        size_bytes=100 * MIB,
        attention=LLAMA3_8B,
        context_length=8192,
        embedding_length=4096,
        vocabulary_size=128_256,
    )
    return replace(base, **changes)


# Resident memory in MiB at contexts of 512, 2048 and 8192, above that of the idle worker: after
# eight tokens, and after a prompt of more than a batch (`tests/benchmarks/bench_memory.py`).
MEASURED = {
    "Q4_1": ((136.1, 147.5), (169.8, 184.2), (304.8, 319.2)),
    "Q4_0": ((187.4, 198.8), (221.2, 235.5), (356.1, 370.4)),
    "Q8_0": ((180.4, 191.8), (214.2, 228.5), (349.1, 363.4)),
}


@pytest.mark.models
@pytest.mark.parametrize("quantization", sorted(MEASURED))
def test_total_is_within_three_percent_of_measured_peaks(
    demo_directory: Path, quantization: str
) -> None:
    """A SmolLM2 variant's estimate is within 3% of the peak; a short run lies in the interval."""
    found = discover(sources_for(demo_directory / "smollm2-135m-instruct", paths()))
    model = next(m for m in found.models.values() if m.quantization == quantization)
    for context, (short, peak) in zip((512, 2048, 8192), MEASURED[quantization], strict=True):
        estimate = estimate_memory(model, context_length=context, instruction_sets=("avx2",))
        assert estimate.total_bytes == pytest.approx(peak * MIB, rel=0.03)
        assert estimate.total_bytes == pytest.approx(short * MIB, abs=32 * MIB)
        assert estimate.low_bytes <= short * MIB < peak * MIB <= estimate.high_bytes


def test_repacking_counts_only_where_the_cpu_does_it() -> None:
    """Q4_0 weights are held twice on AVX2, and once without it."""
    model = gguf(tensor_bytes={"Q4_0": 60 * MIB, "F32": MIB})
    assert estimate_memory(model, instruction_sets=("avx2",)).repack_bytes == 60 * MIB
    assert estimate_memory(model, instruction_sets=("sse4_2",)).repack_bytes == 0


def test_items_add_up() -> None:
    """The total is the sum of its items."""
    e = estimate_memory(gguf(), context_length=2048)
    items = (e.weights_bytes, e.repack_bytes, e.kv_cache_bytes, e.compute_bytes, e.overhead_bytes)
    assert e.total_bytes == sum(items)


def test_a_missing_fact_is_unknown_never_yes_or_no() -> None:
    """Without the attention geometry the verdict is unknown, and it says what is missing."""
    estimate = estimate_memory(gguf(attention=None), budget_bytes=10**12)
    assert estimate.verdict is Verdict.UNKNOWN
    assert estimate.total_bytes is None
    assert "attention" in estimate.describe()


def test_verdicts_are_kept_apart() -> None:
    """A mapped file that exceeds the budget pages; what is anonymous and exceeds it cannot."""
    model = gguf(size_bytes=8000 * MIB)
    total = estimate_memory(model, context_length=512).total_bytes
    assert (
        estimate_memory(model, context_length=512, budget_bytes=2 * total).verdict is Verdict.FITS
    )
    pages = estimate_memory(model, context_length=512, budget_bytes=2000 * MIB)
    assert pages.verdict is Verdict.PAGES
    assert estimate_memory(model, context_length=512, budget_bytes=MIB).verdict is Verdict.CANNOT


def test_a_measured_peak_replaces_the_formula() -> None:
    """A measured peak is held against the budget as it is, without the safety factor."""
    e = estimate_memory(gguf(attention=None), budget_bytes=100, measured_bytes=100)
    assert (e.verdict, e.total_bytes, e.measured) == (Verdict.FITS, 100, True)


def test_a_wide_onnx_interval_across_the_budget_is_unknown() -> None:
    """An ONNX file's memory is known to a factor only: across the budget nothing is decided."""
    model = gguf(model_type=ModelType.ONNX, attention=None, size_bytes=100 * MIB)
    assert estimate_memory(model, budget_bytes=10_000 * MIB).verdict is Verdict.FITS
    assert estimate_memory(model, budget_bytes=500 * MIB).verdict is Verdict.UNKNOWN
    assert estimate_memory(model, budget_bytes=50 * MIB).verdict is Verdict.CANNOT


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_more_budget_never_makes_it_worse(total: int, budget: int, more: int) -> None:
    """Raising the budget moves the verdict only from cannot over pages to fits."""
    order = [Verdict.CANNOT, Verdict.PAGES, Verdict.FITS]
    pageable = total // 2
    before = judge(total, budget, pageable_bytes=pageable)
    after = judge(total, budget + more, pageable_bytes=pageable)
    assert order.index(before) <= order.index(after)
