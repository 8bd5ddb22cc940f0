"""Looks at the loads of the machine: once, or again and again at little cost."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ravenxterm_lab.hardware.amd import sample_sysfs_gpu, sysfs_gpus
from ravenxterm_lab.hardware.devices import GpuSample
from ravenxterm_lab.hardware.memory import MemoryWatch
from ravenxterm_lab.hardware.nvidia import NvidiaSampler
from ravenxterm_lab.hardware.nvml import LIBRARY_NOT_FOUND, nvml_session
from ravenxterm_lab.hardware.processes import ProcessWatch
from ravenxterm_lab.hardware.rapl import Rapl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ravenxterm_lab.hardware.rapl import PackageEnergy

__all__ = ["HardwareSample", "NvmlKeeper", "Sampler", "take_sample"]

_of_parents: list[ExitStack] = []
# A driver that is missing now may be loaded later.
_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class HardwareSample:
    """The loads at one moment. None means "not available".

    Attributes
    ----------
    ts : int
        Nanoseconds since the epoch (UTC).
    cpu_percent : float or None
        Share of all CPUs' time that was busy since the sample before (0–100); None for the
        first sample of a process.
    memory_used, memory_available : int
        Bytes, of what this process may use.
    process_memory : int
        Resident bytes of this process and of its workers, together. Pages that they share
        are counted in each.
    gpus : tuple of GpuSample
        One for each GPU.
    process_anonymous, process_file : int or None
        Of ``process_memory``, what belongs to no file, and what is mapped from files or shared.
    process_cpu_percent : float or None
        CPU time of the same processes per time since the sample before; 100 is one CPU.
    cpu_power : float or None
        Watts of all processor packages, the mean since the sample before.
    """

    ts: int
    cpu_percent: float | None
    memory_used: int
    memory_available: int
    process_memory: int
    gpus: tuple[GpuSample, ...] = ()
    process_anonymous: int | None = None
    process_file: int | None = None
    process_cpu_percent: float | None = None
    cpu_power: float | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each GPU, or one whose ``gpu`` is None, for ``hardware_samples``."""
        common = {
            "cpu_percent": self.cpu_percent,
            "cpu_power": self.cpu_power,
            "memory_used": self.memory_used,
            "memory_available": self.memory_available,
            "process_memory": self.process_memory,
            "process_anonymous": self.process_anonymous,
            "process_file": self.process_file,
            "process_cpu_percent": self.process_cpu_percent,
        }
        return [
            {
                **common,
                "gpu": None if gpu is None else gpu.gpu,
                "gpu_percent": None if gpu is None else gpu.percent,
                "gpu_memory_used": None if gpu is None else gpu.memory_used,
                "gpu_power": None if gpu is None else gpu.power,
                "gpu_temperature": None if gpu is None else gpu.temperature,
                "gpu_clock": None if gpu is None else gpu.clock,
            }
            for gpu in self.gpus or (None,)
        ]


