"""Random situations: a machine, what is loaded, models, a task's requirements, history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ravenxterm_lab.estimation import Estimator, History
from ravenxterm_lab.estimation.history import Truth
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, Workbench
from ravenxterm_lab.models.selector import Selection
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import CellEvidence, Evidence

__all__ = ["Case", "cases"]

MIB, GIB = 2**20, 2**30
TASKS = ("text_generation", "embedding")
NAMES = tuple(f"m{number}" for number in range(6))
PREFERENCES = frozenset(UserPreferences.model_fields)


class StillMachine(HardwareProfile):
    """A profile that stays as it was made: a test decides how much memory is free."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


@dataclass(frozen=True, repr=False)
class Case:
    """One situation; ``rank`` goes the way that the product goes."""

    hardware: StillMachine
    idle: int
    loaded: frozenset[str]
    models: tuple[ModelMetadata, ...]
    requirements: Mapping[str, Any]
    preferences: UserPreferences
    evidence: Evidence
    peaks: Mapping[str, int]
    bench: list[Workbench] = field(default_factory=list, compare=False)

    def __repr__(self) -> str:
        """Say what a person would need to see it."""
        machine = self.hardware
        gpus = [(gpu.name, gpu.available_memory, gpu.unified_memory) for gpu in machine.gpu_devices]
        lines = [
            f"{machine.total_memory} B, {machine.available_memory} free, idle {self.idle}, {gpus}",
            f"asked: {dict(self.requirements)}",
            f"preferences: {self.preferences!r}",
            f"loaded {set(self.loaded)}, peaks {dict(self.peaks)}",
            *(f"  {key}: {cell}" for key, cell in self.evidence.cells.items()),
            *(
                f"  {one.name}: {one.model_type} {one.size_bytes} B {one.task_types} "
                f"{one.preferred_hardware} ctx {one.context_length} {one.quantization} "
                f"{one.license} attention {one.attention and one.attention.layers} "
                f"batch {one.supports_batching} problems {one.problems} runs {one.runtimes}"
                for one in self.models
            ),
        ]
        return "\n".join(lines)

    def on(self, home: Path) -> Case:
        return replace(self, bench=[Workbench(home, hardware=self.hardware, runtimes=[RUNTIME])])

    def changed(self, change: Mapping[str, Any]) -> Case:
        """Return the situation after a change, as a person would make it."""
        mine = {key: value for key, value in change.items() if key in PREFERENCES}
        asked = {key: value for key, value in change.items() if key not in PREFERENCES}
        return replace(
            self,
            requirements={**self.requirements, **asked},
            preferences=UserPreferences(**{**self.preferences.model_dump(), **mine}),
        )

    @property
    def wanted(self) -> TaskRequirements:
        return TaskRequirements.parse(dict(self.requirements))

    @property
    def history(self) -> History:
        by_name = {model.name: model for model in self.models}
        truths = {}
        for name, peak in self.peaks.items():
            if name in by_name:
                context = min(by_name[name].context_length or 4096, 4096)
                key = (f"print-{name}", "fake", "cpu", f"ctx={context} kv=f16")
                truths[key] = Truth(peak, 1)
        return History((), truths)

    def estimator(self) -> Estimator:
        if not self.preferences.enable_adaptive_selection:
            return Estimator(self.hardware)
        known = self.history
        return Estimator(self.hardware, lambda: known)

    def rank(self) -> Selection:
        bench = self.bench[0]
        bench.hardware = self.hardware
        bench.estimator = self.estimator()
        bench.resident = lambda: (self.loaded, self.idle)  # type: ignore[method-assign]
        selector = Knowing(self.preferences, workbench=bench, seed=0)
        selector.known = self.evidence
        return selector.select(
            self.models, requirements=dict(self.requirements), explore=False, record=False
        )


class Knowing(AdaptiveModelSelector):
    """A selector whose history is given, so that no store has to be written for each case."""

    known: Evidence

    def _evidence(self) -> Evidence:
        return self.known if self.preferences.enable_adaptive_selection else Evidence.none()


RUNTIME = FakeRuntime("fake")

MACHINES = (
    "8 GiB RAM, DDR4-3200",
    "16 GiB RAM, 8 cores",
    "64 GiB RAM, DDR5-5600, 16 cores",
    "RTX 4090 24GB, 32 GiB RAM, DDR5-5600",
    "RTX 3060 12GB, 16 GiB RAM",
    "2x RTX 3090, 64 GiB RAM, DDR4-3200",
    "M2 Max 64GB",
)
_SIMULATED = {text: HardwareProfile.simulate(text) for text in MACHINES}
_SMALL = AttentionGeometry((8,) * 16, 64, 64)
_LARGE = AttentionGeometry((8,) * 64, 128, 128)


@st.composite
def machines(draw: st.DrawFn) -> StillMachine:
    facts = _SIMULATED[draw(st.sampled_from(MACHINES))]
    gpus = tuple(
        replace(
            gpu,
            available_memory=draw(
                st.none() | st.integers(0, gpu.total_memory) if gpu.total_memory else st.none()
            ),
        )
        for gpu in facts.gpu_devices
    )
    total = facts.total_memory - draw(st.integers(0, GIB))
    values = {name: getattr(facts, name) for name in facts.__slots__}
    values.update(
        total_memory=total,
        available_memory=draw(st.just(total) | st.integers(0, total)),
        gpu_devices=gpus,
    )
    return StillMachine(**values)


