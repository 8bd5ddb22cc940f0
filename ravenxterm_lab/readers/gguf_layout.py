"""From a GGUF file's tensors to where the bytes of the weights are: input, layers, output.

Source of the rules: ``llama-arch.cpp`` of llama.cpp (``LLM_TENSOR_NAMES`` and
``LLM_TENSOR_INFOS`` say which tensor belongs to the input layer, to a repeating layer or to
the output layer), and ``repack.cpp`` of ggml (which shapes have an interleaved layout).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import NetworkShape, WeightLayout
from ravenxterm_lab.readers import limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.readers.gguf_attention import ArchitectureKeys

__all__ = ["LayoutTally", "joined", "network_shape"]

_LAYER = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,5})\.")
_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"
_INPUT = (
    "token_embd.",
    "token_embd_norm.",
    "position_embd.",
    "token_types.",
    "per_layer_token_embd.",
)
# Parts of a multimodal model that stand in the same file: another engine's graph uses them.
_OTHER = ("v.", "mm.", "a.", "s.", "resampler.", "mtp.", "vision.")
_EXPERTS = "_exps."
_UP = (".ffn_up.", ".ffn_up_exps.")
_DENSE_UP = ".ffn_up.weight"
_GATE = (".ffn_gate.", ".ffn_gate_exps.")
_FUSED = ".attn_qkv."
_WIDTH = 2**24
# Rows are interleaved by eight.
_INTERLEAVED = 8


class LayoutTally:
    """Sums the tensors of one file, one after the other.

    It keeps two numbers for each layer that a tensor names, ``limits.LAYERS`` at most, and one
    for each tensor type.
    """

    __slots__ = (
        "_embedding",
        "_experts",
        "_gates",
        "_head",
        "_input",
        "_layers",
        "_matrices",
        "_other",
        "_output",
        "_ups",
        "_whole",
        "_widest",
        "fused",
    )  # fmt: skip

    def __init__(self) -> None:
        self._embedding: tuple[str, int] | None = None
        self._head: tuple[str, int] | None = None
        self._input = self._output = self._other = 0
        self._layers: list[int] = []
        self._experts: list[int] = []
        self._matrices: dict[str, int] = {}
        self._whole = True
        self._ups = self._gates = self._widest = 0
        self.fused = False

    def add(self, name: str, shape: Sequence[int], kind: str, length: int) -> None:
        """Count one tensor of ``length`` bytes."""
        match = _LAYER.match(name)
        if match is not None:
            self._add_layer(int(match[1]), name, shape, kind, length)
        elif name.startswith(_INPUT):
            self._input += length
            if name == _EMBEDDING:
                self._embedding = (kind, length)
        elif name.startswith(_OTHER):
            self._other += length
        else:
            self._output += length
            if name == _HEAD:
                self._head = (kind, length)

    def _add_layer(
        self, layer: int, name: str, shape: Sequence[int], kind: str, length: int
    ) -> None:
        if layer >= limits.LAYERS:
            self._whole = False
            return
        missing = layer + 1 - len(self._layers)
        if missing > 0:
            self._layers.extend([0] * missing)
            self._experts.extend([0] * missing)
        self._layers[layer] += length
        end = name[name.rfind(".ffn") :]
        self._ups += end.startswith(_UP)
        if end == _DENSE_UP and len(shape) > 1:
            self._widest = max(self._widest, shape[1])
        self._gates += end.startswith(_GATE)
        self.fused = self.fused or _FUSED in name
        routed = _EXPERTS in name
        if routed:
            self._experts[layer] += length
        dimensions = len(shape)
        while dimensions > 1 and shape[dimensions - 1] == 1:
            dimensions -= 1
        if dimensions == (3 if routed else 2) and shape[1] % _INTERLEAVED == 0:
            self._matrices[kind] = self._matrices.get(kind, 0) + length

    @property
    def gated(self) -> bool:
        """Whether a gate is multiplied into the feed-forward part, as far as was seen."""
        return bool(self._gates) or not self._ups

    def fuses_gate(self, inner: int) -> bool:
        """Say whether the rows for a feed-forward part of ``inner`` elements are those of two."""
        return not self._gates and bool(inner) and self._widest == 2 * inner

    def skip(self) -> None:
        """Take note of a tensor whose size is not known: there is no layout then."""
        self._whole = False

    def layout(self, experts: tuple[int, int] | None) -> WeightLayout | None:
        """Return the layout; None where it is not known or there are no layers.

        Parameters
        ----------
        experts : tuple of int or None
            Routed experts of a layer, and how many of them one token meets.
        """
        if not self._whole or not (self._layers or self._input or self._output):
            return None
        return WeightLayout(
            input_bytes=self._input,
            embedding_bytes=self._embedding[1] if self._embedding else 0,
            embedding_type=self._embedding[0] if self._embedding else None,
            layer_bytes=tuple(self._layers),
            output_bytes=self._output,
            head_bytes=self._head[1] if self._head else 0,
            head_type=self._head[0] if self._head else None,
            other_bytes=self._other,
            expert_bytes=tuple(self._experts) if any(self._experts) else (),
            experts=experts,
            matrix_bytes=self._matrices,
        )


def network_shape(keys: ArchitectureKeys, tally: LayoutTally) -> NetworkShape | None:
    """Return what the network computes for one token; None where a needed key is missing.

    Parameters
    ----------
    keys : ArchitectureKeys
    tally : LayoutTally
        After all tensors were added.
    """
    layers = keys.integer("block_count", limits.LAYERS)
    width = keys.integer("embedding_length", _WIDTH)
    if not layers or not width:
        return None
    heads = max(keys.per_layer("attention.head_count", layers) or (0,))
    if heads > _WIDTH:
        return None
    default = width // heads if heads else 0

    def longest(name: str) -> int:
        stated = (keys.integer(f"attention.{name}{end}", _WIDTH) for end in ("", "_swa"))
        return max((value for value in stated if value is not None), default=default)

    inner = keys.integer("ssm.inner_size", _WIDTH) or 0
    spread = (keys.integer("ssm.group_count", _WIDTH) or 0) * (
        keys.integer("ssm.state_size", _WIDTH) or 0
    )
    expert = max(keys.per_layer("expert_feed_forward_length", layers) or (0,))
    shared = keys.integer("expert_shared_feed_forward_length", _WIDTH)
    if shared is None:
        shared = (keys.integer("expert_shared_count", 64) or 0) * min(expert, _WIDTH)
    forward = max(keys.per_layer("feed_forward_length", layers) or (0,))
    if not expert and keys.integer("expert_count"):
        expert, forward = forward, 0
    return NetworkShape(
        heads=heads,
        query_elements=heads * longest("key_length"),
        value_elements=heads * longest("value_length"),
        feed_forward=min(forward, _WIDTH),
        gated=tally.gated or tally.fuses_gate(forward),
        fused_gate=tally.fuses_gate(forward),
        fused_projection=tally.fused,
        expert_feed_forward=min(expert, _WIDTH),
        shared_feed_forward=shared,
        recurrent_inner=inner,
        recurrent_channels=min(inner + 2 * spread, _WIDTH) if inner else 0,
        recurrent_kernel=keys.integer("ssm.conv_kernel", _WIDTH) or 0,
        recurrent_heads=keys.integer("ssm.time_step_rank", _WIDTH) or 0,
    )


def joined(parts: Sequence[WeightLayout | None]) -> WeightLayout | None:
    """Return the layout of all shards together; None if that of one is not known.

    Parameters
    ----------
    parts : sequence of WeightLayout or None
        The first is that of the first shard, which alone may state the experts.
    """
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    first = known[0]
    embedding = next((part for part in known if part.embedding_bytes), first)
    head = next((part for part in known if part.head_bytes), first)
    matrices: dict[str, int] = {}
    for part in known:
        for kind, size in part.matrix_bytes.items():
            matrices[kind] = matrices.get(kind, 0) + size
    return replace(
        first,
        input_bytes=sum(part.input_bytes for part in known),
        embedding_bytes=embedding.embedding_bytes,
        embedding_type=embedding.embedding_type,
        layer_bytes=_summed([part.layer_bytes for part in known]),
        output_bytes=sum(part.output_bytes for part in known),
        head_bytes=head.head_bytes,
        head_type=head.head_type,
        other_bytes=sum(part.other_bytes for part in known),
        expert_bytes=_summed([part.expert_bytes for part in known]),
        matrix_bytes=matrices,
    )


def _summed(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    longest = max(map(len, rows))
    return tuple(sum(row[i] for row in rows if i < len(row)) for i in range(longest))
