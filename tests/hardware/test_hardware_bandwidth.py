"""The measured memory bandwidth and what is remembered of it."""

from __future__ import annotations

import json
import math
import uuid
from typing import TYPE_CHECKING

import pytest

from ravenxterm_lab.hardware.bandwidth import measure_bandwidth, memory_bandwidth

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
REST = '"threads": 1, "array_bytes": 1, "runs": 1, "measured_at": ""}'


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


def test_too_little_memory_is_not_measured(tmp_path: Path) -> None:
    """With next to nothing free the bandwidth is not available, and the remedy is told."""
    measured, notes = memory_bandwidth("f", 2, cache_dir=tmp_path, available=100 * MIB)
    assert measured is None
    assert "100.0 MiB" in notes[0]
    assert list(tmp_path.iterdir()) == []


def test_the_second_call_reads_the_cache(tmp_path: Path) -> None:
    """What was measured once is read back unchanged, even where it was never measured."""
    first, notes = memory_bandwidth("abc", 2, cache_dir=tmp_path / "new" / "cache")
    assert notes == ()
    assert first is not None
    (file,) = (tmp_path / "new/cache").iterdir()
    assert file.name == "bandwidth-abc.json"
    values = json.loads(file.read_text("utf-8"))
    values["bytes_per_second"] = 12345.0
    file.write_text(json.dumps(values), encoding="utf-8")
    second, _ = memory_bandwidth("abc", 2, cache_dir=tmp_path / "new" / "cache")
    assert second is not None
    assert second.bytes_per_second == 12345.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"format": 1}',
        '{"format": 1, "bytes_per_second": 5.0}',
        '{"format": 2, "bytes_per_second": 5.0}',
        '{"format": 1, "bytes_per_second": NaN, ' + REST,
        '{"format": 1, "bytes_per_second": -5.0, ' + REST,
        '{"format": 1, "bytes_per_second": true, ' + REST,
        "\udcff",
    ],
)
def test_a_corrupt_cache_is_measured_again(tmp_path: Path, text: str) -> None:
    """Whatever the file holds, the outcome is a measurement, and the file is mended."""
    file = tmp_path / "bandwidth-abc.json"
    file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    measured, notes = memory_bandwidth("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert measured is not None
    assert notes == ()
    assert math.isfinite(measured.bytes_per_second)
    assert measured.bytes_per_second > 1000
    assert json.loads(file.read_text("utf-8"))["bytes_per_second"] == measured.bytes_per_second
    assert list(tmp_path.iterdir()) == [file]


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    """A file in the directory's place stops even root; the measurement is still returned."""
    blocked = tmp_path / "cache"
    blocked.write_text("a file")
    measured, notes = memory_bandwidth("abc", 2, cache_dir=blocked, available=512 * MIB)
    assert measured is not None
    assert len(notes) == 1
    assert "cannot be written" in notes[0]
    assert blocked.read_text() == "a file"


def test_a_cache_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the last step fails, no temporary file stays."""
    obstacle = tmp_path / "bandwidth-abc.json"
    obstacle.mkdir()
    measured, notes = memory_bandwidth("abc", 2, cache_dir=tmp_path, available=512 * MIB)
    assert measured is not None
    assert "cannot be written" in notes[0]
    assert list(tmp_path.iterdir()) == [obstacle]


def test_without_a_cache_directory_the_process_remembers() -> None:
    """The same hardware is measured once in a process; other hardware is not confused with it."""
    name = uuid.uuid4().hex
    first, _ = memory_bandwidth(name, 2, available=512 * MIB)
    second, _ = memory_bandwidth(name, 2, available=512 * MIB)
    other, _ = memory_bandwidth(f"{name}x", 2, available=512 * MIB)
    assert first is second
    assert other is not first


def test_a_cache_too_large_to_outgrow_is_told(tmp_path: Path) -> None:
    """When memory forbids arrays of four caches the figure comes with a warning."""
    _, notes = memory_bandwidth(
        "abc", 2, cache_dir=tmp_path, last_level_cache=400 * MIB, available=1024 * MIB
    )
    assert any("may be too high" in note for note in notes)
