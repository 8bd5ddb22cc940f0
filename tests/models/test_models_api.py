"""Registry and manager without a model in memory: behaviour, bad input, persistence."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ravenxterm_lab.exceptions import (
    MetricError,
    NoSuitableModelError,
    PreferenceError,
    QueryError,
    RequirementError,
    UnknownModelError,
)
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, ModelRegistry, Workbench
from ravenxterm_lab.preferences import PerformancePreference, UserPreferences


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with two real, tiny safetensors models and one broken file."""
    directory = tmp_path / "models"
    for name, value in (("alpha", 1.0), ("beta", 2.0)):
        (directory / name).mkdir(parents=True)
        save_file({"w": np.full((8, 8), value, np.float32)}, directory / name / "model.safetensors")
    (directory / "broken.gguf").write_bytes(b"GGUF\x03\x00")
    return directory


@pytest.fixture
def bench(home: Path, profile: HardwareProfile) -> Iterator[Workbench]:
    made = Workbench(home, hardware=profile)
    yield made
    made.store.close()


@pytest.fixture
def small(directory: Path, bench: Workbench) -> ModelManager:
    """Return a manager on the tiny models; no runtime can run them."""
    return ModelManager(directory, workbench=bench, seed=0)


def test_a_scan_reports_added_skipped_and_removed(directory: Path, bench: Workbench) -> None:
    """The first scan adds, a second finds nothing new, and a removed model is reported."""
    registry = ModelRegistry(directory, workbench=bench)
    report = registry.scan()
    assert report.added == ("alpha", "beta")
    assert [item.path.name for item in report.skipped] == ["broken.gguf"]
    again = registry.scan()
    assert (again.added, again.changed, again.removed) == ((), (), ())
    (directory / "beta" / "model.safetensors").unlink()
    assert registry.scan().removed == ("beta",)
    events = bench.store.sql("SELECT event, name FROM models ORDER BY ts, seq").fetchall()
    assert events == [("added", "alpha"), ("added", "beta"), ("removed", "beta")]


def test_the_catalogue_is_remembered_by_the_next_process(directory: Path, bench: Workbench) -> None:
    """A new registry on the same directory and home adds nothing that is known."""
    ModelRegistry(directory, workbench=bench).scan()
    assert ModelRegistry(directory, workbench=bench).scan().added == ()


def test_an_absent_directory_is_empty_and_says_so(tmp_path: Path, bench: Workbench) -> None:
    """Nothing is created, and the message names the directory and what to do."""
    registry = ModelRegistry(tmp_path / "nowhere", workbench=bench)
    assert len(registry) == 0
    assert not (tmp_path / "nowhere").exists()
    assert "nowhere" in registry.messages[-1].text
    assert "leave models_dir out" in registry.messages[-1].text
    assert registry.messages[-1].level == "warning"
    assert "No models" in registry._repr_mimebundle_()["text/plain"]


def test_a_model_without_a_runtime_says_what_is_missing(small: ModelManager) -> None:
    """A format that no runtime reads is listed, with the gap, and never chosen."""
    model = small.registry["alpha"]
    assert model.runtimes == ()
    assert "SAFETENSORS" in model.runtime_gap
    with pytest.raises(NoSuitableModelError, match="alpha"):
        small.optimize_model_selection("text_generation")


def test_select_model_returns_none_with_the_binding_constraint(
    small: ModelManager, caplog: pytest.LogCaptureFixture
) -> None:
    """None comes with a message and a log line that name the constraint."""
    with caplog.at_level(logging.WARNING, logger="ravenxterm_lab"):
        assert small.registry.select_model({"max_size_bytes": 1, "task_type": "embedding"}) is None
    assert "task_type" in small.messages[-1].text
    assert "task_type" in caplog.text


def test_an_unknown_name_suggests(small: ModelManager) -> None:
    """Registry and history suggest the nearest name."""
    with pytest.raises(UnknownModelError, match="alpha"):
        small.registry.get("alhpa")
    with pytest.raises(UnknownModelError, match="alpha"):
        small.get_model_performance_history("alhpa")


def test_preferences_persist_and_are_recorded(
    small: ModelManager, directory: Path, bench: Workbench
) -> None:
    """A change is in force at once, saved, recorded, and found by the next manager."""
    small.update_preferences(performance_mode="speed", max_memory_usage=0.5)
    assert small.selector.preferences.performance_mode is PerformancePreference.SPEED
    rows = small.sql("SELECT field, old, new FROM preference_changes ORDER BY field").fetchall()
    assert rows == [
        ("max_memory_usage", "0.7", "0.5"),
        ("performance_mode", '"balanced"', '"speed"'),
    ]
    later = ModelManager(directory, workbench=bench)
    assert later.preferences == small.preferences


