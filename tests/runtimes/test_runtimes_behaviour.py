"""One suite over every runtime: what `base.py` promises, each of them keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, Runtime
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.fasttext import FastTextRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime

OPTIONS = LoadOptions(context_length=256, threads=1)


@dataclass(frozen=True)
class Case:
    runtime: Runtime
    model: ModelMetadata
    task: str
    inputs: Any
    parameters: dict[str, Any]
    bad_inputs: Any


@pytest.fixture(
    params=[
        pytest.param("llama_cpp", marks=pytest.mark.models),
        pytest.param("onnx_embedding", marks=pytest.mark.models),
        pytest.param("onnx_arrays", marks=pytest.mark.models),
        pytest.param("fasttext", marks=pytest.mark.models),
        "fake",
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "llama_cpp":
        model = request.getfixturevalue("smollm2")
        parameters = {"max_tokens": 4}
        return Case(LlamaCppRuntime(), model, "text_generation", "Hello", parameters, 7)
    if request.param == "onnx_embedding":
        model = request.getfixturevalue("minilm")
        return Case(OnnxRuntime(), model, "embedding", ["a cat", "a dog"], {}, [1, 2])
    if request.param == "onnx_arrays":
        inputs = {"input": [[0.0] * 576], "state": [[[0.0] * 128]] * 2, "sr": 16000}
        model = request.getfixturevalue("silero")
        return Case(OnnxRuntime(), model, "voice_activity_detection", inputs, {}, "sound")
    if request.param == "fasttext":
        model = request.getfixturevalue("lid176")
        return Case(FastTextRuntime(), model, "language_identification", "Hello", {"top_k": 2}, 7)
    model = ModelMetadata(
        "made-up", ModelType.GGUF, Path("x.gguf"), 1000, task_types=("text_generation",)
    )
    return Case(FakeRuntime(), model, "text_generation", "Hello", {"max_tokens": 4}, 7)


def test_a_run_reports_what_it_measured(case: Case) -> None:
    """A load and a run give an answer, and counters that agree with each other."""
    with case.runtime.load(case.model, OPTIONS) as loaded:
        assert loaded.alive
        assert loaded.runtime == case.runtime.name
        assert loaded.report.seconds > 0
        assert loaded.report.memory_bytes > 0
        assert loaded.report.engine
        assert loaded.report.device is HardwareType.CPU
        held = loaded.memory()
        assert held.total == held.anonymous_bytes + held.file_bytes > 0
        result = loaded.run(case.task, case.inputs, parameters=case.parameters)
    assert len(result.output) > 0
    assert result.latency > 0
    assert result.peak_memory > 0
    metrics = result.metrics()
    assert metrics["success"] is True
    assert metrics["latency"] == result.latency
    assert metrics["throughput"] > 0
    assert 0 < metrics.get("memory_efficiency", 0.5) <= 1
    if result.time_to_first_token is not None:
        assert 0 < result.time_to_first_token <= result.latency
    assert all(value is not None for value in metrics.values())


def test_an_unload_gives_memory_back_once(case: Case) -> None:
    """The first unload returns the bytes that were held, a second one returns 0."""
    loaded = case.runtime.load(case.model, OPTIONS)
    assert loaded.unload() >= loaded.report.memory_bytes
    assert loaded.unload() == 0
    assert not loaded.alive
    assert loaded.memory().total == 0


def test_an_unloaded_model_cannot_run(case: Case) -> None:
    """A run after the unload says that the model was unloaded."""
    with case.runtime.load(case.model, OPTIONS) as loaded:
        pass
    with pytest.raises(RuntimeFailureError, match="was unloaded") as caught:
        loaded.run(case.task, case.inputs)
    assert caught.value.kind is FailureKind.RUNTIME_ERROR


def test_bad_requests_leave_the_model_usable(case: Case) -> None:
    """Unknown tasks and parameters, and wrong inputs, are refused, and the next run works."""
    with case.runtime.load(case.model, OPTIONS) as loaded:
        with pytest.raises(RequirementError, match=r"Unknown task 'embeding'.*'embedding'"):
            loaded.run("embeding", case.inputs)
        with pytest.raises(RuntimeFailureError, match="cannot run the task 'ocr'") as caught:
            loaded.run("ocr", case.inputs)
        assert caught.value.kind is FailureKind.UNSUPPORTED
        with pytest.raises(RequirementError, match="Unknown parameter 'max_token'"):
            loaded.run(case.task, case.inputs, parameters={"max_token": 3})
        with pytest.raises(RequirementError, match=case.task):
            loaded.run(case.task, case.bad_inputs)
        for timeout in (0, -1, float("nan"), True, "soon"):
            with pytest.raises(RequirementError, match="timeout"):
                loaded.run(case.task, case.inputs, timeout=timeout)
        assert loaded.run(case.task, case.inputs, parameters=case.parameters).latency > 0


def test_a_damaged_or_foreign_model_has_a_gap(case: Case) -> None:
    """A model with problems, or for a task that cannot run, has a gap and does not load."""
    assert case.runtime.gap(case.model) is None
    damaged = replace(case.model, problems=("a shard is missing",))
    assert "a shard is missing" in str(case.runtime.gap(damaged))
    with pytest.raises(RuntimeFailureError, match="a shard is missing") as caught:
        case.runtime.load(damaged, OPTIONS)
    assert caught.value.kind is FailureKind.CORRUPT


def test_too_much_context_is_refused(case: Case) -> None:
    """More context than a model was trained for is an error that names the limit."""
    model = replace(case.model, context_length=300)
    with pytest.raises(RequirementError, match="301 is more than the 300 tokens"):
        case.runtime.load(model, LoadOptions(context_length=301))


def test_formats_that_nobody_reads_have_a_reason() -> None:
    """The gap for a format without a runtime names the format and the remedy."""
    model = ModelMetadata("m", ModelType.SAFETENSORS, Path("m"), 1)
    for runtime in (LlamaCppRuntime(), OnnxRuntime(), FastTextRuntime()):
        assert "no runtime installed for SAFETENSORS" in str(runtime.gap(model))
        with pytest.raises(RuntimeFailureError) as caught:
            runtime.load(model)
        assert caught.value.kind is FailureKind.UNSUPPORTED


def test_an_embedding_model_needs_its_tokenizer(tmp_path: Path) -> None:
    """An ONNX embedding model without a tokenizer.json has a gap that names the file."""
    model = ModelMetadata("m", ModelType.ONNX, tmp_path / "m.onnx", 1, task_types=("embedding",))
    assert "tokenizer.json" in str(OnnxRuntime().gap(model))


def test_a_task_that_the_engine_cannot_do_is_a_gap() -> None:
    """A GGUF model that only embeds is not for the text generation adapter."""
    model = ModelMetadata("m", ModelType.GGUF, Path("m"), 1, task_types=("embedding",))
    assert "does not run embedding" in str(LlamaCppRuntime().gap(model))


def test_a_missing_package_is_a_gap_with_its_remedy() -> None:
    """An adapter whose package is not installed says which extra brings it."""

    class Absent(LlamaCppRuntime):
        package = "a_package_that_nobody_has"

    model = ModelMetadata("m", ModelType.GGUF, Path("m"), 1)
    assert 'pip install "ravenxterm-lab[runtimes]"' in str(Absent().gap(model))
    assert Absent().version() is None
    with pytest.raises(RuntimeFailureError) as caught:
        Absent().load(model)
    assert caught.value.kind is FailureKind.MISSING_RUNTIME


def test_other_devices_are_refused() -> None:
    """A device that the adapter cannot use is UNSUPPORTED, and the message says what it can."""
    model = ModelMetadata("m", ModelType.GGUF, Path("m"), 1)
    with pytest.raises(RuntimeFailureError, match="can use cpu") as caught:
        LlamaCppRuntime().load(model, LoadOptions(device=HardwareType.CUDA))
    assert caught.value.kind is FailureKind.UNSUPPORTED


def test_a_file_that_is_gone_is_corrupt(tmp_path: Path) -> None:
    """A model whose file was deleted since the scan says so."""
    model = ModelMetadata("m", ModelType.GGUF, tmp_path / "gone.gguf", 1)
    with pytest.raises(RuntimeFailureError, match="Scan again") as caught:
        LlamaCppRuntime().load(model)
    assert caught.value.kind is FailureKind.CORRUPT
