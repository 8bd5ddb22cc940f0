"""OpenVINO IR: an untrusted XML beside a file of weights of which only the size is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts, reader_for
from ravenxterm_lab.readers.binary import FileWindow
from ravenxterm_lab.readers.openvino import OpenVinoReader
from ravenxterm_lab.readers.xml_stream import stream_elements

WRITTEN = Path(__file__).with_name("openvino")
ORACLE = json.loads((WRITTEN / "facts.json").read_text())
#: What OpenVINO calls a type, where it is not what others call it in small letters.
DTYPES = {
    "boolean": "BOOL", "f8e4m3": "F8_E4M3", "f8e5m2": "F8_E5M2", "f8e8m0": "F8_E8M0",
    "f4e2m1": "F4",
}  # fmt: skip
#: Types of shapes, indices and flags.
NO_WEIGHTS = {"i64", "i32", "u64", "u32", "boolean", "string"}


def net(body, version="11"):
    return f'<net name="n" version="{version}"><layers>{body}</layers></net>'


def const(number, offset, size, shape, dtype="i8"):
    return (
        f'<layer id="{number}" name="c{number}" type="Const"><data element_type="{dtype}" '
        f'shape="{shape}" offset="{offset}" size="{size}"/></layer>'
    )


def write(path, text, weights=64):
    path.write_text(text, "utf-8")
    path.with_suffix(".bin").write_bytes(bytes(weights))
    return path


def test_facts_of_a_small_graph(files, tmp_path):
    """Weights, signature, task, makers and the file of weights come out."""
    facts = read_facts(files.openvino_file(tmp_path / "openvino_model.xml"))
    assert (facts.kind, facts.name, facts.quantization) == ("model", "small", "INT8")
    assert facts.parameter_count == 240
    assert facts.tensor_bytes == {"I8": 240, "I64": 8}
    assert facts.external == ("openvino_model.bin",)
    assert [(one.name, one.dtype, one.shape) for one in facts.inputs] == [
        ("input_ids", "I64", (None, 4))
    ]
    assert [(one.name, one.dtype, one.shape) for one in facts.outputs] == [
        ("last_hidden_state", "F32", (None, 4, 8))
    ]
    assert (facts.task_types, facts.embedding_length) == (("embedding",), 8)
    assert facts.notes == ("OpenVINO IR version 11, 5 layers", "made by 2026.4.0-tests")


@pytest.mark.parametrize("name", [name for name in ORACLE if name != "version"])
def test_facts_agree_with_openvino(name):
    """Constants, those in bodies too, inputs and outputs are those that OpenVINO itself reads.

    OpenVINO wrote the graphs, and said what is in them, by ``openvino_oracle.py``.
    """
    said = ORACLE[name]
    facts = read_facts(WRITTEN / f"{name}.xml")
    assert not facts.problems
    assert facts.kind == "model"
    assert facts.name == said["name"]
    sizes: dict[str, int] = {}
    for dtype, _, size in said["constants"]:
        sizes[DTYPES.get(dtype, dtype.upper())] = sizes.get(dtype.upper(), 0) + size
    assert facts.tensor_bytes == sizes
    weights = [count for dtype, count, _ in said["constants"] if dtype not in NO_WEIGHTS]
    assert facts.parameter_count == sum(weights)
    for found, side in ((facts.inputs, "inputs"), (facts.outputs, "outputs")):
        assert len(found) == len(said[side])
        for one, (names, dtype, shape) in zip(found, said[side], strict=True):
            assert one.name in names
            assert one.shape == tuple(shape)
            assert one.dtype in (DTYPES.get(dtype, dtype.upper()), "unknown")


def test_facts_agree_with_the_standard_library():
    """The extents that the XML states cover the file of weights, and hold what was looked up."""
    tree = ET.parse(WRITTEN / "embedding.xml")
    places = sorted(
        (int(data.get("offset")), int(data.get("size")), data.get("element_type"))
        for data in tree.iterfind("./layers/layer[@type='Const']/data")
    )
    size = (WRITTEN / "embedding.bin").stat().st_size
    facts = read_facts(WRITTEN / "embedding.xml")
    assert sum(facts.tensor_bytes.values()) == sum(length for _, length, _ in places) == size
    table = next((offset, length) for offset, length, kind in places if kind == "f32")
    values = np.fromfile(WRITTEN / "embedding.bin", np.float32, table[1] // 4, offset=table[0])
    drawn = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    assert values.tobytes() == drawn.tobytes()
    assert facts.parameter_count == values.size == 240
    assert (facts.task_types, facts.embedding_length) == (("embedding",), 8)


def test_a_loops_constants_count_and_its_inputs_do_not(files, tmp_path):
    """Layers in the body of a loop share the file of weights; only the outer inputs are real."""
    facts = read_facts(files.openvino_file(tmp_path / "a.xml", more=files.IR_LOOP))
    assert facts.parameter_count == 248
    assert len(facts.inputs) == 1
    assert not facts.problems


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"size": 10**9, "shape": "1000000000"}, "truncated"),
        ({"offset": 17}, "truncated"),
        ({"shape": "30,9"}, "240 bytes where its shape and type need 270"),
        ({"dtype": "u4"}, "need 120"),
        ({"offset": 4}, "overlap"),
    ],
)
def test_constants_that_lie_are_a_problem(files, tmp_path, changes, word):
    """Places outside the weights, sizes that do not fit and tensors that overlap are named."""
    facts = read_facts(files.openvino_file(tmp_path / "a.xml", **changes))
    assert any(word in text for text in facts.problems)


def test_missing_weights_are_a_problem(files, tmp_path):
    """Without its ``.bin``, or with something else in its place, a graph is unusable."""
    path = files.openvino_file(tmp_path / "a.xml")
    weights = path.with_suffix(".bin")
    weights.unlink()
    assert read_facts(path).problems == ("missing external data: a.bin",)
    weights.mkdir()
    assert read_facts(path).problems == ("missing external data: a.bin",)


def test_equal_constants_are_written_once(tmp_path):
    """Layers that name the same bytes are counted once."""
    text = net(const(1, 0, 64, 64) + const(2, 0, 64, 64))
    facts = read_facts(write(tmp_path / "a.xml", text))
    assert (facts.parameter_count, facts.problems) == (64, ())


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("u4", "3,5", 8), ("i4", "16", 8), ("u1", "9", 2), ("nf4", "2", 1), ("u3", "9", 6),
     ("u6", "5", 6), ("f8e4m3", "7", 7), ("bf16", "3", 6), ("string", "3", 50), ("i64", "", 8)],
)  # fmt: skip
def test_packed_types(tmp_path, dtype, shape, size):
    """The bytes of every packed type are those that OpenVINO gives it."""
    facts = read_facts(write(tmp_path / "a.xml", net(const(1, 0, size, shape, dtype))))
    assert not facts.problems


def test_a_decoder_with_its_cache_inside_generates(files, tmp_path):
    """A graph that takes a beam's index keeps a cache inside."""
    beam = '<layer id="7" name="beam_idx" type="Parameter"><data shape="?" element_type="i32"/>'
    path = files.openvino_file(tmp_path / "a.xml", more=beam + "</layer>", outputs="logits")
    assert read_facts(path).task_types == ("text_generation",)


