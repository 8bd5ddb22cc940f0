"""Models made resident before a run, and let go; what is told to whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ravenxterm_lab.exceptions import (
    FailureKind,
    NoSuitableModelError,
    RequirementError,
    UnknownModelError,
)
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Progress, Workbench
from ravenxterm_lab.runtimes.fake import FakeRuntime

TASK = "text_generation"
Make = Callable[..., ModelManager]
COUNTS = "SELECT (SELECT count(*) FROM executions), (SELECT count(*) FROM selections)"
LOADS = "SELECT model, success, failure, seconds FROM loads ORDER BY ts, seq"


@pytest.fixture
def make(tmp_path: Path, home: Path, profile: HardwareProfile, files: ModuleType) -> Iterator[Make]:
    """Return a maker of managers on a small and a large model; "small" is the first choice."""
    directory = tmp_path / "models"
    directory.mkdir()
    for seed, (name, layers) in enumerate({"small": 2, "large": 40}.items()):
        files.gguf_file(directory / f"{name}.gguf", layers=layers, seed=seed)
    managers: list[ModelManager] = []

    def made(runtime: FakeRuntime | None = None) -> ModelManager:
        bench = Workbench(home, hardware=profile, runtimes=[runtime or FakeRuntime("fake")])
        managers.append(ModelManager(directory, workbench=bench, seed=0))
        return managers[-1]

    yield made
    for manager in managers:
        manager.pool.close()
        manager.store.close()


def resident(manager: ModelManager) -> list[str]:
    return [item.model.name for item in manager.pool.resident()]


def test_a_load_is_recorded_and_nothing_else(make: Make) -> None:
    """The first choice is resident; its load is in the store, no decision and no execution is."""
    manager, told = make(), list[Progress]()
    report = manager.load(TASK, on_progress=told.append)
    assert (report.model.name, report.cold, report.load_seconds) == ("small", True, 0.25)
    assert resident(manager) == ["small"]
    assert report.memory == manager.pool.resident()[0].memory
    assert report.summary.startswith("small is loaded: ")
    assert report.summary.endswith(", 250 ms.")
    assert [(one.stage, one.model, one.step) for one in told] == [("load", "small", "as asked")]
    assert told[0].load_seconds is not None
    assert told[0].load_seconds > 0
    assert manager.sql(COUNTS).fetchall() == [(0, 0)]
    assert manager.sql(LOADS).fetchall() == [("small", True, None, 0.25)]
    assert "small is loaded" in str(report)


def test_a_resident_model_is_not_loaded_again(make: Make) -> None:
    """What is resident is said to be so at once, and a run finds it there."""
    runtime = FakeRuntime("fake")
    manager = make(runtime)
    manager.load(TASK)
    again = manager.load(TASK)
    assert not again.cold
    assert again.summary.startswith("small is loaded already: ")
    told: list[Progress] = []
    run = manager.run(TASK, "hello", {"max_size_bytes": again.model.size_bytes},
                      on_progress=told.append)  # fmt: skip
    assert not run.cold
    assert [one.stage for one in told] == ["load", "run"]
    assert runtime.loads == ["small"]


def test_a_load_that_fails_goes_on_to_the_next_model(make: Make) -> None:
    """The failure is classified, recorded and said; the next candidate is loaded."""
    manager, told = make(FakeRuntime(load_failures={"small": FailureKind.CORRUPT})), []
    report = manager.load(TASK, on_progress=told.append)
    assert report.model.name == "large"
    assert [one.model for one in told] == ["small", "large"]
    assert [(one.model, one.failure) for one in report.attempts] == [
        ("small", FailureKind.CORRUPT), ("large", None),
    ]  # fmt: skip
    assert "Trying large (as asked) next." in manager.messages[-1].text
    assert manager.sql(LOADS).fetchall()[0][:3] == ("small", False, "corrupt")
    assert "tried before" in str(report)


def test_nothing_that_loads_is_an_error_that_lists_why(make: Make) -> None:
    """When no candidate is left, each is named with its failure."""
    failures = {"small": FailureKind.CORRUPT, "large": FailureKind.UNSUPPORTED}
    manager = make(FakeRuntime(load_failures=failures))
    with pytest.raises(NoSuitableModelError) as caught:
        manager.load(TASK)
    for word in ("small: as asked: corrupt", "large: as asked: unsupported"):
        assert word in str(caught.value)
    assert resident(manager) == []
    assert manager.sql(COUNTS).fetchall() == [(0, 0)]


def test_what_is_raised_while_waiting_ends_it(make: Make) -> None:
    """A callback that raises before a load loads nothing; before a run it ends that run."""

    class EnoughError(Exception):
        pass

    def stop(at: str) -> Callable[[Progress], None]:
        def told(progress: Progress) -> None:
            if progress.stage == at:
                raise EnoughError

        return told

    manager = make()
    with pytest.raises(EnoughError):
        manager.load(TASK, on_progress=stop("load"))
    assert resident(manager) == []
    with pytest.raises(EnoughError):
        manager.run(TASK, "hello", on_progress=stop("run"))
    assert len(resident(manager)) == 1
    kept = manager.sql("SELECT success, extra->>'failure' FROM executions").fetchall()
    assert kept == [(False, "interrupted")]
    assert manager.load(TASK).memory.total > 0


def test_unload_frees_one_model(make: Make) -> None:
    """The named model goes and its bytes are told; the other stays, and nothing is no error."""
    manager = make()
    small = manager.load(TASK).model
    manager.update_preferences(model_weights={"large": 50.0})
    assert manager.load(TASK).model.name == "large"
    assert manager.unload("small") == small.size_bytes
    assert resident(manager) == ["large"]
    assert manager.unload(small) == 0
    with pytest.raises(UnknownModelError):
        manager.unload("smal")


def test_a_model_in_use_is_not_unloaded(make: Make) -> None:
    """Unloading what runs says so, and leaves it."""
    manager = make()
    seen: list[str] = []

    def on_token(_: str) -> None:
        (name,) = resident(manager)
        with pytest.raises(RequirementError, match="is in use"):
            manager.unload(name)
        seen.append(name)

    manager.run(TASK, "hello", on_token=on_token)
    assert seen
    assert resident(manager) == seen[:1]


def test_two_loads_at_once_load_once(make: Make) -> None:
    """Who comes second waits for the first, and finds the model resident."""
    runtime = FakeRuntime("fake")
    manager, reports = make(runtime), []
    threads = [
        threading.Thread(target=lambda: reports.append(manager.load(TASK))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.cold for report in reports) == [False, False, False, True]
    assert runtime.loads == ["small"]


def test_without_keep_alive_there_is_nothing_to_load_beforehand(make: Make) -> None:
    """Where a model goes as soon as it is idle, load says so and does not load."""
    runtime = FakeRuntime("fake")
    manager = make(runtime)
    manager.update_preferences(keep_alive_seconds=0)
    with pytest.raises(RequirementError, match="keep_alive_seconds is 0"):
        manager.load(TASK)
    assert runtime.loads == []


@pytest.mark.models
def test_a_real_model_is_loaded_used_and_freed(manager: ModelManager) -> None:
    """A real load holds its memory, the run after it needs none, and unload gives it back."""
    told: list[Progress] = []
    report = manager.load(TASK, {"quantizations": ["Q4_0"]}, on_progress=told.append)
    assert report.cold
    assert report.memory.total > 50 * 2**20
    assert told[0].load_seconds is not None
    assert told[0].model == report.model.name
    run: Any = manager.run(
        TASK, "Name a colour.", {"quantizations": ["Q4_0"]}, parameters={"max_tokens": 2}
    )
    assert (run.cold, run.model.name) == (False, report.model.name)
    assert manager.sql("SELECT count(*) FROM loads").fetchall() == [(1,)]
    assert manager.unload(report.model) > 50 * 2**20
    assert resident(manager) == []
