"""Samples of the loads, once and in the background."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil
import pytest

from ravenxterm_lab.exceptions import HardwareError
from ravenxterm_lab.hardware import (
    FakeGpu,
    FakeNvml,
    HardwareMonitor,
    HardwareSample,
    Sampler,
    take_sample,
)
from ravenxterm_lab.hardware.processes import ProcessWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIB = 1024**3
COLUMNS = {
    "cpu_percent",
    "memory_used",
    "memory_available",
    "process_memory",
    "gpu",
    "gpu_percent",
    "gpu_memory_used",
    "gpu_power",
    "gpu_temperature",
    "gpu_clock",
    "cpu_power",
    "process_anonymous",
    "process_file",
    "process_cpu_percent",
}


def test_a_real_sample() -> None:
    """Memory agrees with psutil's order of magnitude, and the clock is now."""
    before = time.time_ns()
    sample = take_sample(FakeNvml())
    assert before <= sample.ts <= time.time_ns()
    total = psutil.virtual_memory().total
    assert 0 < sample.memory_used + sample.memory_available <= total
    assert 0 < sample.process_memory < total


def test_one_row_for_each_gpu() -> None:
    """Rows repeat the machine's figures and number the GPUs."""
    sample = take_sample(FakeNvml(FakeGpu(), FakeGpu(power=10.0, used_memory=GIB)))
    first, second = sample.rows()
    assert set(first) == set(second) == COLUMNS
    assert (first["gpu"], first["gpu_percent"], first["gpu_power"]) == (0, 40.0, 120.0)
    assert (second["gpu"], second["gpu_memory_used"], second["gpu_power"]) == (1, GIB, 10.0)
    assert first["memory_used"] == second["memory_used"] == sample.memory_used


def test_without_a_gpu_there_is_one_row() -> None:
    """The machine's figures are recorded where there is no GPU."""
    (row,) = take_sample(FakeNvml()).rows()
    assert set(row) == COLUMNS
    assert row["gpu"] is None
    assert row["gpu_percent"] is None
    assert row["memory_used"] > 0


def test_a_lost_gpu_keeps_its_row() -> None:
    """A card that answers no more is sampled as not available."""
    card = FakeGpu()
    nvml = FakeNvml(card)
    assert take_sample(nvml).rows()[0]["gpu_percent"] == 40.0
    card.lost_after = 0
    (row,) = take_sample(nvml).rows()
    assert (row["gpu"], row["gpu_percent"], row["gpu_temperature"]) == (0, None, None)
    assert nvml.sessions == 0


