"""ONNX: against its own library, and against protocol buffers that lie."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts
from ravenxterm_lab.readers.onnx import _TYPES, safe_relative_name


def varint(value):
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def field(number, payload):
    """Return a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(field_number, value):
    return varint(field_number << 3) + varint(value)


def model(graph):
    return number(1, 8) + field(7, graph)


def test_types_agree_with_the_onnx_package():
    """Every element type of the package is known with its width."""
    for name, value in TensorProto.DataType.items():
        if name in ("UNDEFINED", "STRING"):
            continue
        bits = _TYPES[value][1]
        assert bits in {2, 4, 6, 8, 16, 32, 64, 128}
        if bits >= 8 and "FLOAT8" not in name and name != "BFLOAT16":
            assert helper.tensor_dtype_to_np_dtype(value).itemsize * 8 == bits, name


@pytest.mark.parametrize("int8", [False, True])
def test_facts_agree_with_the_library(files, tmp_path, int8):
    """Initializers, signature and quantization are what onnx itself loads."""
    path = files.onnx_file(tmp_path / "model.onnx", int8=int8)
    facts = read_facts(path)
    oracle = onnx.load(path).graph
    initializers = sum(math.prod(one.dims) for one in oracle.initializer)
    constants = 2 * 4  # one 2×2 constant in each branch
    assert facts.parameter_count == initializers + constants
    assert [one.name for one in facts.inputs] == [one.name for one in oracle.input]
    assert facts.inputs[0].dtype == "I64"
    assert facts.inputs[0].shape == ("batch", 4)
    assert facts.outputs[0].shape == ("batch", 4, 8)
    assert facts.quantization == ("INT8" if int8 else "F32")
    assert facts.embedding_length == 8
    assert facts.task_types == ("embedding",)
    assert "opset 17" in facts.notes[0]
    assert facts.notes[1] == "made by tests"


