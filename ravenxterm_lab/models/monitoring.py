"""What the hardware does while models run, recorded: samples, and the energy of executions."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.hardware import EnergyMeter, HardwareMonitor, Sampler
from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ravenxterm_lab.hardware import Energy, HardwareSample
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["EnergyOfRun", "Monitoring", "RecordingMonitor"]

_TRY_AGAIN_SECONDS = 10.0


class Monitoring:
    """Sampler, energy counters and the monitor of one workbench.

    Parameters
    ----------
    bench : Workbench
        Whose store takes the samples.
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    """

    def __init__(self, bench: Workbench, nvml: Any = None) -> None:
        self._bench = bench
        self._nvml = nvml
        self._sampler = Sampler(nvml)
        self._monitor: weakref.ref[RecordingMonitor] | None = None
        #: Read before and after each run.
        self.meter = EnergyMeter(nvml)

    @property
    def running(self) -> RecordingMonitor | None:
        """The monitor that samples now, if there is one."""
        monitor = None if self._monitor is None else self._monitor()
        return monitor if monitor is not None and monitor.running else None

    def start(self, interval: float) -> RecordingMonitor:
        """Start the monitor; one that runs at another interval is stopped.

        Parameters
        ----------
        interval : float
            Seconds between samples, 0.1 to 10.

        Raises
        ------
        HardwareError
            If the interval is not allowed; a monitor that runs goes on then.
        """
        running = self.running
        if running is not None and running.interval == interval:
            return running
        monitor = RecordingMonitor(
            interval, self._record, self._bench.paths.home / "monitor.lock", nvml=self._nvml
        )
        if running is not None:
            running.stop()
        # Detecting the hardware is no work for the thread of the monitor.
        self._bench.hardware  # noqa: B018 - a cached property
        monitor.start()
        self._monitor = weakref.ref(monitor)
        return monitor

    def sample(self) -> None:
        """Record the loads of this moment, unless a monitor does so anyway."""
        if self.running is None:
            self._record(self._sampler.take())

    def energy(self, device: HardwareType) -> EnergyOfRun:
        """Begin to measure the energy of a run.

        Parameters
        ----------
        device : HardwareType
            Where it runs: the energy of GPUs counts for a run on a GPU only.
        """
        return EnergyOfRun(self, device)

    def _record(self, sample: HardwareSample) -> None:
        fingerprint = self._bench.hardware.fingerprint
        for row in sample.rows():
            self._bench.record("hardware_samples", hardware=fingerprint, **row)


class EnergyOfRun:
    """The energy of the devices from its making on, with what they draw at rest and for others.

    The counters of the processor packages (RAPL) and of NVIDIA's cards are read; for a GPU
    without a counter the power that a running monitor saw is integrated.

    Parameters
    ----------
    monitoring : Monitoring
        Whose counters and monitor are asked.
    device : HardwareType
        Where the run takes place.
    """

    def __init__(self, monitoring: Monitoring, device: HardwareType) -> None:
        self._monitoring = monitoring
        self._on_gpu = device not in {HardwareType.CPU, HardwareType.NPU}
        self._before = monitoring.meter.read()
        self._start = time.time_ns()

    def so_far(self) -> Energy:
        """Return the energy until now, without joules where nothing tells it."""
        energy = self._monitoring.meter.since(self._before, gpus=self._on_gpu)
        monitor = self._monitoring.running
        counted = any(source.startswith("GPU") for source in energy.sources)
        if self._on_gpu and not counted and monitor is not None:
            monitor.sample_now()
            energy += monitor.energy(self._start, time.time_ns())
        return energy

    def metrics(self) -> dict[str, Any]:
        """Return the metric ``energy`` (J) and what was summed, or nothing."""
        energy = self.so_far()
        if energy.joules is None:
            return {}
        return {"energy": energy.joules, "energy_source": ", ".join(energy.sources)}


class RecordingMonitor(HardwareMonitor):
    """A monitor whose samples are recorded by one process of the machine at a time.

    Several notebooks may each have one: all of them sample, the first records, and when it
    ends another takes over.

    Parameters
    ----------
    interval : float
        Seconds between samples, 0.1 to 10.
    record : callable
        Records a sample.
    lock : Path
        The file whose lock decides who records.
    nvml : object, optional
        Stands in for ``pynvml``.
    """

    def __init__(
        self,
        interval: float,
        record: Callable[[HardwareSample], None],
        lock: Path,
        *,
        nvml: Any = None,
    ) -> None:
        turn = _Turn(lock)

        def sink(sample: HardwareSample) -> None:
            if turn.mine():
                record(sample)

        super().__init__(interval, sink=sink, nvml=nvml)
        self._turn = turn

    @property
    def recording(self) -> bool:
        """Whether the samples of this monitor go into the store."""
        return self.running and self._turn.held

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not available, why, and the remedy; and what went wrong."""
        if self.running and self._kept and not self._turn.held:
            note = "Another process records the samples of this machine; these are kept in memory."
            return (note, *super().notes)
        return super().notes

    def stop(self) -> None:
        """End the sampling, and let another process record."""
        super().stop()
        self._turn.release()


class _Turn:
    """A lock on a file, which ends with its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._close: weakref.finalize[..., _Turn] | None = None
        self._owner = 0
        self._try_at = 0.0

    @property
    def held(self) -> bool:
        return self._close is not None and self._owner == os.getpid()

    def mine(self) -> bool:
        """Say whether this process has it, trying now and then to get it."""
        if self._close is not None and self._owner != os.getpid():
            # The parent's: a copy left open here would keep it beyond the parent's end.
            self.release()
        if self._close is None and time.monotonic() >= self._try_at:
            self._try_at = time.monotonic() + _TRY_AGAIN_SECONDS
            self._acquire()
        return self._close is not None

    def _acquire(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return
        except OSError:
            # A file system without locks: two recorders are better than none.
            pass
        self._close, self._owner = weakref.finalize(self, _close, descriptor), os.getpid()

    def release(self) -> None:
        if self._close is not None:
            self._close()
            self._close, self._try_at = None, 0.0


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