def test_memory_of_other_processes_counts() -> None:
    """A living child adds its resident memory, whichever way its id is given twice."""
    child = subprocess.Popen(
        [sys.executable, "-c", "b = bytearray(b'x' * 60_000_000); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child:
        try:
            child.stdout.readline()
            alone = take_sample(FakeNvml()).process_memory
            both = take_sample(FakeNvml(), [child.pid, child.pid, os.getpid()]).process_memory
            assert 55_000_000 < both - alone < 100_000_000
        finally:
            child.kill()


def test_a_process_that_has_ended_counts_nothing() -> None:
    """Ids of processes that are gone, or never were, are passed over."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    sample = take_sample(FakeNvml(), [child.pid, 2**22 + 1])
    assert sample.process_memory > 0


def test_the_first_cpu_percent_of_a_process_is_unknown_and_later_ones_are_shares() -> None:
    """There is no share since the sample before, before there was one."""
    code = (
        "from ravenxterm_lab.hardware import FakeNvml, take_sample\n"
        "first = take_sample(FakeNvml()).cpu_percent\n"
        "later = None\n"
        "while later is None:\n"
        "    later = take_sample(FakeNvml()).cpu_percent\n"
        "print(first, 0 <= later <= 100)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.split() == ["None", "True"]


def test_samples_may_be_taken_from_many_threads() -> None:
    """Concurrent samples neither fail nor leave the range."""
    nvml = FakeNvml()
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda _: take_sample(nvml), range(200)))
    assert all(s.cpu_percent is None or 0 <= s.cpu_percent <= 100 for s in samples)


def test_a_sample_of_another_root(tmp_path: Path) -> None:
    """Memory and AMD cards follow the files below the given root."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    device = tmp_path / "sys/class/drm/card0/device"
    device.mkdir(parents=True)
    for name, text in {
        "vendor": "0x1002",
        "mem_info_vram_total": "1000",
        "mem_info_vram_used": "300",
        "gpu_busy_percent": "55",
    }.items():
        (device / name).write_text(text)
    sample = take_sample(FakeNvml(FakeGpu()), root=tmp_path)
    assert (sample.memory_used, sample.memory_available) == (600 * 1024, 400 * 1024)
    assert [row["gpu"] for row in sample.rows()] == [0, 1]
    assert sample.rows()[1]["gpu_percent"] == pytest.approx(55)
    assert sample.rows()[1]["gpu_memory_used"] == 300


def test_a_sample_can_be_made_by_hand() -> None:
    """The class takes plain values, for tests of what consumes it."""
    sample = HardwareSample(1, None, 2, 3, 4)
    assert sample.rows()[0]["process_memory"] == 4


# -- the monitor ---------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so; a machine that is busy may take its time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def threads() -> list[threading.Thread]:
    return [item for item in threading.enumerate() if item.name == "hardware-monitor"]


@pytest.mark.parametrize("interval", [0, 0.09, 10.1, -1, math.nan, math.inf, "1", None, True])
def test_a_bad_interval_says_what_is_allowed(interval: object) -> None:
    """Between a tenth of a second and ten seconds, and the value is named."""
    with pytest.raises(HardwareError, match=r"allowed are 0\.1 to 10 seconds") as caught:
        HardwareMonitor(interval)  # type: ignore[arg-type]
    assert repr(interval) in str(caught.value)


@pytest.mark.parametrize("keep", [0, -1, 1.5, "9", True, None])
def test_a_bad_number_to_keep_says_what_is_allowed(keep: object) -> None:
    """At least one sample."""
    with pytest.raises(HardwareError, match="allowed is a number of samples from 1"):
        HardwareMonitor(keep=keep)  # type: ignore[arg-type]


def test_a_monitor_samples_until_it_is_stopped() -> None:
    """Samples arrive in order, are handed on and kept, and the thread ends with the block."""
    given: list[HardwareSample] = []
    with HardwareMonitor(0.1, sink=given.append, nvml=FakeNvml(FakeGpu())) as monitor:
        assert monitor.start() is monitor
        assert len(threads()) == 1
        wait_for(lambda: len(monitor.samples) >= 4)
        assert monitor.running
        assert "every 100 ms" in repr(monitor)
    assert not monitor.running
    assert threads() == []
    kept = list(monitor.samples)
    assert kept == given
    assert monitor.latest is kept[-1]
    times = [sample.ts for sample in kept]
    assert times == sorted(times)
    assert kept[-1].cpu_percent is not None
    assert kept[-1].process_cpu_percent is not None
    count = len(kept)
    time.sleep(0.25)
    assert len(monitor.samples) == count
    assert "stopped" in repr(monitor)
    monitor.stop()


def test_a_stopped_monitor_can_be_started_again() -> None:
    """It goes on with the samples that it has, in a new thread and a new session."""
    nvml = FakeNvml(FakeGpu())
    monitor = HardwareMonitor(0.1, nvml=nvml).start()
    wait_for(lambda: len(monitor.samples) >= 2)
    monitor.stop()
    assert nvml.sessions == 0
    before = len(monitor.samples)
    with monitor:
        wait_for(lambda: len(monitor.samples) > before)
    assert nvml.sessions == 0


def test_one_session_is_kept_open() -> None:
    """However many samples are taken, NVML is initialised once."""
    nvml = FakeNvml(FakeGpu())
    with HardwareMonitor(0.1, nvml=nvml) as monitor:
        wait_for(lambda: len(monitor.samples) >= 4)
        assert (nvml.sessions, nvml.calls["nvmlInit"]) == (1, 1)
        assert nvml.calls["nvmlDeviceGetHandleByIndex"] == 1
    assert (nvml.sessions, nvml.calls["nvmlShutdown"]) == (0, 1)


def test_the_thread_ends_with_its_owner() -> None:
    """When nothing refers to the monitor any more, the thread ends and the session with it."""
    nvml = FakeNvml(FakeGpu())
    monitor = HardwareMonitor(1.0, nvml=nvml).start()
    wait_for(lambda: nvml.calls["nvmlDeviceGetPowerUsage"] >= 1)
    reference = weakref.ref(monitor)
    begun = time.monotonic()
    del monitor
    # The thread may be within a sample, and then lets go of the monitor itself.
    wait_for(lambda: reference() is None and not threads())
    wait_for(lambda: nvml.sessions == 0)
    assert time.monotonic() - begun < 20


def test_the_thread_ends_with_the_interpreter() -> None:
    """A program that forgets to stop its monitor ends at once, silently, with a session closed."""
    code = (
        "import time\n"
        "from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareMonitor\n"
        "class Told(FakeNvml):\n"
        "    def nvmlShutdown(self):\n"
        "        super().nvmlShutdown()\n"
        "        print('shut down', self.sessions)\n"
        "monitor = HardwareMonitor(10, nvml=Told(FakeGpu())).start()\n"
        "while not monitor.samples: time.sleep(0.01)\n"
        "print('end of the program')\n"
    )
    begun = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stdout.splitlines() == ["end of the program", "shut down 0"]
    assert (answer.returncode, answer.stderr) == (0, "")
    # Had it waited for the next sample, ten seconds would have passed.
    assert time.monotonic() - begun < 9.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_no_monitor_and_can_start_one() -> None:
    """In the child it does not run, says so, leaves the parent's session alone, and starts anew."""
    code = (
        "import os, sys, time\n"
        "from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareMonitor\n"
        "nvml = FakeNvml(FakeGpu())\n"
        "monitor = HardwareMonitor(0.1, nvml=nvml).start()\n"
        "while not monitor.samples: time.sleep(0.01)\n"
        "monitor._lock.acquire()\n"  # as if the thread were within a sample
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    here = [monitor.running, 'was forked' in monitor.notes[0], nvml.sessions]\n"
        "    before = len(monitor.samples)\n"
        "    monitor.start()\n"
        "    while len(monitor.samples) < before + 2: time.sleep(0.01)\n"
        "    here += [monitor.running, 'was forked' in ''.join(monitor.notes), nvml.sessions]\n"
        "    monitor.stop()\n"
        "    print(*here, monitor.running, nvml.sessions, flush=True)\n"
        "    os._exit(0)\n"
        "monitor._lock.release()\n"
        "os.waitpid(pid, 0)\n"
        "print(monitor.running, nvml.sessions)\n"
        "monitor.stop()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stderr == ""
    child, parent = answer.stdout.splitlines()
    # The session of the parent stays counted in the child's copy of the fake: 1, then 2, then 1.
    assert child.split() == ["False", "True", "1", "True", "False", "2", "False", "1"]
    assert parent.split() == ["True", "1"]


def test_a_gpu_lost_in_mid_run_costs_its_own_figures() -> None:
    """Samples go on, the other card is told, the reason is noted, and it may come back."""
    card, other = FakeGpu(), FakeGpu(power=10.0)
    with HardwareMonitor(0.1, nvml=FakeNvml(card, other)) as monitor:
        wait_for(lambda: len(monitor.samples) >= 1)
        card.lost_after = 0
        wait_for(lambda: bool(monitor.samples) and monitor.samples[-1].gpus[0].power is None)
        lost = monitor.latest
        assert lost is not None
        wait_for(lambda: monitor.latest is not lost)
        assert monitor.latest is not None
        assert [gpu.power for gpu in monitor.latest.gpus] == [None, 10.0]
        assert any("GPU is lost" in note and "reboot" in note for note in monitor.notes)
        card.lost_after = None
        wait_for(lambda: monitor.latest is not None and monitor.latest.gpus[0].power == 120.0)
        assert not any("GPU is lost" in note for note in monitor.notes)


def test_a_driver_that_fails_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every sample: once a minute, and then the card is there."""
    nvml = FakeNvml(FakeGpu(), failures={"nvmlInit": 18})
    sampler = Sampler(nvml)
    assert sampler.take().gpus == sampler.take().gpus == ()
    assert nvml.calls["nvmlInit"] == 1
    assert any("reboot" in note for note in sampler.notes)
    nvml.failures.clear()
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert sampler.take().gpus[0].power == 120.0
    assert not any("reboot" in note for note in sampler.notes)
    sampler.close()
    assert nvml.sessions == 0


def test_a_sink_that_fails_is_noted_and_the_samples_go_on() -> None:
    """The thread outlives whatever is raised, prints nothing, and notes each thing once."""
    calls = []

    def sink(sample: HardwareSample) -> None:
        calls.append(sample)
        raise ZeroDivisionError("no store")

    with HardwareMonitor(0.1, sink=sink, nvml=FakeNvml()) as monitor:
        wait_for(lambda: len(calls) >= 3)
    told = [note for note in monitor.notes if "no store" in note]
    assert told == ["A sample was not handed on: ZeroDivisionError: no store"]


def test_a_sample_that_cannot_be_taken_is_noted_and_the_next_is() -> None:
    """What the caller's list of processes raises ends nothing."""
    answers = iter([ValueError("no pids"), (), (), ()])

    def pids() -> tuple[int, ...]:
        answer = next(answers, ())
        if isinstance(answer, Exception):
            raise answer
        return answer

    with HardwareMonitor(0.1, pids=pids, nvml=FakeNvml()) as monitor:
        wait_for(lambda: len(monitor.samples) >= 2)
    assert "A sample could not be taken: ValueError: no pids" in monitor.notes


def test_samples_keep_to_their_times() -> None:
    """Samples that take half of the interval do not delay those after them.

    Were the interval waited for after each sample, 20 of them would take 3 s instead of 2.
    """

    def slow(_: HardwareSample) -> None:
        time.sleep(0.05)

    with HardwareMonitor(0.1, sink=slow, nvml=FakeNvml()) as monitor:
        wait_for(lambda: len(monitor.samples) >= 21)
        times = [sample.ts / 1e9 for sample in monitor.samples][:21]
    missed = sum(int(note.split()[0]) for note in monitor.notes if "were left out" in note)
    # A late one is late by itself: the mean distance is the interval, but for those left out.
    assert times[20] - times[0] == pytest.approx(0.1 * (20 + missed), abs=0.1 * (2 + missed))


def test_a_pause_is_left_out_and_told() -> None:
    """A sink that blocks for half a second costs those samples; they are not made up for."""
    once = iter([0.55])

    def block(_: HardwareSample) -> None:
        time.sleep(next(once, 0.0))

    with HardwareMonitor(0.1, sink=block, nvml=FakeNvml()) as monitor:
        wait_for(lambda: len(monitor.samples) >= 4)
    gaps = [(later.ts - earlier.ts) / 1e9 for earlier, later in pairwise(list(monitor.samples)[:4])]
    assert gaps[0] > 0.5
    # Then the grid of times goes on: no burst of late samples.
    assert all(gap > 0.04 for gap in gaps[1:])
    (note,) = [note for note in monitor.notes if "were left out" in note]
    assert int(note.split()[0]) >= 5


def test_only_the_latest_samples_are_kept() -> None:
    """Memory is bounded by their number."""
    monitor = HardwareMonitor(keep=3, nvml=FakeNvml())
    taken = [monitor.sample_now() for _ in range(7)]
    assert list(monitor.samples) == taken[-3:]
    assert list(monitor.samples[1:]) == taken[-2:]
    assert monitor.samples[0] is taken[-3]


def test_samples_become_a_data_frame() -> None:
    """A row for each GPU, times in UTC, whole bytes, and the same columns when there is none."""
    import polars as pl

    monitor = HardwareMonitor(nvml=FakeNvml(FakeGpu(), FakeGpu(total_memory=0)))
    assert HardwareMonitor().samples.pl().is_empty()
    first = monitor.sample_now()
    frame = monitor.samples.pl()
    assert set(frame.columns) == {"ts", *COLUMNS}
    assert frame["gpu"].to_list() == [0, 1]
    assert frame["gpu_memory_used"].to_list() == [2 * GIB, None]
    assert frame["gpu_clock"].to_list() == [1410.0, 1410.0]
    assert frame.schema["ts"] == pl.Datetime("us")
    told = frame["ts"][0].replace(tzinfo=UTC).timestamp()
    assert told == pytest.approx(first.ts / 1e9, abs=1e-5)
    assert frame.schema == HardwareMonitor().samples.pl().schema


def test_the_load_of_this_process_is_told() -> None:
    """A process that computes is busy; anonymous and file memory are its resident memory."""
    watch = ProcessWatch()
    assert watch.read().cpu_percent is None
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass
    load = watch.read()
    assert load.cpu_percent is not None
    assert load.cpu_percent > 5
    assert load.anonymous is not None
    assert load.file is not None
    assert load.anonymous + load.file == load.memory
    assert load.memory == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    time.sleep(0.3)
    idle = watch.read().cpu_percent
    assert idle is not None
    assert idle < load.cpu_percent


def test_children_count_with_the_process() -> None:
    """A child's memory is there when it is looked for, and gone when the child is."""
    child = subprocess.Popen(
        [sys.executable, "-c", "b = bytearray(b'x' * 60_000_000); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child:
        try:
            child.stdout.readline()
            alone, both = ProcessWatch().read(), ProcessWatch(children=True).read()
            assert both.memory - alone.memory > 55_000_000
            assert both.anonymous is not None
            assert alone.anonymous is not None
            assert both.anonymous - alone.anonymous > 55_000_000
        finally:
            child.kill()
    assert ProcessWatch(children=True).read().memory < both.memory


def test_samples_take_no_more_memory_with_time() -> None:
    """900 samples at full speed, with what is kept full, leave memory as it was.

    ``bench_monitor.py`` does it for an hour, with the store.
    """
    nvml = FakeNvml(FakeGpu(), FakeGpu())
    monitor = HardwareMonitor(keep=60, sink=lambda sample: sample.rows(), nvml=nvml)
    traced = []
    tracemalloc.start()
    try:
        for _ in range(4):
            for _ in range(900):
                monitor.sample_now()
            gc.collect()
            traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        monitor.stop()
    # A table of the interpreter (interned names) may double once, whoever filled it; a leak of
    # a sample's size, 1 KB, would grow by 900 KB each time.
    assert min(later - earlier for earlier, later in pairwise(traced)) < 20_000
