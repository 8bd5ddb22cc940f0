"""The main job on real models: select, load, run, record, learn, free."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError, RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench

pytestmark = pytest.mark.models
QUESTION = "What is the capital of France? Answer with one word."
SHORT = {"max_tokens": 8, "temperature": 0.0}


def test_a_run_is_recorded_with_its_selection_load_prediction_and_sample(
    manager: ModelManager,
) -> None:
    """One run leaves an execution, its selection with all candidates, load, predictions, sample."""
    run = manager.run("text_generation", QUESTION, parameters=SHORT)
    assert "Paris" in run.output
    row = manager.sql(
        "SELECT model, fingerprint, task, runtime, device, success, tokens_out, selection, settings"
        " FROM executions"
    ).fetchall()[0]
    assert row[:6] == (
        run.model.name,
        run.model.fingerprint,
        "text_generation",
        "llama_cpp",
        "cpu",
        True,
    )
    assert row[6] == run.result.tokens_out
    assert row[8] == "ctx=4096 kv=f16"
    candidates = manager.sql("SELECT * FROM candidates WHERE selection = ?", [row[7]])
    assert len(candidates) == len(manager.registry)
    assert manager.sql("SELECT chosen FROM selections").fetchall() == [(run.model.name,)]
    load = manager.sql("SELECT model, success, memory_bytes, predicted_bytes FROM loads").fetchall()
    assert load[0][:2] == (run.model.name, True)
    assert load[0][2] == pytest.approx(load[0][3], rel=0.1)
    stored = manager.sql(
        "SELECT quantity, engine, device, settings, hardware, level, actual > 0 AND low < predicted"
        " AND predicted < high FROM predictions ORDER BY ALL"
    ).fetchall()
    where = ("llama_cpp", "cpu", row[8], manager.registry.hardware_profile.fingerprint, 0.8, True)
    assert stored == [
        (quantity, *where)
        for quantity in ("load_seconds", "peak_memory", "throughput", "time_to_first_token")
    ]
    assert len(manager.sql("FROM hardware_samples")) == 1


def test_the_second_run_finds_the_model_resident(manager: ModelManager) -> None:
    """A model that is loaded is used again; the status shows it and the bytes it holds."""
    wanted = {"quantizations": ["Q4_1"]}
    assert manager.run("text_generation", QUESTION, wanted, parameters=SHORT).cold
    assert not manager.run("text_generation", QUESTION, wanted, parameters=SHORT).cold
    usage = manager.get_resource_usage()
    assert [item.model.quantization for item in usage.loaded] == ["Q4_1"]
    assert usage.memory_used_by_models > 100 * 2**20
    assert "Q4_1" in str(manager.get_system_status())


def test_two_managers_share_what_is_loaded(manager: ModelManager, real_models: Path) -> None:
    """A model that one manager loaded is warm for another of the same home and process."""
    wanted = {"quantizations": ["Q4_1"]}
    manager.run("text_generation", QUESTION, wanted, parameters=SHORT)
    other = ModelManager(real_models, workbench=manager._bench)
    assert not other.run("text_generation", QUESTION, wanted, parameters=SHORT).cold
    assert len(other.get_resource_usage().loaded) == 1


def test_cleanup_gives_the_memory_back(manager: ModelManager) -> None:
    """cleanup_resources returns at least what the loaded model held, and nothing stays loaded."""
    manager.run("text_generation", QUESTION, parameters=SHORT)
    held = manager.get_resource_usage().loaded[0].memory.anonymous_bytes
    assert manager.cleanup_resources() >= held
    assert manager.get_resource_usage().loaded == ()
    assert "Freed" in manager.messages[-1].text


def test_an_embedding_is_of_unit_length_and_means_something(manager: ModelManager) -> None:
    """Sentences of like meaning are nearer to each other than to an unlike one."""
    run = manager.run("embedding", ["The cat sleeps.", "A kitten naps.", "Rates rose again."])
    a, b, c = run.output
    assert a @ a == pytest.approx(1, abs=1e-5)
    assert a @ b > a @ c


def test_streamed_pieces_make_up_the_output(manager: ModelManager) -> None:
    """on_token sees the text as it comes."""
    pieces: list[str] = []
    run = manager.run("text_generation", QUESTION, parameters=SHORT, on_token=pieces.append)
    assert "".join(pieces) == run.output
    assert len(pieces) > 1


def test_measured_peak_replaces_the_estimate_in_the_next_ranking(manager: ModelManager) -> None:
    """What a run really took is what the next recommendation says, marked as measured."""
    run = manager.run("text_generation", QUESTION, parameters=SHORT)
    ranked = manager.get_model_recommendations("text_generation")
    item = next(item for item in ranked if item.model.name == run.model.name)
    assert item.memory.measured
    assert item.memory.total_bytes == run.result.peak_memory
    assert item.runs == 1


def test_a_corrupt_model_falls_back_to_the_next_and_is_shown(
    real_models: Path, home: Path, profile: HardwareProfile
) -> None:
    """A load that fails is recorded as a failure, becomes a message, and the next one answers."""
    broken = real_models / "smollm2-135m-instruct" / "Broken.Q4_1.gguf"
    good = real_models / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    shutil.copyfile(good, broken)
    with broken.open("r+b") as file:
        # The header stays readable; an unknown tokenizer is only found when llama.cpp loads it.
        head = file.read(1 << 20)
        file.seek(head.index(b"tokenizer.ggml.model") + len(b"tokenizer.ggml.model") + 4 + 8)
        file.write(b"xxxx")
    for other in ("Q4_0", "Q8_0"):
        (good.parent / f"SmolLM2-135M-Instruct.{other}.gguf").unlink()
    made = ModelManager(real_models, workbench=Workbench(home, hardware=profile), seed=0)
    made.update_preferences(model_weights={"Broken.Q4_1": 50.0})
    run = made.run("text_generation", QUESTION, parameters=SHORT)
    assert [attempt.model for attempt in run.attempts] == ["Broken.Q4_1", good.stem]
    assert run.attempts[0].failure in set(FailureKind)
    assert any("Broken.Q4_1" in message.text for message in made.messages)
    failed = made.sql(
        "SELECT success, error FROM executions WHERE model = 'Broken.Q4_1'"
    ).fetchall()
    assert len(failed) == 1
    assert failed[0][0] is False
    assert failed[0][1]
    made.pool.close()


def test_bad_input_stops_before_anything_runs(manager: ModelManager) -> None:
    """An unknown task, requirement or parameter is an error that suggests; nothing is recorded."""
    with pytest.raises(RequirementError, match="text_generation"):
        manager.run("text_generatoin", QUESTION)
    with pytest.raises(RequirementError, match="task_type"):
        manager.run(None, QUESTION)
    with pytest.raises(RequirementError, match="max_size_bytes"):
        manager.run("text_generation", QUESTION, {"max_size": 1})
    with pytest.raises(RequirementError, match="max_tokens"):
        manager.run("text_generation", QUESTION, parameters={"max_token": 1})
    with pytest.raises(RequirementError, match="surrogate"):
        manager.run("text_generation", "\ud800")
    assert len(manager.sql("FROM executions")) == 0


def test_no_candidate_lists_every_reason(manager: ModelManager) -> None:
    """When nothing is left, the error names each candidate and its binding constraint."""
    with pytest.raises(NoSuitableModelError) as caught:
        manager.run("text_generation", QUESTION, {"max_size_bytes": 1000})
    assert set(caught.value.reasons) == set(manager.registry.available_models)
    assert "max_size_bytes" in str(caught.value)


def test_feedback_reaches_history_and_ranking(manager: ModelManager) -> None:
    """A judgement joins its execution: history and the score's quality part both see it."""
    run = manager.run("text_generation", QUESTION, parameters=SHORT)
    manager.feedback(run, 0.0)
    manager.feedback(run, 1.0, "the second look counts")
    assert manager.get_model_performance_history(run.model.name).quality == 1.0
    ranked = manager.get_model_recommendations("text_generation")
    item = next(item for item in ranked if item.model.name == run.model.name)
    assert item.part("quality").n == 1
    assert item.part("quality").value > 0.5


