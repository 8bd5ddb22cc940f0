"""Mutated files of every kind: only ModelFileError comes out, in little work and memory.

``test_mutated_files`` alone reads 210,000 mutants, each from a stated seed number.
"""

from __future__ import annotations

import json
import random

import pytest
from fuzz_readers import NAMES, kinds, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import READERS, json_stream, limits, read_facts
from ravenxterm_lab.readers.openvino import OpenVinoReader
from ravenxterm_lab.readers.safetensors import SafetensorsReader
from ravenxterm_lab.readers.tflite import TfliteReader

ROUNDS = 14_000
ANY = settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return {kind.name: kind for kind in kinds(tmp_path_factory.mktemp("seeds"))}


def test_every_reader_is_mutated():
    """A reader that is added without being mutated here fails this."""
    assert {kind for _, _, kind in NAMES} == {one.model_type.value for one in READERS}


@pytest.mark.parametrize("name", [name for name, *_ in NAMES])
def test_mutated_files(whole, name, tmp_path):
    """Facts or a ModelFileError, printable, with few bytes read (see ``Target.check``)."""
    # The weights of the OpenVINO graph lie beside it.
    (tmp_path / "a.bin").write_bytes(bytes(256))
    refused = run(tmp_path, whole[name], ROUNDS, 1)
    assert refused < ROUNDS
    assert refused > 0 or name == "pickle in a zip"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("name", [name for name, *_ in NAMES])
def test_many_more_mutated_files(whole, name, seed, tmp_path):
    """The same, ten times over with other seed numbers."""
    assert run(tmp_path, whole[name], ROUNDS, seed) <= ROUNDS


@pytest.mark.parametrize("name", [name for name, *_ in NAMES])
def test_mutants_take_little_memory(files, whole, name, tmp_path):
    """None of a thousand mutants of a small file makes its reader allocate 16 MiB."""
    most = 16 << 20
    assert files.peak_memory(lambda: run(tmp_path, whole[name], 1000, 99), most)[1] < most


def outcome(read):
    try:
        return read()
    except ModelFileError:
        return None


@pytest.mark.parametrize("seed", range(3))
def test_a_header_says_the_same_whole_and_piece_by_piece(whole, tmp_path, monkeypatch, seed):
    """Of 6,000 mutants those that are read whole say the same member by member."""
    kind, draw = whole["safetensors text"], random.Random(seed)
    path = tmp_path / kind.file
    accepted = 0
    for _ in range(2000):
        path.write_bytes(kind.dress(kind.mutate(draw.choice(kind.seeds), draw)))
        first = outcome(lambda: kind.reader.read(path))
        with monkeypatch.context() as patch:
            patch.setattr(limits, "JSON_WHOLE", 0)
            patch.setattr(json_stream, "_STEP", 7)
            second = outcome(lambda: kind.reader.read(path))
        # Of texts in the metadata that are passed over, escapes are not looked at.
        assert first is None or second == first
        accepted += first is not None
    assert accepted > 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "I64", "F4", "??"]) | JSON,
        "shape": st.lists(st.integers(-1, 2**65), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-1, 2**65), max_size=3) | JSON,
    },
)


@ANY
@given(
    header=st.dictionaries(st.text(max_size=12), ENTRY | JSON, max_size=4),
    tail=st.binary(max_size=32),
)
def test_any_json_header(tmp_path, header, tail):
    """Whatever JSON stands in a safetensors header, only ModelFileError comes out."""
    raw = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + tail)
    try:
        facts = SafetensorsReader().read(path)
    except ModelFileError:
        return
    assert sum(facts.tensor_bytes.values()) == len(tail)


@ANY
@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from(
        [".gguf", ".onnx", ".pt", ".pkl", ".joblib", ".safetensors", ".tflite", ".xml"]
    ),
    magic=st.sampled_from(
        [
            b"",
            b"GGUF\3\0\0\0",
            b"\x08\x08\x3a",
            b"\x80\x04",
            b"PK\x03\x04",
            b"\x1f\x8b",
            b"BZh9",
            b"\xfd7zXZ\x00",
            b"\x5d\x00\x00",
            b"\x04\x22\x4d\x18\x60\x70\x73",
            b"\x10\0\0\0TFL3",
            b'<net version="11">',
        ]
    ),
)
def test_any_bytes(tmp_path, content, suffix, magic):
    """Whatever bytes follow a magic, only ModelFileError comes out."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(magic + content)
    message = ""
    try:
        read_facts(path)
    except ModelFileError as error:
        message = str(error)
    assert message.isprintable()


@ANY
@given(
    table=st.binary(min_size=4, max_size=64),
    fields=st.lists(st.integers(0, 2**16 - 1), max_size=9),
    tail=st.lists(st.integers(0, 80) | st.integers(0, 2**32 - 1), max_size=24),
)
def test_any_flatbuffer(tmp_path, table, fields, tail):
    """Whatever stands in a FlatBuffer's tables, only ModelFileError comes out."""
    vtable = b"".join(
        value.to_bytes(2, "little") for value in (4 + 2 * len(fields), len(table) + 4, *fields)
    )
    root = 8 + len(vtable)
    raw = root.to_bytes(4, "little") + b"TFL3" + vtable
    raw += len(vtable).to_bytes(4, "little") + table
    path = tmp_path / "a.tflite"
    path.write_bytes(raw + b"".join(value.to_bytes(4, "little") for value in tail))
    try:
        facts = TfliteReader().read(path)
    except ModelFileError:
        return
    assert facts.size_bytes == path.stat().st_size


NAME = st.sampled_from(["net", "layers", "layer", "data", "port", "dim", "edge", "rt_info", "body"])
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["id", "type", "name", "version", "shape", "offset", "size", "element_type"]),
    st.sampled_from(["Const", "Parameter", "Result", "11", "0", "8", "i8", "f32", "1,2", "?", ""])
    | st.text("<>&'\"\u0001é☃0123456789,-", max_size=20),
    max_size=5,
)
ELEMENT = st.recursive(
    st.tuples(NAME, ATTRIBUTES, st.just([])),
    lambda inner: st.tuples(NAME, ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
)


def xml_of(element):
    name, attributes, children = element
    stated = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{stated}>{''.join(map(xml_of, children))}</{name}>"


@ANY
@given(elements=st.lists(ELEMENT, max_size=4))
def test_any_graph_in_xml(tmp_path, elements):
    """Whatever elements an IR holds, in whatever order, only ModelFileError comes out."""
    path = tmp_path / "a.xml"
    path.write_text(f'<net version="11">{"".join(map(xml_of, elements))}</net>', "utf-8")
    try:
        facts = OpenVinoReader().read(path)
    except ModelFileError:
        return
    assert sum(facts.tensor_bytes.values()) >= 0
