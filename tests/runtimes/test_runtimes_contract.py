"""Options, inputs, frames, failures, the fake and the plugins: no engine needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, RunResult, discover_runtimes, installed_runtimes
from ravenxterm_lab.runtimes.failures import classify, describe_exit, reason_in_log
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.inputs import as_text_request
from ravenxterm_lab.runtimes.protocol import ProtocolError, read_frame, write_frame

MODEL = ModelMetadata("m", ModelType.GGUF, Path("m"), 1000, context_length=32768)


def test_settings_are_short_and_stable() -> None:
    """Settings name the context and the KV type, and further only what is no default."""
    assert LoadOptions(context_length=4096).settings == "ctx=4096 kv=f16"
    assert LoadOptions().settings == "ctx=auto kv=f16"
    full = LoadOptions(HardwareType.CUDA, 8, 2, 3, "q8_0", 64, 5)
    assert full.settings == ("ctx=8 kv=q8_0 device=cuda gpu_layers=3 threads=2 batch=64 seed=5")


def test_the_automatic_context_is_bounded() -> None:
    """No context length means what the model was trained for, at most 4096."""
    assert LoadOptions().resolved(MODEL).context_length == 4096
    small = ModelMetadata("s", ModelType.GGUF, Path("s"), 1, context_length=512)
    assert LoadOptions().resolved(small).context_length == 512
    unknown = ModelMetadata("u", ModelType.GGUF, Path("u"), 1)
    assert LoadOptions().resolved(unknown).context_length == 4096


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"context_length": 0}, "context_length must be a whole number of at least 1, got 0"),
        ({"context_length": 1.5}, "context_length"),
        ({"threads": True}, "threads"),
        ({"gpu_layers": -1}, "gpu_layers"),
        ({"batch_size": None}, "batch_size"),
        ({"kv_type": "q8"}, "Unknown kv_type 'q8'. Did you mean 'q8_0'"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
    ],
)
def test_bad_options_are_refused(values: dict[str, Any], message: str) -> None:
    """A bad option is named, with its value and what is allowed."""
    with pytest.raises(RequirementError, match=message):
        LoadOptions(**values)


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ("x", {"max_tokens": 0}, "max_tokens"),
        ("x", {"max_tokens": 2.0}, "max_tokens"),
        ("x", {"temperature": float("nan")}, "temperature"),
        ("x", {"temperature": -1}, "temperature"),
        ("x", {"top_p": 1.1}, "top_p must be between 0 and 1"),
        ("x", {"top_k": -1}, "top_k"),
        ("x", {"seed": "one"}, "seed"),
        ("x", {"stop": [""]}, "stop"),
        ("x", {"stop": [1]}, "stop"),
        ("x", {"raw": 1}, "raw must be a bool"),
        ("x", {"system": 1}, "system must be a str"),
        ("x", {"system": "s", "raw": True}, "raw=True takes a plain text"),
        ([{"role": "user", "content": "x"}], {"raw": True}, "raw=True takes a plain text"),
        ([{"role": "usr", "content": "x"}], {}, "Unknown role 'usr'. Did you mean 'user'"),
        ([{"role": "user"}], {}, "'role' and 'content'"),
        ([{"role": "user", "content": "x"}, "y"], {}, "'role' and 'content'"),
        ([{"role": "user", "content": 3}], {}, "content must be a text"),
        ([], {}, "not empty"),
        (["x", 1], {}, "list of texts"),
        (b"x", {}, "text or a list"),
        (None, {}, "text or a list"),
        ("x", {"temprature": 1}, "Did you mean 'temperature'"),
        ("x", [], "parameters must be a mapping"),
        ("x", "max_tokens", "parameters must be a mapping"),
        ("x", {"stop": 1}, "stop"),
        ("x", {"stop": "\udfff"}, "stop holds a lone surrogate"),
        ("x", {"system": "\ud800"}, "system holds a lone surrogate"),
        ("x\ud800", {}, "input holds a lone surrogate"),
        (["x", "\udc80"], {}, "input holds a lone surrogate"),
        ([{"role": "user", "content": "\ud800"}], {}, "content holds a lone surrogate"),
    ],
)
def test_bad_text_requests_are_refused(inputs: Any, parameters: Any, message: str) -> None:
    """Every bad parameter or input of text_generation is named."""
    with pytest.raises(RequirementError, match=message):
        as_text_request(inputs, parameters)


def test_a_parameter_of_none_is_the_default() -> None:
    """None stands for the default, so that a caller can pass on what it was given."""
    request = as_text_request("x", {"max_tokens": None, "stop": "end"})
    assert request.max_tokens == 128
    assert request.stop == ("end",)
    assert not request.many


_NUMBERS = hnp.arrays(
    dtype=st.sampled_from(["<f4", "<f8", "<i8", "|u1", "|b1", "<f2", ">i4"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=4),
    st.dictionaries(st.text(), _NUMBERS, max_size=3),
)
def test_frames_arrive_as_they_were_sent(
    values: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    """Header and arrays survive, whatever their names, dtypes and shapes."""
    stream = io.BytesIO()
    write_frame(stream, {"op": "x", "values": values}, arrays)
    write_frame(stream, {"op": "next"})
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    assert frame.op == "x"
    assert frame.header["values"] == values
    assert frame.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert frame.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(frame.arrays[name], array)
    following = read_frame(stream)
    assert following is not None
    assert following.op == "next"
    assert read_frame(stream) is None


@settings(deadline=None)
@given(st.data())
def test_a_frame_that_is_cut_short_is_an_error(data: st.DataObject) -> None:
    """A stream that ends anywhere inside a frame is told from one that ends after it."""
    stream = io.BytesIO()
    write_frame(stream, {"op": "x"}, {"a": np.arange(5.0)})
    whole = stream.getvalue()
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(ProtocolError, match="ended inside"):
        read_frame(io.BytesIO(whole[:cut]))


def test_objects_do_not_travel() -> None:
    """Neither side takes an array of Python objects, which only pickle could carry."""
    with pytest.raises(ProtocolError, match="object"):
        write_frame(io.BytesIO(), {}, {"a": np.array([{}], dtype=object)})
    stream = io.BytesIO()
    write_frame(stream, {"op": "x", "arrays": [{"name": "a", "dtype": "|O", "shape": [1]}]})
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    with pytest.raises(ProtocolError, match="object"):
        _ = frame.arrays


@pytest.mark.parametrize("shape", [[9], [-1], [2, 2**62]])
def test_a_false_description_is_refused(shape: list[int]) -> None:
    """An array that claims more bytes than its frame has is an error, not a read beyond it."""
    stream = io.BytesIO()
    described = [{"name": "a", "dtype": "<f8", "shape": shape}]
    write_frame(stream, {"op": "x", "arrays": described})
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    with pytest.raises(ProtocolError, match="longer than its frame"):
        _ = frame.arrays


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("tensor 'x' data is not within the file bounds, model is corrupted", "corrupt"),
        ("invalid magic characters: 'H!??', expected 'GGUF'", "corrupt"),
        ("InvalidProtobuf: Protobuf parsing failed.", "corrupt"),
        ("unknown model architecture: 'nobody'", "unsupported"),
        ("Fatal error: Foo is not a registered function/op", "unsupported"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer", "out_of_memory"),
        ("std::bad_alloc", "out_of_memory"),
        ("something else", "runtime_error"),
    ],
)
def test_engines_words_are_classified(text: str, kind: str) -> None:
    """Each engine's own message leads to the kind of failure that it speaks of."""
    assert classify(text) is FailureKind(kind)