@pytest.mark.parametrize(
    ("inputs", "outputs", "tasks"),
    [
        (("input_ids", "attention_mask"), ("sentence_embedding",), ("embedding",)),
        (("input_ids", "past_key_values.0.key"), ("logits",), ("text_generation",)),
        (("input_ids",), ("logits",), ()),
        (("input", "state", "sr"), ("output", "stateN"), ("voice_activity_detection",)),
        (("bytes",), ("target_label",), ("file_type",)),
        (("x",), ("y",), ()),
    ],
)
def test_tasks_follow_the_signature(files, tmp_path, inputs, outputs, tasks):
    """A signature that shows the task gives it; one that does not gives none."""
    path = tmp_path / "model.onnx"
    graph = helper.make_graph(
        [],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    onnx.save_model(helper.make_model(graph), path)
    assert read_facts(path).task_types == tasks


def test_packed_weights_are_counted_singly(tmp_path):
    """MatMulNBits stores two 4-bit weights in a byte: INT4, and twice as many parameters."""
    weights = onnx.numpy_helper.from_array(np.zeros((4, 1, 16), np.uint8), "w")
    node = helper.make_node(
        "MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft", bits=4, K=32, N=4
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weights],
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(helper.make_model(graph), path)
    facts = read_facts(path)
    assert (facts.quantization, facts.parameter_count) == ("INT4", 128)
    assert facts.tensor_bytes == {"U8": 64}


def test_external_data_is_named(files, tmp_path):
    """The file that holds the tensors is reported by its relative name."""
    facts = read_facts(files.onnx_file(tmp_path / "model.onnx", external="model.onnx_data"))
    assert facts.external == ("model.onnx_data",)
    assert facts.tensor_bytes["F32"] >= 30 * 8 * 4


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "C:\\x",
        "..\\x",
        "~/.ssh/id",
        "",
        "a\0b",
        "a\nb",
        "x" * 5000,
    ],
)
def test_external_data_outside_the_directory_is_refused(files, tmp_path, name):
    """A location that leaves the model's directory is refused, and nothing of it is read."""
    assert not safe_relative_name(name)
    tensor = TensorProto(name="w", dims=[2], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", 1, [1])], [tensor])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelFileError, match="not inside its directory"):
        read_facts(path)


def external_model(path, *places):
    """Write a graph whose tensors of two floats lie at stated places of ``w.bin``."""
    tensors = []
    for number, place in enumerate(places):
        tensor = TensorProto(
            name=f"w{number}", dims=[2], data_type=1, data_location=TensorProto.EXTERNAL
        )
        for key, value in {"location": "w.bin", **place}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", 1, [1])], tensors)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    (path.parent / "w.bin").write_bytes(bytes(16))
    return path


@pytest.mark.parametrize(
    ("places", "word"),
    [
        ([{"offset": 12, "length": 8}], "truncated"),
        ([{"offset": 2**63, "length": 2**63}], "truncated"),
        ([{"offset": 12}], "truncated"),
        ([{"offset": 0, "length": 8}, {"offset": 4, "length": 8}], "overlap"),
    ],
)
def test_external_data_that_lie_are_a_problem(tmp_path, places, word):
    """Places past the end of the external file, and tensors that overlap in it, are named."""
    assert word in read_facts(external_model(tmp_path / "a.onnx", *places)).problems[0]


def test_external_data_that_fit_are_no_problem(tmp_path):
    """Two tensors in a row, and two at one place, are as they should be."""
    places = [{"offset": 0, "length": 8}, {"offset": 8}, {"offset": 8, "length": 8}]
    path = external_model(tmp_path / "a.onnx", *places)
    assert read_facts(path).problems == ()
    (tmp_path / "w.bin").unlink()
    assert read_facts(path).problems == ("missing external data: w.bin",)


@pytest.mark.parametrize("place", [{"offset": -1}, {"length": "8.0"}, {"offset": "9" * 50}])
def test_places_that_are_no_numbers_are_refused(tmp_path, place):
    """An offset or a length must be a whole number."""
    with pytest.raises(ModelFileError, match="two numbers"):
        read_facts(external_model(tmp_path / "a.onnx", place))


def test_large_weights_are_skipped_over(files, tmp_path):
    """32 MB of raw data cost one window of memory."""
    path = tmp_path / "model.onnx"
    tensor = number(1, 8_000_000) + number(2, 1) + field(8, b"w")
    raw = b"\x4a" + varint(32_000_000)
    body = tensor + raw
    size = len(body) + 32_000_000
    output = field(12, field(1, b"y"))
    initializer = b"\x2a" + varint(size) + body
    graph_size = len(output) + len(initializer) + 32_000_000
    with path.open("wb") as stream:
        stream.write(number(1, 8) + b"\x3a" + varint(graph_size) + output + initializer)
        stream.truncate(stream.tell() + 32_000_000)
    facts, peak = files.peak_memory(lambda: read_facts(path), 2 << 20)
    assert facts.parameter_count == 8_000_000
    assert not facts.problems
    assert peak < 2 << 20


def test_a_shape_that_does_not_fit_its_data_is_a_problem(tmp_path):
    """Raw data of another length than shape and type need makes the model unusable."""
    tensor = field(5, number(1, 100) + number(2, 1) + field(9, bytes(8)) + field(8, b"w"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model(tensor + field(12, field(1, b"y"))))
    assert "8 bytes where its shape and type need 400" in read_facts(path).problems[0]


def nested(depth):
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return graph


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (number(1, 8), "no ONNX graph"),
        (model(nested(limits.ONNX_DEPTH + 5)), "deeply"),
        (model(field(5, number(1, 2**63) + number(1, 2**63) + number(2, 1))), "elements"),
        (model(field(5, b"".join(number(1, 1) for _ in range(100)))), "dimensions"),
        (model(field(5, field(1, b"\1" * 100))), "more than"),
        (number(1, 8) + varint(7 << 3 | 2) + varint(2**40), "truncated"),
        (number(1, 8) + b"\x3a\x04\x2a\x7fab", "truncated"),
        (number(1, 8) + b"\xff" * 12, "no end"),
        (number(1, 8) + b"\x0b", "wire type"),
        (number(1, 8) + b"\x00", "field 0"),
    ],
)
def test_hostile_messages(tmp_path, content, word):
    """Endless, nested, oversized and truncated messages are refused."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=word):
        read_facts(path)


def test_a_flood_of_fields_is_refused(tmp_path):
    """Millions of empty nodes or tensors end at the cap."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model(field(12, b"") + b"\x2a\x00" * 200_000))
    with pytest.raises(ModelFileError, match="of memory"):
        read_facts(path)