def test_a_bad_preference_changes_nothing(small: ModelManager) -> None:
    """All changes of one call are checked before any is made."""
    with pytest.raises(PreferenceError, match="max_memory_usage"):
        small.update_preferences(performance_mode="speed", max_memory_usage=1.5)
    assert small.preferences == UserPreferences.get_defaults()
    with pytest.raises(PreferenceError, match="performance_mode"):
        small.update_preferences(performance_mod="speed")


def test_a_broken_preferences_file_is_a_message_and_the_defaults(
    directory: Path, home: Path, bench: Workbench
) -> None:
    """The file is left as it is, so that its owner can mend it."""
    home.mkdir(exist_ok=True)
    (home / "preferences.toml").write_text("max_memory_usage = 7\n")
    manager = ModelManager(directory, workbench=bench)
    assert manager.preferences == UserPreferences.get_defaults()
    assert "preferences.toml" in manager.messages[-1].text
    assert (home / "preferences.toml").read_text() == "max_memory_usage = 7\n"


def test_metrics_of_an_unregistered_model_are_kept_as_external(small: ModelManager) -> None:
    """A name that is not registered is accepted, marked, and has a history."""
    small.record_execution_metrics(
        "gpt-elsewhere",
        {"latency": 0.1, "throughput": 1000, "success": True, "colour": "red", "beam": 4},
    )
    row = small.sql("SELECT external, latency, num['beam'], extra->>'colour' FROM executions")
    assert row.fetchall() == [(True, 0.1, 4.0, "red")]
    history = small.get_model_performance_history("gpt-elsewhere")
    assert (history.runs, history.model, history.latency_p50) == (1, None, 0.1)
    assert history.pl().height == len(history.df()) == history.to_arrow().num_rows == 1


@pytest.mark.parametrize(
    "metrics",
    [
        {"latency": -1},
        {"latency": float("nan")},
        {"throughput": "fast"},
        {"success": "yes"},
        {"quality": 1.5},
        {"tokens_out": 1.5},
        {"memory_efficiency": 2},
        {"latency": True},
    ],
)
def test_a_bad_metric_is_named_and_nothing_is_written(
    small: ModelManager, metrics: dict[str, object]
) -> None:
    """The error names the key and the value; the store stays as it was."""
    key = next(iter(metrics))
    with pytest.raises(MetricError, match=key):
        small.record_execution_metrics("m", {"latency": 1.0, **metrics})
    with pytest.raises(MetricError, match=key), small.track("m") as run:
        run.metrics.update(metrics)
    assert len(small.sql("FROM executions")) == 0


def test_none_for_a_model_explains_where_it_may_come_from(small: ModelManager) -> None:
    """Passing on the None of select_model says so instead of recording it."""
    with pytest.raises(RequirementError, match="select_model"):
        small.record_execution_metrics(None, {"latency": 1.0})
    with pytest.raises(RequirementError, match="select_model"):
        small.get_model_performance_history(None)


def test_track_refuses_a_bad_task_or_model_before_the_work(small: ModelManager) -> None:
    """What could never be recorded is said before the block is run, not after it."""
    done = []
    with (
        pytest.raises(RequirementError, match="text_generation"),
        small.track("mine", task_type="text_generatoin"),
    ):
        done.append("worked")
    with pytest.raises(RequirementError, match="select_model"), small.track(None):
        done.append("worked")
    assert not done


def test_track_measures_and_records_a_failure_too(small: ModelManager) -> None:
    """The block's latency is recorded; an exception is a failure and is raised again."""
    with small.track("mine", task_type="text-generation") as run:
        run.metrics["tokens_out"] = np.int64(10)
    assert run.execution is not None
    with pytest.raises(ZeroDivisionError), small.track("mine"):
        _ = 1 / 0
    rows = small.sql("SELECT success, error, throughput > 0 FROM executions ORDER BY ts").fetchall()
    assert rows[0] == (True, None, True)
    assert rows[1][0] is False
    assert "ZeroDivisionError" in rows[1][1]


