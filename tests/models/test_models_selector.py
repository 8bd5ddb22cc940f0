"""The selector on made-up candidates: constraints are never broken, reasons can be acted on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import RequirementError, UnknownModelError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, Workbench, sifting
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import Recommendations

GIB = 2**30
MACHINE = HardwareProfile(
    cpu_architecture="x86_64",
    cpu_name="made up",
    cpu_cores=8,
    cpu_threads=16,
    instruction_sets=("avx2",),
    total_memory=16 * GIB,
    available_memory=12 * GIB,
    memory_bandwidth=40e9,
)


class StillMachine(HardwareProfile):
    """A profile that stays as it was made, so that a test decides how much memory is free."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


def machine(total: int = 16 * GIB, available: int = 12 * GIB) -> HardwareProfile:
    return StillMachine(
        cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
        instruction_sets=("avx2",), total_memory=total, available_memory=available,
        memory_bandwidth=40e9,
    )  # fmt: skip


def made(name: str, size: int = GIB, **changes: object) -> ModelMetadata:
    values: dict[str, object] = {
        "task_types": ("text_generation",),
        "runtimes": ("fake",),
        "preferred_hardware": (HardwareType.CPU,),
        "supports_batching": True,
        "fingerprint": f"print-{name}",
        "quantization": "Q8_0",
        "context_length": 8192,
        "embedding_length": 1024,
        "vocabulary_size": 32_000,
        "attention": AttentionGeometry((8,) * 16, 64, 64),
        "license": "mit",
    }
    return ModelMetadata(name, ModelType.GGUF, Path(name), size, **{**values, **changes})


@pytest.fixture
def selector(tmp_path: Path) -> AdaptiveModelSelector:
    return on(tmp_path, machine())


def on(home: Path, hardware: HardwareProfile, **preferences: object) -> AdaptiveModelSelector:
    bench = Workbench(home, hardware=hardware, runtimes=[FakeRuntime("fake")])
    return AdaptiveModelSelector(UserPreferences(**preferences), workbench=bench, seed=0)


def test_a_recommendation_unpacks_and_explains_itself(selector: AdaptiveModelSelector) -> None:
    """Each item is (model, score), best first, with parts that add up to its score."""
    ranked = selector.get_recommended_models([made("a"), made("b", 2 * GIB)], "text-generation")
    assert [model.name for model, _ in ranked] == ["a", "b"]
    assert ranked[0].score >= ranked[1].score
    for item in ranked:
        total = sum(part.contribution for part in item.parts)
        assert item.score == pytest.approx(total * item.reliability * item.person_weight)
    text = ranked[0].explain()
    assert "prior" in text
    assert "P(best)" in text


def test_a_mapping_and_top_k_are_accepted(selector: AdaptiveModelSelector) -> None:
    """A mapping by name works like a list, and top_k cuts the ranking."""
    models = {name: made(name) for name in "abc"}
    assert len(selector.get_recommended_models(models, "text_generation", 2)) == 2
    for bad in (0, -1, True, 1.5):
        with pytest.raises(RequirementError, match="top_k"):
            selector.get_recommended_models(models, "text_generation", bad)
    for bad in (["a"], None, 5, made("a")):
        with pytest.raises(RequirementError, match="ModelMetadata"):
            selector.get_recommended_models(bad, "text_generation")


@pytest.mark.parametrize(
    ("changes", "requirements", "constraint"),
    [
        ({"problems": ("missing shard 2 of 3",)}, {}, "problems"),
        ({"task_types": ("embedding",)}, {}, "task_type"),
        ({"task_types": ()}, {}, "task_type"),
        ({"runtimes": (), "runtime_gap": "pip install x"}, {}, "runtime"),
        ({}, {"model_types": ["onnx"]}, "model_types"),
        ({}, {"quantizations": ["Q4_0"]}, "quantizations"),
        ({}, {"license": "apache-2.0"}, "license"),
        ({}, {"max_size_bytes": 1000}, "max_size_bytes"),
        ({}, {"min_context_length": 10_000}, "min_context_length"),
        ({}, {"required_hardware": ["cuda"]}, "required_hardware"),
        ({"supports_batching": False}, {"requires_batching": True}, "requires_batching"),
        ({}, {"max_memory_bytes": 10}, "max_memory_bytes"),
        ({"size_bytes": 14 * GIB}, {}, "max_memory_usage"),
        ({"size_bytes": 60 * GIB}, {}, "max_memory_usage"),
        ({"attention": None}, {}, "memory"),
        ({}, {"max_latency": 0.001}, "max_latency"),
        ({}, {"min_throughput": 10_000}, "min_throughput"),
        ({}, {"min_quality": 0.5}, "min_quality"),
        ({"preferred_hardware": (HardwareType.CUDA,)}, {}, "preferred_devices"),
    ],
)
def test_each_constraint_binds_alone_and_names_itself(
    selector: AdaptiveModelSelector,
    changes: dict[str, object],
    requirements: dict[str, object],
    constraint: str,
) -> None:
    """A candidate that breaks one constraint falls out under that name, with a reason in words."""
    size = changes.pop("size_bytes", GIB)
    ranked = selector.get_recommended_models(
        [made("m", size, **changes)], "text_generation", requirements=requirements
    )
    assert len(ranked) == 0
    assert ranked.rejected[0].constraint == constraint
    assert str(ranked.rejected[0]) in str(ranked.why_not("m"))


