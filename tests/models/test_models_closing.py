"""What a manager leaves behind when it is closed, and what others of its home still have."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes.fake import FakeRuntime


def ours() -> list[str]:
    """Return the names of the package's threads in this process."""
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if thread.name in ("ravenxterm-store", "model-pool") or thread.name.startswith("worker-")
    )


@pytest.fixture
def bench(home: Path, profile: HardwareProfile) -> Workbench:
    gc.collect()  # what earlier tests dropped ends its threads
    return Workbench(home, hardware=profile, runtimes=[FakeRuntime()])


def use(manager: ModelManager, bench: Workbench) -> bool:
    """Hold a model for a moment and record it; say whether it was cold."""
    model = ModelMetadata("m", ModelType.GGUF, Path("m"), 100, fingerprint="m")
    with manager.pool.acquire(bench.runtimes[0], model) as (_, cold):
        manager.record_execution_metrics("m", {"latency": 1.0}, task_type="text_generation")
    return cold


def settle(bench: Workbench) -> list[str]:
    """Return the threads once the pool's timer, which has nothing to watch, has noticed."""
    timer = bench.pool._timer
    if timer is not None:
        timer.join(30)
    return ours()


def test_a_closed_manager_leaves_no_thread_and_the_other_is_served(bench: Workbench) -> None:
    """Of two managers of one home one closes: no thread stays; the other records and asks on."""
    before = ours()
    one, other = (ModelManager([], workbench=bench) for _ in range(2))
    assert use(one, bench)
    assert "ravenxterm-store" in ours()
    one.close()
    one.close()
    assert settle(bench) == before
    assert use(other, bench)
    assert not use(one, bench)
    assert "ravenxterm-store" in ours()
    counted = "SELECT count(*) FROM executions"
    assert one.sql(counted).fetchall() == other.sql(counted).fetchall() == [(3,)]
    other.close()
    assert settle(bench) == before
    assert other.sql(counted).fetchall() == [(3,)]
    bench.pool.close()
    bench.store.close()
