"""From a GGUF file's keys to the geometry of its KV cache, as llama.cpp builds it.

Sources of the rules: ``llama-hparams.cpp``, ``llama-model.cpp`` (``create_memory``) and
``models/*.cpp`` of llama.cpp (windows that repeat every n-th layer, shared and recurrent layers,
sizes of the recurrent state), read at commit 0c1e57098.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import AttentionGeometry
from ravenxterm_lab.readers import limits

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ENCODERS", "ArchitectureKeys", "attention_geometry"]

#: Architectures that read a whole text at once and keep no KV cache.
ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)

# Every n-th layer attends to everything, the others to the window; the window that llama.cpp
# assumes where the file states none.
_WINDOW_EVERY: dict[str, tuple[int, int | None]] = {
    "afmoe": (4, None),
    "cohere2": (4, None),
    "cohere2moe": (4, None),
    "exaone-moe": (4, 128),
    "exaone4": (4, 4096),
    "gemma2": (2, 4096),
    "gemma3": (6, None),
    "gemma3n": (5, None),
    "gpt-oss": (2, None),
    "laguna": (4, None),
    "llama4": (4, 8192),
    "mellum": (4, None),
    "muse-glimmer": (4, None),
    "olmo2": (4, None),
    "plamo3": (8, None),
    "smallthinker": (4, None),
}
_FULL_LAYER_FIRST = frozenset({"cohere2moe", "laguna", "smallthinker"})
# Whatever window these state, llama.cpp takes this one.
_WINDOW_FIXED = {"llama4": 8192, "smallthinker": 4096}
# Of this family llama.cpp knows the window of the model with so many layers only.
_WINDOW_LAYERS = {"exaone4": 64}
# These state a window that llama.cpp does not use.
_WINDOW_UNUSED = frozenset({"llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe"})
_WINDOW_EVERYWHERE = frozenset({"lfm2"})
_ALL_RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
_ATTENTION_AND_RECURRENT = frozenset({"falcon-h1"})
_ATTENTION_EVERY_FOURTH = frozenset({"qwen35", "qwen35moe", "qwen3next"})
# Text diffusion: the whole text is computed anew at each step.
_WITHOUT_CACHE = frozenset({"dream", "llada", "llada-moe", "rnd1"})
# A further key for each token, of the indexer that chooses what is attended to.
_INDEXED = frozenset({"deepseek32", "glm-dsa"})
# llama.cpp keeps caches of their own kinds for these, which are not computed here.
_OTHER_CACHE = frozenset(
    {"deepseek4", "dots3note", "glm5-next", "hy-v4", "minimax-01", "minimax-m3", "qwen4exp"}
)
_GLM_LONG_CONTEXT = 1_048_576
_LARGEST = 2**31


class ArchitectureKeys:
    """The keys below ``<architecture>.``, each taken only if it is what it should be.

    Parameters
    ----------
    architecture : str
    values : mapping of str to object
        Every key of the file.
    """

    __slots__ = ("_prefix", "_values", "architecture")

    def __init__(self, architecture: str, values: Mapping[str, object]) -> None:
        self.architecture = architecture
        self._prefix = f"{architecture}."
        self._values = values

    def value(self, key: str) -> object:
        """Return the value as it stands, or None."""
        return self._values.get(self._prefix + key)

    def integer(self, key: str, largest: int = _LARGEST) -> int | None:
        """Return a whole number from 0 to ``largest``, or None."""
        value = self._values.get(self._prefix + key)
        # Nothing else is a whole number here: a flag is a bool.
        return value if type(value) is int and 0 <= value <= largest else None

    def per_layer(self, key: str, layers: int) -> tuple[int, ...] | None:
        """Return one whole number for each layer, or None; a single one stands for all layers."""
        value = self.value(key)
        single = self.integer(key)
        if single is not None:
            return (single,) * layers
        if not isinstance(value, tuple) or len(value) < layers:
            return None
        if all(isinstance(item, int) and 0 <= item <= _LARGEST for item in value):
            return tuple(int(item) for item in value[:layers])
        return None


def attention_geometry(keys: ArchitectureKeys) -> tuple[AttentionGeometry | None, tuple[str, ...]]:
    """Return the geometry of the KV cache and notes on what was assumed.

    The geometry is None for encoders, which have no cache, and where a needed key is missing.
    """
    layers = keys.integer("block_count", limits.LAYERS)
    if not layers or keys.architecture in ENCODERS or keys.value("attention.causal") is False:
        return None, ()
    if keys.architecture in _WITHOUT_CACHE:
        return AttentionGeometry((0,) * layers, 0, 0), ()
    if keys.architecture in _OTHER_CACHE:
        return None, (f"the cache that llama.cpp keeps for {keys.architecture} is not computed",)
    heads = keys.per_layer("attention.head_count", layers)
    if keys.architecture in _ALL_RECURRENT:
        heads = heads_kv = (0,) * layers
    elif heads is None:
        return None, ("attention.head_count is missing: the KV cache cannot be computed",)
    else:
        heads_kv = keys.per_layer("attention.head_count_kv", layers) or heads

    width = keys.integer("embedding_length")
    first = next((count for count in heads if count), 0)
    default = width // first if width and first else None
    key_length = keys.integer("attention.key_length")
    value_length = keys.integer("attention.value_length")
    key_length = default if key_length is None else key_length
    value_length = default if value_length is None else value_length

    heads_kv, recurrent = _recurrent(keys, heads_kv, layers)
    heads_kv = _without_cache(keys, heads_kv)
    if any(heads_kv) and (not key_length or value_length is None):
        return None, ("attention.key_length cannot be derived: the KV cache is unknown",)
    key_length, value_length = key_length or 0, value_length or 0

    latent, rope = _latent(keys, key_length)
    window, windowed, notes = _windowed(keys, layers)
    if window is not None and windowed:
        heads_kv, key_length, value_length, more = _window_heads(
            keys, heads_kv, windowed, key_length, value_length
        )
        notes += more
    return (
        AttentionGeometry(
            heads_kv=heads_kv,
            key_length=key_length,
            value_length=value_length,
            window=window,
            windowed=windowed,
            latent_rank=latent,
            rope_dimension=rope,
            recurrent_elements=recurrent,
            indexer_elements=_indexer_elements(keys, heads_kv),
        ),
        notes,
    )


def _trunk(keys: ArchitectureKeys, layers: int) -> int:
    """Return the layers that are not there only to predict further tokens ahead."""
    return layers - (keys.integer("nextn_predict_layers", layers) or 0)


def _without_cache(keys: ArchitectureKeys, heads_kv: tuple[int, ...]) -> tuple[int, ...]:
    """Zero the last layers that reuse an earlier layer's cache or only predict ahead."""
    layers = len(heads_kv)
    shared = keys.integer("attention.shared_kv_layers", layers) or 0
    if keys.architecture == "gemma3n":
        shared = max(layers - 20, 0)
    kept = min(layers - shared, _trunk(keys, layers))
    return heads_kv[:kept] + (0,) * (layers - kept)


