"""The plan: which step follows which failure, what is never tried, and what is told and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError, RuntimeFailureError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.fallback import FallbackPlan, tokens_needed
from ravenxterm_lab.models.run_report import RunReport
from ravenxterm_lab.models.running import Request, make_planner, run_selection
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime

GIB = 2**30
TASK = "text_generation"
SHORT = {"max_tokens": 8}
Judge = Callable[[ModelMetadata, LoadOptions], FailureKind | None]


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
    instruction_sets=("avx2",), total_memory=16 * GIB, available_memory=12 * GIB,
    memory_bandwidth=40e9,
)  # fmt: skip


class Judged(FakeRuntime):
    """Loads what a judge lets pass, and notes everything that was asked for."""

    def __init__(self, judge: Judge = lambda model, options: None, name: str = "fake") -> None:
        super().__init__(name)
        self.judge = judge
        self.asked: list[tuple[str, str]] = []

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        assert options is not None
        self.asked.append((model.name, options.settings))
        kind = self.judge(model, options)
        if kind is not None:
            raise RuntimeFailureError(f"{model.name} was judged.", kind)
        return super().load(model, options)


def made(name: str, size: int = GIB, **changes: Any) -> ModelMetadata:
    values: dict[str, Any] = {
        "task_types": (TASK,), "runtimes": ("fake",), "preferred_hardware": (HardwareType.CPU,),
        "fingerprint": f"print-{name}", "quantization": "Q8_0", "architecture": "llama",
        "parameter_count": size, "context_length": 8192, "embedding_length": 1024,
        "vocabulary_size": 32_000, "attention": AttentionGeometry((8,) * 16, 64, 64),
        "tensor_bytes": {"Q8_0": size},
    }  # fmt: skip
    return ModelMetadata(name, ModelType.GGUF, Path(name), size, **{**values, **changes})


class Lab:
    """A manager on a made-up machine, and the two models that it ranks: a, then b."""

    def __init__(self, home: Path, *runtimes: FakeRuntime, machine: HardwareProfile = MACHINE):
        bench = Workbench(home, hardware=machine, runtimes=list(runtimes))
        preferences = UserPreferences(model_weights={"a": 50.0})
        self.manager = ModelManager(home / "none", workbench=bench, preferences=preferences)
        self.bench = bench

    def run(
        self, *models: ModelMetadata, inputs: Any = "hello", requirements: Any = None, **asked: Any
    ) -> RunReport:
        wanted = TaskRequirements.parse(requirements, TASK)
        selection = self.manager.selector.select(list(models), requirements=wanted, explore=False)
        request = Request(inputs, **{"parameters": SHORT, **asked})
        return run_selection(self.bench, self.bench.pool, selection, wanted, request)

    def plan(self, *models: ModelMetadata, inputs: Any = "hello", **wants: Any) -> FallbackPlan:
        wanted = TaskRequirements.parse(wants, TASK)
        selection = self.manager.selector.select(list(models), requirements=wanted, explore=False)
        request = Request(inputs, SHORT)
        return make_planner(self.bench, selection, wanted, request).plan()

    def close(self) -> None:
        self.bench.pool.close()
        self.bench.store.close()


@pytest.fixture
def lab(home: Path) -> Any:
    labs: list[Lab] = []

    def make(*runtimes: FakeRuntime, machine: HardwareProfile = MACHINE) -> Lab:
        labs.append(Lab(home, *runtimes, machine=machine))
        return labs[-1]

    yield make
    for one in labs:
        one.close()


def too_large(most: int) -> Judge:
    """Let pass what has at most so many tokens of context."""

    def judge(model: ModelMetadata, options: LoadOptions) -> FailureKind | None:
        fits = (options.context_length or 0) <= most
        return None if fits else FailureKind.OUT_OF_MEMORY

    return judge


def steps(report: RunReport) -> list[tuple[str, str, FailureKind | None]]:
    return [(item.model, item.step, item.failure) for item in report.attempts]


OOM = FailureKind.OUT_OF_MEMORY


def test_a_lack_of_memory_is_answered_with_smaller_settings_of_the_same_model(lab: Any) -> None:
    """Half of the context, then the least that will do; each attempt is told and recorded."""
    runtime = Judged(too_large(1000))
    bench = lab(runtime)
    report = bench.run(made("a"), made("b"))
    assert steps(report) == [
        ("a", "as asked", OOM), ("a", "context 2,048", OOM), ("a", "context 256", None),
    ]  # fmt: skip
    assert report.attempts[-1].settings == "ctx=256 kv=f16"
    assert all(item.seconds > 0 for item in report.attempts)
    rows = bench.manager.sql(
        "SELECT settings, success, extra->>'step', num['attempt'], extra->>'failure' "
        "FROM executions ORDER BY seq"
    ).fetchall()
    assert rows == [
        ("ctx=4096 kv=f16", False, "as asked", 1, "out_of_memory"),
        ("ctx=2048 kv=f16", False, "context 2,048", 2, "out_of_memory"),
        ("ctx=256 kv=f16", True, "context 256", 3, None),
    ]
    assert bench.manager.sql("SELECT settings, success FROM loads ORDER BY seq").fetchall() == [
        row[:2] for row in rows
    ]
    told = [message.text for message in bench.manager.messages]
    assert "a was judged. Trying a (context 2,048) next." in told
    assert "context 2,048" in str(report)
    assert "ctx=2048 kv=f16" in str(report)


def test_after_the_least_context_the_cache_is_quantised_and_then_the_next_model_comes(
    lab: Any,
) -> None:
    """When nothing of a fits, each of its steps is tried once, then b answers as asked."""
    runtime = Judged(lambda model, options: OOM if model.name == "a" else None)
    report = lab(runtime).run(made("a"), made("b"))
    assert steps(report) == [
        ("a", "as asked", OOM), ("a", "context 2,048", OOM), ("a", "context 256", OOM),
        ("a", "context 256, KV cache q8_0", OOM), ("b", "as asked", None),
    ]  # fmt: skip
    assert len(set(runtime.asked)) == len(runtime.asked)


def test_the_context_holds_the_input_and_what_is_required(lab: Any) -> None:
    """No step has less than the bytes of the input, or than min_context_length."""
    bench = lab(Judged())
    long = bench.plan(made("a"), inputs="x" * 1500)
    assert [step.options.context_length for step in long] == [4096, 2048, 1792, 1792]
    required = bench.plan(made("a"), min_context_length=3000)
    assert [step.options.context_length for step in required] == [4096, 3072, 3072]
    all_of_it = bench.plan(made("a"), inputs="x" * 4090)
    assert [step.change for step in all_of_it] == ["as asked", "KV cache q8_0"]


@pytest.mark.parametrize("inputs", ["ü" * 700, ["short", "ü" * 700], [{"role": "user",
                         "content": "ü" * 700}]])  # fmt: skip
def test_a_token_is_at_least_a_byte(inputs: Any) -> None:
    """Text, lists and messages are counted in UTF-8 bytes, with the answer and the template."""
    needed = tokens_needed(TASK, inputs, {"max_tokens": 100}, TaskRequirements())
    assert needed is not None
    assert 1500 < needed < 1700
    assert tokens_needed("embedding", "a", None, TaskRequirements()) is None
    assert tokens_needed(TASK, 7, None, TaskRequirements()) is None


def test_what_cannot_fit_is_not_tried_and_the_plan_says_so(lab: Any) -> None:
    """A step beyond the budget is refused with its bytes, and a run passes it over."""
    runtime = Judged(too_large(1000))
    bench = lab(runtime)
    model = made("a")
    selection = bench.manager.selector.select([model], TASK)
    # Memory got scarce after the selection: only the smallest settings fit now.
    least = bench.bench.estimator.memory(
        model, LoadOptions(context_length=256, kv_type="q8_0")
    ).total_bytes
    tight = replace(MACHINE, available_memory=int(least * 1.101))
    bench.bench.hardware = tight
    wanted, request = TaskRequirements.parse(None, TASK), Request("hello", SHORT)
    plan = make_planner(bench.bench, selection, wanted, request).plan()
    assert [bool(step.refused) for step in plan] == [False, True, True, False]
    assert "may be taken" in plan.steps[1].refused
    assert plan.steps[1].refused in str(plan)
    report = run_selection(bench.bench, bench.bench.pool, selection, wanted, request)
    assert steps(report) == [("a", "as asked", OOM), ("a", "context 256, KV cache q8_0", None)]


@pytest.mark.parametrize("kind", [FailureKind.CORRUPT, FailureKind.UNSUPPORTED,
                         FailureKind.TIMEOUT, FailureKind.RUNTIME_ERROR])  # fmt: skip
def test_other_failures_of_a_load_go_to_the_next_model_at_once(lab: Any, kind: FailureKind) -> None:
    """A smaller context mends no damaged file, and no crash of a load."""
    runtime = Judged(lambda model, options: kind if model.name == "a" else None)
    report = lab(runtime).run(made("a"), made("b"))
    assert steps(report) == [("a", "as asked", kind), ("b", "as asked", None)]


def test_a_missing_runtime_rules_out_all_that_needs_it(lab: Any) -> None:
    """Of two models of a runtime that is missing, one is tried, and another runtime answers."""
    missing = Judged(lambda model, options: FailureKind.MISSING_RUNTIME, "gone")
    bench = lab(Judged(), missing)
    gone = {"runtimes": ("gone",)}
    report = bench.run(made("a", **gone), made("b", GIB + 1, **gone), made("c", 2 * GIB))
    assert steps(report)[-1] == ("c", "as asked", None)
    assert len(missing.asked) == 1
    with pytest.raises(NoSuitableModelError) as caught:
        bench.run(made("a", **gone), made("b", **gone))
    assert "the runtime gone is missing" in caught.value.reasons["b"]


def test_a_model_whose_worker_died_is_tried_once_more(lab: Any) -> None:
    """A crash in mid-run is tried again in a new worker; a second crash goes to the next."""
    runtime = Judged()
    runtime._script.run_failures.extend([FailureKind.RUNTIME_ERROR] * 2)
    crash = FailureKind.RUNTIME_ERROR
    report = lab(runtime).run(made("a"), made("b"))
    assert steps(report) == [
        ("a", "as asked", crash),
        ("a", "as asked, in a new worker", crash),
        ("b", "as asked", None),
    ]
    assert [name for name, _ in runtime.asked] == ["a", "a", "b"]


def test_a_timeout_goes_to_the_next_model_though_the_worker_lives(lab: Any) -> None:
    """What was too slow once is not asked again."""
    runtime = Judged()
    runtime._script.run_failures.append(FailureKind.TIMEOUT)
    report = lab(runtime).run(made("a"), made("b"))
    assert steps(report) == [("a", "as asked", FailureKind.TIMEOUT), ("b", "as asked", None)]


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(FailureKind), min_size=12, max_size=12))
def test_whatever_fails_how_the_way_follows_the_plan_and_ends(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[FailureKind]
) -> None:
    """Everything that is tried stands in the plan, in its order, and nothing is loaded twice."""
    failures = iter(kinds)
    runtime = Judged(lambda model, options: next(failures))
    bench = Lab(tmp_path_factory.mktemp("home"), runtime)
    models = [made("a"), made("b", 2 * GIB), made("c", GIB // 2)]
    planned = [(s.item.model.name, s.options.settings) for s in bench.plan(*models)]
    with pytest.raises(NoSuitableModelError) as caught:
        bench.run(*models)
    assert set(caught.value.reasons) == {"a", "b", "c"}
    assert [planned.index(one) for one in runtime.asked] == sorted(
        {planned.index(one) for one in runtime.asked}
    )
    bench.close()


def test_on_a_card_fewer_layers_and_the_cpu_follow(lab: Any) -> None:
    """Where it ran on a GPU, half of the layers are tried there, and then the CPU, as asked."""
    card = HardwareProfile.simulate("RTX 4090 24GB, 64 GiB RAM")
    values = {name: getattr(card, name) for name in card.__dataclass_fields__}
    machine = StillMachine(**values)
    both = (HardwareType.CUDA, HardwareType.CPU)
    on_card = Judged(lambda model, options: OOM if options.device is not HardwareType.CPU else None)
    report = lab(on_card, machine=machine).run(made("a", preferred_hardware=both))
    assert [item.step for item in report.attempts] == [
        "as asked", "context 2,048", "context 256", "context 256, KV cache q8_0",
        "8 GPU layers", "on the CPU",
    ]  # fmt: skip
    assert report.attempts[-1].settings == "ctx=4096 kv=f16"


def test_the_plan_can_be_looked_at_and_changes_nothing(home: Path) -> None:
    """manager.plan runs and records nothing; with no models it says where to look."""
    bench = Workbench(home, hardware=MACHINE, runtimes=[Judged()])
    manager = ModelManager(home / "none", workbench=bench, preferences=UserPreferences())
    plan = manager.plan(TASK, "hello")
    assert (len(plan), list(plan)) == (0, [])
    assert "No candidate" in str(plan)
    assert "No candidate" in plan._repr_mimebundle_()["text/html"]
    assert len(manager.sql("FROM selections")) == 0
    manager.store.close()
