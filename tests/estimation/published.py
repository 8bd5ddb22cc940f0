"""Published models as header-only files: their real shapes, in the mixtures of llama-quantize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headers import Q, Tensors, header_model

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata


def more_bits(layer: int, layers: int) -> bool:
    """Say whether Q4_K_M keeps Q6_K for V and the down projection of a layer.

    Source: llama.cpp, ``llama-quant.cpp``, ``use_more_bits``: the first and the last eighth, and
    every third layer between.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def llama3(path: Path, *, layers: int, width: int, heads: int, inner: int) -> ModelMetadata:
    """Llama 3 as Q4_K_M: 8 KV heads of 128, a vocabulary of 128,256 and an untied head.

    The output head is Q6_K, all other matrices Q4_K except where `more_bits` says so
    (``llama-quant.cpp``, ``llama_tensor_get_type``); with 80 layers V is Q5_K instead of Q4_K,
    because eight queries share it.
    """
    shared = Q.Q5_K if layers == 80 else Q.Q4_K
    tensors: Tensors = {"token_embd.weight": ((128_256, width), Q.Q4_K)}
    for layer in range(layers):
        more = more_bits(layer, layers)
        block = {
            "attn_norm": ((width,), Q.F32),
            "attn_q": ((width, width), Q.Q4_K),
            "attn_k": ((1024, width), Q.Q4_K),
            "attn_v": ((1024, width), Q.Q6_K if more else shared),
            "attn_output": ((width, width), Q.Q4_K),
            "ffn_norm": ((width,), Q.F32),
            "ffn_gate": ((inner, width), Q.Q4_K),
            "ffn_up": ((inner, width), Q.Q4_K),
            "ffn_down": ((width, inner), Q.Q6_K if more else Q.Q4_K),
        }
        tensors |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
    tensors["output_norm.weight"] = ((width,), Q.F32)
    tensors["output.weight"] = ((128_256, width), Q.Q6_K)
    keys = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": 8,
        "rope.dimension_count": 128,
        "vocab_size": 128_256,
    }
    return header_model(path, "llama", keys, tensors, {"general.file_type": 15})


def llama3_8b(path: Path) -> ModelMetadata:
    """Meta-Llama-3-8B, Q4_K_M: 4.58 GiB."""
    return llama3(path, layers=32, width=4096, heads=32, inner=14_336)
