"""What happens before the first token and what behind it: nothing is lost by the order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError, RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes.fake import FakeRuntime

GIB = 2**30
TASK = "text_generation"
MACHINE = HardwareProfile(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
    instruction_sets=("avx2",), total_memory=16 * GIB, available_memory=12 * GIB,
    memory_bandwidth=40e9, source="simulated",
)  # fmt: skip


def made(name: str, size: int = GIB) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), size,
        task_types=(TASK,), runtimes=("fake",), preferred_hardware=(HardwareType.CPU,),
        fingerprint=f"print-{name}", quantization="Q8_0", context_length=8192,
        embedding_length=1024, vocabulary_size=32_000,
        attention=AttentionGeometry((8,) * 16, 64, 64),
    )  # fmt: skip


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def manager(home: Path, runtime: FakeRuntime) -> Iterator[ModelManager]:
    """Return a manager of two models that fit and one that does not."""
    bench = Workbench(home, hardware=MACHINE, runtimes=[runtime])
    preferences = UserPreferences(model_weights={"a": 50.0})
    manager = ModelManager(home / "none", workbench=bench, preferences=preferences, seed=0)
    models = made("a"), made("b"), made("huge", 60 * GIB)
    manager.registry._models = {model.name: model for model in models}
    yield manager
    bench.pool.close()
    bench.store.close()


def counted(manager: ModelManager) -> tuple[int, int, int]:
    """Return the recorded selections, candidates and executions."""
    [row] = manager.sql(
        "SELECT (SELECT count(*) FROM selections), (SELECT count(*) FROM candidates), "
        "(SELECT count(*) FROM executions)"
    ).fetchall()
    return row


def linked(manager: ModelManager) -> bool:
    """Say whether each execution belongs to a recorded selection, with all its candidates."""
    [[wrong]] = manager.sql(
        "SELECT count(*) FROM executions WHERE (SELECT count(*) FROM candidates "
        "WHERE candidates.selection = executions.selection) <> 3"
    ).fetchall()
    return wrong == 0


def test_a_decision_is_recorded_once_the_answer_has_begun(manager: ModelManager) -> None:
    """The first piece does not wait for a hundred candidates; the second finds them recorded."""
    seen: list[tuple[int, int, int]] = []
    manager.run(TASK, "hello there", on_token=lambda _: seen.append(counted(manager)))
    assert seen[0] == (0, 0, 0)
    assert set(seen[1:]) == {(1, 3, 0)}
    assert counted(manager) == (1, 3, 1)
    assert linked(manager)


def test_a_run_that_is_not_streamed_is_recorded_with_its_decision(manager: ModelManager) -> None:
    """Without pieces the decision is recorded before its execution."""
    manager.run(TASK, "hello")
    assert counted(manager) == (1, 3, 1)
    assert linked(manager)


def test_a_failed_run_is_recorded_with_its_decision(
    manager: ModelManager, runtime: FakeRuntime
) -> None:
    """Each attempt belongs to the one decision."""
    runtime._script.load_failures["a"] = FailureKind.CORRUPT
    report = manager.run(TASK, "hello", on_token=lambda _: None)
    assert report.model.name == "b"
    assert counted(manager) == (1, 3, 2)
    assert linked(manager)


def test_a_decision_without_a_candidate_is_recorded(manager: ModelManager) -> None:
    """What fell out, and why, is kept where nothing could be run."""
    with pytest.raises(NoSuitableModelError):
        manager.run(TASK, "hello", {"max_memory_bytes": 1})
    assert counted(manager) == (1, 3, 0)


def test_a_decision_is_recorded_though_the_input_was_refused(manager: ModelManager) -> None:
    """A parameter that no engine knows ends the run, and the decision stays."""
    with pytest.raises(RequirementError):
        manager.run(TASK, "hello", parameters={"no_such_parameter": 1})
    assert counted(manager) == (1, 3, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_run_is_recorded_with_its_decision(
    manager: ModelManager, error: type[BaseException]
) -> None:
    """An interrupt within the first piece leaves the decision and the interrupted run."""

    def stop(_: str) -> None:
        raise error

    with pytest.raises(error):
        manager.run(TASK, "hello", on_token=stop)
    assert counted(manager) == (1, 3, 1)
    assert linked(manager)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_interrupt_while_the_decision_is_recorded_loses_none_of_it(
    manager: ModelManager, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whichever row is interrupted, the rest follows, and none is there twice."""
    real, calls = manager._bench.record, []

    def record(table: str, **fields: Any) -> Any:
        if table in {"selections", "candidates"}:
            calls.append(table)
            if len(calls) == after + 1:
                raise KeyboardInterrupt
        return real(table, **fields)

    monkeypatch.setattr(manager._bench, "record", record)
    with pytest.raises(KeyboardInterrupt):
        manager.run(TASK, "hello", on_token=lambda _: None)
    assert counted(manager) == (1, 3, 1)
    assert linked(manager)
