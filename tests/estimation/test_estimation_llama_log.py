"""The estimator against what llama.cpp itself logs here when it loads a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from loadable import by_layer, fused, gemma3_270m, hybrid, mixture

from ravenxterm_lab.discovery.assemble import build_model
from ravenxterm_lab.estimation import MemoryEstimate, estimate_memory
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.readers import read_facts
from ravenxterm_lab.runtimes import LoadOptions, LoadReport
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

pytestmark = pytest.mark.models
MIB = 2**20
# It logs hundredths of MiB, for each buffer by itself.
ROUNDING = 0.0101


def read(path: Path) -> ModelMetadata:
    facts = read_facts(path)
    assert facts is not None
    return build_model(facts, name=path.stem, paths=(path,), mark="0" * 32, source="directory")


def load(
    model: ModelMetadata, context: int, kv_type: str = "f16", batch: int = 512
) -> tuple[LoadReport, MemoryEstimate]:
    """Load a model, and estimate the same load."""
    model = replace(model, task_types=("text_generation",))
    options = LoadOptions(context_length=context, kv_type=kv_type, batch_size=batch, threads=1)
    with LlamaCppRuntime().load(model, options) as loaded:
        report = loaded.report
    estimate = estimate_memory(
        model,
        context_length=context,
        kv_type=kv_type,
        batch_size=batch,
        instruction_sets=HardwareProfile.detect().instruction_sets,
    )
    return report, estimate


def agree(report: LoadReport, estimate: MemoryEstimate) -> None:
    """Every buffer is as logged: weights, copies, cache, and scratch with the logits."""
    logged = {name: size / MIB for name, size in report.buffers.items()}
    assert estimate.kv_cache_bytes / MIB == pytest.approx(logged["kv"], abs=2 * ROUNDING)
    assert estimate.weights_bytes / MIB == pytest.approx(logged["weights"], abs=ROUNDING)
    assert estimate.repack_bytes / MIB == pytest.approx(logged.get("repack", 0), abs=ROUNDING)
    scratch = logged["compute"] + logged["output"]
    assert estimate.compute_bytes / MIB == pytest.approx(scratch, abs=2 * ROUNDING)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("context", [512, 2048, 8192])
def test_smollm2(demo_directory: Path, context: int, kv_type: str) -> None:
    """SmolLM2-135M (Q4_0, repacked on AVX2): every buffer as logged, at three contexts."""
    path = demo_directory / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_0.gguf"
    agree(*load(read(path), context, kv_type))


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("context", [512, 2048, 8192])
def test_gemma_3(demo_directory: Path, tmp_path: Path, context: int, kv_type: str) -> None:
    """Gemma 3 270M, windowed on 15 of 18 layers: the real file where it was fetched.

    Elsewhere a model of the same geometry stands for it, loaded just as really.
    """
    real = demo_directory / "gemma-3-270m" / "gemma-3-270m.Q4_K_M.gguf"
    model = read(real) if real.is_file() else gemma3_270m(tmp_path / "gemma.gguf")
    agree(*load(model, context, kv_type))


@pytest.mark.parametrize("make", [gemma3_270m, mixture, by_layer, fused])
@pytest.mark.parametrize("batch", [64, 512])
def test_made_models(tmp_path: Path, make: Callable[[Path], ModelMetadata], batch: int) -> None:
    """A windowed one, a mixture of experts, layers that differ, fused matrices; two batches."""
    agree(*load(make(tmp_path / "model.gguf"), 4096, batch=batch))


@pytest.mark.parametrize("batch", [64, 512])
def test_a_hybrid(tmp_path: Path, batch: int) -> None:
    """Attention on one of four layers, a Mamba-2 state on three: cache, state and scratch."""
    agree(*load(hybrid(tmp_path / "model.gguf"), 4096, batch=batch))


@pytest.mark.parametrize("quantization", ["Q4_1", "Q4_0"])
@pytest.mark.parametrize("context", [512, 2048])
def test_resident_memory(demo_directory: Path, quantization: str, context: int) -> None:
    """What the worker really holds, measured here, is within 3% or 32 MiB of the estimate.

    After eight tokens most of the scratch is untouched; after a prompt of a whole batch it is in
    use. Both lie in the interval.
    """
    name = f"SmolLM2-135M-Instruct.{quantization}.gguf"
    model = read(demo_directory / "smollm2-135m-instruct" / name)
    options = LoadOptions(context_length=context, threads=1)
    parameters = {"temperature": 0.0, "raw": True}
    held = []
    with LlamaCppRuntime().load(model, options) as loaded:
        idle = loaded.memory().total - loaded.report.memory_bytes
        for text, tokens in (("Once upon a time", 8), ("word " * min(context - 80, 600), 1)):
            loaded.run("text_generation", text, parameters=parameters | {"max_tokens": tokens})
            held.append(loaded.memory().total - idle)
    estimate = estimate_memory(
        model,
        context_length=context,
        instruction_sets=HardwareProfile.detect().instruction_sets,
    )
    for size in held:
        assert abs(estimate.total_bytes - size) <= max(0.03 * size, 32 * MIB)
        assert estimate.low_bytes <= size <= estimate.high_bytes