def test_track_as_a_decorator_records_every_call(small: ModelManager) -> None:
    """Plain, async and streaming functions keep what they are and return; calls may overlap."""

    def words(result: Any) -> dict[str, int]:
        return {"tokens_out": len(result)}

    track = small.track("mine", task_type="text-generation", measure=words)

    @track
    def plain(count: int) -> list[int]:
        """Count."""
        return [*plain(count - 1), count] if count else []

    @track
    async def waiting(count: int) -> list[int]:
        await asyncio.sleep(0)
        return list(range(count))

    @track
    def stream(count: int) -> Iterator[int]:
        yield from range(count)

    @track
    async def async_stream(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def everything() -> None:
        both = await asyncio.gather(waiting(3), waiting(4))
        assert [len(one) for one in both] == [3, 4]
        assert [number async for number in async_stream(5)] == [0, 1, 2, 3, 4]

    assert (plain(1), plain.__name__, plain.__doc__) == ([1], "plain", "Count.")
    assert list(stream(2)) == [0, 1]
    # A thread of its own: the browser tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, everything()).result()
    rows = small.sql(
        "SELECT tokens_out, time_to_first_token IS NOT NULL, peak_memory, success, task "
        "FROM executions ORDER BY tokens_out"
    ).fetchall()
    assert [(row[0], row[1]) for row in rows] == [
        (0, False), (1, False), (2, True), (3, False), (4, False), (5, True),
    ]  # fmt: skip
    assert all(row[2] > 10**7 and row[3] and row[4] == "text_generation" for row in rows)


def test_what_the_person_stops_is_not_held_against_the_model(small: ModelManager) -> None:
    """An interrupt in a block, and a stream that nobody reads to its end."""
    with pytest.raises(KeyboardInterrupt), small.track("mine"):
        raise KeyboardInterrupt

    @small.track("mine")
    def stream() -> Iterator[int]:
        yield from range(10)

    reading = stream()
    next(reading)
    reading.close()
    rows = small.sql("SELECT success, extra->>'failure' FROM executions").fetchall()
    assert rows == [(False, "interrupted")] * 2


def test_track_sees_the_peak_of_the_block(small: ModelManager) -> None:
    """Memory that was given back before the end counts."""
    with small.track("mine"):
        pass
    with small.track("mine"):
        held = bytearray(200 * 2**20)
        held[:: 2**12] = b"x" * len(held[:: 2**12])
        time.sleep(0.2)
        del held
    before, during = (
        row[0] for row in small.sql("SELECT peak_memory FROM executions ORDER BY ts").fetchall()
    )
    assert during - before > 150 * 2**20


def test_feedback_needs_a_recorded_run_and_a_share(small: ModelManager) -> None:
    """Quality is 0 to 1, and the run must have been recorded."""
    with small.track("mine") as run:
        pass
    small.feedback(run.execution, 0.5)
    small.feedback(str(run.execution), 1)
    for bad in (-0.1, 1.1, "good", True, float("nan")):
        with pytest.raises(RequirementError, match="between 0 and 1"):
            small.feedback(run.execution, bad)
    with pytest.raises(RequirementError, match="not recorded"):
        small.feedback(None, 1.0)


def test_sql_is_read_only(small: ModelManager) -> None:
    """Anything but one read-only statement is refused in one line."""
    for query in ("DELETE FROM executions", "SELECT 1; SELECT 2", "COPY executions TO 'x'", ""):
        with pytest.raises(QueryError) as caught:
            small.sql(query)
        assert "\n" not in str(caught.value)


def test_a_home_that_cannot_be_written_is_a_message_and_work_goes_on(
    directory: Path, tmp_path: Path, profile: HardwareProfile
) -> None:
    """With a file where the store should be, models are found and ranked all the same."""
    home = tmp_path / "locked"
    home.mkdir()
    (home / "store").write_text("in the way")
    (home / "preferences.toml").mkdir()
    manager = ModelManager(directory, workbench=Workbench(home, hardware=profile))
    assert len(manager.registry) == 2
    assert manager.record_execution_metrics("m", {"latency": 1.0}) is None
    assert len(manager.get_model_recommendations("embedding").rejected) == 2
    manager.update_preferences(performance_mode="speed")
    text = str(manager.messages)
    assert "store" in text
    assert "not saved" in text
    assert manager.preferences.performance_mode is PerformancePreference.SPEED


def test_every_public_object_shows_itself(small: ModelManager) -> None:
    """HTML and plain text, for the manager, the registry, and what they return."""
    shown = [
        small,
        small.registry,
        small.registry.scan(),
        small.get_system_status(),
        small.get_resource_usage(),
        small.get_model_recommendations("embedding"),
        small.messages,
        small.registry.hardware_profile,
        small.sql("SELECT 1 AS one"),
    ]
    for thing in shown:
        bundle = thing._repr_mimebundle_()
        assert bundle["text/html"].startswith("<")
        assert bundle["text/plain"].strip()


def test_a_new_process_reads_what_this_one_wrote(small: ModelManager, home: Path) -> None:
    """Another interpreter sees every recorded row at once, without this one closing anything."""
    small.record_execution_metrics("mine", {"latency": 0.5})
    script = (
        "from ravenxterm.models import ModelManager\n"
        "print(ModelManager('/nowhere').sql('SELECT model FROM executions').fetchall())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "RAVENXTERM_HOME": str(home)},
    )  # fmt: skip
    assert done.stdout.strip() == "[('mine',)]"


def test_a_forgotten_manager_lets_its_pool_go(directory: Path, bench: Workbench) -> None:
    """Nothing keeps a manager alive once the last reference is gone."""
    import gc
    import weakref

    manager = ModelManager(directory, workbench=bench)
    manager.get_resource_usage()
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None


def test_a_message_about_an_undecodable_name_is_kept_and_recorded(bench: Workbench) -> None:
    """A lone surrogate, as in a file name that is not UTF-8, becomes a question mark."""
    bench.messages.add("warning", "a\udcff", "cannot read b\udcff")
    rows = bench.store.sql("SELECT subject, text FROM messages").fetchall()
    assert rows == [("a?", "cannot read b?")]


def test_a_message_cannot_forge_a_line_of_the_log(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    """Line breaks and escape codes of a file's name reach the store, but no log or terminal."""
    text = "Skipped: a\nERROR all is lost\r\x1b[2J\x1b]0;title\x07\u2028\u202eb.gguf (truncated)"
    with caplog.at_level("INFO", logger="ravenxterm_lab"):
        kept = bench.messages.add("info", "registry", text)
    logged = caplog.messages[-1]
    for shown in (logged, str(kept)):
        assert len(shown.splitlines()) == 1
        assert not any(mark in shown for mark in "\n\r\x1b\x07\u2028\u202e")
        assert "a ERROR all is lost" in shown
    assert kept.text == text
    assert bench.store.sql("SELECT text FROM messages").fetchall() == [(text,)]


def test_two_managers_do_not_write_over_each_other_s_preferences(
    directory: Path, bench: Workbench, home: Path
) -> None:
    """A change by one keeps what another saved meanwhile, in force and on disk."""
    first, second = (ModelManager(directory, workbench=bench) for _ in range(2))
    first.update_preferences(performance_mode="memory", model_weights={"alpha": 2.0})
    second.update_preferences(keep_alive_seconds=7)
    saved = UserPreferences.load(home / "preferences.toml")
    assert saved == second.preferences
    assert saved.performance_mode is PerformancePreference.MEMORY
    assert saved.model_weights == {"alpha": 2.0}
    assert saved.keep_alive_seconds == 7
    fields = bench.store.sql("SELECT field FROM preference_changes ORDER BY field").fetchall()
    assert [name for (name,) in fields] == [
        "keep_alive_seconds",
        "model_weights",
        "performance_mode",
    ]


def test_an_unreadable_preferences_file_is_kept_aside_before_the_next_save(
    directory: Path, home: Path, bench: Workbench
) -> None:
    """What its owner wrote by hand is not lost to a later update."""
    home.mkdir(exist_ok=True)
    (home / "preferences.toml").write_text("max_memory_usage = 7\n")
    manager = ModelManager(directory, workbench=bench)
    manager.update_preferences(performance_mode="speed")
    assert (home / "preferences.toml.broken").read_text() == "max_memory_usage = 7\n"
    assert UserPreferences.load(home / "preferences.toml") == manager.preferences
    assert "preferences.toml.broken" in manager.messages[-1].text


def test_given_preferences_are_saved_as_they_are(
    directory: Path, home: Path, bench: Workbench
) -> None:
    """Preferences that were passed in are the base of the next update, not the saved file."""
    ModelManager(directory, workbench=bench).update_preferences(max_memory_usage=0.5)
    given = UserPreferences(performance_mode="speed")
    manager = ModelManager(directory, workbench=bench, preferences=given)
    manager.update_preferences(keep_alive_seconds=1)
    assert manager.preferences == given.updated(keep_alive_seconds=1)
    assert UserPreferences.load(home / "preferences.toml") == manager.preferences
