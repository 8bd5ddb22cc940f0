"""Thousands of mutated files for each format: only ModelFileError comes out."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import READERS, read_facts
from ravenxterm_lab.readers.safetensors import SafetensorsReader

ROUNDS = 3000
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one to five changes."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        size = max(len(out), 1)
        # Headers lie at the start, zip directories at the end.
        at = draw.choice(
            [
                draw.randrange(size),
                draw.randrange(min(size, 300)),
                size - 1 - draw.randrange(min(size, 300)),
            ]
        )
        kind = draw.randrange(6)
        if kind == 0:
            out[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            width = draw.choice([1, 2, 4, 8])
            value = draw.choice(EDGES) & (1 << 8 * width) - 1
            out[at : at + width] = value.to_bytes(width, draw.choice(["little", "big"]))
        elif kind == 2:
            del out[at : at + draw.randint(1, 40)]
        elif kind == 3:
            out[at:at] = draw.randbytes(draw.randint(1, 40))
        elif kind == 4:
            start = draw.randrange(size)
            out[at:at] = out[start : start + draw.randint(1, 60)]
        else:
            del out[at:]
    return bytes(out)


@pytest.mark.parametrize("kind", ["gguf", "safetensors", "onnx", "pytorch", "pickle"])
def test_mutated_files(files, tmp_path, kind):
    """Facts or a ModelFileError, in little memory; the messages are printable."""
    if kind == "pickle":
        path = tmp_path / "a.pkl"
        path.write_bytes(files.torch_pickle())
        reader = next(one for one in READERS if one.model_type.value == "pytorch")
    else:
        name, write = files.WRITERS[kind]
        path = write(tmp_path / name)
        reader = next(one for one in READERS if one.model_type.value == kind)
    whole = path.read_bytes()
    draw = random.Random(f"{kind} 1")
    refused = 0
    messages = set()
    tracemalloc.start()
    for _ in range(ROUNDS):
        path.write_bytes(mutate(whole, draw))
        try:
            facts = reader.read(path)
        except ModelFileError as error:
            refused += 1
            messages.add(str(error))
        else:
            assert all(text.isprintable() for text in facts.notes + facts.problems)
            assert facts.parameter_count is None or facts.parameter_count >= 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < refused < ROUNDS
    assert [text for text in messages if not text.isprintable()] == []
    assert peak < 16 << 20


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


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from([".gguf", ".onnx", ".pt", ".pkl", ".joblib", ".safetensors"]),
    magic=st.sampled_from(
        [b"", b"GGUF\3\0\0\0", b"\x08\x08\x3a", b"\x80\x04", b"PK\x03\x04", b"\x1f\x8b"]
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
