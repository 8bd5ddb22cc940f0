"""The benchmark: its order, what counts as warm, interruption, failures, executors, scores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravenxterm_lab.exceptions import (
    FailureKind,
    NoSuitableModelError,
    RequirementError,
    UnknownModelError,
)
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.benchmarking import _digest
from ravenxterm_lab.quality import check_for
from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.reports import RunResult


def model(name: str, **changes: Any) -> ModelMetadata:
    values: dict[str, Any] = {
        "task_types": ("text_generation",),
        "runtimes": ("fake",),
        "preferred_hardware": (HardwareType.CPU,),
        "fingerprint": f"print-{name}",
        "context_length": 2048,
        "embedding_length": 64,
        "vocabulary_size": 100,
        "attention": AttentionGeometry((1,), 8, 8),
    }
    return ModelMetadata(name, ModelType.GGUF, Path(f"{name}.gguf"), 1000, **values | changes)


MODELS = [model("a"), model("b"), model("c:1b")]


class Watched(FakeRuntime):
    """Notes each run, and raises what it is told to at a run by number."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.ran: list[tuple[str, Any]] = []
        self.stop_at: int | None = None

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        loaded = super().load(model, options)
        plain = loaded.run

        def run(task: str, inputs: Any, **further: Any) -> RunResult:
            self.ran.append((model.name, inputs))
            if self.stop_at is not None and len(self.ran) == self.stop_at:
                raise KeyboardInterrupt
            return plain(task, inputs, **further)

        loaded.run = run  # type: ignore[method-assign]
        return loaded


@pytest.fixture
def runtime() -> Watched:
    return Watched()


@pytest.fixture
def manager(tmp_path: Path, profile: HardwareProfile, runtime: Watched) -> Iterator[ModelManager]:
    (tmp_path / "none").mkdir()
    bench = Workbench(tmp_path / "home", hardware=profile, runtimes=[runtime])
    made = ModelManager(tmp_path / "none", workbench=bench, seed=0)
    yield made
    made.pool.close()
    made.store.close()


def bench(manager: ModelManager, models: Any = MODELS, **changes: Any) -> Any:
    asked = {"inputs": ["x", "y", "z"], "repeats": 4, "progress": False, **changes}
    return manager.benchmark("text_generation", models, **asked)


