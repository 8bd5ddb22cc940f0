"""Faults that other selectors have, each shown to be absent on the product's whole way.

Executions are recorded in a real store, and the selector reads them from there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError, RuntimeFailureError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.messages import MessageLog
from ravenxterm_lab.models.running import Request, run_selection
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import FailedLoads, Recommendations, failures_against
from ravenxterm_lab.store import Store

GIB = 2**30
TASK = "text_generation"
SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
#: The same moment, as the store gives it: UTC, without a zone.
MOMENT = datetime.fromisoformat("2027-01-15 08:00:00")


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
    instruction_sets=("avx2",), total_memory=16 * GIB, available_memory=16 * GIB,
    memory_bandwidth=40e9,
)  # fmt: skip


def made(name: str, size: int = GIB, **changes: Any) -> ModelMetadata:
    values: dict[str, Any] = {
        "task_types": (TASK,), "runtimes": ("fake",), "preferred_hardware": (HardwareType.CPU,),
        "fingerprint": f"print-{name}", "quantization": "Q8_0", "parameter_count": size,
        "context_length": 8192, "embedding_length": 1024, "vocabulary_size": 32_000,
        "attention": AttentionGeometry((8,) * 16, 64, 64),
    }  # fmt: skip
    return ModelMetadata(name, ModelType.GGUF, Path(name), size, **{**values, **changes})


class Broken(FakeRuntime):
    """Cannot load some models, and counts how often it was asked to."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.broken: dict[str, FailureKind] = {}
        self.asked: Counter[str] = Counter()
        self.number = "1"

    def version(self) -> str | None:
        return self.number

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        self.asked[model.name] += 1
        kind = self.broken.get(model.name)
        if kind is not None:
            raise RuntimeFailureError(f"{model.name} cannot be loaded.", kind)
        return super().load(model, options)


