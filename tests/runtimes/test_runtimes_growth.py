"""Real processes that grow: together they stay within the budget, and none loses what it holds."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, ModelPool, RunResult
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime
from ravenxterm_lab.runtimes.process import limit_growth, process_memory
from ravenxterm_lab.runtimes.worker_model import WorkerModel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")

MIB = 2**20
BUDGET = 1200 * MIB

ENGINE = """
from ravenxterm_lab.runtimes.engine import Engine

class Growing(Engine):
    def prepare(self): self.kept = []
    def load(self, request): return {}
    def run(self, job):
        size = job.request["bytes"]
        if size < 0:
            self.kept.clear()
        else:
            self.kept.append(b"x" * size)  # touched, and kept
        return {"kept": sum(map(len, self.kept))}, {}
"""


class _Model(WorkerModel):
    engine = "growing_engine:Growing"

    def _translate(
        self, task: str, inputs: Any, parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"bytes": inputs}, {}

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        return replace(result, output=str(values["kept"]))


class _Runtime(FakeRuntime):
    """Loads processes that grow with each run."""

    overhead_bytes = 24 * MIB

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        return _Model(self, model, options or LoadOptions())


class Watch(threading.Thread):
    """Measures what some processes hold together, all the time."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.pids = pids
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.look()

    def look(self) -> None:
        self.most = max(self.most, sum(process_memory(pid).total for pid in self.pids))


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Runtime:
    (tmp_path / "growing_engine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    return _Runtime()


def made(name: str) -> ModelMetadata:
    return ModelMetadata(name, ModelType.GGUF, Path(name), 1, fingerprint=name)


@pytest.fixture
def pool() -> ModelPool:
    return ModelPool(budget=lambda: {RAM: BUDGET}, estimate=lambda model, options: {RAM: 64 * MIB})


OPTIONS = LoadOptions(threads=1)


def grow(loaded: LoadedModel, step: int) -> tuple[int, RuntimeFailureError]:
    """Let it take more and more until it is refused; return what it kept, and the refusal."""
    kept = 0
    while True:
        try:
            kept = int(str(loaded.run("ocr", step).output))
        except RuntimeFailureError as error:
            return kept, error
        assert kept < 2 * BUDGET, "nothing stops it"


def test_two_that_grow_at_once_stay_within_the_budget(pool: ModelPool, runtime: _Runtime) -> None:
    """Predicted at a fraction, they take more, and together pass the budget by at most 5%."""
    with (
        pool.acquire(runtime, made("a"), OPTIONS) as (a, _),
        pool.acquire(runtime, made("b"), OPTIONS) as (b, _),
    ):
        assert a.pid is not None
        assert b.pid is not None
        watch = Watch([a.pid, b.pid])
        watch.start()
        ends: dict[str, tuple[int, RuntimeFailureError]] = {}

        def take(one: LoadedModel, step: int) -> None:
            ends[one.model.name] = grow(one, step)

        threads = [
            threading.Thread(target=take, args=args) for args in ((a, 24 * MIB), (b, 40 * MIB))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        watch.look()
        watch.over.set()
        watch.join(30)
        for kept, error in ends.values():
            assert error.kind is FailureKind.OUT_OF_MEMORY
            assert "The budget left it" in str(error)
            assert kept > BUDGET / 4, "its share is too small"
        assert len(ends) == 2
        assert 0.8 * BUDGET < watch.most <= 1.05 * BUDGET
        # A refusal costs nothing else: both still run, and keep what they had.
        for one in (a, b):
            assert int(str(one.run("ocr", 0).output)) == ends[one.model.name][0]
    pool.close()


def test_what_grew_while_it_was_alone_is_kept_and_limits_the_next(
    pool: ModelPool, runtime: _Runtime
) -> None:
    """The first took most of the budget; then it and a second share what is left."""
    with pool.acquire(runtime, made("a"), OPTIONS) as (a, _):
        for _ in range(6):
            a.run("ocr", 128 * MIB)
        with pool.acquire(runtime, made("b"), OPTIONS) as (b, _):
            assert a.pid is not None
            assert b.pid is not None
            watch = Watch([a.pid, b.pid])
            grow(b, 16 * MIB)
            kept, _ = grow(a, 16 * MIB)
            assert kept >= 6 * 128 * MIB
            watch.look()
            assert watch.most <= 1.05 * BUDGET
    pool.close()


def test_what_was_given_back_can_be_taken_by_the_other(pool: ModelPool, runtime: _Runtime) -> None:
    """When one gives memory back, the next use lets the other have it."""
    with pool.acquire(runtime, made("a"), OPTIONS) as (a, _):
        with pool.acquire(runtime, made("b"), OPTIONS) as (b, _):
            grow(b, 64 * MIB)
            refused, _ = grow(a, 64 * MIB)
            b.run("ocr", -1)
        with pool.acquire(runtime, made("a"), OPTIONS):
            later, _ = grow(a, 64 * MIB)
    assert later > refused + BUDGET / 4
    pool.close()


def test_a_limit_never_takes_what_is_held(runtime: _Runtime) -> None:
    """With no growth allowed at all, what was allocated stays, and small work goes on."""
    with runtime.load(made("a"), OPTIONS) as loaded:
        loaded.run("ocr", 200 * MIB)
        assert loaded.limit_growth(0)
        assert int(str(loaded.run("ocr", 0).output)) == 200 * MIB
        with pytest.raises(RuntimeFailureError, match=r"left it 0 B more than it held"):
            loaded.run("ocr", 100 * MIB)
        assert loaded.limit_growth(400 * MIB)
        assert int(str(loaded.run("ocr", 100 * MIB).output)) == 300 * MIB


def test_a_process_that_has_ended_cannot_be_limited(runtime: _Runtime) -> None:
    """The race with its end is no error."""
    loaded = runtime.load(made("a"), OPTIONS)
    pid = loaded.pid
    loaded.unload()
    assert pid is not None
    time.sleep(0.01)
    assert not limit_growth(pid, 0, 1)


@pytest.mark.models
def test_two_real_engines_that_grow_stay_within_the_budget(minilm: ModelMetadata) -> None:
    """ONNX Runtime twice, on ever larger batches at once: each is refused in time, and goes on."""
    budget = 700 * MIB
    pool = ModelPool(budget=lambda: {RAM: budget}, estimate=lambda model, options: {RAM: 64 * MIB})
    runtime = OnnxRuntime()
    with (
        pool.acquire(runtime, minilm, replace(OPTIONS, seed=1)) as (a, _),
        pool.acquire(runtime, minilm, replace(OPTIONS, seed=2)) as (b, _),
    ):
        assert a.pid is not None
        assert b.pid is not None
        watch = Watch([a.pid, b.pid])
        watch.start()
        refused: list[FailureKind] = []

        def take(one: LoadedModel) -> None:
            for count in (8, 16, 32, 64, 128, 256, 512):
                try:
                    one.run("embedding", ["one two three " * 200] * count)
                except RuntimeFailureError as error:
                    refused.append(error.kind)
                    return

        threads = [threading.Thread(target=take, args=(one,)) for one in (a, b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        watch.over.set()
        watch.join(30)
        assert refused == [FailureKind.OUT_OF_MEMORY] * 2
        assert watch.most <= 1.05 * budget
        for one in (a, b):
            assert one.run("embedding", "one two three").output.shape == (1, 384)  # type: ignore[union-attr]
    pool.close()
