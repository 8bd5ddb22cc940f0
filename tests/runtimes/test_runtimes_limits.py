"""The hard memory limit of a worker: mapped files are free, what is too much fails and is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, ModelPool, RunResult
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.failures import describe_exit
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime
from ravenxterm_lab.runtimes.worker_model import WorkerModel

MIB = 2**20
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")

ENGINE = """
import mmap
from ravenxterm_lab.runtimes.engine import Engine

class Hungry(Engine):
    def prepare(self): pass
    def load(self, request):
        with open(request["path"], "rb") as file:
            self.weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {}
    def run(self, job):
        taken = bytearray(job.request["bytes"])
        return {"last": self.weights[-1], "taken": len(taken)}, {}
"""


class _Model(WorkerModel):
    engine = "hungry_engine:Hungry"

    def _translate(
        self, task: str, inputs: Any, parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"bytes": inputs}, {}

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        self.values = values
        return result


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], _Model]:
    (tmp_path / "hungry_engine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(1024 * MIB)

    def load(limit: int | None) -> _Model:
        model = ModelMetadata("m", ModelType.GGUF, path, 1)
        return _Model(FakeRuntime(), model, LoadOptions(memory_limit=limit, threads=1))

    return load


@linux_only
def test_mapped_weights_do_not_count(load: Callable[[int | None], _Model]) -> None:
    """A file far larger than the limit is mapped and read, and what fits is allocated."""
    with load(64 * MIB) as model:
        model.run("ocr", 32 * MIB)
        assert model.values == {"last": 0, "taken": 32 * MIB, "time_to_first_token": None}


@linux_only
def test_more_than_the_limit_is_out_of_memory(load: Callable[[int | None], _Model]) -> None:
    """An allocation beyond the limit fails, names it, and leaves the model usable."""
    with load(64 * MIB) as model:
        with pytest.raises(RuntimeFailureError, match=r"left it 64\.0 MiB of memory") as caught:
            model.run("ocr", 512 * MIB)
        assert caught.value.kind is FailureKind.OUT_OF_MEMORY
        assert model.alive
        model.run("ocr", 32 * MIB)
    with load(None) as free:
        free.run("ocr", 512 * MIB)
        assert free.values["taken"] == 512 * MIB


def test_a_limit_is_no_setting() -> None:
    """Loads that differ only in their limit are the same load, to the pool and to history."""
    plain, limited = LoadOptions(), LoadOptions(memory_limit=5)
    assert (plain, plain.settings, hash(plain)) == (limited, limited.settings, hash(limited))
    with pytest.raises(RequirementError, match="memory_limit must be a whole number"):
        LoadOptions(memory_limit=0)


class Noting(FakeRuntime):
    """Notes the limit of each load."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int | None] = []

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        self.limits.append(options.memory_limit if options else None)
        return super().load(model, options)


def test_the_pool_limits_a_load_to_its_share_of_what_the_budget_leaves() -> None:
    """What others hold is not to be had, what was evicted is, and the rest is for all in use."""
    pool = ModelPool(
        budget=lambda: {RAM: 300}, estimate=lambda model, options: {RAM: model.size_bytes}
    )
    runtime = Noting()
    model = ModelMetadata("a", ModelType.GGUF, Path("a"), 100, fingerprint="a")
    with pool.acquire(runtime, model):
        for name, size in (("b", 120), ("c", 150)):
            other = replace(model, name=name, size_bytes=size, fingerprint=name)
            with pool.acquire(runtime, other):
                pass
    # Alone all of it; then 300 - 100 - 120 = 80 for two, and 300 - 100 - 150 = 50 for two.
    assert runtime.limits == [300, 120 + 40, 150 + 25]
    assert runtime.unloads == ["b"]
    pool.close()


def test_a_kill_is_blamed_on_memory_only_where_the_kernel_may_have_done_it() -> None:
    """SIGKILL is OUT_OF_MEMORY, unless the kernel's own count says that it did not kill."""
    assert describe_exit(-9, "")[0] is FailureKind.OUT_OF_MEMORY
    kind, how = describe_exit(-9, "", starved=False)
    assert kind is FailureKind.RUNTIME_ERROR
    assert "a person or a service" in how


@linux_only
@pytest.mark.models
@pytest.mark.parametrize("limit", [1, 60, 100])
def test_llama_cpp_out_of_its_limit_is_classified(smollm2: ModelMetadata, limit: int) -> None:
    """Wherever llama.cpp meets the limit, by an error or by an abort, it is OUT_OF_MEMORY."""
    options = LoadOptions(context_length=8192, threads=1, memory_limit=limit * MIB)
    with pytest.raises(RuntimeFailureError, match="MiB of memory") as caught:
        LlamaCppRuntime().load(smollm2, options)
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    smaller = replace(options, context_length=512, memory_limit=100 * MIB)
    with LlamaCppRuntime().load(smollm2, smaller) as loaded:
        assert loaded.run("text_generation", "Hi", parameters={"max_tokens": 1}).tokens_out == 1


@linux_only
@pytest.mark.models
def test_onnx_out_of_its_limit_keeps_the_model(minilm: ModelMetadata) -> None:
    """A batch that is too much for the limit fails as OUT_OF_MEMORY, and a smaller one works."""
    options = LoadOptions(threads=1, memory_limit=200 * MIB)
    with OnnxRuntime().load(minilm, options) as loaded:
        with pytest.raises(RuntimeFailureError) as caught:
            loaded.run("embedding", ["one two three " * 200] * 32)
        assert caught.value.kind is FailureKind.OUT_OF_MEMORY
        assert loaded.run("embedding", "one two three").output.shape == (1, 384)
