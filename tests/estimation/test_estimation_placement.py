"""Weights, cache and buffers on each device, against what llama.cpp logged on real machines."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import llama3_8b

from ravenxterm_lab.estimation import Verdict, compute, estimate_memory
from ravenxterm_lab.estimation.placement import CPU, place
from ravenxterm_lab.hardware import GpuDevice
from ravenxterm_lab.metadata import HardwareType, ModelMetadata

MIB = 2**20
GIB = 2**30


def gpus(count: int, free: int = 80 * GIB, **changes: object) -> tuple[GpuDevice, ...]:
    one = GpuDevice(0, "GPU", None, HardwareType.CUDA, total_memory=free, available_memory=free)
    return tuple(replace(one, index=i, name=f"CUDA{i}", **changes) for i in range(count))


@pytest.fixture
def llama(tmp_path: Path) -> ModelMetadata:
    return llama3_8b(tmp_path / "llama3-8b.gguf")


def logged(shared_data: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((shared_data / "llama_cpp_memory.csv").read_text().splitlines()))
    assert len(rows) >= 17
    return rows


def as_logged(row: dict[str, str], model: ModelMetadata) -> object:
    return estimate_memory(
        model,
        engine="llama_cpp",
        context_length=int(row["n_ctx"]),
        batch_size=int(row["n_ubatch"]),
        kv_type=(row["type_k"], row["type_v"]),
        devices=gpus(len(json.loads(row["weights"])) - 1),
        flash_attention=bool(int(row["flash_attn"])),
    )


def test_the_fixture_has_the_published_size(llama: ModelMetadata) -> None:
    """The recipe's tensors sum to what llama.cpp logged: 281.81 + 4403.49 MiB, 4.58 GiB."""
    layout = llama.weight_layout
    assert layout.input_bytes / MIB == pytest.approx(281.81, abs=0.01)
    assert (layout.total_bytes - layout.input_bytes) / MIB == pytest.approx(4403.49, abs=0.01)
    assert layout.total_bytes / GIB == pytest.approx(4.58, abs=0.01)


def test_weights_of_each_device_are_as_logged(shared_data: Path, llama: ModelMetadata) -> None:
    """On one, four and six cards the split by layers gives each card the logged bytes."""
    for row in logged(shared_data):
        estimate = as_logged(row, llama)
        weights = json.loads(row["weights"])
        cpu = weights.pop("CPU")
        found = [device.weights_bytes / MIB for device in estimate.devices]
        assert found == pytest.approx([cpu, *weights.values()], abs=0.02), row["file"]


def test_compute_buffers_of_each_device_are_as_logged(
    shared_data: Path, llama: ModelMetadata
) -> None:
    """The allocator's replay gives 560.00, 640.01 and 640.02 MiB, and the host 24.01 or 72.02.

    The estimate's buffers on the host hold the logits of one token as well (0.49 MiB).
    """
    for row in logged(shared_data):
        estimate = as_logged(row, llama)
        compute = json.loads(row["compute"])
        host = compute.pop("CUDA_Host", None) or compute.pop("CPU")
        found = [device.compute_bytes / MIB for device in estimate.devices]
        found[0] -= 4 * 128_256 / MIB
        assert found == pytest.approx([host, *compute.values()], abs=0.006), row["file"]


def test_totals_of_each_device_are_within_five_percent(
    shared_data: Path, llama: ModelMetadata
) -> None:
    """Weights, cache and buffers of each card differ from the log by less than a thousandth."""
    for row in logged(shared_data):
        estimate = as_logged(row, llama)
        weights, compute = json.loads(row["weights"]), json.loads(row["compute"])
        kv = [device.kv_cache_bytes / MIB for device in estimate.devices]
        assert sum(kv) == float(row["kv_mib"])
        names = [name for name in weights if name != "CPU"]
        for device, name, cache in zip(estimate.devices[1:], names, kv[1:], strict=True):
            total = weights[name] + compute[name] + cache
            assert device.total_bytes / MIB == pytest.approx(total, rel=0.001), row["file"]


def test_splits_follow_free_memory(llama: ModelMetadata) -> None:
    """A card with three times the free memory gets three times the layers."""
    split = place(32, None, [30 * GIB, 10 * GIB])
    assert (split.layers.count(1), split.layers.count(2), split.output) == (25, 7, 2)


def test_partial_offload_leaves_the_first_layers_on_the_cpu(llama: ModelMetadata) -> None:
    """Ten layers on the GPU are the output and the last nine."""
    split = place(32, 10, [1])
    assert split.layers == (CPU,) * 23 + (1,) * 9
    assert split.output == 1
    estimate = estimate_memory(llama, gpu_layers=10, devices=gpus(1))
    layout = llama.weight_layout
    assert estimate.devices[1].weights_bytes == sum(layout.layer_bytes[23:]) + layout.output_bytes
    assert sum(d.weights_bytes for d in estimate.devices) == layout.total_bytes


