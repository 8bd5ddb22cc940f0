"""What each engine takes: llama.cpp, ONNX Runtime, transformers and vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.compute import Batch, compute_buffers
from ravenxterm_lab.estimation.kv import cache_cells, kv_layer_bytes, kv_pair
from ravenxterm_lab.estimation.placement import CPU, place
from ravenxterm_lab.estimation.weights import device_bytes, repack_bytes
from ravenxterm_lab.metadata import ModelType

if TYPE_CHECKING:
    from collections.abc import Collection

    from ravenxterm_lab.estimation.kv import CacheCells
    from ravenxterm_lab.estimation.placement import Placement
    from ravenxterm_lab.hardware import GpuDevice
    from ravenxterm_lab.metadata import AttentionGeometry, ModelMetadata

__all__ = ["ENGINES", "Parts", "Settings", "Share", "engine_for", "parts_of"]

MIB = 1024**2

# What llama.cpp and its server hold beside weights, cache and buffers: the code of the library,
# threads, the work space of the operators. Learned on any one of five models it is 21 to 22 MiB,
# and then misses the peaks of the four others by 1.7% at most; the largest single load needed
# 23.3 MiB (tests/benchmarks/bench_memory.py prints both).
_ENGINE = 24 * MIB
# For each token of the vocabulary, counted from llama-vocab.cpp on a 64-bit system: its entry
# (40), its place in the map from text (72) and its piece (32), and the allocator's padding.
_VOCABULARY_BYTES = 150
# A text much shorter than a batch leaves most of the compute buffer untouched. Beyond that the
# formula missed measured peaks by 2.1% at most (bench_memory.py).
_SCATTER, _SCATTER_BYTES = 0.02, 8 * MIB
# Without the shape of the network: activations of about this many hidden states.
_HIDDEN_STATES = 12

# RSS / file size of ONNX models ranged from 1.4 to 13.5 where it was measured, so the
# interval says so until the first load is measured.
_ONNX_FACTOR, _ONNX_LOW, _ONNX_HIGH = 2.5, 1.4, 13.5
_ONNX_OVERHEAD = 24 * MIB

# The share of a GPU that vLLM takes by default, and the tokens of one block of its cache
# (docs.vllm.ai, vllm.config.cache: gpu_memory_utilization 0.92, DEFAULT_BLOCK_SIZE 16).
_VLLM_SHARE, _VLLM_BLOCK = 0.92, 16
# On a CPU it reserves this for the cache (docs.vllm.ai, VLLM_CPU_KVCACHE_SPACE).
_VLLM_CPU_CACHE = 4 * 1024 * MIB
# Inference with transformers takes about a fifth more than the weights, without the cache
# (EleutherAI, "Transformer Math 101": total memory of inference = 1.2 × model memory).
_TORCH_FACTOR = 0.2
# Python with torch imported; the first use of CUDA.
_TORCH_OVERHEAD = 400 * MIB
_TORCH_LOW, _TORCH_HIGH = 0.9, 1.4


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model would be loaded."""

    context_length: int | None = None
    batch_size: int = 512
    kv_type: str | tuple[str, str] = "f16"
    gpu_layers: int | None = None
    devices: tuple[GpuDevice, ...] = ()
    sequences: int = 1
    unified: bool = False
    flash_attention: bool | None = None
    instruction_sets: Collection[str] = ()


@dataclass(slots=True)
class Share:
    """What one device holds, in bytes."""

    weights: int = 0
    repack: int = 0
    kv: int = 0
    compute: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """The sum of the items."""
        return self.weights + self.repack + self.kv + self.compute + self.overhead


@dataclass(slots=True)
class Parts:
    """What an engine takes: the CPU's share first, then each GPU's.

    ``below`` and ``above`` are bytes on either side of the total; ``wide`` says that only an
    interval that lies on one side of the budget decides; ``mapped`` is file-backed.
    """

    source: str
    shares: list[Share] = field(default_factory=lambda: [Share()])
    context_length: int | None = None
    below: int = 0
    above: int = 0
    mapped: int = 0
    wide: bool = False
    has_cache: bool = False
    missing: tuple[str, ...] = ()


def engine_for(model_type: ModelType) -> str:
    """Return the engine that a format is made for; ``"none"`` where there is no formula."""
    return {
        ModelType.GGUF: "llama_cpp",
        ModelType.OLLAMA: "llama_cpp",
        ModelType.ONNX: "onnx",
        ModelType.SAFETENSORS: "transformers",
    }.get(model_type, "none")


