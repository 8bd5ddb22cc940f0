"""Small models that llama.cpp really loads: the geometry of published ones, and zero weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headers import Q, Tensors, header_model

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

TOKENS = 512
EPSILON = {"attention.layer_norm_rms_epsilon": 1e-5, "context_length": 131_072}


def _model(
    path: Path, arch: str, keys: dict[str, object], layers: list[Tensors], width: int
) -> ModelMetadata:
    tensors: Tensors = {"token_embd.weight": ((TOKENS, width), Q.F16)}
    for number, layer in enumerate(layers):
        tensors |= {f"blk.{number}.{name}": value for name, value in layer.items()}
    tensors["output_norm.weight"] = ((width,), Q.F32)
    keys = EPSILON | {"block_count": len(layers), "embedding_length": width} | keys
    return header_model(path, arch, keys, tensors, tokens=TOKENS)


def gemma3_270m(path: Path) -> ModelMetadata:
    """Gemma 3 270M with a small vocabulary: 18 layers, every sixth full, one KV head of 256."""
    width, inner, heads, head = 640, 2048, 4, 256
    layer: Tensors = {
        "attn_norm.weight": ((width,), Q.F32),
        "attn_q.weight": ((heads * head, width), Q.Q4_0),
        "attn_k.weight": ((head, width), Q.Q4_0),
        "attn_v.weight": ((head, width), Q.Q4_0),
        "attn_output.weight": ((width, heads * head), Q.Q4_0),
        "attn_q_norm.weight": ((head,), Q.F32),
        "attn_k_norm.weight": ((head,), Q.F32),
        "post_attention_norm.weight": ((width,), Q.F32),
        "ffn_norm.weight": ((width,), Q.F32),
        "ffn_gate.weight": ((inner, width), Q.Q4_0),
        "ffn_up.weight": ((inner, width), Q.Q4_0),
        "ffn_down.weight": ((width, inner), Q.Q4_0),
        "post_ffw_norm.weight": ((width,), Q.F32),
    }
    keys = {
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": 1,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.sliding_window": 512,
    }
    return _model(path, "gemma3", keys, [layer] * 18, width)


def mixture(path: Path) -> ModelMetadata:
    """Four layers of eight experts, of which a token meets two."""
    width, inner, experts = 256, 512, 8
    layer: Tensors = {
        "attn_norm.weight": ((width,), Q.F32),
        "attn_q.weight": ((width, width), Q.F16),
        "attn_k.weight": ((64, width), Q.F16),
        "attn_v.weight": ((64, width), Q.F16),
        "attn_output.weight": ((width, width), Q.F16),
        "ffn_norm.weight": ((width,), Q.F32),
        "ffn_gate_inp.weight": ((experts, width), Q.F32),
        "ffn_gate_exps.weight": ((experts, inner, width), Q.Q4_0),
        "ffn_up_exps.weight": ((experts, inner, width), Q.Q4_0),
        "ffn_down_exps.weight": ((experts, width, inner), Q.Q4_0),
    }
    keys = {
        "feed_forward_length": inner,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 32,
        "expert_count": experts,
        "expert_used_count": 2,
    }
    return _model(path, "llama", keys, [layer] * 4, width)


def by_layer(path: Path) -> ModelMetadata:
    """OpenELM's kind: heads and feed-forward widths differ from layer to layer."""
    width, head = 256, 32
    shapes = ((4, 1, 256), (4, 1, 256), (8, 2, 512), (8, 2, 512))
    layers: list[Tensors] = [
        {
            "attn_norm.weight": ((width,), Q.F32),
            "attn_qkv.weight": (((heads + 2 * kv) * head, width), Q.F16),
            "attn_q_norm.weight": ((head,), Q.F32),
            "attn_k_norm.weight": ((head,), Q.F32),
            "attn_output.weight": ((width, heads * head), Q.F16),
            "ffn_norm.weight": ((width,), Q.F32),
            "ffn_gate.weight": ((inner, width), Q.F16),
            "ffn_up.weight": ((inner, width), Q.F16),
            "ffn_down.weight": ((width, inner), Q.F16),
        }
        for heads, kv, inner in shapes
    ]
    keys = {
        "feed_forward_length": [inner for *_, inner in shapes],
        "attention.head_count": [heads for heads, *_ in shapes],
        "attention.head_count_kv": [kv for _, kv, _ in shapes],
        "attention.key_length": head,
        "attention.value_length": head,
    }
    return _model(path, "openelm", keys, layers, width)


def fused(path: Path) -> ModelMetadata:
    """Phi-3's kind: one matrix for query, key and value, and one for gate and up."""
    width, inner = 256, 512
    layer: Tensors = {
        "attn_norm.weight": ((width,), Q.F32),
        "attn_qkv.weight": ((width + 2 * 64, width), Q.F16),
        "attn_output.weight": ((width, width), Q.F16),
        "ffn_norm.weight": ((width,), Q.F32),
        "ffn_up.weight": ((2 * inner, width), Q.F16),
        "ffn_down.weight": ((width, inner), Q.F16),
    }
    keys = {
        "feed_forward_length": inner,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 32,
    }
    return _model(path, "phi3", keys, [layer] * 4, width)


def hybrid(path: Path) -> ModelMetadata:
    """Granite 4's kind: three Mamba-2 layers and one that attends."""
    width, inner, state, heads = 256, 512, 64, 8
    ends: Tensors = {
        "attn_norm.weight": ((width,), Q.F32),
        "ffn_norm.weight": ((width,), Q.F32),
        "ffn_gate.weight": ((512, width), Q.F16),
        "ffn_up.weight": ((512, width), Q.F16),
        "ffn_down.weight": ((width, 512), Q.F16),
    }
    channels = inner + 2 * state
    recurrent: Tensors = ends | {
        "ssm_in.weight": ((inner + channels + heads, width), Q.F16),
        "ssm_conv1d.weight": ((channels, 4), Q.F32),
        "ssm_conv1d.bias": ((channels,), Q.F32),
        "ssm_dt.bias": ((heads,), Q.F32),
        "ssm_a": ((heads, 1), Q.F32),
        "ssm_d": ((heads, 1), Q.F32),
        "ssm_norm.weight": ((1, inner), Q.F32),
        "ssm_out.weight": ((width, inner), Q.F16),
    }
    attends: Tensors = ends | {
        "attn_q.weight": ((width, width), Q.F16),
        "attn_k.weight": ((64, width), Q.F16),
        "attn_v.weight": ((64, width), Q.F16),
        "attn_output.weight": ((width, width), Q.F16),
    }
    keys = {
        "feed_forward_length": 512,
        "attention.head_count": 8,
        "attention.head_count_kv": [0, 0, 2, 0],
        "rope.dimension_count": 32,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": heads,
        "ssm.group_count": 1,
        "attention.scale": 0.1,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
    }
    return _model(path, "granitehybrid", keys, [recurrent, recurrent, attends, recurrent], width)