sizes = st.integers(10 * 2**20, 20 * GIB)
situations = st.fixed_dictionaries(
    {},
    optional={
        "max_size_bytes": sizes,
        "min_context_length": st.integers(1, 16_384),
        "max_memory_bytes": sizes,
        "quantizations": st.lists(st.sampled_from(["Q8_0", "Q4_0"]), min_size=1, max_size=2),
        "requires_batching": st.booleans(),
        "max_latency": st.floats(0.01, 100),
        "min_throughput": st.floats(0.1, 500),
        "license": st.lists(st.sampled_from(["mit", "apache-2.0"]), min_size=1, max_size=2),
    },
)
candidates = st.lists(
    st.builds(
        made,
        st.sampled_from([f"m{i}" for i in range(6)]),
        sizes,
        quantization=st.sampled_from(["Q8_0", "Q4_0"]),
        license=st.sampled_from(["mit", "apache-2.0", None]),
        context_length=st.sampled_from([512, 8192, 131_072]),
        supports_batching=st.booleans(),
        attention=st.sampled_from([None, AttentionGeometry((8,) * 16, 64, 64)]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda model: model.name,
)
PREFERENCES = {"max_memory_usage", "preferred_devices", "model_weights"}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(candidates, situations, st.floats(0.05, 1.0), st.integers(GIB, 64 * GIB))
def test_no_constraint_is_broken_and_every_change_that_is_offered_works(
    tmp_path: Path,
    models: list[ModelMetadata],
    requirements: dict[str, object],
    usage: float,
    total: int,
) -> None:
    """Feasible candidates meet every constraint; the smallest change lifts the one that bound."""
    hardware = machine(total, total)
    fixed = {"max_memory_usage": usage, "enable_adaptive_selection": False}
    here = on(tmp_path, hardware, **fixed)
    ranked = here.get_recommended_models(models, "text_generation", requirements=requirements)
    wanted = TaskRequirements.parse(requirements)
    assert len(ranked) + len(ranked.rejected) == len(models)
    for item in ranked:
        model = item.model
        assert wanted.max_size_bytes is None or model.size_bytes <= wanted.max_size_bytes
        assert not wanted.min_context_length or model.context_length >= wanted.min_context_length
        assert item.memory.total_bytes * 1.1 <= int(total * usage) + 1
        assert not wanted.requires_batching or model.supports_batching
        assert wanted.license is None or model.license in wanted.license
    for rejection in ranked.rejected:
        assert rejection.reason
        if not rejection.change:
            continue
        changed = {k: v for k, v in rejection.change.items() if k not in PREFERENCES}
        preferences = {k: v for k, v in rejection.change.items() if k in PREFERENCES}
        there = on(tmp_path, hardware, **{**fixed, **preferences})
        again = there.get_recommended_models(
            [rejection.model], "text_generation", requirements={**requirements, **changed}
        )
        assert all(item.constraint != rejection.constraint for item in again.rejected)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(candidates)
def test_the_weight_that_why_not_offers_puts_the_model_first(
    tmp_path: Path, models: list[ModelMetadata]
) -> None:
    """Applying the model_weights of why_not makes a feasible candidate the first choice."""
    fixed = {"enable_adaptive_selection": False}
    ranked = on(tmp_path, machine(), **fixed).get_recommended_models(models, "text_generation")
    for item in ranked[1:]:
        change = ranked.why_not(item.model.name).change
        assert change
        there = on(tmp_path, machine(), **fixed, **change)
        again = there.get_recommended_models(models, "text_generation")
        assert again[0].model.name == item.model.name


def test_free_memory_binds_too(tmp_path: Path) -> None:
    """What fits the budget but not the memory that is free now is rejected for that reason."""
    ranked = on(tmp_path, machine(64 * GIB, GIB // 2)).get_recommended_models(
        [made("m", 2 * GIB)], "text_generation"
    )
    assert ranked.rejected[0].constraint == "available_memory"


def test_why_not_knows_only_candidates(selector: AdaptiveModelSelector) -> None:
    """An unknown name is an error that suggests, and so is asking before a ranking."""
    with pytest.raises(RequirementError, match="ranked"):
        selector.why_not("a")
    selector.get_recommended_models([made("llama-small")], "text_generation")
    assert "first choice" in str(selector.why_not("llama-small"))
    with pytest.raises(UnknownModelError, match="llama-small"):
        selector.why_not("llama-smal")


def test_a_selection_is_recorded_and_a_display_is_not(selector: AdaptiveModelSelector) -> None:
    """Only a decision leaves rows in selections and candidates."""
    models = [made("a"), made("b", 60 * GIB)]
    selector.get_recommended_models(models, "text_generation")
    store = selector._bench.store
    assert len(store.sql("FROM selections")) == 0
    selection = selector.select(models, "text_generation", explore=False)
    rows = store.sql("SELECT model, feasible FROM candidates ORDER BY model").fetchall()
    assert rows == [("a", True), ("b", False)]
    assert store.sql("SELECT selection FROM selections").fetchall() == [(selection.id,)]


def test_switched_off_the_ranking_ignores_history(tmp_path: Path) -> None:
    """enable_adaptive_selection=False is a deterministic ranking from priors and hard facts."""
    models = [made("a"), made("b")]
    adaptive = on(tmp_path, machine())
    for name, quality in (("a", 0.0), ("b", 1.0)):
        for _ in range(10):
            adaptive._bench.store.record_execution(
                model=name, fingerprint=f"print-{name}", task="text_generation",
                hardware=adaptive._bench.hardware.fingerprint, metrics={"quality": quality},
            )  # fmt: skip
    static = on(tmp_path, machine(), enable_adaptive_selection=False)
    assert adaptive.get_recommended_models(models, "text_generation")[0].model.name == "b"
    assert static.get_recommended_models(models, "text_generation")[0].model.name == "a"
    assert static.select(models, "text_generation").ranked[0].model.name == "a"


def test_switched_off_measured_peaks_still_count(tmp_path: Path) -> None:
    """What a load took is a fact that binds; how fast, how good and how often is not looked at."""
    models = [made("a"), made("b"), made("c")]
    static = on(tmp_path, machine(), enable_adaptive_selection=False)
    before = static.get_recommended_models(models, "text_generation")
    assert [model.name for model, _ in before] == ["a", "b", "c"]
    bench = static._bench
    again = static.get_recommended_models(models, "text_generation")
    assert [(item.score, item.explain()) for item in again] == [
        (item.score, item.explain()) for item in before
    ]
    how = LoadOptions(context_length=4096).settings
    for name, rate, peak in (("a", 0.5, None), ("b", 900.0, 15 * GIB), ("c", 90.0, GIB)):
        metrics = {"throughput": rate, "quality": 0.1, "tokens_out": 9, "latency": 1.0}
        if peak is not None:
            metrics["peak_memory"] = peak
        bench.record_execution(
            model=name, fingerprint=f"print-{name}", task="text_generation", runtime="fake",
            device="cpu", settings=how, hardware=bench.hardware.fingerprint, metrics=metrics,
        )  # fmt: skip
    after = static.get_recommended_models(models, "text_generation")
    assert sorted(model.name for model, _ in after) == ["a", "c"]
    assert "15.0 GiB" in str(after.rejected[0])
    [a] = [item for item in after if item.model.name == "a"]
    assert a.part("quality").n == a.part("latency").n == a.runs == 0
    assert a.decode_rate == before[0].decode_rate
    [c] = [item for item in after if item.model.name == "c"]
    assert c.memory.measured
    assert c.memory.total_bytes == GIB
    assert c.decode_rate == before[2].decode_rate
    assert [model.name for model, _ in static.select(models, "text_generation").ranked] == [
        model.name for model, _ in after
    ]


def test_names_from_files_reach_the_notebook_escaped(selector: AdaptiveModelSelector) -> None:
    """A model called like a script is shown as text."""
    ranked = selector.get_recommended_models(
        [made("<script>alert(1)</script>\n\x1b[31m")], "text_generation"
    )
    for shown in (ranked, ranked[0], ranked.why_not(ranked[0].model.name)):
        bundle = shown._repr_mimebundle_()
        assert "<script>" not in bundle["text/html"]
        assert "\x1b" not in bundle["text/plain"]


HOW = LoadOptions(context_length=4096).settings


class BusyMachine(HardwareProfile):
    """A machine on which a test decides how much memory other programs leave."""

    free: ClassVar = [12 * GIB]

    def refreshed(self, **_: object) -> HardwareProfile:
        return replace(machine(), available_memory=self.free[0])


MODELS = [
    *(made(f"m{size}", size * GIB // 2) for size in range(1, 12)),
    made("audio", task_types=("voice_activity",)),
    made("cuda", preferred_hardware=(HardwareType.CUDA,)),
    made("unknown", 0, attention=None, embedding_length=None),
]
STEPS = st.one_of(
    st.tuples(st.just("free"), st.integers(0, 15)),
    st.tuples(
        st.just("run"), st.integers(1, 11), st.sampled_from([None, 1, 7, 14]), st.floats(1, 99)
    ),
    st.tuples(st.just("load"), st.integers(1, 11), st.integers(1, 9)),
    st.tuples(st.just("forecast"), st.floats(5, 80)),
    st.tuples(st.just("failed"), st.integers(1, 11)),
    st.tuples(st.just("prefer"), st.sampled_from([0.3, 0.6, 0.9])),
    st.tuples(
        st.just("want"),
        st.sampled_from(
            [{}, {"max_size_bytes": 3 * GIB}, {"min_throughput": 4.0}, {"min_context_length": 8000}]
        ),
    ),
)


def told(ranked: Recommendations) -> list[object]:
    """Return all that a ranking says."""
    return [
        *((item.explain(), item.score, item.memory) for item in ranked),
        *((one.model.name, str(one), one.change) for one in ranked.rejected),
    ]


@settings(
    max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.lists(STEPS, min_size=2, max_size=10))
def test_what_is_kept_of_the_candidates_is_what_is_found(steps: list[tuple[Any, ...]]) -> None:
    """Memory comes and goes, runs have peaks, loads fail, requirements and preferences change."""
    BusyMachine.free[0] = 12 * GIB
    with tempfile.TemporaryDirectory() as home:
        hardware = BusyMachine(**{name: getattr(machine(), name) for name in _FIELDS})
        bench = Workbench(home, hardware=hardware, runtimes=[FakeRuntime("fake")])
        selector = AdaptiveModelSelector(UserPreferences(), workbench=bench, seed=0)
        wanted: dict[str, Any] = {}
        here = {"runtime": "fake", "device": "cpu", "settings": HOW}
        here["hardware"] = bench.hardware.fingerprint
        for kind, *what in [("free", 12), *steps]:
            name = f"m{what[0]}"
            of = {"model": name, "fingerprint": f"print-{name}", **here}
            if kind == "free":
                BusyMachine.free[0] = what[0] * GIB
            elif kind == "run":
                metrics = {"throughput": what[2], "tokens_out": 9, "latency": 1.0}
                if what[1]:
                    metrics["peak_memory"] = what[1] * GIB
                bench.record_execution(task="text_generation", metrics=metrics, **of)
            elif kind == "load":
                bench.record("loads", success=True, memory_bytes=what[1] * GIB, engine="fake", **of)
            elif kind == "failed":
                for _ in range(3):
                    bench.record("loads", success=False, failure="corrupt", engine="fake", **of)
            elif kind == "forecast":
                bench.record(
                    "predictions", model="m1", fingerprint="print-m1", quantity="throughput",
                    tier="measured", predicted=30.0, actual=what[0], low=20.0, high=40.0,
                    level=0.8, spread=0.2, engine="fake", device="cpu", settings=HOW,
                    hardware=bench.hardware.fingerprint,
                    basis={"parts": {"steps": 0.01, "bytes": 0.02}, "model": "print-m1"},
                )  # fmt: skip
            elif kind == "prefer":
                selector.preferences.max_memory_usage = what[0]
            else:
                wanted = what[0]
            found = selector.get_recommended_models(MODELS, "text_generation", requirements=wanted)
            sifting._KEPT.clear()
            anew = selector.get_recommended_models(MODELS, "text_generation", requirements=wanted)
            assert told(found) == told(anew)
        bench.store.close()


_FIELDS = (
    "cpu_architecture", "cpu_name", "cpu_cores", "cpu_threads", "instruction_sets",
    "total_memory", "available_memory", "memory_bandwidth",
)  # fmt: skip


def test_candidates_that_fit_are_assessed_once(
    selector: AdaptiveModelSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second ranking asks the filter of none that fits, and says the same."""
    asked: list[str] = []
    real = sifting.assess

    def counted(model: ModelMetadata, *rest: Any) -> Any:
        asked.append(model.name)
        return real(model, *rest)

    monkeypatch.setattr(sifting, "assess", counted)
    before = selector.get_recommended_models(MODELS, "text_generation")
    assert set(asked) == {model.name for model in MODELS}
    asked.clear()
    after = selector.get_recommended_models(MODELS, "text_generation")
    assert told(after) == told(before)
    assert before
    assert not set(asked) & {model.name for model, _ in before}
