"""Memory and CPU time of this process and its workers, cheap enough for every tenth of a second.

On Linux two small files of each process are read, ``statm`` and ``stat`` (``proc_pid_statm(5)``,
``proc_pid_stat(5)``); ``smaps_rollup`` would tell shared pages apart, at 100 times the cost.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ProcessLoad", "ProcessWatch"]

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# Walking all processes of the machine costs milliseconds, so children are looked for seldom.
_CHILDREN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """What some processes take together.

    Attributes
    ----------
    memory : int
        Resident bytes. Pages that the processes share are counted in each.
    anonymous : int or None
        Of it what belongs to no file, such as the heap; None where the system does not tell.
    file : int or None
        Of it what is mapped from files (a model's weights) or shared.
    cpu_percent : float or None
        CPU time per time since the look before, 100 for one CPU; None at the first look.
    """

    memory: int
    anonymous: int | None
    file: int | None
    cpu_percent: float | None


class ProcessWatch:
    """Looks at this process, at those named, and at its children.

    Parameters
    ----------
    pids : callable, optional
        Returns the processes to count with this one.
    children : bool
        Whether children count, and theirs; new ones are noticed within half a minute.
    """

    def __init__(
        self, pids: Callable[[], Iterable[int]] | None = None, *, children: bool = False
    ) -> None:
        self._pids = pids
        self._children = children
        self._found: tuple[int, ...] = ()
        self._look_again = 0.0
        self._last: dict[int, float] = {}
        self._at: float | None = None

    def read(self) -> ProcessLoad:
        """Look now; processes that have ended count nothing."""
        now = time.monotonic()
        memory = anonymous = 0
        told = True
        seconds: dict[int, float] = {}
        for pid in self._all(now):
            look = _look(pid)
            if look is None:
                continue
            resident, own, seconds[pid] = look
            memory += resident
            if own is None:
                told = False
            else:
                anonymous += own
        percent = None
        if self._at is not None and now > self._at:
            # A process that is new since then counts from now on.
            used = sum(
                max(0.0, spent - self._last.get(pid, spent)) for pid, spent in seconds.items()
            )
            percent = 100 * used / (now - self._at)
        self._last, self._at = seconds, now
        if not told:
            return ProcessLoad(memory, None, None, percent)
        return ProcessLoad(memory, anonymous, memory - anonymous, percent)

    def _all(self, now: float) -> set[int]:
        if self._children and now >= self._look_again:
            self._look_again = now + _CHILDREN_SECONDS
            try:
                self._found = tuple(
                    child.pid for child in psutil.Process().children(recursive=True)
                )
            except (psutil.Error, OSError):
                self._found = ()
        named = () if self._pids is None else self._pids()
        return {os.getpid(), *self._found, *named}


def _look(pid: int) -> tuple[int, int | None, float] | None:
    """Return resident bytes, anonymous ones, and CPU seconds."""
    directory = f"/proc/{pid}"
    try:
        pages = Path(directory, "statm").read_bytes().split()
        resident, shared = int(pages[1]) * _PAGE, int(pages[2]) * _PAGE
        # The name of the program may hold blanks and brackets; what follows the last one counts.
        fields = Path(directory, "stat").read_bytes().rpartition(b")")[2].split()
        return resident, max(0, resident - shared), (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, LookupError, ValueError):
        pass
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return int(process.memory_info().rss), None, times.user + times.system
    except psutil.Error:
        return None