def test_a_tied_embedding_is_held_twice_when_the_output_is_offloaded(
    llama: ModelMetadata,
) -> None:
    """llama.cpp duplicates the embedding for the output's device (TENSOR_DUPLICATED)."""
    layout = llama.weight_layout
    tied = replace(
        llama,
        weight_layout=replace(
            layout, output_bytes=layout.output_bytes - layout.head_bytes, head_bytes=0
        ),
    )
    on_gpu = estimate_memory(tied, devices=gpus(1))
    on_cpu = estimate_memory(tied)
    assert on_gpu.weights_bytes - on_cpu.weights_bytes == layout.embedding_bytes


@settings(deadline=None)
@given(
    st.integers(1, 120),
    st.none() | st.integers(0, 200),
    st.lists(st.integers(0, 10**11), max_size=8),
)
def test_every_layer_has_one_place(layers: int, wanted: int | None, free: list[int]) -> None:
    """Layers lie in order: the CPU first, then GPU after GPU; as many as were asked for."""
    split = place(layers, wanted, free)
    everything = (*split.layers, split.output)
    assert list(everything) == sorted(everything)
    assert max(everything) <= len(free)
    most = layers + 1 if wanted is None else min(wanted, layers + 1)
    assert split.offloaded == (most if free else 0)


def test_each_gpu_has_a_budget_of_its_own(llama: ModelMetadata) -> None:
    """What does not fit one card cannot be loaded, however much the other has free."""
    small, large = gpus(1, 2 * GIB)[0], gpus(1, 80 * GIB)[0]
    both = (replace(small, name="small"), replace(large, name="large"))
    estimate = estimate_memory(llama, context_length=8192, devices=both, budget_bytes=64 * GIB)
    verdicts = [device.verdict for device in estimate.devices]
    # By free memory the small card gets one layer of 33.
    assert verdicts == [Verdict.FITS, Verdict.FITS, Verdict.FITS]
    crowded = estimate_memory(
        llama,
        context_length=8192,
        devices=(replace(small, total_memory=80 * GIB, available_memory=GIB),) * 2,
        budget_bytes=64 * GIB,
    )
    assert crowded.verdict is Verdict.CANNOT
    assert "GPU" in crowded.describe() or "CUDA" in crowded.describe()


def test_a_gpu_whose_memory_is_not_known_is_unknown(llama: ModelMetadata) -> None:
    """A missing figure of one card is never turned into yes or no."""
    blind = (replace(gpus(1)[0], total_memory=None, available_memory=None),)
    assert estimate_memory(llama, devices=blind, budget_bytes=64 * GIB).verdict is Verdict.UNKNOWN


def test_unified_memory_is_counted_once(llama: ModelMetadata) -> None:
    """A GPU that uses the system's memory shares the CPU's budget."""
    apple = gpus(1, unified_memory=True)
    total = estimate_memory(llama, devices=apple).total_bytes
    assert estimate_memory(llama, devices=apple, budget_bytes=2 * total).verdict is Verdict.FITS
    half = estimate_memory(llama, devices=apple, budget_bytes=total * 6 // 10)
    assert half.verdict is Verdict.CANNOT


def test_layers_on_the_cpu_visit_the_gpu_for_long_texts(llama: ModelMetadata) -> None:
    """With half the layers offloaded the GPU also has room for a matrix and a cache of the others.

    A batch below 32 tokens is computed where the weights are, and needs none.
    """
    whole = estimate_memory(llama, devices=gpus(1)).devices[1]
    half = estimate_memory(llama, devices=gpus(1), gpu_layers=16).devices[1]
    matrix = 14_336 * 4096 * 144 // 256
    assert half.compute_bytes - whole.compute_bytes > matrix
    assert half.total_bytes < whole.total_bytes


def test_a_few_layers_stand_for_all_of_their_kind(
    llama: ModelMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first and last layers of a device are replayed: all of them give the same bytes."""
    windowed = replace(
        llama.attention,
        heads_kv=(8,) * 48,
        window=1024,
        windowed=tuple(layer % 6 != 5 for layer in range(48)),
    )
    for model in (llama, replace(llama, attention=windowed)):
        for changes in ({}, {"devices": gpus(3)}, {"flash_attention": False}):
            compute.compute_buffers.cache_clear()
            short = estimate_memory(model, **changes)
            compute.compute_buffers.cache_clear()
            with monkeypatch.context() as patched:
                patched.setattr(compute, "_ENDS", 1000)
                assert estimate_memory(model, **changes) == short
            compute.compute_buffers.cache_clear()
