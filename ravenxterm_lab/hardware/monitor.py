"""Background sampling of the loads: one thread, which ends with its owner."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from ravenxterm_lab.exceptions import HardwareError
from ravenxterm_lab.hardware.energy import Energy, integrate_power
from ravenxterm_lab.hardware.sampler import HardwareSample, Sampler
from ravenxterm_lab.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    import polars as pl

__all__ = ["HardwareMonitor", "Samples"]

_SHORTEST, _LONGEST = 0.1, 10.0
_KEPT = 3600
_PATIENCE = 5.0
_MOST_TROUBLE = 20


class Samples(Sequence[HardwareSample]):
    """Some samples, oldest first.

    Parameters
    ----------
    samples : iterable of HardwareSample
        In the order of their times.
    """

    def __init__(self, samples: Iterable[HardwareSample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> HardwareSample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> HardwareSample | Samples:
        if isinstance(index, slice):
            return Samples(self._samples[index])
        return self._samples[index]

    def __repr__(self) -> str:
        return f"<{len(self)} samples of the hardware; .pl() makes a data frame>"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each GPU of each sample, with its ``ts`` (ns since the epoch)."""
        return [{"ts": sample.ts, **row} for sample in self._samples for row in sample.rows()]

    def pl(self) -> pl.DataFrame:
        """Return a polars data frame: columns as in ``hardware_samples``, ``ts`` in UTC."""
        import polars as pl

        whole = ("memory_used", "memory_available", "process_memory", "process_anonymous")
        schema: dict[str, Any] = {"ts": pl.Int64}
        schema |= dict.fromkeys(HardwareSample(0, None, 0, 0, 0).rows()[0], pl.Float64)
        schema |= dict.fromkeys((*whole, "process_file", "gpu_memory_used"), pl.Int64)
        schema["gpu"] = pl.Int32
        frame = pl.DataFrame(self.rows(), schema=schema)
        return frame.with_columns(pl.from_epoch("ts", time_unit="ns").cast(pl.Datetime("us")))


class HardwareMonitor:
    """Samples the loads in the background and hands each sample on.

    One daemon thread takes the samples. It ends when the monitor is stopped, when nothing
    refers to the monitor any more, and when the interpreter ends. It keeps one session with the
    GPU driver open, survives a GPU that is lost, and keeps to its times: a sample that comes
    late does not delay those after it, and what was missed is left out.

    A child of ``os.fork()`` has no such thread: there the monitor is not running, and can be
    started anew.

    Parameters
    ----------
    interval : float
        Seconds between samples, 0.1 to 10.
    sink : callable, optional
        Is given each `HardwareSample`, in the thread of the monitor. What it raises is noted.
    pids : callable, optional
        Returns the processes that count with this one; its children count anyway.
    keep : int
        Samples that are kept in memory, the latest ones.
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    root : Path
        Stands in for ``/``.

    Raises
    ------
    HardwareError
        (A ``ValueError``.) If the interval or the number to keep is not allowed.

    Examples
    --------
    >>> import time
    >>> from ravenxterm_lab.hardware import HardwareMonitor
    >>> with HardwareMonitor(interval=0.1) as monitor:
    ...     time.sleep(0.3)
    >>> len(monitor.samples) >= 2, monitor.running
    (True, False)
    """

    def __init__(
        self,
        interval: float = 1.0,
        *,
        sink: Callable[[HardwareSample], object] | None = None,
        pids: Callable[[], Iterable[int]] | None = None,
        keep: int = _KEPT,
        nvml: Any = None,
        root: Path = Path("/"),
    ) -> None:
        _check(interval, keep)
        self.interval = float(interval)
        self._sink = sink
        self._sampler = Sampler(nvml, pids=pids, children=True, root=root)
        self._kept: deque[HardwareSample] = deque(maxlen=keep)
        self._trouble: dict[str, None] = {}
        self._missed = 0
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._run: _Run | None = None

    # -- running -----------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to sample; a monitor that is running goes on."""
        self._settle()
        if self._run is None or not self._run.alive:
            self._run = _Run(self)
        return self

    def stop(self) -> None:
        """End the sampling, wait for the last sample, and let go of the driver."""
        self._settle()
        run, self._run = self._run, None
        if run is not None and run.alive:
            run.end()
        with self._lock:
            self._sampler.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether samples are being taken in this process."""
        return self._run is not None and self._run.alive

    def __repr__(self) -> str:
        state = f"every {format_seconds(self.interval)}" if self.running else "stopped"
        return f"<HardwareMonitor: {state}, {len(self._kept)} samples in memory>"

    # -- what was seen -----------------------------------------------------------------------

    @property
    def samples(self) -> Samples:
        """The latest samples that are kept in memory, oldest first."""
        return Samples(self._kept.copy())

    @property
    def latest(self) -> HardwareSample | None:
        """The last sample; None before the first."""
        return self._kept[-1] if self._kept else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not available, why, and the remedy; and what went wrong."""
        notes = [*list(self._trouble), *self._sampler.notes]
        if self._run is not None and self._run.owner != os.getpid():
            notes.insert(
                0,
                "This process was forked from the one that is monitored, and has no monitor of "
                "its own: start() begins one.",
            )
        if self._missed:
            notes.append(
                f"{self._missed} samples were left out because the one before took too long or "
                "the machine was suspended."
            )
        return tuple(notes)

    def sample_now(self) -> HardwareSample:
        """Take a sample beside those of the thread, and treat it as one of them."""
        self._settle()
        with self._lock:
            sample = self._sampler.take()
            self._kept.append(sample)
        if self._sink is not None:
            try:
                self._sink(sample)
            except Exception as error:  # noqa: BLE001 - whatever a sink does; it is noted
                self._note(f"A sample was not handed on: {type(error).__name__}: {error}")
        return sample

    def _tick(self) -> None:
        try:
            self.sample_now()
        except Exception as error:  # noqa: BLE001 - a thread must not print or end; it is noted
            self._note(f"A sample could not be taken: {type(error).__name__}: {error}")

    def _note(self, text: str) -> None:
        if len(self._trouble) < _MOST_TROUBLE:
            self._trouble[text] = None

    def _settle(self) -> None:
        # The lock may have been held by the thread of the parent when the process was forked.
        if self._owner != os.getpid():
            self._lock, self._owner = threading.Lock(), os.getpid()

    def energy(self, start: int, end: int) -> Energy:
        """Integrate the power of the GPUs between two moments.

        Parameters
        ----------
        start, end : int
            Nanoseconds since the epoch, as ``time.time_ns()`` tells them.

        Returns
        -------
        Energy
            Without joules where no GPU told its power, or where samples are missing.
        """
        longest = max(_PATIENCE, 3 * self.interval)
        return integrate_power(self.samples, start, end, longest_gap=longest)