def test_the_telling_line_of_a_log_is_found() -> None:
    """Of several error lines, the one with the cause is taken, without its function's name."""
    log = [
        "0.00.003.348 I srv load_model: loading model 'x.gguf'",
        "0.00.003.427 E gguf_init_from_reader: failed to read key-value pairs",
        "0.00.003.557 E llama_model_load_from_file_impl: failed to load model",
        "0.00.003.845 E srv          init: exiting due to model loading error",
    ]
    assert reason_in_log(log) == "failed to read key-value pairs"
    assert reason_in_log(["nothing here"]) == ""


def test_deaths_are_described() -> None:
    """A kill points to memory, a crash names its signal, an exit its status."""
    assert describe_exit(-9, "")[0] is FailureKind.OUT_OF_MEMORY
    assert describe_exit(-11, "") == (FailureKind.RUNTIME_ERROR, "crashed with SIGSEGV")
    assert describe_exit(-6, "std::bad_alloc")[0] is FailureKind.OUT_OF_MEMORY
    assert describe_exit(3, "")[1] == "ended with exit status 3"


def test_metrics_hold_only_what_was_measured() -> None:
    """What is unknown is absent, never zero."""
    assert RunResult("x", 0.5).metrics() == {"latency": 0.5, "success": True}


def test_the_fake_follows_its_script() -> None:
    """Outputs and failures come in the order given, and then the made-up answers."""
    runtime = FakeRuntime(
        outputs=["one"],
        run_failures=[None, FailureKind.TIMEOUT, FailureKind.OUT_OF_MEMORY],
        latency=2.0,
    )
    loaded = runtime.load(MODEL)
    pieces: list[str] = []
    assert loaded.run("text_generation", "?", on_token=pieces.append).output == "one"
    assert pieces
    with pytest.raises(RuntimeFailureError) as caught:
        loaded.run("text_generation", "?")
    assert caught.value.kind is FailureKind.TIMEOUT
    assert loaded.alive
    with pytest.raises(RuntimeFailureError):
        loaded.run("text_generation", "?")
    assert not loaded.alive
    again = runtime.load(MODEL)
    with pytest.raises(RuntimeFailureError) as caught:
        again.run("text_generation", "?", timeout=1.0)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert again.run("text_generation", ["a", "b"]).output == ["an answer to: a", "an answer to: b"]
    rows = np.asarray(again.run("embedding", ["a", "b", "a"]).output)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert runtime.loads == ["m", "m"]


def test_the_built_in_runtimes_are_found() -> None:
    """The entry points of this package give llama.cpp and ONNX, and no note; never the fake."""
    runtimes, _ = discover_runtimes()
    assert [r.name for r in runtimes] == [r.name for r in installed_runtimes()]
    assert {"llama_cpp", "onnx"} <= {r.name for r in runtimes}
    assert "fake" not in {r.name for r in runtimes}


def test_a_broken_plugin_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins that cannot be imported, are no runtime, or take a name twice, become notes."""
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ravenxterm_lab.runtimes]\n"
        "a_missing = no_such_module:Runtime\n"
        "b_raising = stranger_raising:Runtime\n"
        "c_other = stranger_other:Other\n"
        "z_double = stranger_other:Double\n"
    )
    (tmp_path / "stranger_raising.py").write_text("raise SystemError('by design')\n")
    (tmp_path / "stranger_other.py").write_text(
        "from ravenxterm_lab.runtimes.onnx import OnnxRuntime\n"
        "class Other: pass\n"
        "class Double(OnnxRuntime): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runtimes, notes = discover_runtimes()
    assert {"llama_cpp", "onnx"} <= {r.name for r in runtimes}
    reasons = {note.name: note.reason for note in notes}
    assert "no_such_module" in reasons["a_missing"]
    assert "by design" in reasons["b_raising"]
    assert "not a Runtime" in reasons["c_other"]
    assert "already called 'onnx'" in reasons["z_double"]
