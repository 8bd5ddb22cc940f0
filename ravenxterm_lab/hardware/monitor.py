"""One look at the loads of the machine, cheap enough to be taken every second."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ravenxterm_lab.hardware.amd import read_sysfs_gpus
from ravenxterm_lab.hardware.devices import GpuSample
from ravenxterm_lab.hardware.memory import read_memory
from ravenxterm_lab.hardware.nvidia import sample_nvidia

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["HardwareSample", "take_sample"]


@dataclass(frozen=True, slots=True)
class HardwareSample:
    """The loads at one moment.

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
        Resident bytes of this process and of those asked for, together. Pages that they
        share are counted in each.
    gpus : tuple of GpuSample
        One for each GPU.
    """

    ts: int
    cpu_percent: float | None
    memory_used: int
    memory_available: int
    process_memory: int
    gpus: tuple[GpuSample, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each GPU, or one whose ``gpu`` is None, for ``hardware_samples``."""
        common = {
            "cpu_percent": self.cpu_percent,
            "memory_used": self.memory_used,
            "memory_available": self.memory_available,
            "process_memory": self.process_memory,
        }
        empty = dict.fromkeys(
            ("gpu", "gpu_percent", "gpu_memory_used", "gpu_power", "gpu_temperature")
        )
        return [
            {
                **common,
                "gpu": gpu.gpu,
                "gpu_percent": gpu.percent,
                "gpu_memory_used": gpu.memory_used,
                "gpu_power": gpu.power,
                "gpu_temperature": gpu.temperature,
            }
            for gpu in self.gpus
        ] or [{**common, **empty}]


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


def take_sample(
    nvml: Any = None, pids: Sequence[int] = (), *, root: Path = Path("/")
) -> HardwareSample:
    """Look at the loads now, without waiting.

    Parameters
    ----------
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    pids : sequence of int
        Processes whose memory counts with this one's; those that have ended count nothing.
    root : Path
        Stands in for ``/``.
    """
    memory = read_memory(root)
    gpus = list(sample_nvidia(nvml))
    gpus += [
        GpuSample(
            gpu=gpu.index,
            percent=None if gpu.utilization is None else gpu.utilization * 100,
            memory_used=None
            if gpu.total_memory is None or gpu.available_memory is None
            else gpu.total_memory - gpu.available_memory,
            power=gpu.power,
            temperature=gpu.temperature,
        )
        for gpu in read_sysfs_gpus(root, len(gpus))
    ]
    return HardwareSample(
        ts=time.time_ns(),
        cpu_percent=_cpu_clock.percent(),
        memory_used=memory.total - memory.available,
        memory_available=memory.available,
        process_memory=_resident(pids),
        gpus=tuple(gpus),
    )


def _resident(pids: Sequence[int]) -> int:
    total = 0
    for pid in {os.getpid(), *pids}:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
    return total