class _CpuClock:
    """Turns the kernel's running totals into the share since the last look, from any thread.

    psutil keeps its last totals by thread, so that the first call from a new thread answers
    a meaningless 0.0.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._percent: float | None = None

    def percent(self) -> float | None:
        times = psutil.cpu_times()
        # Linux counts guest time within user time already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        with self._lock:
            last = self._last
            if last is None:
                self._last = total, idle
            # The kernel counts in ticks of about 10 ms: before the next one nothing new is known.
            elif total > last[0]:
                share = 1 - (idle - last[1]) / (total - last[0])
                self._percent = 100 * min(1.0, max(0.0, share))
                self._last = total, idle
            return self._percent


_cpu_clock = _CpuClock()


class NvmlKeeper:
    """Keeps one NVML session open, and tries again once a minute where there is none.

    After a fork the child opens a session of its own: one that it closes must not be its
    parent's.

    Parameters
    ----------
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._stack = ExitStack()
        self._cards: NvidiaSampler | None = None
        self._owner = os.getpid()
        self._retry_at = 0.0
        self._note: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there is no session, or what the cards do not tell, with the remedy.

        Where no driver is installed there is nothing to say.
        """
        cards, note = self._cards, self._note
        said = () if cards is None else tuple(cards.notes.values())
        return said if note is None else (note, *said)

    def cards(self) -> NvidiaSampler | None:
        """Return the sampler of the session, or None where NVML cannot be used now."""
        if self._owner != os.getpid():
            # Were the parent's session let go of here, it would be shut down.
            _of_parents.append(self._stack)
            self._stack, self._cards = ExitStack(), None
            self._owner, self._retry_at = os.getpid(), 0.0
        if self._cards is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            session = self._stack.enter_context(nvml_session(self._nvml))
            failure = session.failure
            if failure is None:
                self._cards, self._note = NvidiaSampler(session), None
            else:
                missing = failure.code == LIBRARY_NOT_FOUND
                self._note = None if missing else failure.explain("NVIDIA GPUs")
                self._stack.close()
        return self._cards

    def close(self) -> None:
        """End the session."""
        if self._owner == os.getpid():
            self._stack.close()
        self._cards, self._retry_at = None, 0.0


class Sampler:
    """Takes samples; what is slow to look up is kept between them.

    It may be used by one thread at a time.

    Parameters
    ----------
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    pids : callable, optional
        Returns the processes whose memory and CPU time count with this one's.
    children : bool
        Whether the children of this process count with it.
    root : Path
        Stands in for ``/``.
    """

    def __init__(
        self,
        nvml: Any = None,
        *,
        pids: Callable[[], Iterable[int]] | None = None,
        children: bool = False,
        root: Path = Path("/"),
    ) -> None:
        self._nvml = NvmlKeeper(nvml)
        self._memory = MemoryWatch(root)
        self._processes = ProcessWatch(pids, children=children)
        self._rapl = Rapl(root)
        self._energy: PackageEnergy | None = self._rapl.read()
        self._others = sysfs_gpus(root)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not available, why, and the remedy."""
        rapl = () if self._rapl.note is None else (self._rapl.note,)
        return (*self._nvml.notes, *rapl)

    def take(self) -> HardwareSample:
        """Look at the loads now, without waiting."""
        total, available = self._memory.read()
        load = self._processes.read()
        return HardwareSample(
            ts=time.time_ns(),
            cpu_percent=_cpu_clock.percent(),
            memory_used=total - available,
            memory_available=available,
            process_memory=load.memory,
            gpus=self._gpus(),
            process_anonymous=load.anonymous,
            process_file=load.file,
            process_cpu_percent=load.cpu_percent,
            cpu_power=self._cpu_power(),
        )

    def close(self) -> None:
        """Let go of the driver; a later sample opens it again."""
        self._nvml.close()

    def _gpus(self) -> tuple[GpuSample, ...]:
        cards = self._nvml.cards()
        gpus = [] if cards is None else list(cards.sample())
        first = len(gpus)
        for index, device in enumerate(self._others, first):
            gpus.append(sample_sysfs_gpu(device, index) or GpuSample(index))
        return tuple(gpus)

    def _cpu_power(self) -> float | None:
        before, now = self._energy, self._rapl.read()
        self._energy = now
        if before is None or now is None or now.seconds <= before.seconds:
            return None
        joules = self._rapl.between(before, now)
        return None if joules is None else joules / (now.seconds - before.seconds)


def take_sample(
    nvml: Any = None, pids: Sequence[int] = (), *, root: Path = Path("/")
) -> HardwareSample:
    """Look at the loads once.

    Parameters
    ----------
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    pids : sequence of int
        Processes whose memory counts with this one's; those that have ended count nothing.
    root : Path
        Stands in for ``/``.
    """
    sampler = Sampler(nvml, pids=lambda: pids, root=root)
    try:
        return sampler.take()
    finally:
        sampler.close()
