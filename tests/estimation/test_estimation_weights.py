"""Where the bytes of the weights are, and how many of them one token reads."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from headers import Q, Tensors, header_model, header_only

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import discover, sources_for
from ravenxterm_lab.discovery.facts_json import decode, encode
from ravenxterm_lab.estimation import active_bytes
from ravenxterm_lab.metadata import ModelMetadata, ModelType, WeightLayout
from ravenxterm_lab.readers import read_facts

MIXTURE: Tensors = {
    "token_embd.weight": ((64, 32), Q.Q8_0),
    "output_norm.weight": ((32,), Q.F32),
    "output.weight": ((64, 32), Q.F16),
    "blk.0.attn_q.weight": ((32, 32), Q.Q4_0),
    "blk.0.attn_norm.weight": ((32,), Q.F32),
    "blk.1.ffn_gate_inp.weight": ((4, 32), Q.F32),
    "blk.1.ffn_up_exps.weight": ((4, 16, 32), Q.Q4_0),
    "blk.1.ffn_down_exps.weight": ((4, 32, 32), Q.Q4_0),
    "v.patch_embd.weight": ((32, 32), Q.F16),
}
KEYS = {
    "block_count": 2,
    "embedding_length": 32,
    "attention.head_count": 2,
    "expert_count": 4,
    "expert_used_count": 1,
}


def bytes_of(*names: str) -> int:
    total = 0
    for name in names:
        shape, kind = MIXTURE[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        elements = 1
        for length in shape:
            elements *= length
        total += elements // block * size
    return total


def test_every_tensor_is_counted_where_llama_cpp_puts_it(tmp_path: Path) -> None:
    """Input, layers, output, experts and the vision tower are summed apart, by tensor name."""
    layout = header_model(tmp_path / "m.gguf", "llama", KEYS, MIXTURE).weight_layout
    assert layout == WeightLayout(
        input_bytes=bytes_of("token_embd.weight"),
        embedding_bytes=bytes_of("token_embd.weight"),
        embedding_type="Q8_0",
        layer_bytes=(
            bytes_of("blk.0.attn_q.weight", "blk.0.attn_norm.weight"),
            bytes_of(*(name for name in MIXTURE if name.startswith("blk.1."))),
        ),
        output_bytes=bytes_of("output_norm.weight", "output.weight"),
        head_bytes=bytes_of("output.weight"),
        head_type="F16",
        other_bytes=bytes_of("v.patch_embd.weight"),
        expert_bytes=(0, bytes_of("blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight")),
        experts=(4, 1),
        # Four rows of a router cannot be interleaved by eight.
        matrix_bytes={
            "Q4_0": bytes_of(
                "blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"
            )
        },
    )
    assert layout.total_bytes == bytes_of(*MIXTURE)


def test_a_token_reads_one_row_of_the_embedding_and_the_experts_in_use(tmp_path: Path) -> None:
    """All but the input embedding, three of four experts, and the vision tower is read."""
    model = header_model(tmp_path / "m.gguf", "llama", KEYS, MIXTURE)
    routed = bytes_of("blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight")
    unread = bytes_of("token_embd.weight", "v.patch_embd.weight") + routed * 3 // 4
    assert active_bytes(model) == bytes_of(*MIXTURE) - unread


def test_a_tied_embedding_is_read_as_the_output_head(tmp_path: Path) -> None:
    """Without output.weight the embedding makes the logits, so that each token reads all of it."""
    tensors = {name: value for name, value in MIXTURE.items() if name != "output.weight"}
    model = header_model(tmp_path / "m.gguf", "llama", KEYS, tensors)
    assert model.weight_layout.tied
    assert active_bytes(model) > bytes_of("token_embd.weight")


def test_without_a_layout_parameters_decide() -> None:
    """Where the layout is not known, all bytes count times active by total parameters."""
    model = ModelMetadata(
        "m", ModelType.SAFETENSORS, Path("m"), 1000, parameter_count=50, active_parameter_count=10
    )
    assert active_bytes(model) == 200


def test_shards_are_one_layout(tmp_path: Path) -> None:
    """A layer cut over two shards is summed; the experts are known from the first alone."""
    names = list(MIXTURE)
    for index, part in enumerate((names[:6], names[6:])):
        header_only(
            tmp_path / f"m-0000{index + 1}-of-00002.gguf",
            "llama",
            {} if index else KEYS,
            {name: MIXTURE[name] for name in part},
            general={"split.no": index, "split.count": 2},
        )
    (found,) = discover(sources_for(tmp_path, paths())).models.values()
    whole = header_model(tmp_path / "whole.gguf", "llama", KEYS, MIXTURE)
    assert found.weight_layout == whole.weight_layout


def test_the_layout_is_remembered(tmp_path: Path) -> None:
    """Facts that were written as JSON come back equal, the layout of the weights among them."""
    facts = read_facts(header_only(tmp_path / "m.gguf", "llama", KEYS, MIXTURE))
    again = decode(json.dumps(encode((facts, "0" * 32, ()))))
    assert again[0] == facts
    assert again[0].weight_layout.matrix_bytes == facts.weight_layout.matrix_bytes


@pytest.mark.parametrize("name", ["blk.99999.attn_q.weight", "blk.9000.ffn_up_exps.weight"])
def test_a_layer_beyond_the_cap_allocates_nothing(tmp_path: Path, name: str) -> None:
    """A tensor of a layer that no network has makes the layout unknown."""
    tensors: Tensors = {name: ((32, 32), Q.F32)}
    facts = read_facts(header_only(tmp_path / "m.gguf", "llama", KEYS, tensors))
    assert facts.weight_layout is None


def test_a_number_without_end_is_no_layer(tmp_path: Path) -> None:
    """A name with a very long number is counted as belonging to no layer."""
    tensors: Tensors = {f"blk.{'9' * 900}.x": ((32, 32), Q.F32)}
    facts = read_facts(header_only(tmp_path / "m.gguf", "llama", KEYS, tensors))
    assert facts.weight_layout.layer_bytes == ()
