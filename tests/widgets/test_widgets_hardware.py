"""The monitor: live at one sample a second, and gone when it is stopped or closed."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from ipywidgets import Widget

from ravenxterm_lab import plots
from ravenxterm_lab.hardware import GpuSample, HardwareSample
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.plots.live import live_figure
from ravenxterm_lab.widgets import HardwareMonitor
from ravenxterm_lab.widgets.feed import Feed, Ticker

PATIENCE = 60.0


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def threads() -> list[str]:
    names = ("raven-live-view", "hardware-monitor")
    return [thread.name for thread in threading.enumerate() if thread.name in names]


@pytest.fixture
def panel(manager: ModelManager) -> Iterator[HardwareMonitor]:
    """A panel that is closed after the test, whatever it did."""
    panel = HardwareMonitor(manager)
    yield panel
    panel.close()


def length(panel: HardwareMonitor) -> int:
    widget = panel._widget
    if widget is None:
        return 0
    return max((len(trace.x) for trace in widget.data if trace.meta == "memory_used"), default=0)


def test_an_empty_panel_names_its_own_button(panel: HardwareMonitor) -> None:
    """Without samples it says what to press; of the pool and the disk it says what they hold."""
    panel.refresh()
    assert "No hardware samples in the last 24 hours: press Live, or run" in panel._sentence.value
    panel.kind.value = "memory"
    assert "press Live" not in panel._sentence.value


def test_live_draws_a_point_a_second(panel: HardwareMonitor) -> None:
    """Started, points come in; stopped, the figure is one that a saved notebook keeps."""
    panel.start()
    until(lambda: length(panel) >= 3)
    assert panel._place.children == (panel._widget,)
    assert "Now: " in panel._now.value
    assert "Live" in panel._sentence.value
    assert panel.live.description == "Stop"
    panel.stop()
    assert panel._place.children == (panel._figure,)
    assert panel._figure.outputs
    assert "samples in the last 10 minutes" in panel.summary
    until(lambda: threads() == [])


def test_closing_ends_everything(panel: HardwareMonitor) -> None:
    """Closed while live, neither a thread nor a widget is left."""
    before = set(Widget.get_manager_state()["state"])
    other = HardwareMonitor(panel.manager)
    other.start()
    until(lambda: length(other) >= 1)
    other.close()
    other.close()
    until(lambda: threads() == [])
    assert set(Widget.get_manager_state()["state"]) == before


def test_a_sample_that_is_not_in_the_store_yet_is_waited_for(panel: HardwareMonitor) -> None:
    """Where the first look finds nothing the next second looks again, not the next minute."""
    recorder = panel.manager.monitor(0.1)
    until(lambda: recorder.latest is not None)
    recorder.stop()
    panel._monitor = recorder
    panel.live.unobserve_all()
    panel.live.value = True
    panel._draw_widget = lambda: False  # type: ignore[method-assign]
    panel._tick()
    assert panel._look_at == 0.0
    del panel._draw_widget
    panel._tick()
    assert length(panel) >= 1
    assert panel._look_at > time.monotonic()


def test_a_monitor_that_was_running_goes_on(panel: HardwareMonitor) -> None:
    """Whoever started sampling before keeps it, at the interval that was asked for."""
    monitor = panel.manager.monitor(0.5)
    panel.start()
    until(lambda: length(panel) >= 2)
    panel.stop()
    assert monitor.running
    monitor.stop()


def test_the_kernel_can_end_while_it_is_live(tmp_path: object) -> None:
    """A process that ends without stopping it ends at once, and prints nothing."""
    code = f"""
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import HardwareMonitor
import time
panel = HardwareMonitor(ModelManager(home={str(tmp_path)!r}, models_dir=[]))
panel.start()
end = time.monotonic() + 90
while panel._widget is None and time.monotonic() < end:
    time.sleep(0.1)
print("drawn" if panel._widget is not None else "not drawn")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "drawn"), done.stderr
    assert "Traceback" not in done.stderr


def test_an_execution_is_drawn_while_it_is_live(panel: HardwareMonitor) -> None:
    """When a run ends its bar is there with the next second."""
    panel.start()
    until(lambda: length(panel) >= 1)
    panel.manager.record_execution_metrics("mine", {"latency": 0.2})
    panel._board.tell("executions")
    until(lambda: any(trace.meta == "run of mine" for trace in panel._widget.data))