def test_a_stopped_run_is_recorded_and_not_held_against_the_model(manager: ModelManager) -> None:
    """Stopping a generation keeps the model, leaves a row, and costs the model no reliability."""

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manager.run("text_generation", QUESTION, {"quantizations": ["Q4_1"]}, on_token=stop)
    rows = manager.sql("SELECT success, error, extra->>'failure' FROM executions").fetchall()
    assert rows == [(False, "stopped: KeyboardInterrupt", "interrupted")]
    assert len(manager.get_resource_usage().loaded) == 1
    ranked = manager.get_model_recommendations("text_generation")
    assert {item.reliability for item in ranked} == {1.0}


def test_what_is_held_is_told_by_kind_and_cleanup_leaves_only_what_is_in_use(
    manager: ModelManager,
) -> None:
    """Mapped weights and own memory are told apart; a model in use stays, and the message says."""
    seen: list[tuple[int, int, str]] = []

    def look(_: str) -> None:
        if not seen:
            (held,) = manager.get_resource_usage().loaded
            manager.cleanup_resources()
            text = manager.messages[-1].text
            seen.append((held.memory.anonymous_bytes, held.memory.file_bytes, text))

    run = manager.run(
        "text_generation", QUESTION, {"quantizations": ["Q4_1"]}, parameters=SHORT, on_token=look
    )
    anonymous, mapped, text = seen[0]
    assert mapped > 0.9 * run.model.size_bytes
    assert 0 < anonymous < run.model.size_bytes * 2
    assert f"Still in memory: {run.model.name}" in text
    assert "in use" in text
    manager.cleanup_resources()
    assert "Still" not in manager.messages[-1].text
    assert manager.get_resource_usage().memory_used_by_models == 0


def test_keep_alive_seconds_unloads_by_itself(manager: ModelManager) -> None:
    """An idle worker ends though nobody asks, also when the time is shortened meanwhile."""
    assert manager.preferences.keep_alive_seconds > 60
    manager.run("text_generation", QUESTION, {"quantizations": ["Q4_1"]}, parameters=SHORT)
    assert len(manager.pool.resident()) == 1
    manager.update_preferences(keep_alive_seconds=1)
    deadline = time.monotonic() + 60
    while manager.pool.resident() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert manager.get_resource_usage().loaded == ()
    assert manager.run(
        "text_generation", QUESTION, {"quantizations": ["Q4_1"]}, parameters=SHORT
    ).cold
