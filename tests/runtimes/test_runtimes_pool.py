"""The pool: what stays, what goes, and what is refused."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, LoadReport, ModelPool, Runtime
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def made(name: str, size: int = 100) -> ModelMetadata:
    return ModelMetadata(
        name,
        ModelType.GGUF,
        Path(name),
        size,
        task_types=("text_generation",),
        fingerprint=f"of {name}",
    )


def pool_of(budget: int, **arguments: Any) -> ModelPool:
    return ModelPool(
        budget=lambda: {RAM: budget},
        estimate=lambda model, options: {RAM: model.size_bytes},
        clock=Clock(),
        **arguments,
    )


def touch(pool: ModelPool, runtime: Runtime, model: ModelMetadata) -> bool:
    with pool.acquire(runtime, model) as (loaded, cold):
        assert loaded.alive
        assert loaded.model.fingerprint == model.fingerprint
    return cold


def names(pool: ModelPool) -> list[str]:
    return [resident.model.name for resident in pool.resident()]


def test_a_loaded_model_is_used_again() -> None:
    """The second use is warm, also under another name; other settings are another load."""
    pool, runtime = pool_of(1000), FakeRuntime()
    assert touch(pool, runtime, made("a")) is True
    assert touch(pool, runtime, made("a")) is False
    assert touch(pool, runtime, replace(made("a"), name="renamed")) is False
    with pool.acquire(runtime, made("a"), LoadOptions(context_length=64)) as (_, cold):
        assert cold is True
    assert runtime.loads == ["a", "a"]
    # No context length, and the one that this stands for, are the same settings.
    with pool.acquire(runtime, made("a"), LoadOptions(context_length=4096)) as (_, cold):
        assert cold is False
    pool.close()


def test_the_least_recently_used_goes_when_all_cost_the_same() -> None:
    """With equal sizes and load times, the one that was idle longest is unloaded."""
    pool, runtime = pool_of(300), FakeRuntime()
    for name in ("a", "b", "c", "a"):
        touch(pool, runtime, made(name))
    touch(pool, runtime, made("d"))
    assert runtime.unloads == ["b"]
    assert names(pool) == ["c", "a", "d"]
    pool.close()


def test_what_is_dear_to_reload_for_its_bytes_stays() -> None:
    """A cheap reload goes first although it was used later; in the end age wins."""
    cheap, dear = FakeRuntime("cheap", load_seconds=1), FakeRuntime("dear", load_seconds=5)
    pool = pool_of(300)
    touch(pool, dear, made("dear"))
    for number in range(4):
        touch(pool, cheap, made(f"cheap {number}"))
    assert dear.unloads == []
    assert cheap.unloads == ["cheap 0", "cheap 1"]
    for number in range(4, 14):
        touch(pool, cheap, made(f"cheap {number}"))
    assert dear.unloads == ["dear"]
    pool.close()


def test_only_as_much_goes_as_is_needed() -> None:
    """Room for a large model is made by as many idle models as it takes."""
    pool, runtime = pool_of(300), FakeRuntime()
    for name in ("a", "b", "c"):
        touch(pool, runtime, made(name))
    touch(pool, runtime, made("large", 200))
    assert runtime.unloads == ["a", "b"]
    pool.close()


def test_a_model_in_use_never_goes() -> None:
    """What is held stays, what is idle goes, and a second holder counts too."""
    pool, runtime = pool_of(200), FakeRuntime()
    with pool.acquire(runtime, made("held")) as (held, _):
        with pool.acquire(runtime, made("held")):
            pass
        touch(pool, runtime, made("b"))
        touch(pool, runtime, made("c"))
        assert runtime.unloads == ["b"]
        assert pool.unload_idle() == 100
        assert held.alive
        assert [(r.model.name, r.in_use, r.idle_seconds) for r in pool.resident()] == [
            ("held", 1, 0.0)
        ]
    pool.close()


def test_what_cannot_fit_fails_at_once_and_costs_nothing() -> None:
    """The failure is OUT_OF_MEMORY, lists what holds the memory, and unloads nothing."""
    told: list[tuple[Any, ...]] = []
    pool, runtime = pool_of(300, on_load=lambda *event: told.append(event)), FakeRuntime()
    touch(pool, runtime, made("idle"))
    listed = r"held \(ctx=4096 kv=f16\): 100 B"
    with (
        pool.acquire(runtime, made("held")),
        pytest.raises(RuntimeFailureError, match=listed) as caught,
    ):
        touch(pool, runtime, made("large", 250))
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    assert "the budget for loaded models is 300 B" in str(caught.value)
    assert "idle" not in str(caught.value)
    assert runtime.unloads == []
    assert len(told) == 2
    pool.close()


def test_an_unknown_prediction_counts_the_file() -> None:
    """Where the estimator cannot say, the size on disk is the least that must fit."""
    pool = ModelPool(budget=lambda: {RAM: 150}, estimate=lambda model, options: None)
    runtime = FakeRuntime()
    touch(pool, runtime, made("a", 100))
    with pytest.raises(RuntimeFailureError):
        touch(pool, runtime, made("b", 151))
    pool.close()


def test_a_lower_budget_is_felt_at_the_next_load() -> None:
    """The budget is asked for at each load."""
    budget = [300]
    pool = ModelPool(
        budget=lambda: {RAM: budget[0]}, estimate=lambda m, o: {RAM: m.size_bytes}, clock=Clock()
    )
    runtime = FakeRuntime()
    for name in ("a", "b", "c"):
        touch(pool, runtime, made(name))
    budget[0] = 150
    touch(pool, runtime, made("d"))
    assert names(pool) == ["d"]
    pool.close()


def test_loads_and_failures_are_told() -> None:
    """on_load gets the report of a load, or its failure, and what was predicted."""
    told: list[tuple[Any, ...]] = []
    runtime = FakeRuntime(load_failures={"bad": FailureKind.CORRUPT})
    pool = pool_of(1000, on_load=lambda *event: told.append(event))
    touch(pool, runtime, made("good"))
    touch(pool, runtime, made("good"))
    with pytest.raises(RuntimeFailureError):
        touch(pool, runtime, made("bad"))
    (good, bad) = told
    assert good[0].name == "good"
    assert good[1] is runtime
    assert good[2].context_length == 4096
    assert isinstance(good[3], LoadReport)
    assert good[4] == 100
    assert bad[3].kind is FailureKind.CORRUPT
    assert names(pool) == ["good"]
    pool.close()


def test_a_hook_that_fails_does_not_hold_the_model() -> None:
    """An error in on_load reaches the caller, and the model can still be unloaded."""

    def refuse(*event: object) -> None:
        raise OSError("disk full")

    pool, runtime = pool_of(1000, on_load=refuse), FakeRuntime()
    with pytest.raises(OSError, match="disk full"):
        touch(pool, runtime, made("a"))
    assert pool.unload_idle() == 100
    pool.close()


def test_a_dead_model_is_loaded_again() -> None:
    """A model that crashed while it was held is gone afterwards, and the next use is cold."""
    runtime = FakeRuntime(run_failures=[FailureKind.RUNTIME_ERROR])
    pool = pool_of(1000)
    with pool.acquire(runtime, made("a")) as (loaded, _), pytest.raises(RuntimeFailureError):
        loaded.run("text_generation", "Hi")
    assert pool.resident() == ()
    assert touch(pool, runtime, made("a")) is True
    pool.close()


def test_idle_models_go_by_age() -> None:
    """unload_idle(older_than) leaves what was used lately, and returns the bytes."""
    pool, runtime = pool_of(1000), FakeRuntime()
    touch(pool, runtime, made("old", 70))
    clock = pool._clock
    assert isinstance(clock, Clock)
    clock.now += 500
    touch(pool, runtime, made("new"))
    assert pool.unload_idle(older_than=100) == 70
    assert names(pool) == ["new"]
    assert pool.unload_idle() == 100
    assert pool.unload_idle() == 0
    pool.close()


def test_keep_alive_of_zero_unloads_at_once() -> None:
    """With keep_alive 0, the end of the last use is the end of the model."""
    pool, runtime = pool_of(1000, keep_alive=lambda: 0.0), FakeRuntime()
    with pool.acquire(runtime, made("a")):
        touch(pool, runtime, made("a"))
        assert runtime.unloads == []
    assert runtime.unloads == ["a"]
    pool.close()


def test_keep_alive_unloads_by_itself() -> None:
    """An idle model goes without anybody asking, and the timer's thread ends with it."""
    runtime = FakeRuntime()
    pool = ModelPool(
        budget=lambda: {RAM: 1000},
        estimate=lambda m, o: {RAM: m.size_bytes},
        keep_alive=lambda: 0.05,
    )
    assert pool._timer is None
    with pool.acquire(runtime, made("a")):
        timer = pool._timer
        assert timer is not None
        assert timer.daemon
        time.sleep(0.1)
        assert runtime.unloads == []
    timer.join(30)
    assert not timer.is_alive()
    assert runtime.unloads == ["a"]
    assert touch(pool, runtime, made("a")) is True
    pool.close()