class Lab:
    """A manager whose clock a test sets."""

    def __init__(self, home: Path) -> None:
        self.runtime = Broken()
        self.bench = Workbench(home, hardware=MACHINE, runtimes=[self.runtime])
        self.now = START
        self.bench.store.close()
        self.bench.store = Store(self.bench.paths.store, clock=lambda: self.now, ingest=False)
        self.bench.messages = MessageLog(self.bench.store)
        moment = MOMENT
        self.bench.now = lambda: str(  # type: ignore[method-assign]
            moment + timedelta(microseconds=(self.now - START) // 1000)
        )
        preferences = UserPreferences(keep_alive_seconds=0)
        self.manager = ModelManager(
            home / "none", workbench=self.bench, preferences=preferences, seed=0
        )

    def record(self, name: str, times: int = 1, task: str = TASK, **metrics: Any) -> None:
        for _ in range(times):
            self.now += SECOND
            self.bench.record_execution(
                model=name, fingerprint=f"print-{name}", task=task,
                hardware=MACHINE.fingerprint, metrics=metrics,
            )  # fmt: skip

    def rank(self, *models: ModelMetadata, **preferences: Any) -> Recommendations:
        selector = self.manager.selector
        selector.preferences = selector.preferences.updated(**preferences)
        return selector.get_recommended_models(list(models), TASK)

    def run(self, *models: ModelMetadata, **wants: Any) -> str:
        wanted = TaskRequirements.parse(wants, TASK)
        selection = self.manager.selector.select(list(models), requirements=wanted, explore=False)
        request = Request("hello", {"max_tokens": 4})
        return run_selection(self.bench, self.bench.pool, selection, wanted, request).model.name


@pytest.fixture
def lab(home: Path) -> Iterator[Lab]:
    made_lab = Lab(home)
    yield made_lab
    made_lab.bench.pool.close()
    made_lab.bench.store.close()


def names(ranked: Recommendations) -> list[str]:
    return [item.model.name for item in ranked]


@pytest.mark.parametrize("mode", ["speed", "balanced", "memory"])
def test_a_slow_starter_does_not_win_by_writing_more(lab: Lab, mode: str) -> None:
    """Time to first token counts in seconds, not divided by the tokens of the answer."""
    for _ in range(20):
        # Per token: 0.02 s against 0.03 s to the first one; the prompt one answers sooner.
        lab.record("late", throughput=50.0, tokens_out=400, time_to_first_token=8.0)
        lab.record("prompt", throughput=50.0, tokens_out=10, time_to_first_token=0.3)
    ranked = lab.rank(made("late"), made("prompt"), performance_mode=mode)
    assert names(ranked) == ["prompt", "late"]
    waits = {item.model.name: item.part("latency").value for item in ranked}
    assert waits["late"] - waits["prompt"] > 7.7


@pytest.mark.parametrize("mode", ["speed", "balanced", "memory"])
def test_less_latency_is_better_in_every_mode(lab: Lab, mode: str) -> None:
    """Of two models that differ in latency alone the quicker one scores higher."""
    for rate, name in ((100.0, "quick"), (5.0, "slow")):
        lab.record(name, 20, throughput=rate, tokens_out=100, quality=0.7)
    ranked = lab.rank(made("slow"), made("quick"), performance_mode=mode)
    assert names(ranked) == ["quick", "slow"]
    quick, slow = (item.part("latency") for item in ranked)
    assert quick.value < slow.value
    assert quick.contribution > slow.contribution


def test_neither_size_nor_a_name_is_taken_for_capability(lab: Lab) -> None:
    """Before anything was measured every model is expected to be as good as any other."""
    ranked = lab.rank(
        made("tiny-135m", GIB // 8, parameter_count=135_000_000),
        made("huge-70b-instruct", 7 * GIB, parameter_count=70_000_000_000),
        accuracy_preference="high",
    )
    assert {item.part("quality").value for item in ranked} == {0.5}
    assert {item.part("quality").source for item in ranked} == {"prior: 0.5 for every model"}
    assert names(ranked)[0] == "tiny-135m"


def test_every_mode_is_alive(lab: Lab) -> None:
    """Speed, balanced and memory each choose another model, and so do low and high accuracy."""
    facts = {"fast": (4, 300.0, 0.42), "even": (4, 45.0, 0.72), "small": (0.1, 14.0, 0.55),
             "good": (6, 9.0, 0.98)}  # fmt: skip
    for name, (_, rate, quality) in facts.items():
        lab.record(name, 60, throughput=rate, tokens_out=100, quality=quality,
                   time_to_first_token=0.1)  # fmt: skip
    models = [made(name, int(size * GIB)) for name, (size, _, _) in facts.items()]
    # All of them loaded, or else the seconds of a load would decide.
    lab.bench.resident = lambda: (frozenset(facts), 0)  # type: ignore[method-assign]
    chosen = {
        (mode, level): lab.rank(*models, performance_mode=mode, accuracy_preference=level)[0]
        for mode in ("speed", "balanced", "memory")
        for level in ("low", "medium", "high")
    }
    first = {key: item.model.name for key, item in chosen.items()}
    assert first["speed", "medium"] == "fast"
    assert first["balanced", "medium"] == "even"
    assert first["memory", "medium"] == "small"
    assert first["balanced", "high"] == "good"
    weights = {tuple(part.weight for part in item.parts) for item in chosen.values()}
    assert len(weights) == 9


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"quality": 0.9}, {"quality": 0.2}),
        ({"throughput": 80.0}, {"throughput": 4.0}),
        ({"throughput": 20.0, "time_to_first_token": 0.1},
         {"throughput": 20.0, "time_to_first_token": 9.0}),
        ({"throughput": 20.0, "tokens_out": 30}, {"throughput": 20.0, "tokens_out": 900}),
        ({"success": True}, {"success": False}),
    ],
)  # fmt: skip
def test_every_outcome_that_is_recorded_is_read(
    lab: Lab, better: dict[str, Any], worse: dict[str, Any]
) -> None:
    """Quality, speed, time to first token, length and success each turn a tie around."""
    a, b = made("a"), made("b")
    tie = lab.rank(a, b)
    assert tie[0].score == pytest.approx(tie[1].score)
    lab.record("b", 30, **better)
    lab.record("a", 30, **worse)
    assert names(lab.rank(a, b)) == ["b", "a"]


