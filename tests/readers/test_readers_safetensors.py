"""safetensors: against its own library, and against headers that lie."""

from __future__ import annotations

import json
import math

import pytest
from safetensors import SafetensorError, safe_open

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import json_stream, limits, read_facts


@pytest.fixture(autouse=True, params=["whole", "piece by piece"])
def _way(request, monkeypatch):
    """Read every header in both ways: parsed whole, as short ones are, and member by member."""
    if request.param != "whole":
        monkeypatch.setattr(limits, "JSON_WHOLE", 0)
        monkeypatch.setattr(json_stream, "_STEP", 7)


def raw_file(path, header, data=b"", length=None):
    """Write a header as it stands, which the library would refuse to write."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + raw + data)
    return path


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_facts_agree_with_the_library(files, tmp_path, dtype):
    """Parameters and the dominant type are those that safetensors itself reports."""
    path = files.safetensors_file(tmp_path / "model.safetensors", dtype=dtype)
    facts = read_facts(path)
    with safe_open(path, "np") as oracle:
        tensors = {name: oracle.get_slice(name) for name in oracle.keys()}  # noqa: SIM118 - not a dict
        total = sum(math.prod(tensor.get_shape()) for tensor in tensors.values())
        dtypes = {tensor.get_dtype() for tensor in tensors.values()}
    assert facts.parameter_count == facts.active_parameter_count == total
    assert set(facts.tensor_bytes) == dtypes
    assert facts.quantization == {"float32": "F32", "float16": "F16", "float64": "F64"}[dtype]
    assert (facts.vocabulary_size, facts.embedding_length) == (20, 8)


def test_a_tensor_of_a_hundred_dimensions_is_refused(tmp_path):
    """No real tensor has that many; the library would take it."""
    with pytest.raises(ModelFileError, match="shape"):
        read_facts(raw_file(tmp_path / "a.safetensors", {"a": entry((1,) * 99 + (2,))}, bytes(8)))


LIES = {
    "overlap": {"a": entry(), "b": entry(begin=4, end=12)},
    "hole": {"a": entry(), "b": entry(begin=12, end=20)},
    "past the end": {"a": entry(begin=0, end=2**50, shape=(2**48,))},
    "wrong size": {"a": entry(shape=(3,))},
    "backwards": {"a": entry(begin=8, end=0)},
    "negative shape": {"a": entry(shape=(-2,))},
    "bool shape": {"a": entry(shape=(True, 2))},
    "float offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8.0]}},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "text": {"a": "tensor"},
    "list": ["a"],
    "bytes left over": {"a": entry(shape=(1,), end=4)},
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_here_and_there(tmp_path, lie):
    """Every header that is refused here is refused by the library too."""
    path = raw_file(
        tmp_path / "a.safetensors",
        LIES[lie],
        bytes(20 if lie == "hole" else 12 if lie == "overlap" else 8),
    )
    with pytest.raises(ModelFileError):
        read_facts(path)
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ',
        b"{" + b'"a":{' * 5000,
        b'{"a":' + b"[" * 100_000,
        b'{"a":NaN}',
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"\xff\xfe": 1}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_bad_json_is_a_model_file_error(tmp_path, header):
    """Truncated, deeply nested, doubled, huge and undecodable JSON is refused."""
    with pytest.raises(ModelFileError):
        read_facts(raw_file(tmp_path / "a.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, limits.SAFETENSORS_HEADER_BYTES])
def test_the_length_of_the_header_is_checked(tmp_path, length):
    """A length above the cap or the file's size is refused before it is read."""
    with pytest.raises(ModelFileError):
        read_facts(raw_file(tmp_path / "a.safetensors", {"a": entry()}, bytes(8), length))


def test_a_flood_of_values_is_refused_unparsed(tmp_path):
    """Millions of empty lists would take a hundred times their size in memory."""
    header = b'{"a":[' + b"[]," * 5 * limits.JSON_PIECE + b"[]]}"
    with pytest.raises(ModelFileError, match=r"too many values|more than 16384 characters"):
        read_facts(raw_file(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("many", [1, 30_000])
def test_metadata_of_any_length_are_passed_over(tmp_path, many):
    """Trainers put megabytes of their settings there; brackets and quotes in texts mean nothing."""
    text = 'x"]}\\{[\u2028☃\n' * many
    header = {"__metadata__": {"ss_tags": text, "format": "pt", "é": text}, "a": entry()}
    for escaped in (True, False):
        raw = json.dumps(header, ensure_ascii=escaped).encode() + b"  \n"
        path = raw_file(tmp_path / "a.safetensors", raw, bytes(8))
        assert read_facts(path).parameter_count == 2
        with safe_open(path, "np") as oracle:
            assert oracle.metadata()["é"] == text


@pytest.mark.parametrize("metadata", [[], "pt", 1, {"format": 1}, {"a": {}}, {"a": "b", "c": None}])
def test_metadata_that_are_no_texts_are_refused_here_and_there(tmp_path, metadata):
    """Metadata map texts to texts, as the library has it."""
    header = {"__metadata__": metadata, "a": entry()}
    path = raw_file(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(ModelFileError):
        read_facts(path)
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass


def test_unknown_types_are_noted(tmp_path):
    """A type of a later version is a note, printed without control characters."""
    facts = read_facts(
        raw_file(tmp_path / "a.safetensors", {"a": entry(dtype="F1\n<b>")}, bytes(8))
    )
    assert len(facts.notes) == 1
    assert facts.notes[0].isprintable()
    assert facts.tensor_bytes == {"unknown": 8}


def test_an_adapter_is_not_a_model(tmp_path):
    """A file of LoRA matrices only is an adapter."""
    header = {"base.q.lora_A.weight": entry(), "base.q.lora_B.weight": entry(begin=8, end=16)}
    assert read_facts(raw_file(tmp_path / "a.safetensors", header, bytes(16))).kind == "adapter"


def test_experts_leave_the_active_count_open(tmp_path):
    """Without a config the used share of the experts is unknown, and so is the active count."""
    header = {"l.0.experts.0.w": entry(), "l.0.experts.1.w": entry(begin=8, end=16)}
    facts = read_facts(raw_file(tmp_path / "a.safetensors", header, bytes(16)))
    assert (facts.parameter_count, facts.expert_parameter_count) == (4, 4)
    assert facts.active_parameter_count is None
