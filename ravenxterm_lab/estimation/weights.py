"""The bytes of the weights: all of them, those of each device, and those that one token reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.placement import CPU
from ravenxterm_lab.readers.gguf_types import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection

    from ravenxterm_lab.estimation.placement import Placement
    from ravenxterm_lab.metadata import ModelMetadata, WeightLayout

__all__ = ["active_bytes", "device_bytes", "repack_bytes"]

# Tensor types that ggml interleaves on a CPU with these instructions, from
# ``ggml_repack_get_optimal_repack_type`` in ggml-cpu/repack.cpp at llama.cpp 0c1e57098. The
# wheels of xllamacpp are built for AVX2 and no more, so that Q2_K (AVX-512) is not among them.
_REPACKED = {
    "avx2": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"),
    "dotprod": ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0", "Q1_0"),
}
_ROWS = 8
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}


def active_bytes(model: ModelMetadata) -> int:
    """Return the bytes of weights that one decoded token reads.

    Every layer and the output head; of the input embeddings one row, unless the token embedding
    is the output head as well; of the routed experts those in use. Where the layout of the
    weights is not known: all tensors times active by total parameters.

    Parameters
    ----------
    model : ModelMetadata
        The model.

    Examples
    --------
    >>> from pathlib import Path
    >>> from ravenxterm_lab.metadata import ModelMetadata, ModelType, WeightLayout
    >>> layout = WeightLayout(input_bytes=100, layer_bytes=(1000, 1000), output_bytes=110,
    ...                       embedding_bytes=100, head_bytes=100, expert_bytes=(800, 800),
    ...                       experts=(8, 2))
    >>> active_bytes(ModelMetadata("m", ModelType.GGUF, Path("m"), 2300, weight_layout=layout))
    910
    """
    layout = model.weight_layout
    if layout is None:
        weights = sum(model.tensor_bytes.values()) or model.size_bytes
        if model.active_parameter_count and model.parameter_count:
            return weights * model.active_parameter_count // model.parameter_count
        return weights
    total = sum(layout.layer_bytes) + layout.output_bytes
    if layout.tied:
        total += layout.embedding_bytes
    if layout.experts is not None:
        count, used = layout.experts
        routed = sum(layout.expert_bytes)
        total -= routed - routed * used // count
    return total


def device_bytes(model: ModelMetadata, placement: Placement) -> list[int]:
    """Return the bytes of weights on each device: the CPU, then each GPU.

    The input embedding stays on the CPU; where it is the output head too, the GPU that the
    output lies on gets a copy. Multimodal projectors go to the first GPU, if anything does.
    Source: llama.cpp, ``llama-model.cpp`` (``dev_input``, ``dev_output``,
    ``TENSOR_DUPLICATED``); ``tools/mtmd`` for projectors.

    Parameters
    ----------
    model : ModelMetadata
    placement : Placement
        Of its layers.
    """
    held = [0] * (placement.gpus + 1)
    layout = model.weight_layout
    if layout is None:
        # An even share for each layer, and one for the output.
        share, rest = divmod(model.size_bytes, len(placement.layers) + 1)
        held[CPU] += rest
        for device in (*placement.layers, placement.output):
            held[device] += share
    else:
        held[CPU] += layout.input_bytes + layout.other_bytes
        for layer, size in enumerate(layout.layer_bytes):
            held[placement.layers[layer] if layer < len(placement.layers) else CPU] += size
        held[placement.output] += layout.output_bytes
        if layout.tied and placement.output != CPU:
            held[placement.output] += layout.embedding_bytes
    held[1 if placement.offloaded else CPU] += model.projector_bytes
    return held


def repack_bytes(
    model: ModelMetadata, placement: Placement, instruction_sets: Collection[str]
) -> int:
    """Return the bytes of weights that llama.cpp copies into another layout on the CPU.

    It interleaves the rows of the matrices that the CPU multiplies with, if their type has such
    a layout for the CPU's instructions and their rows come in eights. The mapped pages of the
    file stay beside the copy until the system needs them. An embedding is looked up in the
    file's layout, so that one that is the output head too is held in both.

    Parameters
    ----------
    model : ModelMetadata
    placement : Placement
        With a GPU nothing is copied: matrices on the CPU lie in its pinned memory.
    instruction_sets : collection of str
        Of the CPU, as the system names them.
    """
    types = {name for have in instruction_sets for name in _REPACKED.get(have, ())}
    layout = model.weight_layout
    if placement.gpus or not types:
        return 0
    if layout is None:
        return sum(size for name, size in model.tensor_bytes.items() if name.upper() in types)
    copied = sum(size for name, size in layout.matrix_bytes.items() if name in types)
    return copied + _head_copy(layout, types, model.embedding_length)


def _head_copy(layout: WeightLayout, types: set[str], width: int | None) -> int:
    name, size = layout.head_type, layout.head_bytes
    if layout.tied:
        name, size = layout.embedding_type, layout.embedding_bytes
    if name not in types or not width:
        return 0
    block, block_bytes = _BLOCKS[name]
    rows = size * block // (width * block_bytes)
    return 0 if rows % _ROWS else size
