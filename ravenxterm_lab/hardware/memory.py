"""System memory that this process may use: the smaller of the machine's and the group's limit."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from ravenxterm_lab.hardware.cgroup import (
    CgroupReading,
    level_memory,
    limited_levels,
    read_cgroup,
)
from ravenxterm_lab.units import format_bytes

__all__ = ["MemoryFacts", "MemoryWatch", "read_meminfo", "read_memory"]

_LEVELS_SECONDS = 60.0
_WATCHED = (rb"(?m)^MemTotal:\s+(\d+) kB", rb"(?m)^MemAvailable:\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Memory in bytes.

    Attributes
    ----------
    total, available : int
        What this process may use at most, and what of it is free or reclaimable now.
    limit_source : str
        What sets ``total``: ``"machine"``, ``"cgroup v2"`` or ``"cgroup v1"``.
    swap_total, swap_free : int
        Swap that this process may use, and what of it is free.
    notes : tuple of str
        The limit that binds, and what could not be read.
    """

    total: int
    available: int
    limit_source: str
    swap_total: int
    swap_free: int
    notes: tuple[str, ...] = ()


def read_memory(root: Path = Path("/"), cgroup: CgroupReading | None = None) -> MemoryFacts:
    """Read the memory of the machine and of the control group.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    cgroup : CgroupReading, optional
        A reading that is at hand already.
    """
    reading = read_cgroup(root) if cgroup is None else cgroup
    total, available, swap, swap_free = _machine(root)
    source, notes = "machine", list(reading.notes)
    limit = reading.memory
    if limit is not None:
        if limit.limit < total:
            source = limit.version
            notes.append(
                f"{limit.version} limits this process to {format_bytes(limit.limit)} of the "
                f"machine's {format_bytes(total)} of memory ({limit.path})."
            )
            total = limit.limit
        available = min(available, total if limit.available is None else limit.available)
    if reading.swap is not None and reading.swap.limit < swap:
        allowed = "no" if not reading.swap.limit else f"{format_bytes(reading.swap.limit)} of"
        notes.append(
            f"{reading.swap.version} allows this process {allowed} swap; the machine has "
            f"{format_bytes(swap)} ({reading.swap.path})."
        )
        swap = reading.swap.limit
        left = reading.swap.available
        swap_free = min(swap_free, swap if left is None else left)
    return MemoryFacts(total, min(available, total), source, swap, swap_free, tuple(notes))


class MemoryWatch:
    """Reads the memory again and again: what `read_memory` tells, at a tenth of its cost.

    Which groups limit this process is looked up once a minute.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._meminfo = root / "proc/meminfo"
        self._levels: tuple[tuple[str, Path], ...] = ()
        self._look_again = 0.0

    def read(self) -> tuple[int, int]:
        """Return total and available bytes, under the limits."""
        now = time.monotonic()
        if now >= self._look_again:
            self._levels = limited_levels(self._root)
            self._look_again = now + _LEVELS_SECONDS
        total, available = self._machine()
        for version, level in self._levels:
            limit, used = level_memory(level, version)
            if limit is not None:
                total = min(total, limit)
                available = min(available, limit if used is None else max(0, limit - used))
        return total, min(available, total)

    def _machine(self) -> tuple[int, int]:
        try:
            text = self._meminfo.read_bytes()
        except OSError:
            text = b""
        found = [re.search(pattern, text) for pattern in _WATCHED]
        if found[0] is None or found[1] is None:
            return _machine(self._root)[:2]
        return int(found[0][1]) * 1024, int(found[1][1]) * 1024


def _machine(root: Path) -> tuple[int, int, int, int]:
    # psutil warns, and tests turn warnings into errors, where a container hides parts of /proc;
    # the lines that matter here are read directly, and psutil answers elsewhere.
    values = read_meminfo(root)
    if "MemTotal" in values and "MemAvailable" in values:
        total, available = values["MemTotal"], values["MemAvailable"]
        return total, available, values.get("SwapTotal", 0), values.get("SwapFree", 0)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return memory.total, memory.available, swap.total, swap.free


def read_meminfo(root: Path) -> dict[str, int]:
    """Return the figures of ``/proc/meminfo`` in bytes, by name; empty where there is none.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    """
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[key] = int(words[0]) * 1024
    return values