def _latent(keys: ArchitectureKeys, key_length: int) -> tuple[int | None, int | None]:
    """Return rank and rope dimension where one latent per token is cached.

    Older conversions of the same models cache full heads: the rank alone does not tell, the
    lengths of the heads before compression do, or a key that is the latent and the rotary part.
    """
    rank = keys.integer("attention.kv_lora_rank")
    rope = keys.integer("rope.dimension_count")
    before = keys.integer("attention.key_length_mla")
    if not rank or rope is None or rope > key_length:
        return None, None
    if not before and key_length != rank + rope:
        return None, None
    return key_length - rope, rope


def _indexer_elements(keys: ArchitectureKeys, heads_kv: tuple[int, ...]) -> int:
    """Elements of the indexer's keys for each token, over all layers that have one."""
    if keys.architecture not in _INDEXED:
        return 0
    layers = _trunk(keys, len(heads_kv))
    indexed = layers
    if keys.architecture == "glm-dsa":
        stated = keys.value("attention.indexer.types")
        if isinstance(stated, tuple):
            indexed = sum(map(bool, stated[:layers]))
        elif (keys.integer("context_length", 2**40) or 0) >= _GLM_LONG_CONTEXT:
            # Both first layers, then one in four.
            indexed = min(2, layers) + max(0, -(-(layers - 2) // 4))
    return indexed * (keys.integer("attention.indexer.key_length", 2**20) or 0)


def _windowed(
    keys: ArchitectureKeys, layers: int
) -> tuple[int | None, tuple[bool, ...], tuple[str, ...]]:
    architecture = keys.architecture
    every, assumed = _WINDOW_EVERY.get(architecture, (0, None))
    window = keys.integer("attention.sliding_window")
    window = assumed if window is None else window
    trunk = _trunk(keys, layers)
    if not window or trunk != _WINDOW_LAYERS.get(architecture, trunk):
        return None, (), ()
    window = _WINDOW_FIXED.get(architecture, window)
    if architecture in _WINDOW_UNUSED:
        return None, (), (f"states a window of {window} tokens that llama.cpp does not use",)
    pattern = keys.value("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= layers:
        flags = tuple(bool(item) for item in pattern[:layers])
        return (window, flags, ()) if any(flags) else (None, (), ())
    if architecture in _WINDOW_EVERYWHERE:
        return window, (True,) * layers, ()
    stated = keys.integer("attention.sliding_window_pattern", limits.LAYERS)
    every = stated if stated is not None else every
    if every > 1:
        full = 0 if architecture in _FULL_LAYER_FIRST else every - 1
        return window, tuple(layer % every != full for layer in range(layers)), ()
    note = f"states a window of {window} tokens, but not for which layers: counted as full"
    return None, (), (note,)


def _window_heads(
    keys: ArchitectureKeys,
    heads_kv: tuple[int, ...],
    windowed: tuple[bool, ...],
    key_length: int,
    value_length: int,
) -> tuple[tuple[int, ...], int, int, tuple[str, ...]]:
    """Express layers with wider heads as more heads of the narrower length: the same bytes."""
    key_swa = keys.integer("attention.key_length_swa") or key_length
    value_swa = keys.integer("attention.value_length_swa") or value_length
    if (key_swa, value_swa) == (key_length, value_length) or not (key_swa and value_swa):
        return heads_kv, key_length, value_length, ()
    unit = math.gcd(key_length, key_swa)
    if key_length * value_swa != key_swa * value_length or (unit * value_swa) % key_swa:
        note = "windowed layers have heads of another length: their KV cache is an upper bound"
        longest = (max(key_length, key_swa), max(value_length, value_swa))
        return heads_kv, *longest, (note,)
    full, narrow = key_length // unit, key_swa // unit
    scaled = tuple(
        count * (narrow if flag else full) for count, flag in zip(heads_kv, windowed, strict=True)
    )
    note = f"KV heads are counted in units of {unit} elements: full and windowed layers differ"
    return scaled, unit, unit * value_swa // key_swa, (note,)


def _recurrent(
    keys: ArchitectureKeys, heads_kv: tuple[int, ...], layers: int
) -> tuple[tuple[int, ...], int]:
    """Return KV heads with the recurrent layers at 0, and the f32 elements of their state."""
    each = _state_elements(keys)
    if not each:
        return heads_kv, 0
    architecture = keys.architecture
    trunk = _trunk(keys, layers)
    if architecture in _ATTENTION_EVERY_FOURTH:
        recurrent = keys.value("attention.recurrent_layers")
        every = keys.integer("full_attention_interval", limits.LAYERS) or 4
        if isinstance(recurrent, tuple) and len(recurrent) >= trunk:
            attends = [not flag for flag in recurrent[:trunk]]
        else:
            attends = [(layer + 1) % every == 0 for layer in range(trunk)]
        heads_kv = tuple(
            count if layer < trunk and attends[layer] else 0 for layer, count in enumerate(heads_kv)
        )
    if architecture in _ATTENTION_AND_RECURRENT:
        return heads_kv, each * trunk
    # A layer that has neither attention nor a feed-forward part holds the state (nemotron_h);
    # in the other hybrids every layer without attention does.
    forward = keys.per_layer("feed_forward_length", layers)
    mixed = forward is not None and len(set(forward)) > 1 and 0 in forward
    recurrent_layers = sum(
        1
        for layer, count in enumerate(heads_kv[:trunk])
        if count == 0 and not (mixed and forward is not None and forward[layer])
    )
    return heads_kv, each * recurrent_layers


def _state_elements(keys: ArchitectureKeys) -> int:
    """Elements of one recurrent layer's state for one sequence (n_embd_r + n_embd_s)."""
    width = keys.integer("embedding_length", 2**24) or 0
    head_size = keys.integer("wkv.head_size", 2**20)
    if head_size:
        shifts = keys.integer("token_shift_count", 16)
        return width * ((2 if shifts is None else shifts) + head_size)
    cache = keys.integer("shortconv.l_cache", 2**20)
    if cache:
        return width * (cache - 1)
    kernel = keys.integer("ssm.conv_kernel", 2**20) or 0
    kda = keys.integer("kda.head_dim", 2**20)
    if kda:
        layers = keys.integer("block_count", limits.LAYERS) or 0
        heads = max(keys.per_layer("attention.head_count", layers) or (0,))
        return 3 * (kernel - 1 if kernel else 3) * heads * kda + kda * kda * heads
    inner = keys.integer("ssm.inner_size", 2**24) or 0
    state = keys.integer("ssm.state_size", 2**20) or 0
    groups = keys.integer("ssm.group_count", 2**20) or 0
    return max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner
