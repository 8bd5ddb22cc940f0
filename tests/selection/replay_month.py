"""A month of decisions and executions, recorded as the product records them, at a clock's times."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, ModelRegistry, Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.store import Store

GIB = 2**30
END = datetime(2026, 11, 1, 12)  # noqa: DTZ001 - as the store's timestamps
TASKS = ("text_generation", "summarization")
#: Model: (GiB, quality, tokens/s).
TRUTH = {
    "tiny": (0.5, 0.35, 60.0),
    "small": (1.0, 0.55, 35.0),
    "middle": (2.0, 0.75, 18.0),
    "large": (4.0, 0.85, 8.0),
    "twin": (4.1, 0.55, 8.0),
    "huge": (60.0, 0.9, 1.0),
}


class StillMachine(HardwareProfile):
    """A profile that stays as it was made, so that a test decides how much memory is free."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
    instruction_sets=("avx2",), total_memory=16 * GIB, available_memory=12 * GIB,
    memory_bandwidth=40e9,
)  # fmt: skip


def made(name: str, gib: float) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), int(gib * GIB),
        task_types=TASKS, runtimes=("fake",), preferred_hardware=(HardwareType.CPU,),
        fingerprint=f"print-{name}", quantization="Q8_0", context_length=8192,
        embedding_length=1024, vocabulary_size=32_000, parameter_count=int(gib * 1e9),
        attention=AttentionGeometry((8,) * 16, 64, 64),
    )  # fmt: skip


MODELS = {name: made(name, truth[0]) for name, truth in TRUTH.items()}


class Month:
    """A manager with a history; ``go_on`` adds to it.

    Parameters
    ----------
    home : Path
        Of its store.
    patch : pytest.MonkeyPatch
        Puts the models into the registry, and the clock into the workbench.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, days: float = 30.0) -> None:
        self.rng = np.random.default_rng(5)
        self.now = END - timedelta(days=days)
        bench = Workbench(home, hardware=MACHINE, runtimes=[FakeRuntime("fake")])
        bench.store.close()
        bench.store = Store(bench.paths.store, clock=self._nanoseconds, ingest=False)
        patch.setattr(bench, "now", lambda: self.now.isoformat(sep=" "))
        patch.setattr(ModelRegistry, "candidates", property(lambda _: MODELS))
        self.bench = bench
        self.manager = ModelManager(
            home / "none", workbench=bench, seed=3, preferences=UserPreferences()
        )

    def _nanoseconds(self) -> int:
        return (self.now - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 1000  # noqa: DTZ001

    def go_on(self, decisions: int, *, labelled: float = 0.4, hours: float = 2.0) -> None:
        """Decide, run and sometimes judge, so many times."""
        for _ in range(decisions):
            self.now += timedelta(hours=hours * (0.5 + self.rng.random()))
            task = TASKS[int(self.rng.random() < 0.3)]
            selection = self.manager.selector.select(MODELS, task)
            model = selection.ranked[0].model
            _, quality, speed = TRUTH[model.name]
            tokens = int(math.exp(self.rng.normal(5.0, 0.4)))
            rate = speed * math.exp(self.rng.normal(0, 0.1))
            options = selection.options[model.name]
            self.now += timedelta(seconds=tokens / rate)
            execution = self.bench.record_execution(
                metrics={
                    "latency": 0.2 + tokens / rate, "throughput": rate, "tokens_out": tokens,
                    "time_to_first_token": 0.2, "load_seconds": 0.0,
                },
                model=model.name, fingerprint=model.fingerprint, task=task,
                device=options.device.value, runtime="fake", settings=options.settings,
                hardware=MACHINE.fingerprint, selection=selection.id,
            )  # fmt: skip
            if self.rng.random() < labelled:
                self.now += timedelta(minutes=5)
                good = float(self.rng.random() < quality)
                self.bench.record("feedback", execution=str(execution), quality=good)
        self.now = max(self.now, END)
