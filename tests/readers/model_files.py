"""Small real model files, written with each format's own library."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import flatbuffers
import gguf
import numpy as np
import onnx
from fasttext_files import fasttext_file, pruned_file
from onnx import TensorProto, helper
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_T = TypeVar("_T")
Q = gguf.GGMLQuantizationType


def peak_memory(call: Callable[[], _T], enough: int) -> tuple[_T, int]:
    """Return what a call returns, and the most bytes that Python held for it at once.

    Python counts for all threads alike, and a store of another test may be at work: a peak of
    ``enough`` or more is measured again, up to three times.
    """
    for _ in range(3):
        tracemalloc.start()
        try:
            found = call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if peak < enough:
            break
    return found, peak


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


def _table(builder: flatbuffers.Builder, fields: Sequence[tuple[str, Any]]) -> int:
    """Write one table; each field is its kind and value, in the order of the schema."""
    builder.StartObject(len(fields))
    for slot, (kind, value) in enumerate(fields):
        if value is None:
            continue
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return builder.EndObject()


def _vector(builder: flatbuffers.Builder, values: Sequence[int], kind: str = "UOffsetTRelative"):
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        getattr(builder, f"Prepend{kind}")(value)
    return builder.EndVector()


def tflite_metadata(name: str, description: str, license_name: str) -> bytes:
    """Return a ModelMetadata buffer (``metadata_schema.fbs``)."""
    builder = flatbuffers.Builder(0)
    texts = [builder.CreateString(text) for text in (name, description, license_name)]
    fields = [("offset", texts[0]), ("offset", texts[1])]
    fields += [("offset", None)] * 3 + [("offset", texts[2])]
    builder.Finish(_table(builder, fields), file_identifier=b"M001")
    return bytes(builder.Output())


def tflite_file(
    path: Path,
    *,
    weights: np.ndarray[Any, Any] | None = None,
    type_id: int = 9,
    shape: Sequence[int] | None = None,
    names: tuple[str, str] = ("x", "y"),
    signature: bool = True,
    metadata: bytes | None = None,
    external: bool = False,
    placed: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Write a TFLite model of one dense layer, table by table as in ``schema.fbs``.

    ``external`` puts the weights behind the FlatBuffer, as files above 2 GB have them; ``placed``
    states an offset and a size for them which need not be true.
    """
    generator = np.random.default_rng(seed)
    if weights is None:
        weights = generator.integers(-128, 127, (16, 8), dtype=np.int8)
    shape = weights.shape if shape is None else shape
    bias = generator.integers(-9, 9, 16, dtype=np.int32)

    def build(place: tuple[int, int]) -> bytes:
        builder = flatbuffers.Builder(0)
        stored = [b"", weights.tobytes(), bias.tobytes()] + ([metadata] if metadata else [])
        buffers = []
        for number, data in enumerate(stored):
            outside = number == 1 and (external or placed is not None)
            vector = builder.CreateByteVector(data) if data and not outside else None
            fields = [("offset", vector), ("Uint64", place[0] if outside else None)]
            fields.append(("Uint64", place[1] if outside else None))
            buffers.append(_table(builder, fields))
        tensors = []
        for name, dims, kind, buffer, signature_dims in (
            (names[0], [1, 8], 0, 0, [-1, 8]),
            ("w", list(shape), type_id, 1, None),
            ("b", [16], 2, 2, None),
            (names[1], [1, 16], 0, 0, [-1, 16]),
        ):
            text = builder.CreateString(name)
            vector = _vector(builder, dims, "Int32")
            unknown = _vector(builder, signature_dims, "Int32") if signature_dims else None
            fields = [("offset", vector), ("Int8", kind), ("Uint32", buffer), ("offset", text)]
            fields += [("offset", None)] * 3 + [("offset", unknown)]
            tensors.append(_table(builder, fields))
        graph_fields = [("offset", _vector(builder, tensors))]
        graph_fields += [("offset", _vector(builder, [at], "Int32")) for at in (0, 3)]
        graph = _table(builder, graph_fields)
        signatures = None
        if signature:
            sides = []
            for at in (0, 3):
                text = builder.CreateString(f"named_{'in' if at == 0 else 'out'}")
                entry = _table(builder, [("offset", text), ("Uint32", at)])
                sides.append(("offset", _vector(builder, [entry])))
            key = builder.CreateString("serving_default")
            one = _table(builder, [*sides, ("offset", key), ("offset", None), ("Uint32", 0)])
            signatures = _vector(builder, [one])
        entries = None
        if metadata:
            text = builder.CreateString("TFLITE_METADATA")
            entries = _vector(builder, [_table(builder, [("offset", text), ("Uint32", 3)])])
        description = builder.CreateString("made by tests")
        model = _table(
            builder,
            [
                ("Uint32", 3),
                ("offset", None),
                ("offset", _vector(builder, [graph])),
                ("offset", description),
                ("offset", _vector(builder, buffers)),
                ("offset", None),
                ("offset", entries),
                ("offset", signatures),
            ],
        )
        builder.Finish(model, file_identifier=b"TFL3")
        return bytes(builder.Output())

    if placed is not None:
        path.write_bytes(build(placed))
    elif external:
        raw = weights.tobytes()
        start = len(build((1 << 20, len(raw))))
        path.write_bytes(build((start, len(raw))) + raw)
    else:
        path.write_bytes(build((0, 0)))
    return path