def sizes() -> st.SearchStrategy[int]:
    return st.floats(math.log(MIB), math.log(90 * GIB)).map(lambda x: int(math.exp(x)))


@st.composite
def models(draw: st.DrawFn, name: str) -> ModelMetadata:
    kind = draw(st.sampled_from([ModelType.GGUF, ModelType.GGUF, ModelType.ONNX,
                                 ModelType.SAFETENSORS]))  # fmt: skip
    rarely = draw(st.integers(0, 19))
    return ModelMetadata(
        name,
        kind,
        Path(name),
        draw(sizes()),
        task_types=draw(st.sampled_from([TASKS, TASKS[:1], TASKS[:1], TASKS[1:], ()])),
        runtimes=() if rarely == 18 else ("fake",),
        runtime_gap="pip install x" if rarely == 18 else None,
        problems=("missing shard 2 of 3",) if rarely == 19 else (),
        preferred_hardware=draw(
            st.sampled_from([
                (HardwareType.CUDA, HardwareType.CPU), (HardwareType.CPU,), (HardwareType.CPU,),
                (HardwareType.CUDA,), (HardwareType.METAL, HardwareType.CPU), (),
            ])
        ),
        supports_batching=draw(st.booleans()),
        fingerprint=f"print-{name}",
        quantization=draw(st.sampled_from(["Q8_0", "Q4_0", None])),
        parameter_count=draw(st.none() | st.integers(10**6, 10**11)),
        context_length=draw(st.sampled_from([None, 512, 6000, 8192, 131_072])),
        embedding_length=1024,
        vocabulary_size=draw(st.sampled_from([None, 32_000])),
        attention=draw(st.sampled_from([None, _SMALL, _SMALL, _LARGE])),
        license=draw(st.sampled_from(["mit", "Apache-2.0", None])),
    )  # fmt: skip


def requirements() -> st.SearchStrategy[dict[str, Any]]:
    """Every field of TaskRequirements, each in about a fifth of the situations."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "max_size_bytes": sizes(),
        "requires_batching": st.booleans(),
        "required_hardware": st.lists(
            st.sampled_from(["cpu", "cuda", "metal"]), min_size=1, max_size=2, unique=True
        ),
        "min_context_length": st.integers(0, 140_000),
        "max_memory_bytes": sizes(),
        "model_types": st.lists(st.sampled_from(["gguf", "onnx"]), min_size=1, max_size=2),
        "quantizations": st.lists(st.sampled_from(["q8_0", "Q4_0", ""]), min_size=1, max_size=2),
        "max_latency": st.floats(0.01, 1000),
        "min_throughput": st.floats(0, 500),
        "min_quality": st.floats(0, 1),
        "license": st.lists(st.sampled_from(["MIT", "apache-2.0"]), min_size=1, max_size=2),
    }
    few = st.sets(st.sampled_from(sorted(fields)), max_size=4)
    task = st.sampled_from(TASKS)
    return st.tuples(few, task).flatmap(
        lambda chosen: st.fixed_dictionaries(
            {"task_type": st.just(chosen[1]), **{name: fields[name] for name in sorted(chosen[0])}}
        )
    )


def preferences() -> st.SearchStrategy[UserPreferences]:
    devices = st.lists(
        st.sampled_from(["cpu", "cuda", "metal", "rocm"]), min_size=1, max_size=4, unique=True
    )
    return st.builds(
        UserPreferences,
        performance_mode=st.sampled_from(["speed", "balanced", "memory"]),
        accuracy_preference=st.sampled_from(["low", "medium", "high"]),
        max_memory_usage=st.just(0.7) | st.floats(0.05, 1.0),
        preferred_devices=st.just(["cuda", "metal", "cpu"]) | devices,
        enable_adaptive_selection=st.sampled_from([True, True, True, False]),
        model_weights=st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 100), max_size=2),
        auto_cleanup_threshold_bytes=st.just(0),
        keep_alive_seconds=st.floats(0, 1000),
        history_window_days=st.integers(1, 3650),
    )


@st.composite
def cells(draw: st.DrawFn) -> CellEvidence:
    runs = draw(st.integers(0, 300))
    failed = draw(st.just(0) | st.integers(0, runs))
    judged = draw(st.just(0) | st.integers(1, 100))
    timed = runs - failed
    return CellEvidence(
        runs=runs,
        succeeded=timed,
        failed=failed,
        quality_n=judged,
        quality_mean=draw(st.floats(0, 1)) if judged else None,
        speed_n=timed * draw(st.floats(0.01, 1)),
        speed_mean=draw(st.floats(-2, 7)) if timed else None,
        work_n=timed,
        work_mean=draw(st.floats(0, 8)) if timed else None,
        first_token_mean=draw(st.none() | st.floats(0.001, 20)) if timed else None,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a situation."""
    chosen = tuple(draw(models(name)) for name in NAMES[: draw(st.integers(1, len(NAMES)))])
    seen = draw(
        st.dictionaries(
            st.tuples(st.sampled_from(NAMES), st.sampled_from(TASKS)), cells(), max_size=6
        )
    )
    return Case(
        hardware=draw(machines()),
        idle=draw(st.just(0) | st.integers(0, GIB)),
        loaded=frozenset(draw(st.sets(st.sampled_from(NAMES), max_size=2))),
        models=chosen,
        requirements=draw(requirements()),
        preferences=draw(preferences()),
        evidence=Evidence({(f"print-{name}", task): cell for (name, task), cell in seen.items()}),
        peaks=draw(st.dictionaries(st.sampled_from(NAMES), sizes(), max_size=2)),
    )
