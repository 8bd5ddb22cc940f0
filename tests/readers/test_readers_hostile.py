"""Names and texts that were made to hurt, in every format: bounded, printable, and escaped."""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import onnx
import pytest
from fuzz_readers import texts
from onnx import TensorProto, helper

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.models import ModelRegistry, Workbench
from ravenxterm_lab.readers import read_config, read_facts, with_config

EVIL = "a\n<script>alert(1)</script>\x1b[31m\u202e\x00\u2028"
TEN = 10_000_000


@pytest.fixture
def bench(home):
    """Give a workbench whose threads end with the test: others measure memory."""
    made = Workbench(home)
    yield made
    made.store.close()


def gguf_of(files, path, text):
    return files.gguf_file(path / "a.gguf", general={"general.name": text, "general.license": text})


def safetensors_of(files, path, text):
    entry = {"dtype": text, "shape": [2], "data_offsets": [0, 8]}
    raw = json.dumps({"__metadata__": {"format": text}, text: entry}).encode()
    (path / "a.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    return path / "a.safetensors"


def onnx_of(files, path, text):
    graph = helper.make_graph(
        [],
        text,
        [helper.make_tensor_value_info(text, TensorProto.INT64, [text, 4])],
        [helper.make_tensor_value_info("y" + text, TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(np.float32([1]), "w" + text)],
    )
    model = helper.make_model(
        graph, producer_name=text, opset_imports=[helper.make_opsetid("x" + text, 1)]
    )
    (path / "a.onnx").write_bytes(model.SerializeToString())
    return path / "a.onnx"


def pickle_of(files, path, text):
    raw = text.encode()
    name = b"X" + struct.pack("<I", len(raw)) + raw
    body = b"\x80\x04" + name + name + b"\x93" + name + name + b"\x93\x86."
    return files.torch_file(path / "a.pt", pickle_bytes=body)


def tflite_of(files, path, text):
    text = text.replace("\x00", "")  # the writer ends a string there
    card = files.tflite_metadata(text, text, text)
    return files.tflite_file(path / "a.tflite", names=(text, text), metadata=card, signature=False)


def openvino_of(files, path, text):
    safe = "".join(char if char.isprintable() else f"&#{ord(char)};" for char in text)
    safe = safe.replace("&#0;", "").replace("&#27;", "").replace("<", "&lt;")
    return files.openvino_file(path / "a.xml", name=safe, inputs=safe, outputs=safe)


def fasttext_of(files, path, text):
    raw = text.replace("\x00", "").encode()  # a word ends there
    return files.fasttext_file(path / "a.ftz", words=[b"x" + raw], labels=[raw, b"y" + raw])


MAKERS = [gguf_of, safetensors_of, onnx_of, pickle_of, tflite_of, openvino_of, fasttext_of]


@pytest.mark.parametrize("make", MAKERS)
def test_evil_names_come_out_printable(files, tmp_path, make):
    """Line breaks, escape sequences, zeros and overrides never reach the facts."""
    facts = read_facts(make(files, tmp_path, EVIL))
    found = list(texts(facts))
    assert found
    assert [text for text in found if not text.isprintable()] == []


@pytest.mark.parametrize("make", MAKERS)
def test_strings_of_ten_megabytes(files, tmp_path, make):
    """A huge name is cut, or its file refused; memory stays near the file's size."""
    path = make(files, tmp_path, "x" * TEN)

    def read():
        try:
            return list(texts(read_facts(path)))
        except ModelFileError as error:
            return [str(error)]

    most = 4 * path.stat().st_size + (8 << 20)
    found, peak = files.peak_memory(read, most)
    assert max(map(len, found)) < 1000
    assert peak < most


@pytest.mark.parametrize("make", MAKERS)
def test_invalid_utf8(files, tmp_path, make):
    """Undecodable bytes in a name are replaced, or the file is refused."""
    path = make(files, tmp_path, "QQQQ")
    data = path.read_bytes()
    assert b"QQQQ" in data
    for bad in (b"\xff\xfe\xc0\x80", b"\xed\xa0\x80Q", b"\xf4\x90\x80\x80"):
        path.write_bytes(data.replace(b"QQQQ", bad))
        try:
            found = list(texts(read_facts(path)))
        except ModelFileError as error:
            found = [str(error)]
        assert all(text.isprintable() for text in found)
        "".join(found).encode()


def test_beside_a_model_texts_are_cleaned_too(files, tmp_path):
    """What a config and a card say is bounded and printable."""
    config = files.BERT | {"model_type": EVIL, "architectures": [EVIL, "BertModel"]}
    front = f"license: {EVIL.replace(chr(10), '')}\n"
    files.write_config(tmp_path, config, card=f"---\n{front}---\n" + "x" * TEN)
    path = files.safetensors_file(tmp_path / "model.safetensors")
    facts = with_config(read_facts(path), read_config(tmp_path))
    assert facts.architecture
    assert "script" in facts.license
    assert all(text.isprintable() for text in texts(facts))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x" * TEN}))
    assert "at most" in read_config(tmp_path).notes[0]


def test_nothing_evil_reaches_the_notebook_unescaped(files, tmp_path, bench):
    """The registry's table and its report escape names of files and what files say."""
    folder = tmp_path / "models"
    for number, make in enumerate(MAKERS):
        place = folder / f"<img src=x onerror=alert({number})>"
        place.mkdir(parents=True)
        make(files, place, EVIL)
        (place / "<b>broken\n.gguf").write_bytes(b"GGUF<script>" + bytes(40))
    registry = ModelRegistry(folder, workbench=bench)
    report = registry.scan()
    assert len(registry) >= 4
    assert report.skipped
    pages = [one._repr_mimebundle_()["text/html"] for one in (registry, report)]
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
        assert "<b>broken" not in page
        assert "\x1b" not in page
    assert "&lt;img" in pages[0]
    for model in registry.available_models.values():
        assert model.describe().isprintable()


class Sentinel:
    """Makes a directory when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.pkl", "a.joblib", "data.pkl"])
def test_looking_at_a_whole_registry_unpickles_nothing(files, tmp_path, bench, name):
    """A scan of pickles that would make a directory makes none, and none of them is chosen."""
    folder = tmp_path / "models"
    folder.mkdir()
    body = pickle.dumps(Sentinel(tmp_path / "ran"), 2)
    if name.endswith(".pt"):
        files.torch_file(folder / name, pickle_bytes=body)
    else:
        (folder / name).write_bytes(body)
    registry = ModelRegistry(folder, workbench=bench)
    report = registry.scan()
    assert not (tmp_path / "ran").exists()
    assert all(model.problems for model in registry.available_models.values())
    assert len(registry) + len(report.skipped) == 1
    assert registry.select_model({}) is None
    pickle.loads(body)
    assert (tmp_path / "ran").exists()
