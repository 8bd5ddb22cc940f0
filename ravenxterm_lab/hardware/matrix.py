"""How fast this machine's processor multiplies matrices, measured with the BLAS that numpy has.

Operations are counted as in LINPACK and in every data sheet: a product of two n × n matrices is
``2 n³``. The best of several runs counts. An engine with kernels of its own (quantised weights,
AMX) can be faster or slower; the figure compares machines, and bounds the speed of a prefill.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["MatrixMeasurement", "measure_matrix_speed"]

_SECONDS = 0.5
_RUN_SECONDS = 0.06
_SMALLEST, _LARGEST, _STEP = 512, 4096, 256
# What OpenBLAS, MKL, BLIS and Accelerate read when they start.
_LIMITS = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class MatrixMeasurement:
    """One measurement of the processor's matrix speed.

    Attributes
    ----------
    flops_per_second : float
        Floating-point operations per second in float32, the best run.
    blas : str
        The library that multiplied, as numpy names it.
    cpus : float
        CPU seconds that went by per second of the best run: how many threads BLAS had at
        work, however many it was allowed.
    threads : int
        Threads that it might have used.
    size : int
        Rows of the square matrices.
    runs : int
        Products that were timed.
    measured_at : str
        UTC, ISO 8601.
    """

    flops_per_second: float
    blas: str
    cpus: float
    threads: int
    size: int
    runs: int
    measured_at: str

    @property
    def cpu_share(self) -> float:
        """Share of the threads that were at work (0–1)."""
        return min(1.0, self.cpus / self.threads)


def measure_matrix_speed(threads: int, *, available: int | None = None) -> MatrixMeasurement | None:
    """Measure how fast float32 matrices are multiplied now, in well under a second.

    Parameters
    ----------
    threads : int
        Threads that this process may use.
    available : int, optional
        Bytes of memory that are free; the three matrices take at most an eighth of it.

    Returns
    -------
    MatrixMeasurement or None
        None when there is too little free memory.
    """
    import numpy as np

    largest = _LARGEST
    if available is not None:
        largest = min(largest, int((available / 8 / 3 / 4) ** 0.5) // _STEP * _STEP)
    if largest < _SMALLEST:
        return None

    def matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left = np.full((size, size), 0.5, np.float32)
        return left, left.copy(), np.empty_like(left)

    def timed(size: int, parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[float, float]:
        busy, start = time.process_time(), time.perf_counter()
        np.matmul(parts[0], parts[1], out=parts[2])
        seconds = time.perf_counter() - start
        return 2 * size**3 / seconds, (time.process_time() - busy) / seconds

    # The first product also starts BLAS's threads, so the second tells how large a run may be.
    small = matrices(_SMALLEST)
    timed(_SMALLEST, small)
    rate, _ = timed(_SMALLEST, small)
    fitting = int((rate * _RUN_SECONDS / 2) ** (1 / 3)) // _STEP * _STEP
    size = max(_SMALLEST, min(largest, fitting))
    parts = matrices(size)
    timed(size, parts)
    runs: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while len(runs) < 3 or (time.perf_counter() - begun < _SECONDS and len(runs) < 20):
        runs.append(timed(size, parts))
    best, cpus = max(runs)
    return MatrixMeasurement(
        flops_per_second=best,
        blas=_blas(),
        cpus=cpus,
        threads=_allowed(threads),
        size=size,
        runs=len(runs),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _allowed(threads: int) -> int:
    limits = [os.environ.get(name, "") for name in _LIMITS]
    given = [int(limit) for limit in limits if limit.isdecimal() and int(limit) > 0]
    return max(1, min([threads, *given]))


def _blas() -> str:
    import numpy as np

    found: Any = np.show_config(mode="dicts")
    blas = found.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'BLAS of unknown name')} {blas.get('version', '')}".strip()
