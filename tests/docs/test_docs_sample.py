"""The sample history: real, small, the same on any day, said to be a sample, and kept apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab import ModelManager, plots
from ravenxterm_lab.exceptions import ConfigurationError, RavenXTermError, RequirementError
from ravenxterm_lab.models.sample import MACHINE, SampleManager, sample_directory
from ravenxterm_lab.widgets import HistoryExplorer

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "data" / "sample"
MARK = "sample history"
#: Every view that is drawn of a history.
VIEWS: dict[str, Callable[[ModelManager], plots.View]] = {
    **{
        metric: lambda manager, metric=metric: plots.history(manager, metric=metric)
        for metric in ("throughput", "latency", "time_to_first_token", "peak_memory")
    },
    "distributions": plots.distributions,
    "success": plots.success,
    **{
        f"predictions of {quantity}": lambda manager, quantity=quantity: plots.predictions(
            manager, quantity=quantity
        )
        for quantity in ("throughput", "peak_memory", "time_to_first_token", "load_seconds")
    },
    "decisions": plots.decisions,
    "hardware": lambda manager: plots.hardware(manager, hours=24),
}


@pytest.fixture(scope="module")
def sample() -> SampleManager:
    return ModelManager.sample()


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_of_the_sample_has_something_to_show_and_says_that_it_is_one(
    name: str, sample: SampleManager
) -> None:
    """The subtitle and the sentence name it, also of a part that is zoomed to."""
    view = VIEWS[name](sample)
    assert view.rows is not None, view.summary
    assert MARK in view.figure.layout.title.subtitle.text
    assert MARK in view.summary
    assert view.sql is not None
    assert sample.sql(view.sql, view.parameters).pl().equals(view.data())


@pytest.mark.models
@pytest.mark.parametrize("task", ["text_generation", "embedding", "language_identification"])
def test_the_models_of_the_sample_are_ranked_from_its_evidence(
    task: str, sample: SampleManager
) -> None:
    """Rankings and the frontier rest on the recorded runs, and say of what history."""
    ranked = sample.get_model_recommendations(task)
    assert ranked
    assert all(item.runs for item in ranked)
    assert MARK in str(ranked)
    for view in (plots.ranking(ranked), plots.frontier(ranked)):
        assert MARK in view.figure.layout.title.subtitle.text
        assert MARK in view.summary
    assert MARK in str(ranked[:1])


def test_what_it_shows_of_itself_says_so(sample: SampleManager) -> None:
    """The card, the registry, the history of a model, and a message."""
    assert str(sample).startswith("RavenXTerm Lab: the sample history")
    assert "It is not your own" in str(sample)
    assert MARK in str(sample.registry)
    assert "not on this machine" in str(sample.registry)
    assert any(MARK in message.text.lower() for message in sample.messages)
    name = sample.sql("SELECT model FROM executions WHERE success LIMIT 1").fetchall()[0][0]
    assert MARK in str(sample.get_model_performance_history(name))
    for estimate in (sample.estimate(name), sample.estimates()):
        assert "this machine" not in str(estimate).splitlines()[0]


def test_the_explorer_of_the_sample_says_so_in_each_of_its_views(sample: SampleManager) -> None:
    """Whatever is chosen in the explorer."""
    explorer = HistoryExplorer(sample)
    for _, kind in explorer.kind.options:
        if kind != "frontier":
            explorer.kind.value = kind
            explorer.refresh()
            assert MARK in explorer.summary
    explorer.close()


@pytest.mark.parametrize(
    "refused",
    [
        lambda sample: sample.run("text_generation", "Hello."),
        lambda sample: sample.optimize_model_selection("text_generation"),
        lambda sample: sample.benchmark("text_generation"),
        lambda sample: sample.record_execution_metrics("mine", {"latency": 1.0}),
        lambda sample: sample.feedback("a:1", 1.0),
        lambda sample: sample.monitor(),
        lambda sample: sample.get_resource_usage(),
        lambda sample: sample.registry.space(),
        lambda sample: sample.store.record("messages", level="info", subject="s", text="t"),
        lambda sample: sample.store.record_execution(model="mine", metrics={"latency": 1.0}),
    ],
)
def test_nothing_can_be_added_to_it_or_run_from_it(
    refused: Callable[[Any], object], sample: SampleManager
) -> None:
    """Each refusal says whose manager to ask, and no row comes."""
    before = sample.store.info().rows
    with pytest.raises(RavenXTermError, match=r"only looked at: ModelManager\(\)"):
        refused(sample)
    assert sample.store.info().rows == before


def test_it_is_kept_apart_from_the_person_s_own_history(home: Path) -> None:
    """The home is not touched, the own manager is empty, and its directory goes with it."""
    sample = SampleManager()
    sample.update_preferences(performance_mode="speed")
    place = sample.store.path.parent
    assert place.is_dir()
    assert not home.exists()
    own = ModelManager(models_dir=[])
    assert own.sql("SELECT count(*) FROM executions").fetchall() == [(0,)]
    assert plots.history(own).summary.startswith("No executions yet: ")
    assert own.preferences.performance_mode == "balanced"
    script = (
        "from ravenxterm_lab import ModelManager\nprint(ModelManager.sample().store.path.parent)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()


def test_it_is_the_same_on_any_day(sample: SampleManager) -> None:
    """Its clock stands at the end of the recording, so that no window runs away from it."""
    about = json.loads((SAMPLE / MACHINE).read_text(encoding="utf-8"))
    assert datetime.fromisoformat(sample._bench.now()) == datetime.fromisoformat(about["end"])
    view = plots.history(sample, metric="latency", days=1)
    assert view.parameters["end"] <= datetime.fromisoformat(about["end"])
    counts = sample.store.info().rows
    sample.store.ingest_now()
    assert sample.store.info().rows == counts


def test_every_row_lies_within_the_recording_and_the_whole_is_small(
    sample: SampleManager,
) -> None:
    """A few hundred executions, real failures, several sessions, below 300 kB."""
    about = json.loads((SAMPLE / MACHINE).read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 300_000
    found = sample.sql(
        """
        SELECT count(*), count(DISTINCT session), count(DISTINCT model), count(DISTINCT task),
               count(*) FILTER (NOT success), min(ts), max(ts), count(DISTINCT (session, seq))
        FROM executions
        """
    ).fetchall()[0]
    runs, sessions, models, tasks, failed, first, last, distinct = found
    assert 200 <= runs == distinct
    assert sessions >= 3
    assert models >= 6
    assert tasks >= 4
    assert failed >= 2
    assert datetime.fromisoformat(about["begin"]) <= first < last
    assert last <= datetime.fromisoformat(about["end"])
    assert sample.store.check().ok


def test_it_names_nobody_s_directories(sample: SampleManager) -> None:
    """No text in it is a path outside the temporary directory of the recording."""
    found = set()
    for path in SAMPLE.glob("*.parquet"):
        for row in sample.sql(f"FROM {path.stem}").pl().to_dicts():
            found |= set(re.findall(r"/(?:home|root|work|Users)/[^ \"']*", str(row)))
    assert found == set()


def test_a_directory_without_a_sample_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Nothing is shown of a history whose machine is not known."""
    with pytest.raises(ConfigurationError, match="what the sample history was recorded on"):
        SampleManager(tmp_path)
    assert sample_directory() == SAMPLE


@pytest.mark.models
def test_the_recording_still_runs(demo_directory: Path, tmp_path: Path) -> None:
    """One short sitting: what it exports can be opened as a sample again."""
    script = REPOSITORY / "tests" / "docs" / "record_sample.py"
    done = subprocess.run(
        [
            sys.executable, script, "--models", demo_directory, "--out", tmp_path / "sample",
            "--sittings", "2", "--count", "1", "--pause", "0",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    fresh = SampleManager(tmp_path / "sample")
    tables = {
        "executions", "selections", "candidates", "loads", "predictions", "feedback",
        "hardware_samples", "preference_changes", "messages", "models", "scans",
    }  # fmt: skip
    assert tables <= {path.stem for path in (tmp_path / "sample").glob("*.parquet")}
    failures = fresh.sql("SELECT extra->>'failure' FROM executions WHERE NOT success").fetchall()
    assert ("interrupted",) in failures
    assert fresh.get_model_recommendations("text_generation")
    with pytest.raises(RequirementError, match="only looked at"):
        fresh.run("text_generation", "Hello.")
