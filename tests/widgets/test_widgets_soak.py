"""Hours of the live view in seconds: neither objects nor memory grow.

The clock goes a second further with each sample; everything else is the real thing: the sampler,
the record in the store and its ingestion, the figure's lines and the look into the store that
draws them anew each minute. By hand: ``pytest -m slow tests/widgets/test_widgets_soak.py -s``.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.messages import MessageLog
from ravenxterm_lab.models.monitoring import Monitoring
from ravenxterm_lab.store import Store
from ravenxterm_lab.widgets import HardwareMonitor

SECOND = 10**9
MINUTE, HOUR = 60, 3600
MIB = 2**20


class Clock:
    """The time of the machine, until it is set forward."""

    def __init__(self) -> None:
        self.now = time.time_ns()

    def __call__(self) -> int:
        return self.now


class Live:
    """A live panel whose seconds pass as fast as they can."""

    def __init__(self, home: Path, clock: Clock, profile: HardwareProfile) -> None:
        nvml = FakeNvml(FakeGpu())
        self.clock = clock
        self.bench = Workbench(home, hardware=profile, runtimes=())
        self.bench.store = Store(self.bench.paths.store, clock=clock)
        self.bench.messages = MessageLog(self.bench.store)
        self.bench.now = self._now  # type: ignore[method-assign]
        self.bench.monitoring = Monitoring(self.bench, nvml=nvml)
        self.panel = HardwareMonitor(ModelManager(home / "none", workbench=self.bench))
        # Ten seconds are the longest interval: the thread of the monitor comes rarely beside.
        self.monitor = self.bench.monitoring.start(10.0)
        self.panel.start()
        assert self.panel._ticker is not None
        self.panel._ticker.end()

    def _now(self) -> str:
        from datetime import UTC, datetime

        moment = datetime.fromtimestamp(self.clock.now / SECOND, UTC)
        return moment.replace(tzinfo=None).isoformat(sep=" ")

    def pass_seconds(self, count: int) -> None:
        for number in range(count):
            self.clock.now += SECOND
            self.monitor.sample_now()
            if number % MINUTE == 0:
                self.panel._look_at = 0.0
            self.panel._tick()
        self.bench.store.ingest_now()

    def points(self) -> int:
        assert self.panel._widget is not None
        return max(len(trace.x) for trace in self.panel._widget.data)

    def close(self) -> None:
        self.panel.close()
        self.monitor.stop()
        self.bench.store.close()


@pytest.fixture
def live(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A live panel with a GPU, on a clock of its own."""
    profile = HardwareProfile.detect(nvml=FakeNvml(FakeGpu()), measure_bandwidth=False)
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    live = Live(home, clock, profile)
    yield live
    live.close()


def objects() -> Counter[str]:
    """Return how many objects there are of each type."""
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects())


def test_minutes_of_the_live_view_leave_no_object_behind(live: Live) -> None:
    """Once a minute's window is full, another four minutes add nothing."""
    live.panel.window.value = 1 / 60
    # An hour of samples is kept in memory; here it is full sooner.
    live.monitor._kept = type(live.monitor._kept)(maxlen=MINUTE)
    live.pass_seconds(4 * MINUTE)
    before = objects()
    live.pass_seconds(4 * MINUTE)
    more = objects() - before
    assert live.points() <= MINUTE + 2
    assert more.total() < 2 * MINUTE, more.most_common(10)


@pytest.mark.slow
def test_an_hour_of_the_live_view_does_not_grow(live: Live) -> None:
    """An hour fills what is kept; two more take no more memory, and no more objects."""
    process = psutil.Process()
    found = []
    for _ in range(3):
        begun = time.thread_time()
        live.pass_seconds(HOUR)
        spent = (time.thread_time() - begun) / HOUR
        found.append((objects(), process.memory_info().rss, spent))
    for number, (kept, resident, spent) in enumerate(found, 1):
        print(
            f"hour {number}: {kept.total():,} objects, {resident / MIB:.1f} MiB resident, "
            f"{1e3 * spent:.1f} ms of CPU a second in the thread that samples and draws"
        )
    print(f"{live.points()} points of a line; last hour: {found[2][0] - found[1][0]}")
    assert (found[2][0] - found[1][0]).total() < 500
    assert found[2][1] - found[1][1] < 16 * MIB