def test_every_model_gets_the_same_runs_in_rounds_of_random_order(
    manager: ModelManager, runtime: Watched
) -> None:
    """Each round visits each model once, freshly loaded, and runs each input warm once."""
    report = bench(manager)
    assert len(report.runs) == 3 * 4 * (1 + 3)
    rounds = [runtime.loads[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(order) == sorted(m.name for m in MODELS) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    for visit in range(12):
        names, inputs = zip(*runtime.ran[4 * visit : 4 * visit + 4], strict=True)
        assert len(set(names)) == 1
        assert sorted(inputs[1:]) == ["x", "y", "z"]
        assert inputs[0] != inputs[1]  # or the engine would have the prompt already
    assert len({inputs for _, inputs in runtime.ran[1:4]}) == 3


def test_the_seed_decides_the_order(tmp_path: Path, profile: HardwareProfile) -> None:
    """The same seed gives the same order, another one another."""

    def order(seed: int, number: int) -> list[tuple[str, Any]]:
        watched = Watched()
        here = Workbench(tmp_path / f"home-{number}", hardware=profile, runtimes=[watched])
        bench(ModelManager(tmp_path, workbench=here), seed=seed)
        here.pool.close()
        return watched.ran

    assert order(1, 0) == order(1, 1)
    assert order(1, 2) != order(2, 3)


def test_quality_items_come_in_an_order_of_each_models_own(manager: ModelManager) -> None:
    """Else the hard ones at the end of the list would look like a model that got worse."""
    report = bench(manager, repeats=1, quality=True)
    asked: dict[str, list[str]] = {}
    for run in report.runs:
        if run.phase == "quality":
            asked.setdefault(run.model, []).append(run.cell.rpartition(":")[2])
    check = check_for("text_generation")
    assert check is not None
    names = [item.name for item in check.items]
    assert all(sorted(order) == sorted(names) for order in asked.values())
    assert names not in asked.values()
    assert len({tuple(order) for order in asked.values()}) == len(MODELS)


def test_cold_runs_are_told_apart(manager: ModelManager) -> None:
    """Runs after a load are marked, recorded with its seconds, and no part of the warm medians."""
    report = bench(manager)
    for item in report.results:
        assert item.latency.n == item.throughput.n == 4 * 3
        assert item.cold_latency.n == item.load_seconds.n == 4
        assert item.load_seconds.value == 0.25
        assert item.success.value == 1
    rows = manager.sql(
        "SELECT extra->>'phase', (extra->>'cold')::BOOLEAN, num['load_seconds'], count(*) "
        "FROM executions WHERE extra->>'benchmark' = ? GROUP BY ALL ORDER BY ALL",
        [report.id],
    ).fetchall()
    assert rows == [("cold", True, 0.25, 12), ("warm", False, None, 36)]


@pytest.mark.parametrize("stop_at", [1, 2, 5, 17, 48])
def test_an_interrupted_benchmark_goes_on_where_it_was(
    manager: ModelManager, runtime: Watched, stop_at: int
) -> None:
    """What was done is read back, only the rest is run, and the report is a whole one."""
    runtime.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        bench(manager)
    assert any("same arguments to go on" in message.text for message in manager.messages)
    done = stop_at - 1
    runtime.ran.clear()
    runtime.stop_at = None
    report = bench(manager)
    assert report.resumed == done
    # A visit that was cut short is loaded again, so it has another cold run.
    again = 1 if done % 4 else 0
    assert len(runtime.ran) == 48 - done + again
    assert len({run.cell for run in report.runs}) == 48
    assert len(report.runs) == 48 + again
    assert all(item.latency.n == 12 for item in report.results)
    assert len(manager.sql("FROM executions WHERE success")) == 48 + again
    assert len(manager.sql("SELECT DISTINCT extra->>'benchmark' FROM executions")) == 1


def test_a_finished_benchmark_is_measured_anew(manager: ModelManager, runtime: Watched) -> None:
    """The same call after the end runs everything again, under another id."""
    first = bench(manager, repeats=1)
    second = bench(manager, repeats=1)
    assert second.resumed == 0
    assert first.id != second.id
    assert len(runtime.ran) == 24


@pytest.mark.parametrize(
    "changes",
    [{"seed": 9}, {"inputs": ["x"]}, {"repeats": 5}, {"parameters": {"max_tokens": 3}},
     {"quality": True}, {"models": MODELS[:2]}],
)  # fmt: skip
def test_another_plan_begins_anew(
    manager: ModelManager, runtime: Watched, changes: dict[str, Any]
) -> None:
    """Nothing of an interrupted benchmark is taken for part of a different one."""
    runtime.stop_at = 10
    with pytest.raises(KeyboardInterrupt):
        bench(manager)
    runtime.stop_at = None
    assert bench(manager, **changes).resumed == 0


def test_arrays_are_part_of_the_plan() -> None:
    """Inputs that differ in one number, shape or type are different plans."""
    seen = {
        _digest(value)
        for value in (
            {"a": np.zeros(4)}, {"a": np.zeros(4, np.float32)}, {"a": np.zeros((2, 2))},
            {"a": np.array([0, 0, 0, 1.0])}, {"b": np.zeros(4)}, ["ab", "c"], ["a", "bc"],
            [["a"], "bc"], "abc", b"abc",
        )
    }  # fmt: skip
    assert len(seen) == 10
    assert _digest({"a": 1, "b": 2}) == _digest({"b": 2, "a": 1})


def test_a_failed_load_is_kept_and_not_tried_again(
    tmp_path: Path, profile: HardwareProfile
) -> None:
    """A model that cannot be loaded has one classified failure, the others all their runs."""
    watched = Watched(load_failures={"b": FailureKind.OUT_OF_MEMORY})
    made = ModelManager(
        tmp_path, workbench=Workbench(tmp_path / "home", hardware=profile, runtimes=[watched])
    )
    report = bench(made)
    by_name = {item.model: item for item in report.results}
    assert by_name["b"].failures == {"out_of_memory": 1}
    assert by_name["b"].latency is None
    assert by_name["a"].latency.n == 12
    assert "out_of_memory" in str(report)
    assert bench(made).resumed == 0  # it is finished all the same
    made.pool.close()


def test_a_failed_run_is_kept_beside_the_good_ones(
    tmp_path: Path, profile: HardwareProfile
) -> None:
    """One run that times out costs its own place, and shows in success and in the table."""
    failures = [None, None, FailureKind.TIMEOUT]
    watched = Watched(run_failures=failures)
    made = ModelManager(
        tmp_path, workbench=Workbench(tmp_path / "home", hardware=profile, runtimes=[watched])
    )
    report = bench(made, repeats=1)
    failed = [run for run in report.runs if not run.success]
    assert [run.failure for run in failed] == ["timeout"]
    assert len(report.runs) == 12
    (item,) = [item for item in report.results if item.failures]
    assert item.success.value == pytest.approx(3 / 4)
    assert item.latency.n == 2
    assert len(made.sql("FROM executions WHERE NOT success")) == 1
    made.pool.close()


def test_bad_arguments_are_refused_before_anything_runs(
    manager: ModelManager, runtime: Watched
) -> None:
    """Each says what is allowed; nothing is loaded or recorded."""
    for changes in ({"repeats": 0}, {"repeats": True}, {"repeats": 1.5}, {"inputs": []}):
        with pytest.raises(RequirementError, match=next(iter(changes))):
            bench(manager, **changes)
    with pytest.raises(RequirementError, match="text_generation"):
        manager.benchmark("text_generatoin", MODELS)
    with pytest.raises(UnknownModelError):
        manager.benchmark("text_generation", ["nobody"], progress=False)
    with pytest.raises(NoSuitableModelError, match="not a text generation model"):
        bench(manager, [model("e", task_types=("embedding",))])
    with pytest.raises(RequirementError, match="needs inputs for translation"):
        manager.benchmark("translation", [model("t", task_types=("translation",))])
    with pytest.raises(RequirementError, match="no built-in quality check"):
        manager.benchmark(
            "translation", [model("t", task_types=("translation",))], "x", quality=True
        )
    with pytest.raises(RequirementError, match="max_tokens"):
        bench(manager, parameters={"max_token": 1})
    assert len(manager.sql("FROM executions")) == 0


def test_a_model_that_cannot_do_the_task_is_left_out_with_the_reason(manager: ModelManager) -> None:
    """Of models that were named, the one that falls out is in the report."""
    report = bench(manager, [*MODELS, model("e", task_types=("embedding",))], repeats=1)
    assert list(report.left_out) == ["e"]
    assert "not a text generation model" in str(report)


def test_quality_is_what_selection_learns_from(tmp_path: Path, profile: HardwareProfile) -> None:
    """A model that answers right has its score recorded, and is ranked before one that does not."""

    class Clever(Watched):
        def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
            loaded = super().load(model, options)
            plain = loaded.run

            def run(task: str, inputs: Any, **further: Any) -> RunResult:
                result = plain(task, inputs, **further)
                if model.name != "clever":
                    return result
                return replace(result, output="12" if "7 + 5" in str(inputs) else "Paris")

            loaded.run = run  # type: ignore[method-assign]
            return loaded

    here = Workbench(tmp_path / "home", hardware=profile, runtimes=[Clever()])
    made = ModelManager(tmp_path, workbench=here)
    pair = [model("clever"), model("dull")]
    report = bench(made, pair, inputs="x", repeats=1, quality=True)
    scores = {item.model: item.quality for item in report.results}
    assert [item.model for item in report.results] == ["clever", "dull"]
    assert scores["clever"].n == scores["dull"].n == 60
    assert scores["clever"].value == 2 / 60
    assert scores["dull"].value == 0
    assert scores["clever"].low < 2 / 60 < scores["clever"].high
    rows = made.sql(
        "SELECT model, count(quality), sum(quality) FROM executions GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert rows == [("clever", 60, 2.0), ("dull", 60, 0.0)]
    ranked = made.selector.get_recommended_models(pair, "text_generation")
    learned = {item.model.name: item.part("quality") for item in ranked}
    assert learned["clever"].n == 60
    assert learned["clever"].value > learned["dull"].value
    assert "Short questions in English" in str(report)
    here.pool.close()


def test_a_check_that_cannot_be_put_to_a_model_counts_neither_way(
    tmp_path: Path, profile: HardwareProfile
) -> None:
    """An output that the grader does not know is a note, no score and no failure."""
    here = Workbench(tmp_path / "home", hardware=profile, runtimes=[Watched()])
    made = ModelManager(tmp_path, workbench=here)
    detector = model("v", task_types=("voice_activity_detection",))
    report = made.benchmark(
        "voice_activity_detection", [detector], repeats=1, quality=True, progress=False
    )
    (item,) = report.results
    assert item.quality is None
    assert item.failures == {}
    assert "does not apply" in item.note
    assert made.benchmark(
        "voice_activity_detection", [detector], repeats=1, quality=True, progress=False
    ).resumed == 0  # fmt: skip
    here.pool.close()


def test_frames_hold_every_model_and_every_run(manager: ModelManager) -> None:
    """``pl`` and ``df`` agree, with one row a model or one a run."""
    report = bench(manager, repeats=2)
    frame = report.pl()
    assert frame["model"].to_list() == report.df()["model"].tolist()
    assert set(frame["latency_n"]) == {6}
    assert frame["latency_low"].to_list() == [0.5] * 3
    assert report.pl(runs=True).height == len(report.df(runs=True)) == len(report) == 24
    assert "0.50" in str(report) or "500 ms" in str(report)
    assert report._repr_mimebundle_()["text/html"].count("<tr>") == 4


def test_threads_share_the_pool_of_the_caller(manager: ModelManager, runtime: Watched) -> None:
    """With a thread pool the visits go on side by side, and all of it is recorded once."""
    with ThreadPoolExecutor(2) as executor:
        report = bench(manager, executor=executor)
    assert len(report.runs) == 48
    assert len(runtime.ran) == 48
    assert len(manager.sql("FROM executions")) == 48
    assert {run.hardware for run in report.runs} == {manager._bench.hardware.fingerprint}


@pytest.fixture
def real(demo_directory: Path, home: Path, profile: HardwareProfile) -> Iterator[ModelManager]:
    made = ModelManager(
        [demo_directory / "magika-standard-v3.3", demo_directory / "silero-vad"],
        workbench=Workbench(home, hardware=profile), seed=0,
    )  # fmt: skip
    yield made
    made.pool.close()
    made.store.close()


def check_elsewhere(manager: ModelManager, executor: Any) -> None:
    report = manager.benchmark(
        "file_type", repeats=3, quality=True, executor=executor, progress=False
    )
    assert len(report.runs) == 3 * 4 + 16
    assert all(run.success for run in report.runs)
    (item,) = report.results
    assert item.quality is not None
    assert item.quality.n == 16
    rows = manager.sql("SELECT count(*), count(DISTINCT session) FROM executions").fetchall()
    assert rows == [(28, 1)]
    ours = manager.sql("SELECT DISTINCT session FROM executions").fetchall()
    loads = manager.sql("SELECT DISTINCT session FROM loads").fetchall()
    assert loads
    assert not set(ours) & set(loads)  # they were loaded by other processes
    assert manager.get_resource_usage().loaded == ()


@pytest.mark.models
def test_processes_carry_it(real: ModelManager) -> None:
    """What crosses the border of a process pickles; the executions are recorded here, once."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        check_elsewhere(real, executor)


@pytest.mark.models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_dask_cluster_carries_it(real: ModelManager) -> None:
    """A local Dask cluster of two processes runs the visits through its executor."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1", silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        check_elsewhere(real, client.get_executor())


@pytest.mark.models
def test_the_voice_check_tells_a_sound_model_from_a_mute_one(real: ModelManager) -> None:
    """The real detector gets most of the signals right, which no constant answer does (9 of 14)."""
    report = real.benchmark("voice_activity_detection", repeats=1, quality=True, progress=False)
    (item,) = report.results
    assert item.quality is not None
    assert item.quality.value >= 12 / 14
    assert item.failures == {}