def test_a_judgement_that_comes_late_is_read(lab: Lab) -> None:
    """Feedback on earlier runs, by execution, turns the ranking around."""
    a, b = made("a"), made("b")
    for name, quality in (("a", 0.0), ("b", 1.0)):
        for _ in range(15):
            lab.now += SECOND
            run = lab.bench.record_execution(
                model=name, fingerprint=f"print-{name}", task=TASK,
                hardware=MACHINE.fingerprint, metrics={"latency": 1.0},
            )  # fmt: skip
            lab.manager.feedback(run, quality)
    assert names(lab.rank(a, b)) == ["b", "a"]


def test_what_failed_for_a_while_is_not_avoided_for_ever(lab: Lab) -> None:
    """However many failures came in a row, in three weeks they weigh next to nothing."""

    def reliability() -> tuple[float, float]:
        found = {item.model.name: item.reliability for item in lab.rank(made("a"), made("b"))}
        return found["a"], found["b"]

    lab.record("a", 20)
    lab.record("b", 300, success=False)
    broken = [reliability()[1]]
    for _ in range(10):
        lab.now += 2 * 86_400 * SECOND
        broken.append(reliability()[1])
    assert broken[0] < 0.1
    assert broken == sorted(broken)
    sound, mended = reliability()
    assert mended > 0.95 * sound


def test_a_wait_neither_grows_nor_goes_on_for_ever() -> None:
    """After 3 failures or after 300 the wait is the same, and a try follows it."""
    now = MOMENT
    for kind, longest in ((FailureKind.CORRUPT, 86_400), (FailureKind.OUT_OF_MEMORY, 600)):
        waits = set()
        for count in (3, 30, 300):
            failed = FailedLoads(count, kind.value, "no", now)
            assert failed.until is not None
            waits.add((failed.until - now).total_seconds())
            assert failures_against(failed, now) is not None
            assert failures_against(failed, failed.until) is None
        assert waits == {longest}


@pytest.mark.parametrize("kind", [FailureKind.CORRUPT, FailureKind.UNSUPPORTED])
def test_a_model_that_cannot_load_is_not_tried_at_every_run(lab: Lab, kind: FailureKind) -> None:
    """Of 60 runs in an hour two try it, though the person weighs it a hundred times."""
    lab.runtime.broken["bad"] = kind
    bad, good = made("bad"), made("good")
    lab.rank(model_weights={"bad": 100.0})
    for _ in range(60):
        lab.now += 60 * SECOND
        assert lab.run(bad, good) == "good"
    assert lab.runtime.asked["bad"] == 2
    ranked = lab.rank(bad, good)
    assert ranked.rejected[0].constraint == "failed_loads"
    why = ranked.why_not("bad")
    assert "bad cannot be loaded" in why.reason
    assert "replace its file" in why.reason
    assert not why.change


def test_a_lack_of_memory_is_tried_again_every_ten_minutes(lab: Lab) -> None:
    """What may pass is tried more often: at most nine loads in an hour of 60 runs."""
    lab.runtime.broken["bad"] = FailureKind.RUNTIME_ERROR
    bad, good = made("bad"), made("good")
    lab.rank(model_weights={"bad": 100.0})
    for _ in range(60):
        lab.now += 60 * SECOND
        lab.run(bad, good)
    assert 3 < lab.runtime.asked["bad"] <= 9


