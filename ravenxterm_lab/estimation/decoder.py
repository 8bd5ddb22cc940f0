"""The graph that llama.cpp computes for one batch, as sizes and places of its tensors.

A decoder: for each layer attention over the cache (with or without flash attention) or a
recurrent step, then a feed-forward part or a mixture of experts; at the end the logits.
Sources: llama.cpp, ``llama-graph.cpp`` (``build_inp_embd``, ``build_qkv``, ``build_attn``,
``build_attn_mha``, ``build_ffn``, ``build_moe_ffn``, ``build_rs``), ``models/llama.cpp`` and
``models/mamba-base.cpp``, and the assignments that ``GGML_SCHED_DEBUG=2`` prints for the build
used here. Norms, biases and scales write over their source and take no memory of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.allocation import Graph, Tensor

if TYPE_CHECKING:
    from ravenxterm_lab.estimation.kv import CacheCells
    from ravenxterm_lab.metadata import AttentionGeometry, NetworkShape

__all__ = ["Batch", "DecoderGraph", "is_windowed"]

_F32, _F16, _INDEX = 4, 2, 8
# LLAMA_MAX_EXPERTS; a file may claim more.
_MOST_EXPERTS = 512
# The smallest matrix that a quantized cache is rotated with.
_ROTATED = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """What is computed at once, and how.

    Attributes
    ----------
    cells : CacheCells
        Of the cache that is attended to, with the tokens of the batch.
    outputs : int
        Tokens whose logits are computed.
    flash_attention : bool
        Without it the scores of all heads are held at once.
    rotated_keys, rotated_values : bool
        Quantized caches are rotated first, with one more matrix.
    recent : bool
        As builds of 2026 do, the graph holds the inputs of text, of embeddings and of both mixed,
        whichever is used, and the places in the cache where the batch is written; one of 2024
        holds the text alone.
    """

    cells: CacheCells
    outputs: int
    flash_attention: bool = True
    rotated_keys: bool = False
    rotated_values: bool = False
    recent: bool = True


def is_windowed(attention: AttentionGeometry, layer: int) -> bool:
    """Say whether a layer sees a window only."""
    return layer < len(attention.windowed) and attention.windowed[layer]


class DecoderGraph:
    """Builds the graph layer by layer.

    Parameters
    ----------
    network : NetworkShape
    attention : AttentionGeometry
    width : int
        Of the hidden state, in elements.
    experts_used, experts : int
        Routed experts that one token meets, and all of a layer; 0 without.
    batch : Batch

    Attributes
    ----------
    graph : Graph
        What was built so far.
    """

    def __init__(
        self,
        network: NetworkShape,
        attention: AttentionGeometry,
        width: int,
        experts_used: int,
        experts: int,
        batch: Batch,
    ) -> None:
        self.graph = Graph()
        self._network = network
        self._attention = attention
        self._width = width
        self._used = min(experts_used, _MOST_EXPERTS)
        self._experts = experts
        self._batch = batch
        self._rows = self._tokens = batch.cells.batch
        self._device = 0
        self._state = self._embed()
        self._positions = self._given(self._tokens * _F32)
        self._chosen = self._given(batch.outputs * _F32)
        self._inputs: dict[bool, tuple[list[Tensor], ...]] = {}

    def _given(self, size: int) -> Tensor:
        return Tensor(size, given=True)

    def _new(self, width: int, *sources: Tensor, inplace: bool = False) -> Tensor:
        rows = self._rows
        return Tensor(
            width * rows * _F32,
            sources,
            layout=(width, rows),
            inplace=inplace,
            backend=self._device,
        )

    def _over(self, *sources: Tensor) -> Tensor:
        """Return what an operation makes that may write over its first source."""
        first = sources[0]
        return Tensor(first.size, sources, layout=first.layout, inplace=True, backend=self._device)

    def _view(self, source: Tensor) -> Tensor:
        return Tensor(source.size, (source,), view=True, backend=self._device)

    def _store(self, *sources: Tensor) -> None:
        """Write into a cache: a node without memory of its own."""
        node = Tensor(0, sources, backend=self._device)
        node.root = node
        self.graph.expand(node)

    def _embed(self) -> Tensor:
        width, tokens = self._width, self._tokens
        embedded = self._new(width, self._given(tokens * _F32))
        self.graph.expand(embedded)
        if self._batch.recent:
            self.graph.expand(self._given(width * tokens * _F32))
            rows = self._new(width, self._given(tokens * _F32))
            mixed = self._new(width, self._given(width * tokens * _F32))
            placed = Tensor(0, (rows, self._given(tokens * _INDEX), mixed))
            # Nobody reads the view, so that what it looks at stays for the whole graph.
            placed.root = mixed
            self.graph.expand(placed)
        return embedded

    def _attended(self, windowed: bool) -> tuple[list[Tensor], ...]:
        """Return what one cache is given: places of keys and values, rotations, and the mask."""
        if windowed not in self._inputs:
            batch, tokens = self._batch, self._tokens
            cells = batch.cells.windowed if windowed else batch.cells.full
            attention = self._attention
            places = tokens * _INDEX
            if not batch.flash_attention:
                places *= max(attention.heads_kv, default=0) * attention.value_length
            rotation = _ROTATED
            while attention.key_length and attention.key_length % (2 * rotation) == 0:
                rotation *= 2
            self._inputs[windowed] = (
                [self._given(tokens * _INDEX)] * batch.recent,
                [self._given(places)] * batch.recent,
                [self._given(rotation * rotation * _F32)] * batch.rotated_keys,
                [self._given(_ROTATED * _ROTATED * _F32)] * batch.rotated_values,
                [self._given(tokens * cells * (_F16 if batch.flash_attention else _F32))],
            )
        return self._inputs[windowed]

    def layer(self, layer: int, device: int, *, last: bool) -> None:
        """Add one layer; of the last one only the rows of the outputs are computed to the end."""
        self._device = device
        normed = self._over(self._over(self._state))
        attends = bool(self._attention.heads_kv[layer])
        both = attends and all(self._attention.heads_kv) and self._network.recurrent_inner
        shared = not attends and not self._attention.recurrent_elements
        if attends or shared:
            found = self._attend(normed, layer, stores=not shared)
        else:
            found = self._recur(normed)
        if both:
            found = self._over(found, self._recur(normed))
        before = self._state
        if last:
            self._rows = self._batch.outputs
            found = self._new(self._width, found, self._chosen)
            before = self._new(self._width, before, self._chosen)
        middle = self._over(found, before)
        normed = self._over(self._over(middle))
        network = self._network
        parts = []
        if self._experts and network.expert_feed_forward:
            parts.append(self._mixture(normed))
            if network.shared_feed_forward:
                parts.append(self._dense(normed, network.shared_feed_forward))
        elif network.feed_forward:
            parts.append(self._dense(normed, network.feed_forward))
        if not parts:
            self._state = middle
            return
        made = parts[0]
        for part in parts[1:]:
            made = self._over(made, part)
        self._state = self._over(made, middle)

    def _attend(self, normed: Tensor, layer: int, *, stores: bool) -> Tensor:
        network, attention, batch = self._network, self._attention, self._batch
        tokens, heads = self._tokens, network.heads
        windowed = is_windowed(attention, layer)
        key_place, value_place, turn_keys, turn_values, seen = self._attended(windowed)
        heads_kv = attention.heads_kv[layer]
        latent = attention.latent_rank
        key_width = heads_kv * (
            latent + (attention.rope_dimension or 0) if latent else attention.key_length
        )
        value_width = heads_kv * (latent or attention.value_length)
        query_width = network.query_elements
        if network.fused_projection:
            whole = self._new(query_width + key_width + value_width, normed)
            query, key, value = (self._view(whole) for _ in range(3))
        else:
            query, key, value = (
                self._view(self._new(width, normed))
                for width in (query_width, key_width, value_width)
            )
        query = self._new(query_width, query, self._positions)
        key = self._new(key_width, key, self._positions)
        for rotation in turn_keys:
            query = self._view(self._new(query_width, rotation, self._view(query)))
            key = self._view(self._new(key_width, rotation, self._view(key)))
        for rotation in turn_values:
            value = self._view(self._new(value_width, rotation, self._view(value)))
        ordered = [query, key, value] if attention.windowed else [query, value, key]
        for tensor in ordered if stores else ordered[:1]:
            self.graph.expand(tensor)
        if stores:
            self._store(self._view(key), *key_place)
            if not latent:
                self._store(self._view(self._view(value)), *value_place)
        looked = self._view(self._view(query))
        width = network.value_elements
        if batch.flash_attention:
            found = self._view(self._new(width, looked, *seen))
        else:
            cells = batch.cells.windowed if windowed else batch.cells.full
            scores = Tensor(
                cells * tokens * heads * _F32, (looked,), layout=(cells,), backend=self._device
            )
            weighed = self._new(width, self._over(scores, *seen))
            found = self._new(width, self._view(weighed))
        for rotation in turn_values:
            found = self._view(self._new(width, rotation, self._view(found)))
        self.graph.expand(found)
        return self._new(self._width, found)

    def _recur(self, normed: Tensor) -> Tensor:
        """Add a Mamba-2 step (``models/mamba-base.cpp``); others are taken to be like it."""
        network, tokens, streams = self._network, self._tokens, self._batch.cells.streams
        inner = network.recurrent_inner or self._width
        channels = network.recurrent_channels or inner
        edge = max(network.recurrent_kernel - 1, 0) * channels
        layers = sum(count == 0 for count in self._attention.heads_kv)
        layers = layers or len(self._attention.heads_kv)
        state = max(self._attention.recurrent_elements // layers - edge, 0)
        before = Tensor(edge * streams * _F32, backend=self._device)
        self.graph.expand(before)
        whole = self._new(inner + channels + network.recurrent_heads, normed)
        extended = Tensor(
            (tokens * channels + edge * streams) * _F32,
            (self._view(before), self._view(self._view(whole))),
            backend=self._device,
        )
        self._store(self._view(extended))
        mixed = self._over(self._over(self._new(channels, extended)))
        steps = self._over(self._new(network.recurrent_heads or 1, self._view(whole)))
        scanned = Tensor(
            (inner * tokens + state * streams) * _F32,
            (self._view(mixed), steps),
            backend=self._device,
        )
        self.graph.expand(scanned)
        self._store(self._view(scanned))
        skipped = self._new(inner, self._view(mixed))
        added = self._new(inner, self._view(scanned), skipped, inplace=True)
        gated = self._new(inner, self._new(inner, self._view(whole)), added)
        normed = self._over(self._new(inner, self._view(gated)))
        return self._new(self._width, self._view(normed))

    def _dense(self, normed: Tensor, inner: int) -> Tensor:
        if self._network.fused_gate:
            opened = [self._new(2 * inner, normed)]
        else:
            opened = [self._new(inner, normed) for _ in range(1 + self._network.gated)]
        active = self._new(inner, *opened) if self._network.gated else self._over(*opened)
        return self._new(self._width, active)

    def _mixture(self, normed: Tensor) -> Tensor:
        used, width = self._used, self._width
        inner = self._network.expert_feed_forward * used
        probabilities = self._over(self._new(self._experts, normed))
        order = self._new(self._experts, probabilities)
        weights = self._new(used, self._view(probabilities), self._view(order))
        summed = self._new(1, weights)
        weights = self._over(weights, summed)
        self.graph.expand(weights)
        sources = (self._view(normed), self._view(order))
        opened = [self._new(inner, *sources) for _ in range(1 + self._network.gated)]
        active = self._new(inner, *opened) if self._network.gated else self._over(*opened)
        found = self._new(width * used, active, self._view(order))
        found = self._over(found, weights)
        self.graph.expand(found)
        parts = [self._view(found) for _ in range(used)]
        made = parts[0]
        for part in parts:
            self.graph.expand(part)
        for part in parts[1:]:
            # A view is never written over, so that the first sum is new.
            made = self._new(width, made, part, inplace=True)
            self.graph.expand(made)
        return made

    def output(self, vocabulary: int, device: int) -> None:
        """Add the final norm and the logits."""
        self._device = device
        normed = self._over(self._over(self._state))
        normed.kept = True
        logits = self._new(vocabulary, normed)
        logits.kept = True
        self.graph.expand(logits)