def parts_of(model: ModelMetadata, formula: str, settings: Settings) -> Parts:
    """Return what an engine takes.

    Parameters
    ----------
    model : ModelMetadata
    formula : str
        One of `ENGINES`; any other has no formula, and something is missing.
    settings : Settings
    """
    compute = ENGINES.get(formula)
    if compute is None:
        return Parts(
            source=f"no formula for {model.model_type.value} with {formula}; learned from a load",
            missing=("what this engine needs for this format",),
        )
    return compute(model, settings)


def _context(model: ModelMetadata, settings: Settings) -> int:
    return settings.context_length or min(model.context_length or 4096, 4096)


def _free(devices: tuple[GpuDevice, ...]) -> list[int]:
    return [device.available_memory or device.total_memory or 0 for device in devices]


def _llama_cpp(model: ModelMetadata, settings: Settings) -> Parts:
    context = _context(model, settings)
    attention = model.attention
    if attention is None:
        return Parts(
            source="weights + KV + compute buffers + overhead of llama.cpp",
            context_length=context,
            missing=("the attention geometry",),
        )
    placement = place(attention.layers, settings.gpu_layers, _free(settings.devices))
    shares = [Share() for _ in range(placement.gpus + 1)]
    for share, size in zip(shares, device_bytes(model, placement), strict=True):
        share.weights = size
    shares[CPU].repack = repack_bytes(model, placement, settings.instruction_sets)
    sizes = kv_layer_bytes(
        attention,
        context,
        kv_type=settings.kv_type,
        batch_size=settings.batch_size,
        sequences=settings.sequences,
        unified=settings.unified,
        flash_attention=settings.flash_attention,
    )
    for device, size in zip(placement.layers, sizes, strict=True):
        shares[device].kv += size
    buffers, exact = _buffers(model, attention, settings, context, placement)
    for share, size in zip(shares, buffers, strict=True):
        share.compute = size
    vocabulary = model.vocabulary_size or 0
    # The logits that the caller reads, in memory of their own.
    shares[CPU].compute += 4 * vocabulary * settings.sequences
    shares[CPU].overhead = _ENGINE + _VOCABULARY_BYTES * vocabulary
    total = sum(share.total for share in shares)
    scatter = round(total * _SCATTER) + _SCATTER_BYTES
    return Parts(
        source="tensors by device + KV + compute buffers by ggml's allocator + "
        "24 MiB and 150 B per token of vocabulary"
        if exact
        else "tensors + KV + about twelve hidden states + 24 MiB and 150 B per token of vocabulary",
        shares=shares,
        context_length=context,
        below=shares[CPU].compute + scatter,
        above=scatter + (0 if exact else sum(buffers)),
        mapped=shares[CPU].weights,
        has_cache=True,
    )


def _buffers(
    model: ModelMetadata,
    attention: AttentionGeometry,
    settings: Settings,
    context: int,
    placement: Placement,
) -> tuple[list[int], bool]:
    """Return the compute buffers, and whether the graph is one that was checked."""
    cells = cache_cells(
        attention,
        context,
        batch_size=settings.batch_size,
        sequences=settings.sequences,
        unified=settings.unified,
    )
    width = model.embedding_length
    if model.network is None or not width or not model.vocabulary_size:
        return _rough(model, cells, placement), False
    keys, values = kv_pair(settings.kv_type)
    layout = model.weight_layout
    experts, used = (layout.experts if layout is not None else None) or (0, 0)
    turns = attention.key_length % 64 == 0 and not attention.latent_rank
    sizes = compute_buffers(
        model.network,
        attention,
        width,
        model.vocabulary_size,
        used,
        experts,
        Batch(
            cells,
            outputs=_outputs(settings, cells),
            flash_attention=settings.flash_attention is not False,
            rotated_keys=turns and _quantized(keys),
            rotated_values=turns and _quantized(values) and attention.value_length % 64 == 0,
            # Builds with GPUs were seen in logs of 2024 only; their buffers on the GPUs are
            # those of today, and on the host they lack inputs that text does not use.
            recent=not placement.offloaded,
        ),
        placement,
    )
    plain = not (attention.latent_rank or attention.recurrent_elements)
    return list(sizes), plain and placement.offloaded in (0, attention.layers + 1)


def _outputs(settings: Settings, cells: CacheCells) -> int:
    """Return the tokens whose logits are computed at once: a server asks for one a sequence."""
    return cells.batch if settings.devices else min(settings.sequences, cells.batch)


def _rough(model: ModelMetadata, cells: CacheCells, placement: Placement) -> list[int]:
    size = cells.batch * (model.embedding_length or 0) * 4 * _HIDDEN_STATES
    size += cells.batch * cells.full * 4
    used = {*placement.layers, placement.output}
    return [size if device in used else 0 for device in range(placement.gpus + 1)]


def _quantized(kind: str) -> bool:
    return kind not in ("f32", "f16", "bf16")


