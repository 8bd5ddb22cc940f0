"""The memory that a model takes when it is loaded, item by item, for a named engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.verdict import Verdict, judge
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from ravenxterm_lab.metadata import AttentionGeometry, ModelMetadata

__all__ = ["MemoryEstimate", "estimate_memory", "kv_cache_bytes"]

MIB = 1024**2

#: Bytes per cached element: block bytes / block elements of ggml's types (ggml-common.h).
KV_TYPE_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
#: llama.cpp pads the number of cells to this (llama-context.cpp, GGML_PAD(n_ctx, 256)).
CELL_PADDING = 256
#: Tensor types that llama.cpp copies into an interleaved layout on CPUs with AVX2 or
#: dot-product instructions: file-backed pages and the anonymous copy are both held.
REPACKED_TYPES = frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL"})
REPACKING_INSTRUCTIONS = frozenset({"avx2", "dotprod", "i8mm", "sve"})

# Fitted on the fifteen measured loads of the design page on runtimes (SmolLM2 and Gemma 3,
# three contexts): 26 MiB + 150 B per token of vocabulary explains them within 0.6%. The
# 26 MiB are split into the activations of one micro-batch, which grow with the width of the
# model, and the rest.
_VOCABULARY_BYTES = 150
_ACTIVATION_COPIES = 12
_ENGINE_OVERHEAD = 12 * MIB
_LLAMA_CPP_SPREAD = 0.08

# RSS / file size of ONNX models ranged from 1.4 to 13.5 where it was measured, so the
# interval says so until the first load is measured.
_ONNX_FACTOR, _ONNX_LOW, _ONNX_HIGH = 2.5, 1.4, 13.5
_ONNX_OVERHEAD = 24 * MIB


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a load takes, in bytes, and whether that fits.

    Attributes
    ----------
    engine : str
        The runtime that it holds for.
    context_length : int or None
        Tokens of context that it holds for.
    weights_bytes : int or None
        Weights as mapped from the file.
    repack_bytes : int
        Weights copied into another layout beside the mapped ones.
    kv_cache_bytes : int or None
        The KV cache (and recurrent state).
    compute_bytes, overhead_bytes : int
        Scratch buffers; the engine itself.
    total_bytes : int or None
        The sum, or the measured peak; None when a needed fact is missing.
    low_bytes, high_bytes : int or None
        An interval around the total.
    budget_bytes : int or None
        What it was held against.
    verdict : Verdict
        Fits, pages, cannot, or unknown.
    measured : bool
        Whether the total was measured on an earlier load here.
    source : str
        Which formula or measurement was used.
    missing : tuple of str
        Facts that would be needed.
    """

    engine: str
    context_length: int | None
    weights_bytes: int | None
    repack_bytes: int
    kv_cache_bytes: int | None
    compute_bytes: int
    overhead_bytes: int
    total_bytes: int | None
    low_bytes: int | None
    high_bytes: int | None
    budget_bytes: int | None
    verdict: Verdict
    measured: bool
    source: str
    missing: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for a person, such as ``"fits: 172 MiB at 2,048 tokens"``."""
        if self.total_bytes is None:
            return f"unknown: {', '.join(self.missing) or 'no estimate'} not known"
        size = format_bytes(self.total_bytes)
        context = f" at {self.context_length:,} tokens" if self.context_length else ""
        how = "measured" if self.measured else "estimated"
        line = f"{self.verdict.value}: {size}{context} ({how})"
        if self.verdict in (Verdict.PAGES, Verdict.CANNOT):
            line += f", budget {format_bytes(self.budget_bytes)}"
        return line


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING


def kv_cache_bytes(
    attention: AttentionGeometry,
    context_length: int,
    *,
    kv_type: str = "f16",
    micro_batch: int = 512,
    sequences: int = 1,
) -> int:
    """Return the bytes of llama.cpp's KV cache, exactly.

    Per layer ``cells · heads_kv · (key_length · b + value_length · b)`` with the cells padded
    to 256; a sliding-window layer keeps ``pad(min(cells, window · sequences + micro_batch))``
    of them; multi-head latent attention keeps one latent and the rotary part, and no V; a
    layer without KV heads adds nothing, and recurrent state is f32.
    Source: llama.cpp, ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
    ``llama-memory-recurrent.cpp``.

    Parameters
    ----------
    attention : AttentionGeometry
        The model's layers.
    context_length : int
        Tokens.
    kv_type : str
        One of ``f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl``, for keys and values alike.
    micro_batch : int
        Tokens that are computed at once (``n_ubatch``).
    sequences : int
        Slots that share the cache.

    Raises
    ------
    ValueError
        On an unknown ``kv_type`` or a context below 1.
    """
    if kv_type not in KV_TYPE_BYTES:
        raise ValueError(f"kv_type {kv_type!r} is unknown; use one of {', '.join(KV_TYPE_BYTES)}.")
    if context_length < 1:
        raise ValueError(f"context_length must be 1 or more, got {context_length}.")
    width = KV_TYPE_BYTES[kv_type]
    cells = _padded(context_length)
    windowed_cells = cells
    if attention.window:
        windowed_cells = min(cells, _padded(attention.window * sequences + micro_batch))
    if attention.latent_rank:
        per_head = (attention.latent_rank + (attention.rope_dimension or 0)) * width
    else:
        per_head = (attention.key_length + attention.value_length) * width
    total = 0.0
    for layer, heads in enumerate(attention.heads_kv):
        windowed = layer < len(attention.windowed) and attention.windowed[layer]
        total += (windowed_cells if windowed else cells) * heads * per_head
    return round(total) + 4 * attention.recurrent_elements * sequences


def estimate_memory(
    model: ModelMetadata,
    *,
    engine: str | None = None,
    context_length: int | None = None,
    kv_type: str = "f16",
    micro_batch: int = 512,
    instruction_sets: Collection[str] = (),
    budget_bytes: int | None = None,
    measured_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimate what loading a model takes on the CPU.

    Parameters
    ----------
    model : ModelMetadata
        The model.
    engine : str, optional
        ``"llama_cpp"`` or ``"onnx"``; by default the first of its runtimes, else the one that
        its format points to.
    context_length : int, optional
        Tokens; by default what the runtime would load: ``min(trained, 4096)``.
    kv_type : str
        Type of the cached keys and values.
    micro_batch : int
        Tokens computed at once.
    instruction_sets : collection of str
        Of the CPU: they decide whether llama.cpp repacks the weights.
    budget_bytes : int, optional
        Held against the total for the verdict.
    measured_bytes : int, optional
        A peak measured on an earlier load with the same settings: it replaces the sum.

    Returns
    -------
    MemoryEstimate
        With verdict ``unknown`` when a needed fact is missing.
    """
    engine = engine or (model.runtimes[0] if model.runtimes else _engine_of(model.model_type))
    # An engine without a formula of its own is judged by the engine that its format is made for.
    formula = engine if engine in ("llama_cpp", "onnx") else _engine_of(model.model_type)
    if formula == "llama_cpp":
        parts = _llama_cpp(model, context_length, kv_type, micro_batch, instruction_sets)
    elif formula == "onnx":
        parts = _onnx(model)
    else:
        parts = _Parts(
            source=f"no formula for {model.model_type.value} with {engine}; learned from a load",
            missing=("what this engine needs for this format",),
        )
    total = None if parts.missing else parts.sum()
    low, high = parts.interval(total)
    if measured_bytes is not None:
        total = low = high = measured_bytes
        parts.source = "peak measured on an earlier load here"
        parts.missing = ()
    # A wide interval decides nothing: it fits when even its upper end does.
    decisive = high if formula == "onnx" and measured_bytes is None else total
    verdict = judge(
        decisive,
        budget_bytes,
        pageable_bytes=(parts.weights or 0) if formula == "llama_cpp" else 0,
        measured=measured_bytes is not None,
    )
    if verdict is Verdict.CANNOT and decisive is not total and low is not None:
        assert budget_bytes is not None
        verdict = Verdict.CANNOT if low > budget_bytes else Verdict.UNKNOWN
    return MemoryEstimate(
        engine=engine,
        context_length=parts.context_length,
        weights_bytes=parts.weights,
        repack_bytes=parts.repack,
        kv_cache_bytes=parts.kv,
        compute_bytes=parts.compute,
        overhead_bytes=parts.overhead,
        total_bytes=total,
        low_bytes=low,
        high_bytes=high,
        budget_bytes=budget_bytes,
        verdict=verdict,
        measured=measured_bytes is not None,
        source=parts.source,
        missing=tuple(parts.missing),
    )