def _check(interval: Any, keep: Any) -> None:
    number = isinstance(interval, int | float) and not isinstance(interval, bool)
    if not (number and math.isfinite(interval) and _SHORTEST <= interval <= _LONGEST):
        raise HardwareError(
            f"interval is {interval!r}; allowed are {_SHORTEST:g} to {_LONGEST:g} seconds "
            "between samples (10 to 0.1 a second)."
        )
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise HardwareError(f"keep is {keep!r}; allowed is a number of samples from 1.")


class _Run:
    """One life of the thread. It holds no reference to the monitor, so that this can die."""

    def __init__(self, monitor: HardwareMonitor) -> None:
        self.owner = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_loop,
            args=(weakref.ref(monitor), self._stop, monitor.interval),
            name="hardware-monitor",
            daemon=True,
        )
        self._finalizer = weakref.finalize(
            monitor, _abandon, self._stop, self._thread, monitor._sampler, self.owner
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._thread.is_alive()

    def end(self) -> None:
        self._finalizer.detach()
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE)


def _loop(monitor_of: weakref.ref[HardwareMonitor], stop: threading.Event, interval: float) -> None:
    deadline = time.monotonic()
    while True:
        monitor = monitor_of()
        if monitor is None or stop.is_set():
            return
        monitor._tick()
        deadline += interval
        behind = time.monotonic() - deadline
        if behind > 0:
            missed = math.ceil(behind / interval)
            monitor._missed += missed
            deadline += missed * interval
        # While it waits, the thread must not keep the monitor alive.
        del monitor
        if stop.wait(max(0.0, deadline - time.monotonic())):
            return


def _abandon(stop: threading.Event, thread: threading.Thread, sampler: Sampler, owner: int) -> None:
    """End the thread of a monitor that nothing refers to any more, or at the interpreter's end."""
    if owner != os.getpid():
        return
    stop.set()
    if threading.current_thread() is not thread:
        thread.join(_PATIENCE)
    if not thread.is_alive() or threading.current_thread() is thread:
        sampler.close()
