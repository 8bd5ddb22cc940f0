"""The KV cache of published models, from header-only files, against sums derived by hand.

Hyper-parameters are those of each model's ``config.json``; how llama.cpp lays the cache out is
in its ``llama-model.cpp`` (``create_memory``), ``llama-kv-cache*.cpp`` and ``llama-hparams.cpp``.
All caches are f16 (2 bytes) with batches of 512 tokens unless a test says otherwise.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from headers import header_model
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.estimation import kv_cache_bytes
from ravenxterm_lab.metadata import AttentionGeometry

MIB = 2**20
LLAMA3_8B = AttentionGeometry((8,) * 32, 128, 128)
GPT_OSS = {
    "block_count": 24,
    "embedding_length": 2880,
    "attention.head_count": 64,
    "attention.head_count_kv": 8,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.sliding_window": 128,
}
DEEPSEEK = {
    "block_count": 27,
    "embedding_length": 2048,
    "attention.head_count": 16,
    "attention.head_count_kv": 1,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.kv_lora_rank": 512,
    "rope.dimension_count": 64,
}
OPENELM_KV = (3,) * 5 + (4,) * 7 + (5,) * 4


def geometry(tmp_path: Path, arch: str, keys: dict[str, Any]) -> AttentionGeometry:
    found = header_model(tmp_path / f"{arch}.gguf", arch, keys).attention
    assert found is not None
    return found


def test_gpt_oss(tmp_path: Path) -> None:
    """gpt-oss-20b: every second layer of 24 sees 128 tokens; 8 KV heads of 64.

    Full: 12 layers · 8192 cells · 8 · 64 · 2 (K, V) · 2 B. Windowed: 12 layers with
    pad256(128 + 512) = 768 cells. Counting all layers as full would give nearly twice that.
    """
    found = geometry(tmp_path, "gpt-oss", GPT_OSS)
    assert kv_cache_bytes(found, 8192) == 12 * (8192 + 768) * 8 * 64 * 2 * 2


def test_gemma_3_27b(tmp_path: Path) -> None:
    """Gemma 3 27B: every sixth of 62 layers is full (10), the others see 1024 tokens.

    16 KV heads of 128; windowed cells pad256(1024 + 512) = 1536.
    """
    keys = {
        "block_count": 62,
        "embedding_length": 5376,
        "attention.head_count": 32,
        "attention.head_count_kv": 16,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.sliding_window": 1024,
    }
    found = geometry(tmp_path, "gemma3", keys)
    assert kv_cache_bytes(found, 32_768) == (10 * 32_768 + 52 * 1536) * 16 * 128 * 2 * 2


def test_gemma_3n(tmp_path: Path) -> None:
    """gemma-3n-E2B: only the first 20 of 30 layers keep a cache; every fifth is full (4).

    2 KV heads of 256; windowed cells pad256(512 + 512) = 1024 on the other 16. Thirty full
    layers would be 6.5 times as much at 32,768 tokens.
    """
    keys = {
        "block_count": 30,
        "embedding_length": 2048,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.sliding_window": 512,
        "attention.shared_kv_layers": 10,
    }
    found = geometry(tmp_path, "gemma3n", keys)
    right = (4 * 32_768 + 16 * 1024) * 2 * 256 * 2 * 2
    assert kv_cache_bytes(found, 32_768) == right
    assert 30 * 32_768 * 2 * 256 * 2 * 2 / right == pytest.approx(6.67, abs=0.01)


def test_llama_4_scout(tmp_path: Path) -> None:
    """Llama 4 Scout: three of four layers attend to chunks of 8192 tokens, whatever is stated.

    48 layers, 8 KV heads of 128: 12 full, 36 with pad256(8192 + 512) = 8704 cells.
    """
    keys = {
        "block_count": 48,
        "embedding_length": 5120,
        "attention.head_count": 40,
        "attention.head_count_kv": 8,
        "attention.key_length": 128,
        "attention.value_length": 128,
    }
    found = geometry(tmp_path, "llama4", keys)
    assert kv_cache_bytes(found, 65_536) == (12 * 65_536 + 36 * 8704) * 8 * 128 * 2 * 2


def test_deepseek_with_latent_attention(tmp_path: Path) -> None:
    """DeepSeek-V2-Lite: one latent of 512 and 64 rotary elements a token and layer, and no V.

    27 layers · 4096 cells · 576 · 2 B (the paper's section 2.1; ``is_mla`` in llama.cpp).
    """
    found = geometry(tmp_path, "deepseek2", DEEPSEEK)
    assert kv_cache_bytes(found, 4096) == 27 * 4096 * 576 * 2
    assert kv_cache_bytes(found, 4096, kv_type="q8_0") == 27 * 4096 * 576 // 32 * 34


def test_deepseek_without_latent_attention(tmp_path: Path) -> None:
    """An older conversion states no lengths before compression: K of 192, V of 128, 16 heads."""
    older = {k: v for k, v in DEEPSEEK.items() if not k.endswith("_mla")} | {
        "attention.head_count_kv": 16,
        "attention.key_length": 192,
        "attention.value_length": 128,
    }
    found = geometry(tmp_path, "deepseek2", older)
    assert kv_cache_bytes(found, 4096) == 27 * 4096 * 16 * (192 + 128) * 2


def test_deepseek_with_an_indexer(tmp_path: Path) -> None:
    """DeepSeek-V3.2: 61 layers keep the latent and one indexer key of 128 elements.

    The layer that only predicts ahead (the 62nd block) has neither (``llama-kv-cache-dsa.cpp``).
    """
    keys = DEEPSEEK | {
        "block_count": 62,
        "nextn_predict_layers": 1,
        "attention.indexer.key_length": 128,
    }
    found = geometry(tmp_path, "deepseek32", keys)
    assert kv_cache_bytes(found, 4096) == 61 * 4096 * (576 + 128) * 2


def test_head_counts_by_layer(tmp_path: Path) -> None:
    """OpenELM-270M: 3, 4 and 5 KV heads of 64 on 5, 7 and 4 layers: all of the array counts.

    Without flash attention V is stored transposed and padded to the widest layer's 5 heads
    (``[TAG_V_CACHE_VARIABLE]`` in ``llama-kv-cache.cpp``).
    """
    keys = {
        "block_count": 16,
        "embedding_length": 1280,
        "attention.head_count": [12] * 5 + [16] * 7 + [20] * 4,
        "attention.head_count_kv": list(OPENELM_KV),
        "attention.key_length": 64,
        "attention.value_length": 64,
    }
    found = geometry(tmp_path, "openelm", keys)
    assert kv_cache_bytes(found, 2048) == 2048 * sum(OPENELM_KV) * 64 * 2 * 2
    padded = 2048 * (sum(OPENELM_KV) + 16 * 5) * 64 * 2
    assert kv_cache_bytes(found, 2048, flash_attention=False) == padded


def test_the_first_of_an_array_does_not_stand_for_all(tmp_path: Path) -> None:
    """granite-4.0-h-tiny: attention on layers 5, 15, 25 and 35 of 40, so that entry 0 is 0.

    4 KV heads of 128. State: 36 layers · (3 · (3072 + 2 · 128) + 128 · 3072) f32 for each
    sequence (``n_embd_r`` and ``n_embd_s``: convolution of 4, inner width 3072, state 128).
    """
    attends = [4 if layer % 10 == 5 else 0 for layer in range(40)]
    keys = {
        "block_count": 40,
        "embedding_length": 1536,
        "attention.head_count": 12,
        "attention.head_count_kv": attends,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 3072,
        "ssm.state_size": 128,
        "ssm.group_count": 1,
    }
    found = geometry(tmp_path, "granitehybrid", keys)
    state = 36 * (3 * (3072 + 2 * 128) + 128 * 3072) * 4
    cache = 4 * 8192 * 4 * 128 * 2 * 2
    assert kv_cache_bytes(found, 8192) == cache + state
    assert kv_cache_bytes(found, 8192, sequences=3, unified=True) == cache + 3 * state


def test_falcon_h1(tmp_path: Path) -> None:
    """Falcon-H1-0.5B: each of 36 layers has both a cache (2 KV heads of 64) and a state.

    State: 3 · (1536 + 2 · 128) + 128 · 1536 f32 a layer.
    """
    keys = {
        "block_count": 36,
        "embedding_length": 1024,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 1536,
        "ssm.state_size": 128,
        "ssm.group_count": 1,
    }
    found = geometry(tmp_path, "falcon-h1", keys)
    state = 36 * (3 * (1536 + 2 * 128) + 128 * 1536) * 4
    assert kv_cache_bytes(found, 4096) == 36 * 4096 * 2 * 64 * 2 * 2 + state


def test_qwen3_next(tmp_path: Path) -> None:
    """Qwen3-Next-80B-A3B: every fourth of 48 layers attends (2 KV heads of 256), 36 do not.

    State: convolution of 4 over 4096 + 2 · 16 · 128 channels, and 128 · 4096. A cache on all
    layers would be four times too big; a block that only predicts ahead has neither.
    """
    keys = {
        "block_count": 49,
        "nextn_predict_layers": 1,
        "embedding_length": 2048,
        "attention.head_count": 16,
        "attention.head_count_kv": 2,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 4096,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
    }
    found = geometry(tmp_path, "qwen3next", keys)
    state = 36 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4
    assert kv_cache_bytes(found, 8192) == 12 * 8192 * 2 * 256 * 2 * 2 + state


def test_nemotron_h(tmp_path: Path) -> None:
    """Nemotron-H-8B: 4 attention, 24 Mamba-2 and 24 feed-forward layers, each by itself.

    8 KV heads of 128; state: convolution of 4 over 8192 + 2 · 8 · 128 channels, and 128 · 8192.
    A layer without KV heads holds a state only if it has no feed-forward part.
    """
    pattern = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
    assert [pattern.count(kind) for kind in "*M-"] == [4, 24, 24]
    keys = {
        "block_count": 52,
        "embedding_length": 4096,
        "attention.head_count": 32,
        "attention.head_count_kv": [8 if kind == "*" else 0 for kind in pattern],
        "feed_forward_length": [21_504 if kind == "-" else 0 for kind in pattern],
        "attention.key_length": 128,
        "attention.value_length": 128,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 8192,
        "ssm.state_size": 128,
        "ssm.group_count": 8,
    }
    found = geometry(tmp_path, "nemotron_h", keys)
    state = 24 * (3 * (8192 + 2 * 8 * 128) + 128 * 8192) * 4
    assert kv_cache_bytes(found, 4096) == 4 * 4096 * 8 * 128 * 2 * 2 + state


def test_lfm2(tmp_path: Path) -> None:
    """LFM2-1.2B: 6 of 16 layers attend (8 KV heads of 64); the others keep 2 · 2048 f32."""
    attends = {2, 5, 8, 10, 12, 14}
    keys = {
        "block_count": 16,
        "embedding_length": 2048,
        "attention.head_count": 32,
        "attention.head_count_kv": [8 if layer in attends else 0 for layer in range(16)],
        "shortconv.l_cache": 3,
    }
    found = geometry(tmp_path, "lfm2", keys)
    assert kv_cache_bytes(found, 4096) == 6 * 4096 * 8 * 64 * 2 * 2 + 10 * 2 * 2048 * 4


def test_a_cache_of_another_kind_is_unknown(tmp_path: Path) -> None:
    """deepseek4 compresses its cache in a way that is not computed: no number is given."""
    model = header_model(tmp_path / "m.gguf", "deepseek4", DEEPSEEK)
    assert model.attention is None
    assert "deepseek4" in " ".join(model.notes)


def test_keys_and_values_of_two_types(tmp_path: Path) -> None:
    """K as q8_0 (34 B a block of 32) beside V as f16, on gpt-oss-20b."""
    found = geometry(tmp_path, "gpt-oss", GPT_OSS)
    cells = 12 * (8192 + 768)
    right = cells * (8 * 64 // 32 * 34 + 8 * 64 * 2)
    assert kv_cache_bytes(found, 8192, kv_type=("q8_0", "f16")) == right


def test_several_sequences(tmp_path: Path) -> None:
    """Four sequences of 2048 tokens each, apart or in one pool.

    Apart, each has its own window: pad256(128 + 512) = 768 cells, four times. In one pool of
    8192 cells the window is kept for all four: pad256(4 · 128 + 512) = 1024 cells.
    """
    found = geometry(tmp_path, "gpt-oss", GPT_OSS)
    cell = 12 * 8 * 64 * 2 * 2
    assert kv_cache_bytes(found, 8192, sequences=4) == cell * (8192 + 4 * 768)
    assert kv_cache_bytes(found, 8192, sequences=4, unified=True) == cell * (8192 + 1024)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kv_type": ("f16", "q3")}, "q3"),
        ({"kv_type": ("f16", "f16", "f16")}, "one type or"),
        ({"sequences": 0}, "sequences"),
        ({"batch_size": 0}, "batch_size"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], word: str) -> None:
    """The message names the field and what is allowed."""
    with pytest.raises(ValueError, match=word):
        kv_cache_bytes(LLAMA3_8B, **({"context_length": 512} | changes))


def test_kv_cache_is_exact_on_logged_allocations(shared_data: Path) -> None:
    """The KV cache equals, to the byte, what llama.cpp logged on seventeen real machines."""
    rows = list(csv.DictReader((shared_data / "llama_cpp_memory.csv").read_text().splitlines()))
    assert len(rows) >= 17
    for row in rows:
        width = int(row["n_embd_k_gqa"]) // int(row["n_head_kv"])
        geometry = AttentionGeometry((int(row["n_head_kv"]),) * int(row["n_layer"]), width, width)
        logged = round(float(row["kv_mib"]) * MIB)
        assert kv_cache_bytes(geometry, int(row["n_ctx"]), kv_type=row["type_k"]) == logged


def test_kv_cache_follows_every_layer() -> None:
    """Layers without KV heads (recurrent ones) add nothing, whatever the first layer is."""
    hybrid = AttentionGeometry((0, 0, 0, 8) * 8, 128, 128, recurrent_elements=1000)
    full = AttentionGeometry((8,) * 8, 128, 128)
    assert kv_cache_bytes(hybrid, 4096) == kv_cache_bytes(full, 4096) + 4000


@given(st.integers(1, 200_000), st.sampled_from(["f32", "f16", "q8_0", "q4_0"]))
def test_kv_cache_grows_with_the_context_in_steps_of_256(context: int, kv_type: str) -> None:
    """The cache never shrinks with the context, and cells are padded to 256."""
    here = kv_cache_bytes(LLAMA3_8B, context, kv_type=kv_type)
    assert here <= kv_cache_bytes(LLAMA3_8B, context + 1, kv_type=kv_type)
    padded = -(-context // 256) * 256
    assert here == kv_cache_bytes(LLAMA3_8B, padded, kv_type=kv_type)
