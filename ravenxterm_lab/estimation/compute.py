"""The buffers that llama.cpp computes in: what its allocator reserves for a model's graph."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.allocation import reserve, split
from ravenxterm_lab.estimation.decoder import Batch, DecoderGraph, is_windowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.estimation.placement import Placement
    from ravenxterm_lab.metadata import AttentionGeometry, NetworkShape

__all__ = ["Batch", "compute_buffers"]

# Layers repeat: of a device's layers so many at either end are looked at.
_ENDS = 8
_ALIGNMENT_CPU, _ALIGNMENT_GPU = 32, 128
# ggml keeps so many batches under way (GGML_SCHED_MAX_COPIES).
_COPIES = 4


@lru_cache(maxsize=512)
def compute_buffers(
    network: NetworkShape,
    attention: AttentionGeometry,
    embedding_length: int,
    vocabulary_size: int,
    experts_used: int,
    experts: int,
    batch: Batch,
    placement: Placement,
) -> tuple[int, ...]:
    """Return the bytes of each device's compute buffer: the CPU's, then each GPU's.

    Parameters
    ----------
    network : NetworkShape
    attention : AttentionGeometry
    embedding_length, vocabulary_size : int
    experts_used, experts : int
        Routed experts that one token meets, and all of a layer; 0 without.
    batch : Batch
    placement : Placement
    """
    builder = DecoderGraph(network, attention, embedding_length, experts_used, experts, batch)
    devices = placement.layers
    chosen = _representative(devices, attention)
    for number, layer in enumerate(chosen):
        builder.layer(layer, devices[layer], last=number == len(chosen) - 1)
    builder.output(vocabulary_size, placement.output)
    graph = builder.graph
    count = placement.gpus + 1
    if count == 1:
        return tuple(reserve(graph, 1, _ALIGNMENT_CPU))
    copies = _COPIES if placement.pipelined else 1
    return tuple(reserve(split(graph, copies), count, _ALIGNMENT_GPU))


def _representative(devices: Sequence[int], attention: AttentionGeometry) -> list[int]:
    """Return layers enough to meet every device and every kind of layer in both states."""
    chosen: list[int] = []
    for device in dict.fromkeys(devices):
        own = [layer for layer, place in enumerate(devices) if place == device]
        kept = own if len(own) <= 2 * _ENDS else own[:_ENDS] + own[-_ENDS:]
        kinds = {_kind(attention, layer) for layer in kept}
        kept += [
            next(layer for layer in own if _kind(attention, layer) == kind)
            for kind in {_kind(attention, layer) for layer in own} - kinds
        ]
        chosen += sorted(kept)
    return chosen


def _kind(attention: AttentionGeometry, layer: int) -> tuple[bool, bool]:
    return bool(attention.heads_kv[layer]), is_windowed(attention, layer)
