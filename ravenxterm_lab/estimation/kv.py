"""llama.cpp's KV cache and recurrent state, to the byte and layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import AttentionGeometry

__all__ = ["KV_TYPES", "CacheCells", "cache_cells", "kv_cache_bytes", "kv_layer_bytes", "kv_pair"]

#: Bytes and elements of one block of each type that can be cached (ggml-common.h).
KV_TYPES = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q5_1": (24, 32),
    "q5_0": (22, 32),
    "q4_1": (20, 32),
    "q4_0": (18, 32),
    "iq4_nl": (18, 32),
}
# llama-context.cpp pads the context to this, and llama-kv-cache-iswa.cpp the window's cells.
_PADDING = 256


@dataclass(frozen=True, slots=True)
class CacheCells:
    """How many tokens the cache has room for.

    Attributes
    ----------
    full, windowed : int
        Cells of one stream, on layers that see everything and on those that see a window.
    streams : int
        Parts that are kept apart: one for each sequence, or one for all.
    batch : int
        Tokens that are computed at once.
    """

    full: int
    windowed: int
    streams: int
    batch: int


def kv_pair(kv_type: str | tuple[str, str]) -> tuple[str, str]:
    """Return the types of keys and values.

    Raises
    ------
    ValueError
        On a type that is not cached; it names those that are.
    """
    pair = (kv_type, kv_type) if isinstance(kv_type, str) else tuple(kv_type)
    if len(pair) != 2:
        raise ValueError(f"kv_type must be one type or (keys, values), got {kv_type!r}.")
    for name in pair:
        if name not in KV_TYPES:
            raise ValueError(f"kv_type {name!r} is unknown; use one of {', '.join(KV_TYPES)}.")
    return pair[0], pair[1]


def cache_cells(
    attention: AttentionGeometry,
    context_length: int,
    *,
    batch_size: int = 512,
    sequences: int = 1,
    unified: bool = False,
) -> CacheCells:
    """Return the cells that llama.cpp makes for a context.

    Source: ``llama-context.cpp`` (``n_ctx_seq``, padded to 256) and
    ``llama-kv-cache-iswa.cpp`` (``pad(min(cells, window · n + ubatch), 256)`` with n the
    sequences of a unified cache, else 1).

    Parameters
    ----------
    attention : AttentionGeometry
    context_length : int
        Tokens of all sequences together.
    batch_size : int
        Tokens that are computed at once (``n_ubatch``).
    sequences : int
        Sequences that are kept at the same time.
    unified : bool
        Whether they share one pool of cells.

    Raises
    ------
    ValueError
        If a number is below 1.
    """
    for name, value in (
        ("context_length", context_length),
        ("batch_size", batch_size),
        ("sequences", sequences),
    ):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}.")
    streams = 1 if unified else sequences
    full = _padded(max(_padded(context_length) // streams, 1))
    batch = min(batch_size, full * streams)
    windowed = full
    if attention.window:
        window = attention.window * (sequences if unified else 1)
        windowed = _padded(min(full, window + batch))
    return CacheCells(full, windowed, streams, batch)


def kv_layer_bytes(
    attention: AttentionGeometry,
    context_length: int,
    *,
    kv_type: str | tuple[str, str] = "f16",
    batch_size: int = 512,
    sequences: int = 1,
    unified: bool = False,
    flash_attention: bool | None = None,
) -> tuple[int, ...]:
    """Return the bytes of cache and recurrent state of each layer; see `kv_cache_bytes`."""
    keys, values = kv_pair(kv_type)
    cells = cache_cells(
        attention, context_length, batch_size=batch_size, sequences=sequences, unified=unified
    )
    widest = 0
    if flash_attention is False and not attention.latent_rank:
        # Without flash attention V is stored transposed, and all layers get the widest row.
        widest = max(attention.heads_kv, default=0) * attention.value_length
    layers = []
    for layer, heads in enumerate(attention.heads_kv):
        windowed = layer < len(attention.windowed) and attention.windowed[layer]
        rows = cells.streams * (cells.windowed if windowed else cells.full)
        if attention.latent_rank:
            row = _row(keys, heads * (attention.latent_rank + (attention.rope_dimension or 0)))
        else:
            row = _row(keys, heads * attention.key_length)
            row += _row(values, max(heads * attention.value_length, widest if heads else 0))
        layers.append(rows * row)
    _spread(layers, attention, 4 * attention.recurrent_elements * sequences, recurrent=True)
    indexer = _row(keys, attention.indexer_elements) * cells.full * cells.streams
    _spread(layers, attention, indexer, recurrent=False)
    return tuple(layers)


def kv_cache_bytes(
    attention: AttentionGeometry,
    context_length: int,
    *,
    kv_type: str | tuple[str, str] = "f16",
    batch_size: int = 512,
    sequences: int = 1,
    unified: bool = False,
    flash_attention: bool | None = None,
) -> int:
    """Return the bytes of llama.cpp's KV cache, exactly.

    Per layer ``cells · heads_kv · (key_length · b_k + value_length · b_v)`` with the cells padded
    to 256; a sliding-window layer keeps ``pad(min(cells, window + batch))`` of them;
    multi-head latent attention keeps one latent and the rotary part, and no V; an indexer one
    more key; a layer without KV heads adds nothing; recurrent state is f32 for each sequence.
    Source: llama.cpp, ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
    ``llama-kv-cache-dsa.cpp``, ``llama-memory-recurrent.cpp`` at 0c1e57098.

    Parameters
    ----------
    attention : AttentionGeometry
        The model's layers.
    context_length : int
        Tokens of all sequences together.
    kv_type : str or tuple of str
        One of ``f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl``, or a pair for keys and values.
    batch_size : int
        Tokens that are computed at once (``n_ubatch``).
    sequences : int
        Sequences that are kept at the same time.
    unified : bool
        Whether they share one pool of cells.
    flash_attention : bool, optional
        False pads V where layers differ in width; None is llama.cpp's choice, which is to use it.

    Raises
    ------
    ValueError
        On an unknown ``kv_type`` or a number below 1.

    Examples
    --------
    >>> from ravenxterm_lab.metadata import AttentionGeometry
    >>> kv_cache_bytes(AttentionGeometry((8,) * 32, 128, 128), 8192) // 2**20
    1024
    """
    return sum(
        kv_layer_bytes(
            attention,
            context_length,
            kv_type=kv_type,
            batch_size=batch_size,
            sequences=sequences,
            unified=unified,
            flash_attention=flash_attention,
        )
    )


def _padded(cells: int) -> int:
    return -(-cells // _PADDING) * _PADDING


def _row(kind: str, elements: int) -> int:
    size, block = KV_TYPES[kind]
    return elements * size // block


def _spread(
    layers: list[int], attention: AttentionGeometry, amount: int, *, recurrent: bool
) -> None:
    """Add what only some layers have, in equal parts."""
    if not amount:
        return
    chosen = [i for i, heads in enumerate(attention.heads_kv) if bool(heads) is not recurrent]
    # Where every layer attends, and has a state beside (falcon-h1), each holds a part.
    chosen = chosen or list(range(len(layers)))
    part = amount // len(chosen)
    for layer in chosen:
        layers[layer] += part
    layers[chosen[-1]] += amount - part * len(chosen)
