"""Engines other than llama.cpp, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from headers import Q, Tensors, header_model, header_only

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import discover, sources_for
from ravenxterm_lab.estimation import Verdict, estimate_memory
from ravenxterm_lab.hardware import GpuDevice
from ravenxterm_lab.metadata import (
    AttentionGeometry,
    HardwareType,
    ModelMetadata,
    ModelType,
    NetworkShape,
)

MIB = 2**20
GIB = 2**30
SAFETENSORS = ModelMetadata(
    "m",
    ModelType.SAFETENSORS,
    Path("m"),
    16 * GIB,
    task_types=("text_generation",),
    attention=AttentionGeometry((8,) * 32, 128, 128),
    context_length=8192,
    embedding_length=4096,
    vocabulary_size=128_256,
)


def gpu(total: int, free: int | None = None) -> GpuDevice:
    free = total if free is None else free
    return GpuDevice(0, "card", None, HardwareType.CUDA, total_memory=total, available_memory=free)


def test_vllm_takes_its_share_of_the_card_whatever_the_model() -> None:
    """0.92 of the GPU is reserved; the cache is what weights and activations leave of it."""
    estimate = estimate_memory(SAFETENSORS, engine="vllm", devices=(gpu(80 * GIB),))
    card = estimate.devices[1]
    assert card.total_bytes == pytest.approx(0.92 * 80 * GIB, rel=1e-6)
    assert card.kv_cache_bytes > 50 * GIB
    assert estimate.weights_bytes == 16 * GIB


def test_vllm_needs_room_for_one_cache() -> None:
    """On a card that its weights fill, the cache still needs its blocks, and does not fit."""
    estimate = estimate_memory(
        SAFETENSORS, engine="vllm", context_length=8192, devices=(gpu(17 * GIB),)
    )
    # 32 layers · 8192 tokens · 8 heads · (128 + 128) · 2 bytes.
    assert estimate.kv_cache_bytes == GIB
    assert estimate.verdict is Verdict.CANNOT


def test_vllm_does_not_fit_where_others_hold_the_memory() -> None:
    """It reserves from the whole card, not from what is free."""
    estimate = estimate_memory(SAFETENSORS, engine="vllm", devices=(gpu(80 * GIB, 40 * GIB),))
    assert estimate.verdict is Verdict.CANNOT


def test_transformers_has_a_wide_interval_until_it_is_measured() -> None:
    """Weights and a fifth, a cache that grows, torch itself; it says that it was not measured."""
    estimate = estimate_memory(SAFETENSORS, context_length=8192)
    assert estimate.engine == "transformers"
    assert "not measured" in estimate.source
    assert estimate.kv_cache_bytes == GIB
    assert estimate.low_bytes < 0.92 * estimate.total_bytes
    assert estimate.high_bytes > 1.3 * estimate.total_bytes
    spanned = estimate_memory(SAFETENSORS, context_length=8192, budget_bytes=estimate.total_bytes)
    assert spanned.verdict is Verdict.UNKNOWN


def test_a_wide_interval_is_held_against_each_card() -> None:
    """On a card that only the low end fits nothing is decided; a small and a large one are."""
    verdicts = [
        estimate_memory(
            SAFETENSORS, context_length=8192, devices=(gpu(size * GIB),), budget_bytes=8 * GIB
        ).verdict
        for size in (16, 20, 40)
    ]
    assert verdicts == [Verdict.CANNOT, Verdict.UNKNOWN, Verdict.FITS]


def test_a_windowed_layer_s_cache_stops_at_the_window() -> None:
    """On a sliding layer transformers caches no more than the window."""
    windowed = replace(
        SAFETENSORS,
        attention=AttentionGeometry((8,) * 2, 128, 128, window=1024, windowed=(True, False)),
    )
    estimate = estimate_memory(windowed, context_length=8192)
    assert estimate.kv_cache_bytes == (1024 + 8192) * 8 * 256 * 2


@pytest.mark.parametrize("engine", ["llama_cpp", "transformers", "vllm"])
def test_without_a_geometry_nothing_is_claimed(engine: str) -> None:
    """No engine that generates is judged without the attention geometry."""
    blind = replace(SAFETENSORS, attention=None)
    estimate = estimate_memory(blind, engine=engine, budget_bytes=10**15)
    assert estimate.verdict is Verdict.UNKNOWN
    assert estimate.total_bytes is None
    assert estimate.devices == ()
    assert "attention" in estimate.describe()


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    """A BERT reads a whole text at once: weights and scratch, no cache, and a wide interval."""
    keys = {
        "block_count": 2,
        "embedding_length": 384,
        "attention.head_count": 12,
        "attention.causal": False,
    }
    tensors: Tensors = {
        "token_embd.weight": ((30_522, 384), Q.F16),
        "blk.0.attn_q.weight": ((384, 384), Q.F16),
        "blk.1.attn_q.weight": ((384, 384), Q.F16),
    }
    model = header_model(tmp_path / "m.gguf", "bert", keys, tensors)
    estimate = estimate_memory(model, context_length=512, budget_bytes=GIB)
    assert estimate.kv_cache_bytes == 0
    assert estimate.verdict is Verdict.FITS
    assert estimate.total_bytes > estimate.weights_bytes > 0


@pytest.mark.parametrize(
    ("arch", "keys"),
    [
        ("llada", {"attention.head_count": 32}),
        ("mamba2", {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 64}),
        ("llama", {"attention.head_count": 8, "expert_count": 2**31, "expert_used_count": 2**31}),
        ("llama", {"attention.head_count": 2**24, "attention.key_length": 2**24}),
    ],
    ids=["no-cache", "no-attention", "experts", "heads"],
)
def test_odd_and_hostile_headers_are_estimated_in_bounded_time(
    tmp_path: Path, arch: str, keys: dict[str, int]
) -> None:
    """Networks without attention or cache, and absurd counts, give an answer at once."""
    base = {"block_count": 8000, "embedding_length": 2048, "vocab_size": 50_000}
    model = header_model(tmp_path / "m.gguf", arch, base | keys)
    estimate = estimate_memory(model, context_length=2**20, kv_type="q8_0", budget_bytes=GIB)
    assert estimate.total_bytes > 0
    assert estimate.total_bytes == sum(device.total_bytes for device in estimate.devices)


def test_a_format_without_a_formula_is_unknown() -> None:
    """A TFLite file has no formula: the answer names what is missing, and a load teaches it."""
    estimate = estimate_memory(replace(SAFETENSORS, model_type=ModelType.TFLITE), budget_bytes=1)
    assert estimate.verdict is Verdict.UNKNOWN
    assert "learned from a load" in estimate.source


def test_a_mixture_is_judged_by_all_its_experts() -> None:
    """Mixtral 8x7B at 26 GB does not fit 16 GiB, although a token meets 13 of 47 B parameters."""
    mixture = replace(
        SAFETENSORS,
        model_type=ModelType.GGUF,
        size_bytes=26 * 10**9,
        parameter_count=46_700_000_000,
        active_parameter_count=12_900_000_000,
        network=NetworkShape(32, 4096, 4096, 0, expert_feed_forward=14_336),
    )
    estimate = estimate_memory(mixture, budget_bytes=16 * GIB)
    assert estimate.weights_bytes == 26 * 10**9
    # It is mapped, so that it would page; on a GPU, which cannot page, it does not go at all.
    assert estimate.verdict is Verdict.PAGES
    on_gpu = estimate_memory(mixture, budget_bytes=64 * GIB, devices=(gpu(16 * GIB),))
    assert on_gpu.verdict is Verdict.CANNOT


def test_a_projector_counts_in_the_weights(tmp_path: Path) -> None:
    """The file that turns pictures into tokens is loaded with the model beside it."""
    tensors: Tensors = {"token_embd.weight": ((64, 32), Q.F16), "blk.0.x.weight": ((32, 32), Q.F16)}
    keys = {"block_count": 1, "embedding_length": 32, "attention.head_count": 2}
    header_only(tmp_path / "model.gguf", "llama", keys, tensors)
    header_only(
        tmp_path / "mmproj-model.gguf",
        "clip",
        {},
        {"v.blk.0.x.weight": ((512, 512), Q.F16)},
        general={"general.type": "mmproj"},
    )
    (model,) = discover(sources_for(tmp_path, paths())).models.values()
    size = (tmp_path / "mmproj-model.gguf").stat().st_size
    assert model.projector_bytes == size
    alone = replace(model, projector_bytes=0)
    more = estimate_memory(model).weights_bytes - estimate_memory(alone).weights_bytes
    assert more == size
    card = (gpu(8 * GIB),)
    moved = estimate_memory(model, devices=card).devices[1].weights_bytes
    assert moved - estimate_memory(alone, devices=card).devices[1].weights_bytes == size