def _onnx(model: ModelMetadata, settings: Settings) -> Parts:
    del settings  # its sessions run on the CPU, and have no context of their own
    weights = model.size_bytes
    share = Share(
        weights=weights, compute=round(weights * (_ONNX_FACTOR - 1)), overhead=_ONNX_OVERHEAD
    )
    return Parts(
        source="2.5 × file + 24 MiB; RSS / file ranged from 1.4 to 13.5 where measured",
        shares=[share],
        below=share.total - round(weights * _ONNX_LOW) - _ONNX_OVERHEAD,
        above=round(weights * _ONNX_HIGH) + _ONNX_OVERHEAD - share.total,
        wide=True,
    )


def _torch_cache(model: ModelMetadata, settings: Settings, context: int, block: int) -> int:
    """Bytes of a cache that grows in blocks of tokens, on windowed layers up to the window."""
    attention = model.attention
    if attention is None:
        return 0
    length = -(-context // block) * block
    total = 0
    for layer, heads in enumerate(attention.heads_kv):
        windowed = layer < len(attention.windowed) and attention.windowed[layer]
        tokens = min(length, attention.window or length) if windowed else length
        width = attention.key_length + attention.value_length
        if attention.latent_rank:
            width = attention.latent_rank + (attention.rope_dimension or 0)
        total += tokens * heads * width * 2
    return settings.sequences * (total + 4 * attention.recurrent_elements)


def _transformers(model: ModelMetadata, settings: Settings) -> Parts:
    generates = "text_generation" in model.task_types or model.attention is not None
    if generates and model.attention is None:
        return Parts(
            source="1.2 × weights + a cache that grows + 400 MiB (transformers)",
            missing=("the attention geometry",),
        )
    context = _context(model, settings)
    weights = model.size_bytes + model.projector_bytes
    logits = 4 * (model.vocabulary_size or 0) * settings.sequences
    on_gpus = bool(settings.devices) and settings.gpu_layers != 0
    free = _free(settings.devices) if on_gpus else [1]
    shares = [Share() for _ in range(len(settings.devices) + 1)]
    shares[CPU].overhead = _TORCH_OVERHEAD
    # Layers are dealt out by free memory (accelerate's device_map="auto").
    whole = sum(free) or len(free)
    for number, amount in enumerate(free, start=1 if on_gpus else CPU):
        part = (amount or 1) / whole
        share = shares[number]
        share.weights = round(weights * part)
        share.kv = round(_torch_cache(model, settings, context, 1) * part)
        share.compute = round(weights * part * _TORCH_FACTOR) + logits
    total = sum(share.total for share in shares)
    return Parts(
        source="1.2 × weights + a cache that grows + 400 MiB (transformers; not measured here)",
        shares=shares,
        context_length=context if generates else None,
        below=round(total * (1 - _TORCH_LOW)),
        above=round(total * (_TORCH_HIGH - 1)),
        wide=True,
        has_cache=generates,
    )


def _vllm(model: ModelMetadata, settings: Settings) -> Parts:
    source = "weights + paged cache + a fifth of the weights (vLLM; not measured here)"
    if model.attention is None:
        return Parts(source=source, missing=("the attention geometry",))
    context = _context(model, settings)
    weights = model.size_bytes + model.projector_bytes
    cache = _torch_cache(model, settings, context, _VLLM_BLOCK)
    count = len(settings.devices)
    shares = [Share() for _ in range(count + 1)]
    shares[CPU].overhead = _TORCH_OVERHEAD
    if not count:
        shares[CPU].weights = weights
        shares[CPU].kv = max(cache, _VLLM_CPU_CACHE)
        shares[CPU].compute = round(weights * _TORCH_FACTOR)
    else:
        if any(device.total_memory is None for device in settings.devices):
            return Parts(source=source, missing=("the memory of a GPU",))
        source += f"; it takes {_VLLM_SHARE:.0%} of each GPU, and what is left of it is cache"
    for share, device in zip(shares[1:], settings.devices, strict=True):
        # Tensor parallelism cuts every layer into equal parts.
        share.weights = weights // count
        share.compute = round(weights * _TORCH_FACTOR) // count
        taken = round((device.total_memory or 0) * _VLLM_SHARE)
        share.kv = max(cache // count, taken - share.weights - share.compute)
    total = sum(share.total for share in shares)
    return Parts(
        source=source,
        shares=shares,
        context_length=context,
        below=round(total * (1 - _TORCH_LOW)),
        above=round(total * (_TORCH_HIGH - 1)) if not count else 0,
        wide=not count,
        has_cache=True,
    )


#: The engines that there is a formula for.
ENGINES = {
    "llama_cpp": _llama_cpp,
    "onnx": _onnx,
    "transformers": _transformers,
    "vllm": _vllm,
}
