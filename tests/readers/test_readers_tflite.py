"""TFLite: against the schema's own accessors, and against buffers that lie."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts
from ravenxterm_lab.readers.tflite import _TYPES


def oracle_of(path):
    """Sum up a model with the accessors that flatc generates from the schema."""
    tflite = pytest.importorskip("tflite", reason="the schema's accessors are not installed")
    model = tflite.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    elements = size = 0
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        data = model.Buffers(tensor.Buffer()).DataLength()
        if tensor.Buffer() and data:
            elements += int(np.prod(tensor.ShapeAsNumpy(), dtype=np.int64))
            size += data
    named = model.SignatureDefs(0).Inputs(0).Name().decode()
    return elements, size, named, model.Version(), model.Description().decode()


@pytest.mark.parametrize(
    ("dtype", "type_id", "quantization"),
    [(np.int8, 9, "INT8"), (np.float32, 0, "F32"), (np.float16, 1, "F16"), (np.uint8, 3, "INT8")],
)
def test_facts_agree_with_the_schemas_accessors(files, tmp_path, dtype, type_id, quantization):
    """Parameters, bytes, signature and description are what generated code reads."""
    path = files.tflite_file(
        tmp_path / "a.tflite", weights=np.ones((16, 8), dtype), type_id=type_id
    )
    facts = read_facts(path)
    assert facts.quantization == quantization
    elements, size, named, version, description = oracle_of(path)
    assert facts.parameter_count == elements
    assert sum(facts.tensor_bytes.values()) == size
    assert facts.inputs[0].name == named
    assert facts.notes[:2] == (f"TFLite schema {version}, 1 graph", description)


def test_types_agree_with_the_schema():
    """The numbers of the types are the schema's."""
    tflite = pytest.importorskip("tflite", reason="the schema's accessors are not installed")
    short = {"FLOAT": "F", "COMPLEX": "C", "UINT": "U", "BFLOAT": "BF", "INT": "I"}
    stated = {
        value: name for name, value in vars(tflite.TensorType).items() if not name.startswith("_")
    }
    for number, name in stated.items():
        head = name.rstrip("0123456789")
        assert _TYPES[number][0] == name.replace(head, short.get(head, head)), name


def test_signature_and_graph_name_the_inputs(files, tmp_path):
    """The signature's names are taken where there is one, else the tensors' own."""
    path = files.tflite_file(tmp_path / "a.tflite")
    facts = read_facts(path)
    assert (facts.inputs[0].name, facts.outputs[0].name) == ("named_in", "named_out")
    assert (facts.inputs[0].dtype, facts.inputs[0].shape) == ("F32", (None, 8))
    facts = read_facts(files.tflite_file(path, signature=False))
    assert (facts.inputs[0].name, facts.outputs[0].name) == ("x", "y")


def test_a_known_signature_tells_the_task(files, tmp_path):
    """input_ids in and a sentence's embedding out: it embeds, and the width is known."""
    path = files.tflite_file(
        tmp_path / "a.tflite", names=("input_ids", "sentence_embedding"), signature=False
    )
    facts = read_facts(path)
    assert (facts.task_types, facts.embedding_length) == (("embedding",), 16)


def test_weights_behind_the_buffer_are_counted(files, tmp_path):
    """Above 2 GB the weights lie behind the FlatBuffer, at an offset and a size."""
    path = tmp_path / "a.tflite"
    facts = read_facts(files.tflite_file(path, external=True))
    assert facts.tensor_bytes == {"I8": 128, "I32": 64}
    assert not facts.problems
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in read_facts(path).problems[0]


@pytest.mark.parametrize("place", [(2**63, 128), (8, 2**64 - 1), (2**64 - 1, 128)])
def test_weights_outside_the_file_are_a_problem(files, tmp_path, place):
    """An offset or a size past the end is named and not followed."""
    facts = read_facts(files.tflite_file(tmp_path / "a.tflite", placed=place))
    assert any("truncated" in text for text in facts.problems)


def test_overlapping_tensors_are_a_problem(files, tmp_path):
    """Weights that share some of their bytes with the bias are named."""
    path = files.tflite_file(tmp_path / "a.tflite", placed=(1 << 20, 128))
    draw = np.random.default_rng(0)
    draw.integers(-128, 127, (16, 8), dtype=np.int8)
    bias = path.read_bytes().index(draw.integers(-9, 9, 16, dtype=np.int32).tobytes())
    facts = read_facts(files.tflite_file(path, placed=(bias - 100, 128)))
    assert facts.problems == ("tensors 'w' and 'b' overlap",)


