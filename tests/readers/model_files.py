"""Small real model files, written with each format's own library."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Q = gguf.GGMLQuantizationType


def gguf_file(
    path: Path,
    *,
    arch: str = "llama",
    layers: int = 2,
    keys: Mapping[str, Any] | None = None,
    general: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[tuple[int, ...], gguf.GGMLQuantizationType]] | None = None,
    tokens: int = 16,
    big_endian: bool = False,
    seed: int = 0,
) -> Path:
    """Write a GGUF file of a small decoder; ``keys`` are below the architecture's prefix."""
    endian = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, arch, endianess=endian)
    stated: dict[str, Any] = {
        "block_count": layers,
        "context_length": 2048,
        "embedding_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    stated |= dict(keys or {})
    for key, value in (dict(general or {}) | {f"{arch}.{k}": v for k, v in stated.items()}).items():
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([f"token{number}" for number in range(tokens)])
    if tensors is None:
        tensors = {"token_embd.weight": ((16, 64), Q.F32)}
        for layer in range(layers):
            tensors[f"blk.{layer}.attn_q.weight"] = ((64, 64), Q.Q4_0)
            tensors[f"blk.{layer}.ffn_up.weight"] = ((128, 64), Q.Q4_0)
            tensors[f"blk.{layer}.attn_norm.weight"] = ((64,), Q.F32)
    generator = np.random.default_rng(seed)
    for name, (shape, kind) in tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if kind == Q.F32:
            data = generator.standard_normal(shape).astype(np.float32)
            writer.add_tensor(name, data)
        elif kind == Q.F16:
            writer.add_tensor(name, generator.standard_normal(shape).astype(np.float16))
        else:
            width = (*shape[:-1], shape[-1] // block * size)
            raw = generator.integers(0, 255, width, dtype=np.uint8)
            writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors_file(
    path: Path, *, seed: int = 0, prefix: str = "", dtype: str = "float32"
) -> Path:
    """Write the weights of a small BERT."""
    generator = np.random.default_rng(seed)
    save_file(
        {
            f"{prefix}embeddings.word_embeddings.weight": generator.standard_normal((20, 8)).astype(
                dtype
            ),
            f"{prefix}encoder.layer.0.output.dense.weight": generator.standard_normal(
                (8, 8)
            ).astype(dtype),
            f"{prefix}embeddings.position_ids": np.arange(8, dtype=np.int64),
        },
        path,
        metadata={"format": "pt"},
    )
    return path


BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 8,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 20,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "max_position_embeddings": 4096,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 20,
}


def write_config(
    directory: Path, config: Mapping[str, Any] = BERT, *, card: str | None = None
) -> None:
    """Write config.json, a tokenizer and a model card."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    if card is not None:
        (directory / "README.md").write_text(card)


def onnx_file(
    path: Path,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    outputs: Sequence[str] = ("last_hidden_state",),
    int8: bool = False,
    seed: int = 0,
    external: str | None = None,
) -> Path:
    """Write a small graph whose weights are initializers, with a constant in a nested graph."""
    generator = np.random.default_rng(seed)
    if int8:
        table = generator.integers(-128, 127, (30, 8), dtype=np.int8)
    else:
        table = generator.standard_normal((30, 8)).astype(np.float32)
    weights = onnx.numpy_helper.from_array(table, "table")
    scale = onnx.numpy_helper.from_array(np.float32([0.5]), "scale")
    shape = onnx.numpy_helper.from_array(np.int64([0, -1]), "shape")
    branch = helper.make_graph(
        [
            helper.make_node(
                "Constant",
                [],
                ["c"],
                value=onnx.numpy_helper.from_array(np.ones((2, 2), np.float32)),
            )
        ],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 2])],
    )
    nodes = [
        helper.make_node("Gather", ["table", inputs[0]], [outputs[0]]),
        helper.make_node("If", ["flag"], ["chosen"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 4]) for name in inputs],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8])
            for name in outputs
        ],
        [weights, scale, shape, onnx.numpy_helper.from_array(np.bool_(True), "flag")],
    )
    model = helper.make_model(
        graph, producer_name="tests", opset_imports=[helper.make_opsetid("", 17)]
    )
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location=external, size_threshold=0
        )
    else:
        onnx.save_model(model, path)
    return path


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def torch_pickle(elements: int = 12, extra: bytes = b"") -> bytes:
    """Return the ``data.pkl`` of a state dict with one tensor, as PyTorch writes it."""
    storage = (
        b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
        + b"K" + bytes([elements]) + b"tQ"
    )  # fmt: skip
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\3K\4\x86K\4K\1\x86\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )
    return (
        b"\x80\x02ccollections\nOrderedDict\n)Rq\0("
        + _text("weight")
        + tensor
        + b"u"
        + extra
        + b"."
    )


def torch_file(path: Path, *, pickle_bytes: bytes | None = None, elements: int = 12) -> Path:
    """Write a PyTorch archive: a zip with a pickle and one storage."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes or torch_pickle(elements))
        archive.writestr("archive/data/0", bytes(4 * elements))
        archive.writestr("archive/version", "3\n")
    return path


#: One writer for each reader, and the file name that it gives.
WRITERS = {
    "gguf": ("small.gguf", gguf_file),
    "safetensors": ("model.safetensors", safetensors_file),
    "onnx": ("model.onnx", onnx_file),
    "pytorch": ("model.pt", torch_file),
}
