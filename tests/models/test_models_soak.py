"""A day in a minute: hundreds of loads, runs and evictions of real models in a small budget.

By hand: ``pytest -m slow tests/models/test_models_soak.py -s`` (about five minutes);
``RAVENXTERM_SOAK_STEPS`` makes it shorter or longer. The figures are printed, with the growth
after each cleanup, which shows whether it goes on for ever.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from ravenxterm_lab.demo import build_ladder
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench

pytestmark = [pytest.mark.models, pytest.mark.slow]
MIB = 2**20
STEPS = int(os.environ.get("RAVENXTERM_SOAK_STEPS", "500"))
#: Two or three of the text models fit.
BUDGET = 640 * MIB
TEXT: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}


class SmallMachine(HardwareProfile):
    """Pretends that this machine has little memory."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


class Watch(threading.Thread):
    """Measures the resident memory of the workers, and of the whole tree, all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.me = psutil.Process()
        self.command = self.me.cmdline()
        self.before = self.me.memory_info().rss
        self.workers = self.tree = self.samples = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            held = 0
            for child in self.me.children(recursive=True):
                try:
                    # Between vfork and exec a child has this process's memory, not its own.
                    held += child.memory_info().rss if child.cmdline() != self.command else 0
                except psutil.Error:
                    continue  # it ended meanwhile
            self.workers = max(self.workers, held)
            self.tree = max(self.tree, held + self.me.memory_info().rss - self.before)
            self.samples += 1


def test_a_day_of_runs_stays_in_its_budget(
    demo_directory: Path, tmp_path: Path, home: Path, profile: HardwareProfile
) -> None:
    """The budget holds to 5%, nothing leaks, and every execution is recorded."""
    models = tmp_path / "models"
    for folder in ("smollm2-135m-instruct", "all-minilm-l6-v2-int8", "magika-standard-v3.3",
                   "silero-vad"):  # fmt: skip
        shutil.copytree(
            demo_directory / folder,
            models / folder,
            copy_function=lambda source, target: Path(target).symlink_to(source),
        )
    text_models = models / "smollm2-135m-instruct"
    build_ladder(text_models / "SmolLM2-135M-Instruct.Q4_1.gguf", ("F16",), progress=False)
    values = {name: getattr(profile, name) for name in profile.__dataclass_fields__}
    machine = SmallMachine(**{**values, "total_memory": 1000 * MIB, "available_memory": 900 * MIB})
    manager = ModelManager(models, workbench=Workbench(home, hardware=machine), seed=0)
    manager.update_preferences(max_memory_usage=BUDGET / machine.total_memory)
    asks: dict[str, tuple[str, Any, Any, Any]] = {
        quantization: ("text_generation", "Say hello.", {"quantizations": [quantization]}, TEXT)
        for quantization in ("Q4_0", "Q4_1", "Q8_0", "F16")
    }
    asks["minilm"] = ("embedding", ["a cat", "a dog"], None, None)
    silence = {"input": [[0.0] * 576], "state": [[[0.0] * 128]] * 2, "sr": 16000}
    asks["silero"] = ("voice_activity_detection", silence, None, None)
    asks["magika"] = ("file_type", {"bytes": [[256] * 2048]}, None, None)
    rng = random.Random(0)
    # What is imported and opened once is no leak.
    for ask in asks.values():
        manager.run(ask[0], ask[1], ask[2], parameters=ask[3])
    manager.cleanup_resources()
    watch = Watch()
    watch.start()
    colds = freed = failed = 0
    growth: list[str] = []
    seen: set[str] = set()
    names = sorted(asks)
    for step in range(STEPS):
        name = names[step % len(names)] if rng.random() < 0.3 else rng.choice(names)
        task, inputs, wanted, parameters = asks[name]
        run = manager.run(task, inputs, wanted, parameters=parameters)
        colds += run.cold
        failed += len(run.attempts) - 1
        seen.add(run.model.fingerprint)
        if step % 50 == 49:
            freed += manager.cleanup_resources()
            assert manager.get_resource_usage().loaded == ()
            growth.append(f"{(watch.me.memory_info().rss - watch.before) / MIB:+.1f}")
    manager.cleanup_resources()
    watch.over.set()
    watch.join(30)
    after = watch.me.memory_info().rss
    recorded = manager.sql("SELECT count(*) FROM executions").fetchall()[0][0]
    print(
        f"\n{STEPS} steps over {len(seen)} models, {colds} loads, {failed} failed attempts; "
        f"{watch.samples} samples of memory\n"
        f"budget {BUDGET / MIB:.0f} MiB; workers held at most {watch.workers / MIB:.0f} MiB "
        f"({watch.workers / BUDGET:.1%}), the tree grew by at most {watch.tree / MIB:.0f} MiB "
        f"({watch.tree / BUDGET:.1%})\n"
        f"this process before {watch.before / MIB:.1f} MiB, after the last cleanup "
        f"{after / MIB:.1f} MiB; {freed / MIB:.0f} MiB came back from {STEPS // 50} cleanups\n"
        f"after each of them, every 50 steps (MiB): {' '.join(growth)}\n"
        f"{recorded} executions recorded"
    )
    manager.pool.close()
    manager.store.close()
    assert len(seen) == len(asks)
    assert colds > len(asks)
    assert watch.tree <= BUDGET * 1.05
    assert after - watch.before <= 16 * MIB
    assert recorded == STEPS + len(asks) + failed