def test_metadata_give_name_and_license(files, tmp_path):
    """The model's own metadata are read, cleaned, and damaged ones are passed over."""
    card = files.tflite_metadata("Evil\n<b>", "what it does", "Apache\x00 2.0")
    path = files.tflite_file(tmp_path / "a.tflite", metadata=card)
    facts = read_facts(path)
    assert (facts.name, facts.license) == ("Evil <b>", "Apache 2.0")
    assert "what it does" in facts.notes
    data = path.read_bytes()
    at = data.index(b"M001") - 4
    path.write_bytes(data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :])
    assert (read_facts(path).name, read_facts(path).problems) == (None, ())


def test_a_shape_that_does_not_fit_its_data_is_a_problem(files, tmp_path):
    """Data of another length than shape and type need make the model unusable."""
    facts = read_facts(files.tflite_file(tmp_path / "a.tflite", shape=(16, 9)))
    assert "128 bytes where its shape and type need 144" in facts.problems[0]


@pytest.mark.parametrize("shape", [(-1, 8), (2**31 - 1,) * 4])
def test_impossible_shapes_are_refused(files, tmp_path, shape):
    """A negative dimension and more elements than there can be are refused."""
    with pytest.raises(ModelFileError, match=r"shape|elements"):
        read_facts(files.tflite_file(tmp_path / "a.tflite", shape=shape))


def raw(*words, vtable=(4, 4)):
    """Return a FlatBuffer byte by byte: a root table of which nothing is true."""
    head = struct.pack("<I4s", 8 + 2 * len(vtable), b"TFL3") + struct.pack(
        f"<{len(vtable)}H", *vtable
    )
    return head + struct.pack("<i", 2 * len(vtable)) + b"".join(struct.pack("<I", w) for w in words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xff\xff\xffTFL3", "truncated or damaged"),
        (b"\0\0\0\0TFL3" + bytes(40), "offset of 0"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 2**30) + bytes(40), "truncated or damaged"),
        (raw(vtable=(3, 4)), "bytes of fields"),
        (raw(vtable=(60_000, 4)), "bytes of fields"),
        (raw(3, vtable=(6, 8, 40)), "lies outside it"),
        (raw(3, vtable=(6, 8, 1)), "lies outside it"),
        (raw(2, vtable=(6, 8, 4)), "version 2"),
        (raw(3, vtable=(6, 8, 4)), "no TFLite graph"),
        (raw(3, 2**32 - 1, vtable=(10, 12, 4, 0, 8)), "truncated or damaged"),
        (raw(3, 4, 2**31, vtable=(10, 12, 4, 0, 8)), "truncated or damaged"),
        (raw(3, 4, 1, 0, vtable=(10, 12, 4, 0, 8)), "offset of 0"),
    ],
)
def test_hostile_buffers(tmp_path, content, word):
    """Offsets past the end or backwards, and counts that the file cannot hold, are refused."""
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=word):
        read_facts(path)


def test_one_table_named_a_million_times_is_refused(tmp_path):
    """A vector whose items all lead to one table ends at the cap."""
    count = limits.FLAT_TABLES + 1
    start = len(raw(3, 4, count, vtable=(10, 12, 4, 0, 8)))
    end = start + 4 * count
    items = b"".join(struct.pack("<I", end + 4 - at) for at in range(start, end, 4))
    # The table that they lead to: its own field table of four bytes comes right before it.
    table = struct.pack("<HHi", 4, 4, 4)
    path = tmp_path / "a.tflite"
    path.write_bytes(raw(3, 4, count, vtable=(10, 12, 4, 0, 8)) + items + table)
    with pytest.raises(ModelFileError, match="of memory"):
        read_facts(path)


def test_large_weights_are_skipped_over(files, tmp_path):
    """32 MB of weights cost a few small windows."""
    path = files.tflite_file(tmp_path / "a.tflite", weights=np.ones((4000, 8000), np.int8))
    facts, peak = files.peak_memory(lambda: read_facts(path), 1 << 20)
    assert facts.parameter_count == 32_000_016
    assert peak < 1 << 20