def test_a_closed_pool_is_empty_and_refuses() -> None:
    """close() unloads everything, twice is fine, and nothing is loaded afterwards."""
    pool, runtime = pool_of(1000), FakeRuntime()
    touch(pool, runtime, made("a"))
    pool.close()
    pool.close()
    assert runtime.unloads == ["a"]
    with pytest.raises(RuntimeFailureError, match="is closed"):
        touch(pool, runtime, made("a"))


def test_options_that_do_not_suit_are_refused_before_the_estimate() -> None:
    """Too much context is a RequirementError, and nothing is loaded."""
    pool, runtime = pool_of(1000), FakeRuntime()
    model = replace(made("a"), context_length=128)
    too_long = LoadOptions(context_length=256)
    with pytest.raises(RequirementError), pool.acquire(runtime, model, too_long):
        pass
    assert runtime.loads == []
    pool.close()


class Slow(FakeRuntime):
    """Loads only when it is let go, so that threads really meet."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        assert self.go.wait(30)
        return super().load(model, options)


def test_threads_that_want_the_same_model_share_one_load() -> None:
    """Eight threads at once cause one load: one of them is cold and seven are warm."""
    pool, runtime = pool_of(1000), Slow()
    colds: list[bool] = []
    threads = [
        threading.Thread(target=lambda: colds.append(touch(pool, runtime, made("a"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    runtime.go.set()
    for thread in threads:
        thread.join(30)
    assert sorted(colds) == [False] * 7 + [True]
    assert runtime.loads == ["a"]
    pool.close()


def test_a_load_in_progress_holds_its_place() -> None:
    """While one thread loads, another cannot take the memory that was promised to it."""
    pool, slow = pool_of(150), Slow()
    thread = threading.Thread(target=lambda: touch(pool, slow, made("a")))
    thread.start()
    while not pool._entries:
        time.sleep(0.001)
    with pytest.raises(RuntimeFailureError, match="needs 100 B"):
        touch(pool, FakeRuntime("quick"), made("b"))
    slow.go.set()
    thread.join(30)
    assert slow.loads == ["a"]
    pool.close()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_the_budget_holds_whatever_comes(steps: list[tuple[int, bool]]) -> None:
    """Over any sequence of uses, the budget holds and nothing that is held is unloaded."""
    sizes = (40, 60, 90, 120, 150, 260)
    pool, runtime = pool_of(250), FakeRuntime()
    with pool.acquire(runtime, made("held", 50)) as (held, _):
        for index, clean in steps:
            model = made(f"m{index}", sizes[index])
            if model.size_bytes > 200:
                with pytest.raises(RuntimeFailureError):
                    touch(pool, runtime, model)
            else:
                touch(pool, runtime, model)
            if clean:
                pool.unload_idle(older_than=10)
            assert sum(r.memory.total for r in pool.resident()) <= 250
            assert held.alive
    pool.close()


@pytest.mark.models
def test_real_workers_make_room_for_each_other(
    smollm2: ModelMetadata, minilm: ModelMetadata
) -> None:
    """With real processes, the evicted one's process is gone before the next answers."""
    mib = 1024 * 1024
    pool = ModelPool(
        budget=lambda: {RAM: 260 * mib}, estimate=lambda model, options: {RAM: 150 * mib}
    )
    options = LoadOptions(context_length=256, threads=1)
    with pool.acquire(LlamaCppRuntime(), smollm2, options) as (loaded, cold):
        assert cold
        first = loaded.pid  # type: ignore[attr-defined]
        assert loaded.run("text_generation", "Hi", parameters={"max_tokens": 1}).tokens_out == 1
        second_one = pool.acquire(OnnxRuntime(), minilm, options)
        with pytest.raises(RuntimeFailureError) as caught, second_one:
            pass
        assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    with pool.acquire(OnnxRuntime(), minilm, options) as (loaded, cold):
        assert cold
        assert not psutil.pid_exists(first)
        assert loaded.run("embedding", "Hi").tokens_in == 3
        second = loaded.pid  # type: ignore[attr-defined]
    assert pool.unload_idle() > 50 * mib
    assert not psutil.pid_exists(second)
    pool.close()