@dataclass(slots=True)
class _Parts:
    source: str
    missing: tuple[str, ...] = ()
    weights: int | None = None
    repack: int = 0
    kv: int | None = None
    compute: int = 0
    overhead: int = 0
    context_length: int | None = None
    low_factor: float = 1.0
    high_factor: float = 1.0

    def sum(self) -> int:
        return (self.weights or 0) + self.repack + (self.kv or 0) + self.compute + self.overhead

    def interval(self, total: int | None) -> tuple[int | None, int | None]:
        if total is None:
            return None, None
        return round(total * self.low_factor), round(total * self.high_factor)


def _engine_of(model_type: ModelType) -> str:
    return {ModelType.GGUF: "llama_cpp", ModelType.OLLAMA: "llama_cpp", ModelType.ONNX: "onnx"}.get(
        model_type, "none"
    )


def _llama_cpp(
    model: ModelMetadata,
    context_length: int | None,
    kv_type: str,
    micro_batch: int,
    instruction_sets: Collection[str],
) -> _Parts:
    context = context_length or min(model.context_length or 4096, 4096)
    parts = _Parts(
        source="file + KV + repack + activations + 150 B per token of vocabulary + 12 MiB",
        weights=model.size_bytes,
        context_length=context,
        low_factor=1 - _LLAMA_CPP_SPREAD,
        high_factor=1 + _LLAMA_CPP_SPREAD,
    )
    if model.attention is None:
        parts.missing = ("the attention geometry",)
        return parts
    parts.kv = kv_cache_bytes(model.attention, context, kv_type=kv_type, micro_batch=micro_batch)
    if REPACKING_INSTRUCTIONS & set(instruction_sets):
        parts.repack = sum(
            size for name, size in model.tensor_bytes.items() if name.upper() in REPACKED_TYPES
        )
    parts.compute = (
        micro_batch * (model.embedding_length or 0) * 4 * _ACTIVATION_COPIES
        + (model.vocabulary_size or 0) * _VOCABULARY_BYTES
    )
    parts.overhead = _ENGINE_OVERHEAD
    return parts


def _onnx(model: ModelMetadata) -> _Parts:
    weights = model.size_bytes
    compute = round(weights * (_ONNX_FACTOR - 1))
    total = weights + compute + _ONNX_OVERHEAD
    return _Parts(
        source="2.5 × file + 24 MiB; RSS / file ranged from 1.4 to 13.5 where measured",
        weights=weights,
        compute=compute,
        overhead=_ONNX_OVERHEAD,
        low_factor=(weights * _ONNX_LOW + _ONNX_OVERHEAD) / total,
        high_factor=(weights * _ONNX_HIGH + _ONNX_OVERHEAD) / total,
    )
