"""Engines in this very process give what a worker gives, and leave when they are told to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravenxterm_lab.exceptions import ConfigurationError, FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.runtimes import LoadOptions, ModelPool, Runtime
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.fasttext import FastTextRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime
from ravenxterm_lab.runtimes.worker import WorkerProcess

pytestmark = pytest.mark.models
WORKER = LoadOptions(context_length=256, threads=1)
INLINE = LoadOptions(context_length=256, threads=1, in_process=True)


@pytest.mark.parametrize(
    ("runtime", "model", "task", "inputs", "parameters"),
    [
        (LlamaCppRuntime(), "smollm2", "text_generation", "Hello", {"max_tokens": 8}),
        (OnnxRuntime(), "minilm", "embedding", ["a cat", "a dog"], None),
        (FastTextRuntime(), "lid176", "language_identification", ["Guten Tag", "Hello"], None),
    ],
    ids=["llama_cpp", "onnx", "fasttext"],
)
def test_the_answer_is_that_of_a_worker(
    runtime: Runtime, model: str, task: str, inputs: Any, parameters: Any,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Chat template, counters and arrays included; the model is in this process."""
    given: ModelMetadata = request.getfixturevalue(model)
    answers = []
    for options in (WORKER, INLINE):
        with runtime.load(given, options) as loaded:
            assert (loaded.pid == os.getpid()) == options.in_process
            pieces: list[str] = []
            result = loaded.run(task, inputs, parameters=parameters, on_token=pieces.append)
            assert "".join(pieces) == (result.output if task == "text_generation" else "")
            assert result.latency > 0
            answers.append(result)
        assert not loaded.alive
    if isinstance(answers[0].output, np.ndarray):
        np.testing.assert_allclose(answers[0].output, answers[1].output, atol=1e-5)
    else:
        assert answers[0].output == answers[1].output
    assert answers[0].tokens_out == answers[1].tokens_out


def test_an_interrupt_stops_the_run_and_keeps_the_model(smollm2: ModelMetadata) -> None:
    """As Ctrl-C in a streaming cell does; so does a timeout."""
    seen: list[str] = []

    def press(text: str) -> None:
        seen.append(text)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with LlamaCppRuntime().load(smollm2, INLINE) as loaded:
        with pytest.raises(KeyboardInterrupt):
            loaded.run("text_generation", "Hello", parameters={"max_tokens": 200}, on_token=press)
        assert loaded.run("text_generation", "Hello", parameters={"max_tokens": 2}).output
        with pytest.raises(RuntimeFailureError, match="still loaded") as failed:
            loaded.run("text_generation", "Hello", parameters={"max_tokens": 250}, timeout=0.3)
        assert failed.value.kind is FailureKind.TIMEOUT
        assert loaded.run("text_generation", "Hello", parameters={"max_tokens": 2}).output


def test_a_damaged_file_is_a_failure_and_leaves_no_thread(
    smollm2: ModelMetadata, tmp_path: Path
) -> None:
    """The error is classified; nothing of the engine stays."""
    import dataclasses
    import threading

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.path.read_bytes()[:200_000])
    with pytest.raises(RuntimeFailureError):
        LlamaCppRuntime().load(dataclasses.replace(smollm2, path=broken), INLINE)
    assert [t.name for t in threading.enumerate() if t.name.startswith("engine-")] == []


def test_the_pool_sets_no_limit_on_this_process(minilm: ModelMetadata) -> None:
    """A limit would be one of the notebook itself."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    pool = ModelPool(budget=lambda: {RAM: 2**30}, estimate=lambda *_: {RAM: 100 * 2**20})
    with pool.acquire(OnnxRuntime(), minilm, INLINE) as (loaded, cold):
        assert cold
        assert loaded.run("embedding", ["a cat"]).output.shape == (1, 384)
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    (resident,) = pool.resident()
    assert 0 < resident.memory.total < 300 * 2**20
    pool.close()
    assert pool.resident() == ()


def test_the_environment_asks_for_it_by_runtime(
    demo_directory: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker is started; the settings in the store say so; a wrong name is an error."""
    monkeypatch.setenv("RAVENXTERM_IN_PROCESS", "onnx, fasttext")
    monkeypatch.setattr(WorkerProcess, "__init__", None)
    manager = ModelManager(demo_directory / "all-minilm-l6-v2-int8", home=home)
    assert manager.run("embedding", ["a cat"]).output.shape == (1, 384)
    [(settings,)] = manager.sql("SELECT settings FROM executions").fetchall()
    assert settings.endswith("in_process")
    manager.cleanup_resources()
    assert manager.get_resource_usage().loaded == ()
    monkeypatch.setenv("RAVENXTERM_IN_PROCESS", "onxx")
    with pytest.raises(ConfigurationError, match="Did you mean 'onnx'"):
        OnnxRuntime().resolve(next(iter(manager.registry.available_models.values())), WORKER)
    manager.close()
