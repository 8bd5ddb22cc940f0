"""What llama.cpp takes: tensors by device, cache, compute buffers, and the engine itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.compute import Batch, compute_buffers
from ravenxterm_lab.estimation.kv import cache_cells, kv_layer_bytes, kv_pair
from ravenxterm_lab.estimation.parts import MIB, Parts, Settings, Share, context_of, free_memory
from ravenxterm_lab.estimation.placement import CPU, place
from ravenxterm_lab.estimation.weights import device_bytes, repack_bytes
from ravenxterm_lab.metadata import AttentionGeometry
from ravenxterm_lab.readers.gguf_attention import ENCODERS

if TYPE_CHECKING:
    from ravenxterm_lab.estimation.kv import CacheCells
    from ravenxterm_lab.estimation.placement import Placement
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["llama_cpp_parts"]

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
# Smaller batches are computed where the weights are (GGML_OP_OFFLOAD_MIN_BATCH).
_LENT_BATCH = 32
# Loaded here, and every buffer found as logged (tests/estimation, and by hand with zero weights).
_CHECKED = frozenset(
    {
        "cohere2",
        "command-r",
        "deepseek2",
        "ernie4_5",
        "gemma",
        "gemma2",
        "gemma3",
        "glm4",
        "gpt-oss",
        "granite",
        "granitehybrid",
        "hunyuan-dense",
        "llama",
        "minicpm",
        "mistral3",
        "openelm",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
# Without the shape of the network: activations of about this many hidden states.
_HIDDEN_STATES = 12


def llama_cpp_parts(model: ModelMetadata, settings: Settings) -> Parts:
    """Return what llama.cpp takes.

    Parameters
    ----------
    model : ModelMetadata
    settings : Settings
    """
    context = context_of(model, settings)
    attention = model.attention or _encoder(model)
    if attention is None:
        return Parts(
            source="weights + KV + compute buffers + overhead of llama.cpp",
            context_length=context,
            missing=("the attention geometry",),
        )
    placement = place(attention.layers, settings.gpu_layers, free_memory(settings.devices))
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
    if placement.offloaded and CPU in placement.layers:
        shares[1].compute += _lent_bytes(model, placement, sizes)
    vocabulary = model.vocabulary_size or 0
    # The logits that the caller reads, in memory of their own.
    shares[CPU].compute += 4 * vocabulary * settings.sequences
    shares[CPU].overhead = _ENGINE + _VOCABULARY_BYTES * vocabulary
    total = sum(share.total for share in shares)
    # A projector is read into memory, not mapped.
    mapped = shares[CPU].weights - (0 if placement.offloaded else model.projector_bytes)
    scatter = round(total * _SCATTER) + _SCATTER_BYTES
    return Parts(
        source="tensors by device + KV + compute buffers by ggml's allocator"
        + ("" if exact else f" (not checked for {model.architecture or 'this network'})")
        + " + 24 MiB and 150 B per token of vocabulary",
        shares=shares,
        context_length=context,
        below=shares[CPU].compute + scatter,
        above=scatter + (0 if exact else sum(buffers)),
        mapped=mapped,
        has_cache=True,
    )


def _encoder(model: ModelMetadata) -> AttentionGeometry | None:
    """Return the geometry of a model that reads a whole text at once: it keeps no cache."""
    layout = model.weight_layout
    if model.architecture not in ENCODERS or layout is None:
        return None
    return AttentionGeometry((0,) * len(layout.layer_bytes), 0, 0)


def _buffers(
    model: ModelMetadata,
    attention: AttentionGeometry,
    settings: Settings,
    context: int,
    placement: Placement,
) -> tuple[list[int], bool]:
    """Return the compute buffers, and whether those of such a graph were compared with a log."""
    cells = cache_cells(
        attention,
        context,
        batch_size=settings.batch_size,
        sequences=settings.sequences,
        unified=settings.unified,
    )
    width = model.embedding_length
    encodes = model.architecture in ENCODERS
    if model.network is None or not width or not model.vocabulary_size or encodes:
        return _rough(model, cells, placement), False
    keys, values = kv_pair(settings.kv_type)
    layout = model.weight_layout
    experts, used = (layout.experts if layout is not None else None) or (0, 0)
    computing = _computing(placement, cells)
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
        computing,
    )
    return list(sizes), model.architecture in _CHECKED and placement == computing


def _computing(placement: Placement, cells: CacheCells) -> Placement:
    """Return where a long text is computed: layers on the CPU are lent to the first GPU.

    For batches of 32 tokens and more their weights are copied there one after the other
    (``ggml_backend_cuda_device_offload_op``, ``ggml_backend_sched_split_graph``).
    """
    if not placement.offloaded or CPU not in placement.layers or cells.batch < _LENT_BATCH:
        return placement
    return replace(placement, layers=tuple(device or 1 for device in placement.layers))


def _lent_bytes(model: ModelMetadata, placement: Placement, sizes: tuple[int, ...]) -> int:
    """Return the room for what is copied there at once: one matrix, and one layer's cache."""
    layers = [layer for layer, device in enumerate(placement.layers) if device == CPU]
    layout, network = model.weight_layout, model.network
    cache = max(sizes[layer] for layer in layers)
    if layout is None or network is None:
        return cache + model.size_bytes // (len(placement.layers) + 1) // 2
    matrices = 2 + network.gated
    largest = 0
    for layer in layers:
        routed = layout.expert_bytes[layer] if layer < len(layout.expert_bytes) else 0
        whole = layout.layer_bytes[layer] if layer < len(layout.layer_bytes) else 0
        largest = max(largest, routed // matrices, (whole - routed) // matrices)
    return cache + largest


def _outputs(settings: Settings, cells: CacheCells) -> int:
    """Return the tokens whose logits are computed at once: a server asks for one a sequence."""
    return cells.batch if settings.devices else min(settings.sequences, cells.batch)


def _rough(model: ModelMetadata, cells: CacheCells, placement: Placement) -> list[int]:
    heads = model.network.heads if model.network is not None else 1
    size = cells.batch * (model.embedding_length or 0) * 4 * _HIDDEN_STATES
    size += cells.batch * cells.full * 4 * heads
    used = {*placement.layers, placement.output}
    return [size if device in used else 0 for device in range(placement.gpus + 1)]


def _quantized(kind: str) -> bool:
    return kind not in ("f32", "f16", "bf16")