def test_a_tokenizer_is_no_model(tmp_path):
    """A graph of tokenizer operators is a vocabulary."""
    text = net('<layer id="0" name="t" type="BPETokenizer" version="extension"/>')
    assert read_facts(write(tmp_path / "openvino_tokenizer.xml", text)).kind == "vocabulary"


def test_other_xml_files_are_left_alone(tmp_path):
    """An XML file of anything else has no reader."""
    path = tmp_path / "pom.xml"
    path.write_text('<?xml version="1.0"?>\n<project><network/></project>')
    assert reader_for(path) is None


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE net [<!ENTITY l0 "x">{LAUGHS}]><net version="11">&l29;</net>',
        '<!DOCTYPE net SYSTEM "file:///etc/passwd"><net version="11"/>',
        '<!DOCTYPE net [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><net version="11"/>',
        '<!DOCTYPE net [<!ATTLIST net version CDATA "11">]><net/>',
    ],
)
def test_a_document_type_is_refused(tmp_path, text):
    """No entity is expanded or looked up: the file is no IR, and the parser itself refuses it."""
    path = tmp_path / "a.xml"
    path.write_text(text)
    assert reader_for(path) is None
    with pytest.raises(ModelFileError, match="HTML or XML page"):
        OpenVinoReader().read(path)
    seen = []
    with FileWindow(path) as window, pytest.raises(ModelFileError, match="document type"):
        stream_elements(window, lambda *begun: seen.append(begun), seen.append, seen.append)
    assert seen == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('<net version="11">&undefined;</net>', "undefined entity"),
        ('<?xml version="1.0" encoding="utf-7"?><net version="11">+ADw-</net>', "no OpenVINO"),
        ('<net version="11"><layers>' + "<body>" * 100_000, "deeply"),
        (f'<net version="11"><layers a="{"x" * (3 << 20)}"/></net>', "a tag of more than"),
        ('<net version="11">' + "".join(f"<a{n}/>" for n in range(20_000)) + "</net>", "names"),
        ('<net version="11"><layers></net>', "mismatched"),
        ('<net version="9"/>', "version '9'"),
        ('<net version="11\n"/>', "versions 10 and 11"),
        ('<net version="11"/>', "no OpenVINO graph"),
        (net('<layer type="Const"><data offset="-1" size="8" shape="8"/></layer>'), "can be read"),
        (net('<layer type="Const"><data offset="0" size="8" shape="8,?"/></layer>'), "can be read"),
        (net(const(1, 0, 8, ",".join(["9999999999"] * 60))), "elements"),
        (net('<layer type="Result"><input><port>' + "<dim>1</dim>" * 99), "too many dimensions"),
        ('<net version="11">\udcff</net>', "not well-formed"),
        ('<net version="11">\0</net>', "not well-formed"),
    ],
)
def test_hostile_xml(tmp_path, text, word):
    """Undefined entities, codecs, depth, long tags and false numbers are refused."""
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelFileError, match=word):
        read_facts(path)


def test_a_large_file_of_xml_is_refused_unread(tmp_path):
    """More XML than any graph has is refused by its size."""
    path = tmp_path / "a.xml"
    path.write_text('<net version="11">')
    with path.open("r+b") as stream:
        stream.truncate(limits.XML_BYTES + 1)
    with pytest.raises(ModelFileError, match="at most"):
        read_facts(path)


def test_many_layers_cost_little_memory(files, tmp_path):
    """A hundred thousand layers are streamed, not kept."""
    text = net('<layer id="1" name="n" type="Add"><data/></layer>' * 100_000)
    path = write(tmp_path / "a.xml", text)
    del text
    facts, peak = files.peak_memory(lambda: read_facts(path), 2 << 20)
    assert facts.notes[0].endswith("100,000 layers")
    assert peak < 2 << 20
