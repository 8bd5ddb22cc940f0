"""The largest context and the best offload are what the estimator itself would confirm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import llama3_8b

from ravenxterm_lab.estimation import Verdict, estimate_memory
from ravenxterm_lab.estimation.search import best_offload, largest_context
from ravenxterm_lab.hardware import GpuDevice
from ravenxterm_lab.metadata import HardwareType, ModelMetadata

MIB = 2**20
GIB = 2**30
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelMetadata:
    model = llama3_8b(tmp_path_factory.mktemp("models") / "llama3-8b.gguf")
    return replace(model, context_length=131_072)


def gpus(*free: int) -> tuple[GpuDevice, ...]:
    return tuple(
        GpuDevice(i, f"GPU {i}", None, HardwareType.CUDA, total_memory=size, available_memory=size)
        for i, size in enumerate(free)
    )


@FEW
@given(st.integers(4 * GIB, 40 * GIB))
def test_the_largest_context_fits_and_the_next_does_not(llama: ModelMetadata, budget: int) -> None:
    """One step of cells more than the largest context is over the budget."""
    found = largest_context(llama, budget_bytes=budget)
    if found:
        fits = estimate_memory(llama, context_length=found, budget_bytes=budget)
        assert fits.verdict is Verdict.FITS
    if found < llama.context_length:
        more = estimate_memory(llama, context_length=found + 1, budget_bytes=budget)
        assert more.verdict is not Verdict.FITS


@FEW
@given(st.integers(4 * GIB, 30 * GIB), st.integers(0, 10 * GIB))
def test_more_budget_never_shortens_the_context(
    llama: ModelMetadata, budget: int, more: int
) -> None:
    """The largest context grows with the budget."""
    small = largest_context(llama, budget_bytes=budget)
    assert largest_context(llama, budget_bytes=budget + more) >= small


def test_a_smaller_cache_type_allows_a_longer_context(llama: ModelMetadata) -> None:
    """Half the bytes of a cached token allow nearly twice the tokens."""
    full = largest_context(llama, budget_bytes=12 * GIB)
    half = largest_context(llama, budget_bytes=12 * GIB, kv_type="q8_0")
    assert 1.6 * full < half < 2 * full


def test_paging_counts_where_it_is_allowed(llama: ModelMetadata) -> None:
    """A file that exceeds the memory has no context that fits, and one with which it pages."""
    assert largest_context(llama, budget_bytes=3 * GIB) == 0
    assert largest_context(llama, budget_bytes=3 * GIB, paging=True) > 4096


def test_what_is_unknown_has_no_largest_context(llama: ModelMetadata) -> None:
    """Without the attention geometry nothing is claimed."""
    blind = replace(llama, attention=None)
    assert largest_context(blind, budget_bytes=100 * GIB) is None
    assert best_offload(blind, gpus(24 * GIB)) is None


@FEW
@given(st.lists(st.integers(1 * GIB, 12 * GIB), min_size=1, max_size=3))
def test_the_best_offload_fits_and_no_more_layers_do(llama: ModelMetadata, free: list[int]) -> None:
    """Every larger number of layers is over the budget of some GPU."""
    devices = gpus(*free)
    found = best_offload(llama, devices, context_length=4096)

    def verdicts(layers: int) -> set[Verdict]:
        estimate = estimate_memory(llama, devices=devices, gpu_layers=layers, context_length=4096)
        return {device.verdict for device in estimate.devices[1:]}

    assert verdicts(found.gpu_layers) == {Verdict.FITS}
    for layers in range(found.gpu_layers + 1, 34):
        assert Verdict.CANNOT in verdicts(layers)
    assert found.whole is (found.gpu_layers == 33)


def test_a_longer_context_leaves_room_for_fewer_layers(llama: ModelMetadata) -> None:
    """The cache of a layer goes where the layer goes."""
    short = best_offload(llama, gpus(6 * GIB), context_length=2048)
    long = best_offload(llama, gpus(6 * GIB), context_length=32_768)
    assert short.gpu_layers > long.gpu_layers > 0


def test_a_gpu_of_unknown_size_has_no_answer(llama: ModelMetadata) -> None:
    """Where a GPU does not say how much it has, no number of layers is recommended."""
    blind = (replace(gpus(1)[0], total_memory=None, available_memory=None),)
    assert best_offload(llama, blind) is None
    with pytest.raises(ValueError, match="at least one device"):
        best_offload(llama, ())