def test_memory_and_disk_are_not_live(panel: HardwareMonitor) -> None:
    """The maps are of now: choosing one ends the live view, and its controls are off."""
    panel.start()
    panel.kind.value = "memory"
    assert not panel.live.value
    assert panel.live.disabled
    assert "budget" in panel.summary
    panel.kind.value = "disk"
    assert "on disk" in panel.summary
    panel.kind.value = "load"
    assert not panel.live.disabled


def test_a_long_window_is_not_live(panel: HardwareMonitor) -> None:
    """A day moves by less than a pixel a second: live goes to ten minutes, and a day ends it."""
    panel.start()
    assert panel.window.value == pytest.approx(1 / 6)
    panel.window.value = 24.0
    assert not panel.live.value


def test_a_sample_adds_a_point_to_each_line(manager: ModelManager) -> None:
    """GPUs and machine get a point each; what is older than the window leaves; no None is 0."""
    for number in range(3):
        manager._bench.record(
            "hardware_samples", cpu_percent=10.0 + number, memory_used=2**30, process_memory=1,
            gpu=0, gpu_percent=50.0,
        )  # fmt: skip
    figure = live_figure(plots.hardware(manager))
    moment = int(time.time() * 1000)
    feed = Feed(figure, 60.0, 0)
    sample = HardwareSample(
        ts=(moment + 1000) * 10**6, cpu_percent=None, memory_used=2**31, memory_available=2**31,
        process_memory=2**20, gpus=(GpuSample(gpu=0, percent=70.0),),
    )  # fmt: skip
    assert feed.take([sample], sample.ts)
    lines = {trace.meta: trace for trace in figure.data}
    assert len(lines["cpu_percent"].x) == 3
    assert lines["memory_used"].y[-1] == pytest.approx(2.0)
    assert lines["gpu_percent 0"].y[-1] == pytest.approx(70.0)
    assert feed.take([sample], sample.ts)
    assert len(lines["memory_used"].x) == 4
    later = sample.ts + 120 * 10**9
    feed.take([], later)
    assert len(lines["memory_used"].x) == 0
    begin, end = figure.layout.xaxis.range
    assert end - begin == pytest.approx(60_000)
    figure.close()


def test_a_line_that_is_not_there_yet_is_told(manager: ModelManager) -> None:
    """A GPU that appears asks for a figure with a line for it."""
    manager._bench.record("hardware_samples", cpu_percent=10.0, memory_used=2**30)
    figure = live_figure(plots.hardware(manager))
    sample = HardwareSample(
        ts=time.time_ns(), cpu_percent=1.0, memory_used=1, memory_available=1, process_memory=1,
        gpus=(GpuSample(gpu=0, percent=70.0),),
    )  # fmt: skip
    assert not Feed(figure, 60.0, 0).take([sample], sample.ts)
    figure.close()


def test_a_long_live_view_sends_a_bounded_number_of_points(manager: ModelManager) -> None:
    """An hour of samples does not grow what is sent each second."""
    manager._bench.record("hardware_samples", cpu_percent=10.0, memory_used=2**30)
    figure = live_figure(plots.hardware(manager))
    now = time.time_ns()
    feed = Feed(figure, 3600.0, 0)
    samples = [HardwareSample(now + n * 10**9, 1.0, 1, 1, 1) for n in range(1, 1000)]
    feed.take(samples, now + 1000 * 10**9)
    lengths = [len(trace.x) for trace in figure.data if len(trace.x)]
    assert max(lengths) == 600
    assert all(np.diff(trace.x).min() > 0 for trace in figure.data if len(trace.x) > 1)
    figure.close()


def test_the_thread_ends_with_its_object() -> None:
    """A ticker holds what it calls weakly, and ends when that is gone."""

    class Counter:
        count = 0

        def tick(self) -> None:
            Counter.count += 1

    counter = Counter()
    ticker = Ticker(counter.tick, 0.01)
    until(lambda: Counter.count > 3)
    del counter
    gc.collect()
    until(lambda: not ticker.alive)