IR = """<?xml version="1.0"?>
<net name="{name}" version="{version}">
\t<layers>
\t\t<layer id="0" name="{inputs}" type="Parameter" version="opset1">
\t\t\t<data shape="?,4" element_type="i64" />
\t\t\t<output><port id="0" precision="I64" names="{inputs}">
\t\t\t\t<dim>-1</dim><dim>4</dim></port></output>
\t\t</layer>
\t\t<layer id="1" name="table" type="Const" version="opset1">
\t\t\t<data element_type="{dtype}" shape="{shape}" offset="{offset}" size="{size}" />
\t\t\t<output><port id="0" precision="I8"><dim>30</dim><dim>8</dim></port></output>
\t\t</layer>
\t\t<layer id="2" name="axis" type="Const" version="opset1">
\t\t\t<data element_type="i64" shape="" offset="0" size="8" />
\t\t\t<output><port id="0" precision="I64" /></output>
\t\t</layer>
\t\t<layer id="3" name="look up" type="Gather" version="opset8">
\t\t\t<data batch_dims="0" />
\t\t\t<output><port id="3" precision="FP32" names="{outputs}">
\t\t\t\t<dim>-1</dim><dim>4</dim><dim>8</dim></port></output>
\t\t</layer>
\t\t<layer id="4" name="end" type="Result" version="opset1">
\t\t\t<input><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim><dim>8</dim></port></input>
\t\t</layer>{more}
\t</layers>
\t<edges>
\t\t<edge from-layer="1" from-port="0" to-layer="3" to-port="0" />
\t\t<edge from-layer="3" from-port="3" to-layer="4" to-port="0" />
\t</edges>
\t<rt_info>
\t\t<Runtime_version value="2026.4.0-tests" />
\t</rt_info>
</net>
"""


def openvino_file(path: Path, *, seed: int = 0, more: str = "", **changes: Any) -> Path:
    """Write a small OpenVINO IR and its ``.bin``; ``changes`` are stated as they are."""
    table = np.random.default_rng(seed).integers(-128, 127, (30, 8), dtype=np.int8)
    path.with_suffix(".bin").write_bytes(bytes(8) + table.tobytes() + bytes(8))
    stated = {
        "name": "small", "version": 11, "inputs": "input_ids", "outputs": "last_hidden_state",
        "dtype": "i8", "shape": "30, 8", "offset": 8, "size": 240,
    }  # fmt: skip
    path.write_text(IR.format(**stated | changes, more=more))
    return path


