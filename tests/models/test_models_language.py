"""Language identification from a scan to the history, with the real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import NoSuitableModelError, RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.models import ModelManager, Workbench

TASK = "language_identification"


@pytest.fixture
def real(demo_directory: Path, home: Path, profile: HardwareProfile) -> Iterator[ModelManager]:
    made = ModelManager(
        demo_directory / "lid-176", workbench=Workbench(home, hardware=profile), seed=0
    )
    yield made
    made.pool.close()
    made.store.close()


@pytest.mark.models
def test_the_model_is_listed_and_can_run(real: ModelManager) -> None:
    """A scan finds the model with its task and its runtime, and says no gap."""
    (model,) = real.registry.available_models.values()
    assert (model.name, model.model_type) == ("lid.176", ModelType.FASTTEXT)
    assert model.task_types == (TASK,)
    assert model.runtimes == ("fasttext",)
    assert model.runtime_gap is None
    assert model.supports_batching
    assert model.minimum_ram > model.size_bytes


@pytest.mark.models
def test_a_run_is_recorded_and_learned_from(real: ModelManager) -> None:
    """The first run's memory is what the next estimate says; a bad parameter runs nothing."""
    before = real.estimate("lid.176")
    assert not before.memory.measured
    run = real.run(TASK, ["Wo ist meine Brille?", "Where are my glasses?"])
    peak = run.result.peak_memory
    assert [found[0]["label"] for found in run.output] == ["de", "en"]
    assert "2 answers, the first: de (" in str(run)
    again = real.run(TASK, "Where are my glasses?", parameters={"top_k": 2})
    assert "en (" in str(again)
    # Of the same process: a run may take a page or two more of memory than the one before.
    later = again.result.peak_memory
    after = real.estimate("lid.176")
    assert after.memory.measured
    assert min(peak, later) <= after.memory.total_bytes <= max(peak, later)
    assert abs(later - peak) < 2**20
    assert before.memory.low_bytes <= peak <= before.memory.high_bytes
    with pytest.raises(RequirementError, match="top_k"):
        real.run(TASK, "x", parameters={"topk": 1})
    real.store.ingest_now()
    rows = real.sql("SELECT task, model, runtime, tokens_in FROM executions WHERE success")
    assert rows.fetchall() == [(TASK, "lid.176", "fasttext", None)] * 2
    with pytest.raises(NoSuitableModelError):
        real.run("text_classification", "x")


@pytest.mark.models
def test_its_quality_is_measured(real: ModelManager) -> None:
    """62 sentences in 31 languages: it names nearly all of them, and a row keeps each score."""
    report = real.benchmark(TASK, repeats=1, quality=True, progress=False)
    (item,) = report.results
    assert item.failures == {}
    assert item.quality is not None
    assert item.quality.n == 62
    assert item.quality.value >= 56 / 62
    assert "31 languages" in str(report)
