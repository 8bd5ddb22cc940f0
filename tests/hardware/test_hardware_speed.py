"""The measured speeds of memory and processor, and what is remembered of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from ravenxterm_lab.hardware import (
    BandwidthMeasurement,
    MatrixMeasurement,
    measure_bandwidth,
    measure_matrix_speed,
)
from ravenxterm_lab.hardware.speed import MachineSpeed, machine_speed

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2


def test_a_measurement_says_how_it_was_made() -> None:
    """Arrays outgrow the cache, several runs are timed, and the figure is a real rate."""
    measured = measure_bandwidth(2, last_level_cache=4 * MIB)
    assert measured is not None
    assert measured.array_bytes >= 16 * MIB
    assert measured.runs >= 3
    assert measured.threads == 2
    # A copy is slower than the sum of its caches and faster than a disk: 100 MB/s to 100 TB/s.
    assert 1e8 < measured.bytes_per_second < 1e14


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_any_number_of_threads(threads: int) -> None:
    """The parts of the array need not divide evenly, and no threads means one."""
    measured = measure_bandwidth(threads, available=1024 * MIB)
    assert measured is not None
    assert measured.threads == max(1, threads)
    assert measured.array_bytes <= 128 * MIB


def test_the_matrix_speed_agrees_with_a_product_timed_here() -> None:
    """The figure is within a factor of five of one plain product of the same size."""
    import time

    import numpy as np

    measured = measure_matrix_speed(2)
    assert measured is not None
    ours = np.full((measured.size, measured.size), 0.5, np.float32)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        ours @ ours
        seconds.append(time.perf_counter() - begun)
    rate = 2 * measured.size**3 / min(seconds)
    # The machine is shared, so that either can be slowed down; a wrong formula is off by more.
    assert rate / 5 < measured.flops_per_second < rate * 5
    assert measured.runs >= 3
    assert measured.blas


def test_the_threads_of_blas_are_those_that_were_at_work() -> None:
    """In a process whose BLAS may use one thread, no more than one CPU was busy, and it is told."""
    code = (
        "from ravenxterm_lab.hardware.speed import machine_speed\n"
        "speed, notes = machine_speed('f', 2)\n"
        "print(speed.matrix.threads, speed.matrix.cpus < 1.3, sum('limits BLAS to 1' in n "
        "for n in notes))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert answer.stdout.split() == ["1", "True", "1"]


def test_too_little_memory_is_not_measured(tmp_path: Path) -> None:
    """With next to nothing free neither is measured, and the remedy is told."""
    speed, notes = machine_speed("f", 2, cache_dir=tmp_path, available=10 * MIB)
    assert (speed.bandwidth, speed.matrix) == (None, None)
    assert notes[0].startswith("Memory bandwidth and matrix speed: not measured, only 10.0 MiB")
    assert list(tmp_path.iterdir()) == []
    speed, notes = machine_speed("f", 2, cache_dir=tmp_path, available=100 * MIB)
    assert speed.bandwidth is None
    assert speed.matrix is not None
    assert notes[0].startswith("Memory bandwidth: not measured, only 100.0 MiB")


def quiet_file(directory: Path, **changes: object) -> tuple[Path, MachineSpeed]:
    """Write the file that a quiet machine leaves."""
    bandwidth = BandwidthMeasurement(5e9, 2, 64 * MIB, 9, "2026-01-01T00:00:00+00:00", 0.9)
    matrix = MatrixMeasurement(5e10, "a BLAS 1.0", 2.0, 2, 1024, 9, "2026-01-01T00:00:00+00:00")
    speed = MachineSpeed(bandwidth, matrix)
    file = directory / "speed-abc.json"
    file.write_text(json.dumps({"format": 2, **asdict(speed), **changes}), encoding="utf-8")
    return file, speed


def test_the_second_call_reads_the_cache(tmp_path: Path) -> None:
    """What was measured on a quiet machine is read back unchanged and not measured again."""
    file, speed = quiet_file(tmp_path)
    before = file.read_bytes()
    assert machine_speed("abc", 2, cache_dir=tmp_path) == (speed, ())
    assert file.read_bytes() == before


def test_a_first_call_leaves_what_the_second_reads(tmp_path: Path) -> None:
    """The file of a measurement holds all of it."""
    first, notes = machine_speed("abc", 2, cache_dir=tmp_path / "new" / "cache")
    (file,) = (tmp_path / "new/cache").iterdir()
    assert file.name == "speed-abc.json"
    assert any("busy with something else" in note for note in notes) == (not first.quiet)
    values = json.loads(file.read_text("utf-8"))
    assert values == {"format": 2, **asdict(first)}


def test_a_busy_machine_is_measured_again_and_the_better_figures_kept(tmp_path: Path) -> None:
    """Figures under load are a lower bound: later ones only raise them, five times at most."""
    _, speed = quiet_file(tmp_path)
    assert speed.bandwidth is not None
    assert speed.matrix is not None
    bandwidth = {**asdict(speed.bandwidth), "cpu_share": 0.2, "bytes_per_second": 1e15}
    matrix = {**asdict(speed.matrix), "cpus": 0.2, "flops_per_second": 1.0}
    quiet_file(tmp_path, bandwidth=bandwidth, matrix=matrix)
    again, notes = machine_speed("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert again.bandwidth is not None
    assert again.matrix is not None
    assert again.bandwidth.bytes_per_second == 1e15
    assert again.matrix.flops_per_second > 1.0
    assert again.attempts == 2
    assert any("measured again next time" in note for note in notes)
    quiet_file(tmp_path, bandwidth=bandwidth, matrix=matrix, attempts=5)
    last, notes = machine_speed("abc", 2, cache_dir=tmp_path)
    assert last.matrix is not None
    assert last.matrix.flops_per_second == 1.0
    assert any("may be too low." in note for note in notes)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 3},
        {"bandwidth": None},
        {"matrix": 5},
        {"attempts": True},
        {"attempts": "1"},
        {"bandwidth": {"bytes_per_second": 5.0}},
        ("bandwidth", {"bytes_per_second": math.nan}),
        ("bandwidth", {"bytes_per_second": -5.0}),
        ("bandwidth", {"bytes_per_second": True}),
        ("bandwidth", {"cpu_share": 7}),
        ("bandwidth", {"surplus": 1}),
        ("matrix", {"flops_per_second": math.inf}),
        ("matrix", {"threads": 0}),
        ("matrix", {"cpus": "many"}),
    ],
)
def test_a_corrupt_cache_is_measured_again(tmp_path: Path, change: object) -> None:
    """A field that makes no sense costs the file; the outcome is a measurement."""
    _, speed = quiet_file(tmp_path)
    if isinstance(change, tuple):
        name, wrong = change
        change = {name: {**asdict(getattr(speed, name)), **wrong}}
    assert isinstance(change, dict)
    file, _ = quiet_file(tmp_path, **change)
    measured, _ = machine_speed("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert measured.bandwidth is not None
    assert 1000 < measured.bandwidth.bytes_per_second < 1e14
    assert json.loads(file.read_text("utf-8")) == {"format": 2, **asdict(measured)}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\udcff"])
def test_a_cache_that_is_none_is_measured_again(tmp_path: Path, text: str) -> None:
    """Whatever the file holds, the outcome is a measurement, and the file is mended."""
    file = tmp_path / "speed-abc.json"
    file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    measured, _ = machine_speed("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert json.loads(file.read_text("utf-8")) == {"format": 2, **asdict(measured)}


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    """A file in the directory's place stops even root; the measurement is still returned."""
    blocked = tmp_path / "cache"
    blocked.write_text("a file")
    measured, notes = machine_speed("abc", 2, cache_dir=blocked, available=512 * MIB)
    assert measured.bandwidth is not None
    assert len([note for note in notes if "cannot be written" in note]) == 1
    assert blocked.read_text() == "a file"


def test_a_cache_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the last step fails, no temporary file stays."""
    obstacle = tmp_path / "speed-abc.json"
    obstacle.mkdir()
    measured, notes = machine_speed("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert measured.bandwidth is not None
    assert "cannot be written" in notes[-1]
    assert list(tmp_path.iterdir()) == [obstacle]


def test_without_a_cache_directory_the_process_remembers() -> None:
    """The same hardware is remembered in a process; other hardware is not confused with it."""
    name = uuid.uuid4().hex
    first, _ = machine_speed(name, 2, available=512 * MIB)
    second, _ = machine_speed(name, 2, available=512 * MIB)
    other, _ = machine_speed(f"{name}x", 2, available=512 * MIB)
    # A busy machine is measured again, and then the count of attempts tells that it was known.
    assert second is first or second.attempts == 2
    assert other.attempts == 1


def test_a_cache_too_large_to_outgrow_is_told(tmp_path: Path) -> None:
    """When memory forbids arrays of four caches the figure comes with a warning."""
    _, notes = machine_speed(
        "abc", 2, cache_dir=tmp_path, last_level_cache=400 * MIB, available=1024 * MIB
    )
    assert any("may be too high" in note for note in notes)