IR_LOOP = """
\t\t<layer id="9" name="loop" type="TensorIterator" version="opset1">
\t\t\t<port_map><input external_port_id="0" internal_layer_id="0" axis="1" /></port_map>
\t\t\t<body><layers>
\t\t\t\t<layer id="0" name="inside" type="Parameter" version="opset1">
\t\t\t\t\t<data shape="1" element_type="f32" />
\t\t\t\t</layer>
\t\t\t\t<layer id="1" name="inner" type="Const" version="opset1">
\t\t\t\t\t<data element_type="u8" shape="8" offset="248" size="8" />
\t\t\t\t\t<rt_info><attribute name="fused" version="0" value="data" /><data /></rt_info>
\t\t\t\t</layer>
\t\t\t</layers><edges /></body>
\t\t</layer>"""


def lz4_frame(content: bytes) -> bytes:
    """Return an LZ4 frame of one block that holds the content as literals."""
    length = len(content) - 15
    block = b"\xf0" + b"\xff" * (length // 255) + bytes([length % 255]) + content
    head = b"\x04\x22\x4d\x18\x60\x70\x73"
    return head + struct.pack("<I", len(block)) + block + bytes(4)


def joblib_bytes(*arrays: np.ndarray[Any, Any], after: bytes = b"") -> bytes:
    """Return a list of arrays as joblib 1.2 and later pickle them.

    The wrapper's state, then one byte with the length of the padding, the padding up to a
    multiple of 16 bytes, and the elements (joblib's ``NumpyArrayWrapper.write_array``).
    """
    out = bytearray(b"\x80\x02](")
    for array in arrays:
        dims = b"".join(b"J" + struct.pack("<i", size) for size in array.shape)
        dtype = (
            b"cnumpy\ndtype\n" + _text(array.dtype.str[1:]) + b"\x89\x88\x87R(K\x03"
            + _text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )  # fmt: skip
        state = (
            b"}(" + _text("subclass") + b"cnumpy\nndarray\n" + _text("shape") + b"(" + dims + b"t"
            + _text("order") + _text("C") + _text("dtype") + dtype
            + _text("allow_mmap") + b"\x88" + _text("numpy_array_alignment_bytes") + b"K\x10u"
        )  # fmt: skip
        out += b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + state + b"b"
        padding = 16 - (len(out) + 1) % 16
        out += bytes([padding]) + b"\xff" * padding + array.tobytes()
    return bytes(out) + b"e" + after + b"."


def joblib_file(path: Path, *, seed: int = 0) -> Path:
    """Write two arrays as joblib does, uncompressed."""
    generator = np.random.default_rng(seed)
    arrays = (generator.standard_normal((8, 4)).astype(np.float32), np.arange(5))
    path.write_bytes(joblib_bytes(*arrays))
    return path


def script_file(path: Path, *, elements: int = 12) -> Path:
    """Write a TorchScript archive: a PyTorch one with program code of its own."""
    body = torch_pickle(elements, extra=b"c__torch__.torch.nn.modules.linear\nLinear\n0")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", body)
        archive.writestr("net/data/0", bytes(4 * elements))
        archive.writestr("net/constants.pkl", b"\x80\x02).")
        archive.writestr("net/code/__torch__.py", "class Linear(Module):\n  pass\n")
        archive.writestr("net/version", "3\n")
    return path


#: One writer for each reader, and the file name that it gives.
WRITERS = {
    "gguf": ("small.gguf", gguf_file),
    "safetensors": ("model.safetensors", safetensors_file),
    "onnx": ("model.onnx", onnx_file),
    "pytorch": ("model.pt", torch_file),
    "tflite": ("model.tflite", tflite_file),
    "openvino": ("openvino_model.xml", openvino_file),
    "fasttext": ("words.ftz", fasttext_file),
}
#: The same for what one reader takes besides.
VARIANTS = {
    "pytorch-script": ("model.pt", script_file),
    "pytorch-joblib": ("model.joblib", joblib_file),
    "fasttext-quantized": ("pruned.ftz", pruned_file),
    "gguf-big-endian": ("big.gguf", partial(gguf_file, big_endian=True)),
}
