"""How fast this machine's memory is, measured.

A large array is copied by all the threads that may be used. Bytes are counted as in the COPY
kernel of STREAM (J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High
Performance Computers", 1995): each byte copied is one read and one written, and arrays are at
least four times the last-level cache. The best of several runs counts.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["BandwidthMeasurement", "measure_bandwidth"]

_MIB = 1024**2
_SMALLEST = 16 * _MIB
_SECONDS = 0.35


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
    cpu_share : float
        Share of the threads' time that they were given a CPU (0–1): less than one means that
        the machine was busy with something else.
    """

    bytes_per_second: float
    threads: int
    array_bytes: int
    runs: int
    measured_at: str
    cpu_share: float


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
        busy, begun = time.process_time(), time.perf_counter()
        while len(runs) < 3 or (time.perf_counter() - begun < _SECONDS and len(runs) < 20):
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[0], pair[1]), pairs))
            runs.append(time.perf_counter() - start)
        busy, wall = time.process_time() - busy, time.perf_counter() - begun
    copied = part * threads
    return BandwidthMeasurement(
        bytes_per_second=2 * copied / min(runs),
        threads=threads,
        array_bytes=copied,
        runs=len(runs),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu_share=min(1.0, busy / wall / threads),
    )
