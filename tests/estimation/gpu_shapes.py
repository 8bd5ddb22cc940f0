"""The models of `h200_llama_cpp.json` as header-only files: shapes of real models, no weights.

On the GPU they held random weights of the same types, so that buffers and speeds are those of the
real ones.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from headers import Q, Tensors, header_model
from published import llama3, more_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

Block = dict[str, tuple[tuple[int, ...], Q]]


def _feed_forward(width: int, inner: int, kind: Q, down: Q) -> Block:
    return {
        "ffn_gate": ((inner, width), kind),
        "ffn_up": ((inner, width), kind),
        "ffn_down": ((width, inner), down),
    }


def _experts(width: int, inner: int, count: int, down: Q) -> Block:
    return {
        "ffn_gate_inp": ((count, width), Q.F32),
        "ffn_gate_exps": ((count, inner, width), Q.Q4_K),
        "ffn_up_exps": ((count, inner, width), Q.Q4_K),
        "ffn_down_exps": ((count, width, inner), down),
    }


def _attention(width: int, heads: int, heads_kv: int, length: int, kind: Q, value: Q) -> Block:
    return {
        "attn_q": ((heads * length, width), kind),
        "attn_k": ((heads_kv * length, width), kind),
        "attn_v": ((heads_kv * length, width), value),
        "attn_output": ((width, heads * length), kind),
    }


def _norms(width: int, *names: str) -> Block:
    return dict.fromkeys(names, ((width,), Q.F32))


def _model(
    path: Path,
    arch: str,
    keys: Mapping[str, Any],
    blocks: list[Block],
    *,
    embedding: Q = Q.Q4_K,
    head: Q | None = Q.Q6_K,
) -> ModelMetadata:
    width, words = keys["embedding_length"], keys["vocab_size"]
    tensors: Tensors = {"token_embd.weight": ((words, width), embedding)}
    tensors["output_norm.weight"] = ((width,), Q.F32)
    if head is not None:
        tensors["output.weight"] = ((words, width), head)
    for layer, block in enumerate(blocks):
        tensors |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
    return header_model(path, arch, {"block_count": len(blocks), **keys}, tensors)


def _llama(
    path: Path, *, layers: int, width: int, heads: int, inner: int, kind: Q | None = None
) -> ModelMetadata:
    """Llama 3 in one type, or (None) as Q4_K_M where `published.llama3` has other heads."""
    length = width // heads

    def block(layer: int) -> Block:
        plain = kind or Q.Q4_K
        more = kind or (Q.Q6_K if more_bits(layer, layers) else Q.Q4_K)
        return {
            **_norms(width, "attn_norm", "ffn_norm"),
            **_attention(width, heads, 8, length, plain, more),
            **_feed_forward(width, inner, plain, more),
        }

    keys = {
        "context_length": 32_768, "embedding_length": width, "feed_forward_length": inner,
        "attention.head_count": heads, "attention.head_count_kv": 8,
        "rope.dimension_count": length, "vocab_size": 128_256,
    }  # fmt: skip
    blocks = [block(layer) for layer in range(layers)]
    return _model(path, "llama", keys, blocks, embedding=kind or Q.Q4_K, head=kind or Q.Q6_K)


def _qwen3_30b_a3b(path: Path) -> ModelMetadata:
    width, layers = 2048, 48
    keys = {
        "context_length": 40_960, "embedding_length": width, "feed_forward_length": 6144,
        "attention.head_count": 32, "attention.head_count_kv": 4, "attention.key_length": 128,
        "attention.value_length": 128, "expert_count": 128, "expert_used_count": 8,
        "expert_feed_forward_length": 768, "vocab_size": 151_936,
    }  # fmt: skip
    blocks = []
    for layer in range(layers):
        more = Q.Q6_K if more_bits(layer, layers) else Q.Q4_K
        blocks.append(
            {
                **_norms(width, "attn_norm", "ffn_norm"),
                **_norms(128, "attn_q_norm", "attn_k_norm"),
                **_attention(width, 32, 4, 128, Q.Q4_K, more),
                **_experts(width, 768, 128, more),
            }
        )
    return _model(path, "qwen3moe", keys, blocks)


def _gemma3_27b(path: Path) -> ModelMetadata:
    width, layers = 5376, 62
    keys = {
        "context_length": 131_072, "embedding_length": width, "feed_forward_length": 21_504,
        "attention.head_count": 32, "attention.head_count_kv": 16, "attention.key_length": 128,
        "attention.value_length": 128, "attention.sliding_window": 1024, "vocab_size": 262_208,
    }  # fmt: skip
    blocks = []
    for layer in range(layers):
        more = Q.Q6_K if more_bits(layer, layers) else Q.Q4_K
        blocks.append(
            {
                **_norms(width, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"),
                **_norms(128, "attn_q_norm", "attn_k_norm"),
                **_attention(width, 32, 16, 128, Q.Q4_K, more),
                **_feed_forward(width, 21_504, Q.Q4_K, more),
            }
        )
    return _model(path, "gemma3", keys, blocks, embedding=Q.Q6_K, head=None)


def _deepseek_v2_lite(path: Path) -> ModelMetadata:
    width, layers, heads, rank, rope = 2048, 27, 16, 512, 64
    keys = {
        "context_length": 163_840, "embedding_length": width, "feed_forward_length": 10_944,
        "attention.head_count": heads, "attention.head_count_kv": 1,
        "attention.key_length": rank + rope, "attention.value_length": rank,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128,
        "attention.kv_lora_rank": rank, "rope.dimension_count": rope, "expert_count": 64,
        "expert_used_count": 6, "expert_shared_count": 2, "expert_feed_forward_length": 1408,
        "leading_dense_block_count": 1, "vocab_size": 102_400,
    }  # fmt: skip
    blocks = []
    for layer in range(layers):
        block = {
            **_norms(width, "attn_norm", "ffn_norm"),
            "attn_q": ((heads * 192, width), Q.Q4_K),
            "attn_kv_a_mqa": ((rank + rope, width), Q.Q4_K),
            "attn_kv_a_norm": ((rank,), Q.F32),
            "attn_k_b": ((heads, rank, 128), Q.Q8_0),
            "attn_v_b": ((heads, 128, rank), Q.Q8_0),
            "attn_output": ((width, heads * 128), Q.Q4_K),
        }
        if layer == 0:
            block |= _feed_forward(width, 10_944, Q.Q4_K, Q.Q5_0)
        else:
            shared = _feed_forward(width, 2816, Q.Q4_K, Q.Q4_K)
            block |= _experts(width, 1408, 64, Q.Q8_0)
            block |= {f"{name}_shexp": value for name, value in shared.items()}
        blocks.append(block)
    return _model(path, "deepseek2", keys, blocks)


_LLAMA_8B = {"layers": 32, "width": 4096, "heads": 32, "inner": 14_336}
#: Name in the record to the function that writes the file.
SHAPES: dict[str, Callable[[Path], ModelMetadata]] = {
    "llama3-8b Q4_K_M": partial(llama3, **_LLAMA_8B),
    "llama3-8b Q8_0": partial(_llama, **_LLAMA_8B, kind=Q.Q8_0),
    "llama3-8b F16": partial(_llama, **_LLAMA_8B, kind=Q.F16),
    "llama3.2-1b Q4_K_M": partial(_llama, layers=16, width=2048, heads=32, inner=8192),
    "llama3-70b Q4_K_M": partial(llama3, layers=80, width=8192, heads=64, inner=28_672),
    "qwen3-30b-a3b Q4_K_M": _qwen3_30b_a3b,
    "gemma3-27b Q4_K_M": _gemma3_27b,
    "deepseek2-lite Q4_K_M": _deepseek_v2_lite,
}
