"""The measured speeds of this machine, remembered by the fingerprint of its hardware."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ravenxterm_lab.hardware.bandwidth import BandwidthMeasurement, measure_bandwidth
from ravenxterm_lab.hardware.matrix import MatrixMeasurement, measure_matrix_speed
from ravenxterm_lab.units import format_bytes

__all__ = ["MachineSpeed", "machine_speed"]

_FORMAT = 2
#: Below this share of the CPUs the machine was busy with something else.
_QUIET = 0.7
_MOST_ATTEMPTS = 5
_remembered: dict[str, MachineSpeed] = {}
_lock = threading.Lock()
Measurement = TypeVar("Measurement", BandwidthMeasurement, MatrixMeasurement)


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """What was measured of one machine.

    Attributes
    ----------
    bandwidth : BandwidthMeasurement or None
        Of its memory.
    matrix : MatrixMeasurement or None
        Of its processor.
    attempts : int
        How often it was measured; more than once only while it was busy.
    """

    bandwidth: BandwidthMeasurement | None
    matrix: MatrixMeasurement | None
    attempts: int = 1

    @property
    def quiet(self) -> bool:
        """Whether both measurements had the CPUs to themselves."""
        return all(
            part is not None and part.cpu_share >= _QUIET for part in (self.bandwidth, self.matrix)
        )


def machine_speed(
    fingerprint: str,
    threads: int,
    *,
    cache_dir: Path | None = None,
    last_level_cache: int | None = None,
    available: int | None = None,
) -> tuple[MachineSpeed, tuple[str, ...]]:
    """Return the remembered measurements, or measure (under 2 s together) and remember.

    A machine that was busy then is measured again the next time, at most five times, and the
    better figures are kept: load from others makes a machine look slower, never faster.

    Parameters
    ----------
    fingerprint : str
        Of the hardware that the measurements hold for.
    threads : int
        Threads that this process may use.
    cache_dir : Path, optional
        Where ``speed-<fingerprint>.json`` is kept; without it the measurements are kept for
        the life of the process.
    last_level_cache : int, optional
        Bytes of cache that the copied arrays must outgrow.
    available : int, optional
        Bytes of memory that are free.

    Returns
    -------
    MachineSpeed, tuple of str
        The notes say what went wrong; a cache that cannot be written costs a measurement
        next time and nothing else.
    """
    with _lock:
        path = None if cache_dir is None else Path(cache_dir) / f"speed-{fingerprint}.json"
        known = _remembered.get(fingerprint) if path is None else _load(path)
        if known is not None and (known.quiet or known.attempts >= _MOST_ATTEMPTS):
            return known, _notes(known, threads, last_level_cache)
        bandwidth = measure_bandwidth(
            threads, last_level_cache=last_level_cache, available=available
        )
        matrix = measure_matrix_speed(threads, available=available)
        speed = MachineSpeed(bandwidth, matrix)
        if known is not None:
            speed = _better(known, speed)
        if bandwidth is None or matrix is None:
            missing = " and ".join(
                name
                for name, part in (("memory bandwidth", bandwidth), ("matrix speed", matrix))
                if part is None
            )
            note = f"{missing.capitalize()}: not measured, only {format_bytes(available)} are free."
            return speed, (f"{note} Close other programs and detect again.",)
        notes = _notes(speed, threads, last_level_cache)
        if path is None:
            _remembered[fingerprint] = speed
        elif (problem := _save(path, speed)) is not None:
            notes = (*notes, problem)
        return speed, notes


def _better(old: MachineSpeed, new: MachineSpeed) -> MachineSpeed:
    bandwidths = [part for part in (old.bandwidth, new.bandwidth) if part is not None]
    matrices = [part for part in (old.matrix, new.matrix) if part is not None]
    return MachineSpeed(
        max(bandwidths, key=lambda part: part.bytes_per_second, default=None),
        max(matrices, key=lambda part: part.flops_per_second, default=None),
        old.attempts + 1,
    )


def _notes(speed: MachineSpeed, threads: int, last_level_cache: int | None) -> tuple[str, ...]:
    notes = []
    copied = 0 if speed.bandwidth is None else speed.bandwidth.array_bytes
    if last_level_cache and copied < 4 * last_level_cache:
        notes.append(
            f"Memory bandwidth: measured on arrays of {format_bytes(copied)}, less than four "
            f"times the {format_bytes(last_level_cache)} of cache; it may be too high."
        )
    if not speed.quiet:
        again = "" if speed.attempts >= _MOST_ATTEMPTS else " It is measured again next time."
        notes.append(
            "Memory bandwidth, matrix speed: the CPUs were busy with something else while they "
            f"were measured, so they may be too low.{again}"
        )
    if speed.matrix is not None and speed.matrix.threads < threads:
        notes.append(
            f"Matrix speed: the environment limits BLAS to {speed.matrix.threads} of {threads} "
            "threads (OMP_NUM_THREADS or the like)."
        )
    return tuple(notes)


def _load(path: Path) -> MachineSpeed | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            return None
        bandwidth = _part(BandwidthMeasurement, values["bandwidth"], "bytes_per_second")
        matrix = _part(MatrixMeasurement, values["matrix"], "flops_per_second")
        attempts = values["attempts"]
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return None
    if type(attempts) is not int:
        return None
    return MachineSpeed(bandwidth, matrix, attempts)


def _part(kind: type[Measurement], values: dict[str, Any], rate: str) -> Measurement:
    # A file that a person or a crash has changed must not bring an estimate to nonsense.
    speed: object = values[rate]
    if not isinstance(speed, float) or not math.isfinite(speed) or speed <= 0:
        raise ValueError(rate)
    part = kind(**values)
    if not 0 <= part.cpu_share <= 1:
        raise ValueError("cpu_share")
    return part


def _save(path: Path, speed: MachineSpeed) -> str | None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".speed-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, **asdict(speed)}, file)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return (
            f"Memory bandwidth, matrix speed: measured, but {path.parent} cannot be written "
            f"({error.strerror or error}), so they will be measured again next time. "
            "Make the place writable, or point RAVENXTERM_HOME elsewhere."
        )
    return None
