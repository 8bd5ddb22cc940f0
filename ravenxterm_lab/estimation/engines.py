"""What each engine takes: llama.cpp, ONNX Runtime, fastText, transformers and vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.llama_cpp import llama_cpp_parts
from ravenxterm_lab.estimation.parts import MIB, Parts, Settings, Share, context_of, free_memory
from ravenxterm_lab.estimation.placement import CPU
from ravenxterm_lab.metadata import ModelType

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["ENGINES", "engine_for", "parts_of"]

# RSS / file size of ONNX models ranged from 1.4 to 13.5 where it was measured, so the
# interval says so until the first load is measured.
_ONNX_FACTOR, _ONNX_LOW, _ONNX_HIGH = 2.5, 1.4, 13.5
_ONNX_OVERHEAD = 24 * MIB

# What fastText keeps of a word beside its row: its entry in the dictionary and in a hash table,
# and for each of its letters the n-grams that begin there; and of a hash that pruning kept. As
# measured on models written for that (``tests/estimation/test_estimation_fasttext.py``).
_FASTTEXT_WORD, _FASTTEXT_LETTER, _FASTTEXT_HASH = 110, 14, 36
_FASTTEXT_MARGIN = 0.15

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


def engine_for(model_type: ModelType) -> str:
    """Return the engine that a format is made for; ``"none"`` where there is no formula."""
    return {
        ModelType.GGUF: "llama_cpp",
        ModelType.OLLAMA: "llama_cpp",
        ModelType.ONNX: "onnx",
        ModelType.FASTTEXT: "fasttext",
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


def _fasttext(model: ModelMetadata, settings: Settings) -> Parts:
    """Matrices as they are on disk, and a dictionary that takes several times its bytes there."""
    del settings  # it runs on the CPU, and a text of any length takes nothing
    matrices = sum(model.tensor_bytes.values())
    words, width = model.vocabulary_size or 0, model.embedding_length or 1
    dictionary = max(0, model.size_bytes - matrices)
    hashes = 0
    if "PQ" in model.tensor_bytes:
        hashed = (model.parameter_count or 0) // width - words
        hashes = max(0, min(hashed, dictionary // 8))
    # On disk a kept hash has 8 bytes, and a word 10 beside its letters.
    letters = max(0, dictionary - 8 * hashes - 10 * words)
    fixed = _FASTTEXT_WORD * words + _FASTTEXT_HASH * hashes
    share = Share(weights=matrices, compute=fixed + _FASTTEXT_LETTER * letters)
    margin = round(_FASTTEXT_MARGIN * share.total)
    return Parts(
        source="matrices + 110 B a word, 14 B a letter of it, 36 B a kept hash (fastText)",
        shares=[share],
        # The file's outline does not say whether words are cut into n-grams.
        below=_FASTTEXT_LETTER * letters + margin,
        above=margin + MIB,
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
    context = context_of(model, settings)
    weights = model.size_bytes + model.projector_bytes
    logits = 4 * (model.vocabulary_size or 0) * settings.sequences
    on_gpus = bool(settings.devices) and settings.gpu_layers != 0
    free = free_memory(settings.devices) if on_gpus else [1]
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
    context = context_of(model, settings)
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
def _served(model: ModelMetadata, settings: Settings) -> Parts:
    del settings  # the server's own
    return Parts(
        source="the size that the server lists, held by the server itself",
        shares=[Share(weights=model.size_bytes)],
        # Its cache and buffers are not known; what it really holds is measured at the load.
        above=model.size_bytes // 2,
    )


ENGINES = {
    "fasttext": _fasttext,
    "llama_cpp": llama_cpp_parts,
    "ollama": _served,
    "onnx": _onnx,
    "openai_server": _served,
    "transformers": _transformers,
    "vllm": _vllm,
}
