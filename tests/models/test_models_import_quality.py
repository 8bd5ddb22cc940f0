"""Imported quality: recorded once, learned from, and no run of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes.fake import FakeRuntime


def model(name: str) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(f"{name}.gguf"), 1000, task_types=("text_generation",),
        runtimes=("fake",), preferred_hardware=(HardwareType.CPU,), fingerprint=f"print-{name}",
        context_length=2048, embedding_length=64, vocabulary_size=100,
        attention=AttentionGeometry((1,), 8, 8),
    )  # fmt: skip


@pytest.fixture
def manager(tmp_path: Path, profile: HardwareProfile) -> ModelManager:
    bench = Workbench(tmp_path / "home", hardware=profile, runtimes=[FakeRuntime()])
    return ModelManager(tmp_path, workbench=bench)


def results(place: Path, **scores: float) -> Path:
    file = place / "results.json"
    named = {task: {"alias": task, "acc,none": score} for task, score in scores.items()}
    file.write_text(json.dumps({"results": named, "date": 1.5}), encoding="utf-8")
    return file


def test_scores_become_quality_and_nothing_else(manager: ModelManager, tmp_path: Path) -> None:
    """Each is one execution without a latency, whose quality moves the ranking."""
    good, bad = model("good"), model("bad")
    manager.import_quality(results(tmp_path, arc=0.9, boolq=0.8, piqa=0.85), good)
    report = manager.import_quality(results(tmp_path, arc=0.2, boolq=0.1, piqa=0.15), bad)
    assert [score.score for score in report.recorded] == [0.2, 0.1, 0.15]
    assert "0.200" in str(report)
    rows = manager.sql(
        "SELECT model, quality, latency, extra->>'harness_task' FROM executions ORDER BY seq"
    ).fetchall()
    assert rows[0] == ("good", 0.9, None, "arc")
    assert len(rows) == 6
    ranked = manager.selector.get_recommended_models([good, bad], "text_generation")
    part = {item.model.name: item.part("quality") for item in ranked}
    assert part["good"].n == 3
    assert part["good"].value > part["bad"].value
    assert [item.model.name for item in ranked] == ["good", "bad"]
    assert {item.runs for item in ranked} == {0}  # nothing of it ran here


def test_the_same_file_adds_nothing(manager: ModelManager, tmp_path: Path) -> None:
    """A second import says what is known already; another model's import is its own."""
    file = results(tmp_path, arc=0.5)
    assert len(manager.import_quality(file, model("a")).recorded) == 1
    again = manager.import_quality(file, model("a"))
    assert again.recorded == ()
    assert len(again.known) == 1
    assert len(manager.import_quality(file, "somewhere-else").recorded) == 1
    rows = manager.sql("SELECT model, external FROM executions ORDER BY seq").fetchall()
    assert rows == [("a", False), ("somewhere-else", True)]


def test_a_bad_file_or_model_records_nothing(manager: ModelManager, tmp_path: Path) -> None:
    """Everything is checked before the first execution is written."""
    file = tmp_path / "r.json"
    file.write_text(
        json.dumps({"results": {"a": {"acc,none": 0.5}, "b": {"acc,none": 7}}}), encoding="utf-8"
    )
    with pytest.raises(RequirementError, match="from 0 to 1"):
        manager.import_quality(file, "m")
    with pytest.raises(RequirementError, match="model must be"):
        manager.import_quality(results(tmp_path, arc=0.5), None)
    with pytest.raises(RequirementError, match="text_generation"):
        manager.import_quality(results(tmp_path, arc=0.5), "m", task_type="text_gen")
    assert len(manager.sql("FROM executions")) == 0
