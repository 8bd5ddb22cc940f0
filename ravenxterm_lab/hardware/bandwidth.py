"""How fast this machine's memory is: measured once, then remembered.

A large array is copied by all the threads that may be used. Bytes are counted as in the COPY
kernel of STREAM (J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High
Performance Computers", 1995): each byte copied is one read and one written, and arrays are at
least four times the last-level cache. The best of several runs counts.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ravenxterm_lab.units import format_bytes

__all__ = ["BandwidthMeasurement", "measure_bandwidth", "memory_bandwidth"]

_MIB = 1024**2
_SMALLEST = 16 * _MIB
_SECONDS = 0.35
_FORMAT = 1
_measured: dict[str, BandwidthMeasurement] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class BandwidthMeasurement:
    """One measurement of the memory.

    Attributes
    ----------
    bytes_per_second : float
        Read and written together, the best run.
    threads : int
        Threads that copied at the same time.
    array_bytes : int
        Size of the array that was copied (bytes).
    runs : int
        Copies that were timed.
    measured_at : str
        UTC, ISO 8601.
    """

    bytes_per_second: float
    threads: int
    array_bytes: int
    runs: int
    measured_at: str


def measure_bandwidth(
    threads: int, *, last_level_cache: int | None = None, available: int | None = None
) -> BandwidthMeasurement | None:
    """Measure the memory's bandwidth now, in well under a second.

    Parameters
    ----------
    threads : int
        Threads that copy at the same time.
    last_level_cache : int, optional
        Bytes of cache that the arrays must outgrow; 32 MiB are assumed when it is not known.
    available : int, optional
        Bytes of memory that are free; the two arrays take at most a quarter of it.

    Returns
    -------
    BandwidthMeasurement or None
        None when there is too little free memory for arrays that mean anything.
    """
    import numpy as np

    threads = max(1, threads)
    wanted = max(64 * _MIB, 4 * (last_level_cache or 32 * _MIB))
    # More threads fill larger arrays in the same time.
    size = min(wanted, 256 * _MIB * min(4, max(1, threads // 4)))
    if available is not None:
        size = min(size, available // 8)
    if size < _SMALLEST:
        return None
    part = size // threads // 4096 * 4096
    runs: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        # Each thread touches its own part first, so that it lies in memory near to it.
        pairs = list(
            pool.map(
                lambda fill: (np.full(part, fill, np.uint8), np.full(part, fill, np.uint8)),
                (index % 250 + 1 for index in range(threads)),
            )
        )
        begun = time.perf_counter()
        while len(runs) < 3 or (time.perf_counter() - begun < _SECONDS and len(runs) < 20):
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[0], pair[1]), pairs))
            runs.append(time.perf_counter() - start)
    copied = part * threads
    return BandwidthMeasurement(
        bytes_per_second=2 * copied / min(runs),
        threads=threads,
        array_bytes=copied,
        runs=len(runs),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def memory_bandwidth(
    fingerprint: str,
    threads: int,
    *,
    cache_dir: Path | None = None,
    last_level_cache: int | None = None,
    available: int | None = None,
) -> tuple[BandwidthMeasurement | None, tuple[str, ...]]:
    """Return the remembered measurement, or measure and remember.

    Parameters
    ----------
    fingerprint : str
        Of the hardware that the measurement holds for.
    threads, last_level_cache, available
        As for `measure_bandwidth`.
    cache_dir : Path, optional
        Where ``bandwidth-<fingerprint>.json`` is kept; without it the measurement is kept for
        the life of the process.

    Returns
    -------
    BandwidthMeasurement or None, tuple of str
        The notes say what went wrong; a cache that cannot be written costs a measurement
        next time and nothing else.
    """
    with _lock:
        path = None if cache_dir is None else Path(cache_dir) / f"bandwidth-{fingerprint}.json"
        known = _measured.get(fingerprint) if path is None else _load(path)
        if known is not None:
            return known, ()
        measured = measure_bandwidth(
            threads, last_level_cache=last_level_cache, available=available
        )
        if measured is None:
            note = f"Memory bandwidth: not measured, only {format_bytes(available)} are free. "
            return None, (f"{note}Close other programs and detect again.",)
        notes = []
        if last_level_cache and measured.array_bytes < 4 * last_level_cache:
            notes.append(
                "Memory bandwidth: measured on arrays of "
                f"{format_bytes(measured.array_bytes)}, less than four times the "
                f"{format_bytes(last_level_cache)} of cache; it may be too high."
            )
        if path is None:
            _measured[fingerprint] = measured
        elif (problem := _save(path, measured)) is not None:
            notes.append(problem)
        return measured, tuple(notes)


def _load(path: Path) -> BandwidthMeasurement | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        return None
    speed: object = values.get("bytes_per_second")
    if not isinstance(speed, float) or not math.isfinite(speed) or speed <= 0:
        return None
    try:
        return BandwidthMeasurement(**values)
    except TypeError:
        return None


def _save(path: Path, measured: BandwidthMeasurement) -> str | None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".bandwidth-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, **asdict(measured)}, file)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return (
            f"Memory bandwidth: measured, but {path.parent} cannot be written "
            f"({error.strerror or error}), so it will be measured again next time. "
            "Make the place writable, or point RAVENXTERM_HOME elsewhere."
        )
    return None