def test_what_runs_with_a_smaller_context_is_not_given_up(lab: Lab) -> None:
    """A lack of memory that the plan overcomes at each run does not reject the model."""
    failed = FailedLoads(30, FailureKind.OUT_OF_MEMORY.value, "no", MOMENT)
    assert failures_against(failed, MOMENT) is not None
    assert failures_against(replace(failed, otherwise=True), MOMENT) is None
    real = lab.runtime.load

    def load(model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        if options is not None and (options.context_length or 0) > 4000:
            raise RuntimeFailureError("too much", FailureKind.OUT_OF_MEMORY)
        return real(model, options)

    lab.runtime.load = load  # type: ignore[method-assign]
    for _ in range(6):
        lab.now += 60 * SECOND
        assert lab.run(made("only")) == "only"
    assert len(lab.rank(made("only"))) == 1


def test_a_model_that_failed_is_tried_when_something_changed(lab: Lab, tmp_path: Path) -> None:
    """Another file, another context, another engine, a day: each gives it another chance."""
    lab.runtime.broken["bad"] = FailureKind.UNSUPPORTED
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"old")
    bad, good = replace(made("bad"), path=file), made("good")
    os.utime(file, ns=(START, START))
    lab.rank(model_weights={"bad": 100.0})

    def tries(model: ModelMetadata = bad, **wants: Any) -> int:
        before = lab.runtime.asked["bad"]
        for _ in range(3):
            lab.now += SECOND
            lab.run(model, good, **wants)
        return lab.runtime.asked["bad"] - before

    assert tries() == 2
    assert tries() == 0
    assert tries(replace(bad, fingerprint="another")) == 2
    assert tries(min_context_length=8000) == 2
    lab.runtime.number = "2"
    assert tries() == 2
    assert tries() == 0
    os.utime(file, ns=(lab.now + SECOND, lab.now + SECOND))
    lab.now += 2 * SECOND
    assert tries() > 0
    lab.now += 86_400 * SECOND
    lab.runtime.broken.clear()
    assert lab.run(bad, good) == "bad"
    assert tries() >= 0
    assert lab.rank(bad, good)[0].model.name == "bad"


def test_the_only_model_that_fails_says_so(lab: Lab) -> None:
    """With no other candidate the error says what failed before and when it is tried again."""
    lab.runtime.broken["bad"] = FailureKind.CORRUPT
    for _ in range(2):
        with pytest.raises(NoSuitableModelError):
            lab.run(made("bad"))
    with pytest.raises(NoSuitableModelError, match="tried again in 2"):
        lab.run(made("bad"))
    assert lab.runtime.asked["bad"] == 2


def test_a_decision_asks_the_store_a_fixed_number_of_times(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many models and runs there are, a warm decision reads no database at all."""
    models = [made(f"m{number}", GIB // 8) for number in range(60)]
    for model in models:
        lab.record(model.name, 2, throughput=20.0, quality=0.5)
    lab.rank(*models)
    asked: list[str] = []
    store = type(lab.bench.store)
    original = {"rows": store.rows, "sql": store.sql}
    for name, real in original.items():

        def counting(self: Any, query: str, *rest: Any, real: Any = real, **more: Any) -> Any:
            asked.append(query)
            return real(self, query, *rest, **more)

        monkeypatch.setattr(store, name, counting)
    for _ in range(5):
        lab.rank(*models)
    assert len(asked) <= 1, asked


def test_physics_is_worked_out_once_a_model(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second ranking of the same models computes no speed anew: that is what routing costs."""
    from ravenxterm_lab.estimation import estimator

    models = [made(f"m{number}", GIB // 8) for number in range(20)]
    lab.rank(*models)
    counted = Counter[str]()
    real = estimator.estimate_speed

    def counting(model: ModelMetadata, **options: Any) -> Any:
        counted[model.name] += 1
        return real(model, **options)

    monkeypatch.setattr(estimator, "estimate_speed", counting)
    for _ in range(5):
        lab.rank(*models)
    assert not counted
