"""One sample of the loads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareSample, take_sample

if TYPE_CHECKING:
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
