"""The memory that the costliest file takes which a reader's caps admit.

The scenes of ``costly_files`` may be read or refused, but the most that Python holds at once
stays below one figure. What real large models need is read too, and has to be accepted.
"""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from costly_files import (
    SCENES,
    WIDE,
    field,
    flat,
    flat_tensor,
    gguf,
    json_list,
    json_object,
    onnx,
    openvino,
    safetensors,
    text,
    wide,
)

from ravenxterm_lab.readers import limits, read_facts

MOST = 96 << 20

_CHILD = """
import resource, sys
from pathlib import Path
from ravenxterm_lab.discovery import DirectorySource, discover
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import read_config, read_facts

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What getrusage says is inherited from the process that started this one.
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def read(path):
    if path.is_dir():
        names = [one.name for one in path.iterdir()]
        if any("config" in name for name in names):
            return read_config(path)
        return discover([DirectorySource(path)]).skipped
    try:
        return read_facts(path)
    except ModelFileError as error:
        return error

before = peak()
found = read(Path(sys.argv[1]))
print(peak() - before)
print(ascii(found)[:2000])
"""


def memory_of(path):
    """Read a file or a directory in a new process; return by how much that grew, and what it says.

    Counted is what the operating system gave it. ``tracemalloc`` makes most of these five times
    slower; it counts what was asked for and never used too, and says 88 MiB of the files packed
    by LZMA, whose decoder asks for 65 MiB, and 50 MiB at most of all others.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, path], capture_output=True, text=True, check=True
    )
    size, found = done.stdout.split("\n", 1)
    return int(size), found


@pytest.mark.parametrize("name", SCENES)
def test_the_costliest_file_takes_little_memory(tmp_path, name):
    """Whatever a file repeats up to a cap or beyond, reading it stays below 96 MiB."""
    file, make = SCENES[name]
    path = tmp_path / file
    path.write_bytes(make())
    peak, found = memory_of(path)
    assert peak < MOST, found


@pytest.mark.parametrize("file", ["a.onnx", "a.tflite", "a.xml"])
def test_of_many_inputs_the_first_are_kept(tmp_path, file):
    """Facts stay as long as a registry does, and a directory may hold many such files."""
    one = '<layer name="c" type="Parameter"><data element_type="f32" shape="1"/></layer>'
    made = {
        "a.onnx": lambda: onnx(field(11, field(1, b"x")) * 5000),
        "a.tflite": lambda: flat(tensor=flat_tensor("x", [1]), tensors=1, inputs=5000),
        "a.xml": lambda: openvino(one * 5000),
    }
    (tmp_path / file).write_bytes(made[file]())
    facts = read_facts(tmp_path / file)
    assert len(facts.inputs) == limits.SIGNATURES
    assert "5,000 inputs, of which 1024 are kept" in facts.notes


CONFIGS = {
    "keys": json_object(f'"{WIDE}{n}":"é{n}"' for n in range(100_000)),
    "objects": json_list(f'{{"{n}":{{}}}}' for n in range(43_000)),
    "lists": json_list(["[[]]"] * 43_000),
    "numbers": json_list(["1e300"] * 130_000),
    "one text": json_object([f'"model_type":"{wide(0, 4_000_000)}"']),
    "texts": json_list([f'"{wide(0, 28)}"'] * 130_000),
    "too many": json_list(["{}"] * 1_000_000),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_lies_beside_takes_little_memory(tmp_path, name):
    """The costliest configuration that the caps admit stays below 96 MiB."""
    (tmp_path / "config.json").write_bytes(CONFIGS[name])
    peak, found = memory_of(tmp_path)
    assert ("too many values" in found) == (name == "too many")
    assert peak < MOST


def test_the_largest_shard_index_takes_little_memory(tmp_path):
    """A scan of an index that names more tensors than any model has stays below 96 MiB."""
    rows = (f'"{wide(n, 100)}":"model-{n % 200:05d}-of-00200.safetensors"' for n in range(200_000))
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(b'{"metadata":{},"weight_map":' + json_object(rows) + b"}")
    assert 24 << 20 < index.stat().st_size < limits.INDEX_BYTES
    peak, found = memory_of(tmp_path)
    assert "names 200 files" in found
    assert peak < 16 << 20


def test_the_largest_vocabulary_is_read(files, tmp_path):
    """A header of 128,256 tokens and 280,147 merges, as Llama 3 has it, takes a few MiB."""
    tokens = b"".join(text(f"token{n}") for n in range(128_256))
    merges = b"".join(text(f"left{n} right{n}") for n in range(280_147))
    keys = [
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 128_256) + tokens,
        text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, 128_256) + bytes(4 * 128_256),
        text("tokenizer.ggml.merges") + struct.pack("<IIQ", 9, 8, 280_147) + merges,
    ]
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(keys=keys))
    facts, peak = files.peak_memory(lambda: read_facts(path), 8 << 20)
    assert facts.vocabulary_size == 128_256
    assert peak < 8 << 20


EXPERTS = [
    f"model.layers.{layer}.mlp.experts.{number}.{part}_proj.weight"
    for layer in range(58)
    for number in range(345)
    for part in ("gate", "up", "down")
]


def test_sixty_thousand_tensors_are_read_as_safetensors(tmp_path):
    """The experts of the largest mixtures, unstacked and in one file, take 32 MiB at most."""
    size = 2 * 7168 * 2048
    entry = '"{}":{{"dtype":"BF16","shape":[7168,2048],"data_offsets":[{},{}]}}'
    entries = (entry.format(name, n * size, (n + 1) * size) for n, name in enumerate(EXPERTS))
    path = tmp_path / "a.safetensors"
    with path.open("wb") as out:
        start = out.write(safetensors(json_object(entries)))
        out.truncate(start + size * len(EXPERTS))
    peak, found = memory_of(path)
    assert len(EXPERTS) > 60_000
    assert f" parameter_count={len(EXPERTS) * 7168 * 2048}," in found
    assert f"expert_parameter_count={len(EXPERTS) * 7168 * 2048}," in found
    assert peak < 32 << 20


def test_sixty_thousand_tensors_are_read_as_gguf(tmp_path):
    """So many tensors, which no GGUF file has before it stacks them, take 64 MiB at most."""
    shape = struct.pack("<IQQI", 2, 7168, 2048, 30)
    size = 2 * 7168 * 2048
    path = tmp_path / "a.gguf"
    rows = [text(name) + shape + struct.pack("<Q", n * size) for n, name in enumerate(EXPERTS)]
    with path.open("wb") as out:
        start = out.write(gguf(tensors=rows))
        out.truncate(start + 32 + size * len(EXPERTS))
    peak, found = memory_of(path)
    assert f" parameter_count={len(EXPERTS) * 7168 * 2048}," in found
    assert peak < 64 << 20
