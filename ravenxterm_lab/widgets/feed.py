"""Samples of the hardware into a live figure, second by second, at little cost."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.plots.hardware_figure import GPU, MACHINE, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import plotly.graph_objects as go

    from ravenxterm_lab.hardware import HardwareSample

__all__ = ["Feed", "Ticker"]

_LINES = {**MACHINE, **GPU}
#: Points of a line that are sent with each second.
_MOST = 600


class Feed:
    """The lines of a live figure, to which each sample adds a point.

    Redrawing a figure takes tens of milliseconds; this sends what its lines hold, as bytes.

    Parameters
    ----------
    figure : FigureWidget
        As ``plots.hardware(…).live()`` makes it.
    seconds : float
        How much of the past it shows.
    since : int
        The time of the last sample that it holds (ns since the epoch).
    """

    def __init__(self, figure: go.FigureWidget, seconds: float, since: int) -> None:
        self._figure = figure
        self._seconds = seconds
        self._since = since
        self._traces = {trace.meta: trace for trace in figure.data}
        self._points = {
            key: (np.asarray(trace.x, np.float64), np.asarray(trace.y, np.float32))
            for key, trace in self._traces.items()
            if key.partition(" ")[0] in _LINES
        }

    def take(self, samples: Iterable[HardwareSample], now: int) -> bool:
        """Add the samples that are new, and move the axis; say whether all had a line.

        Parameters
        ----------
        samples : iterable of HardwareSample
            In the order of their times.
        now : int
            The end of the axis (ns since the epoch).
        """
        complete = True
        for sample in samples:
            if sample.ts <= self._since:
                continue
            self._since = sample.ts
            for place, row in enumerate(sample.rows()):
                complete &= self._add(sample.ts / 1e6, row, first=place == 0)
        begin = now / 1e6 - 1000 * self._seconds
        with self._figure.batch_update():
            for key, (times, values) in self._points.items():
                kept = int(np.searchsorted(times, begin))
                kept = max(kept, len(times) - _MOST)
                self._points[key] = times[kept:], values[kept:]
                self._traces[key].x, self._traces[key].y = self._points[key]
            self._figure.layout.xaxis.range = (begin, now / 1e6)
        return complete

    def _add(self, moment: float, row: dict[str, Any], *, first: bool) -> bool:
        complete = True
        for name, line in _LINES.items():
            value = row[name]
            if value is None or (name in MACHINE and not first):
                continue
            key = key_of(name, row["gpu"] if name in GPU else None)
            if key not in self._points:
                complete = False
                continue
            times, values = self._points[key]
            self._points[key] = (
                np.append(times, moment),
                np.append(values, np.float32(value * line.factor)),
            )
        return complete


class Ticker:
    """Calls a method of an object again and again from a thread, as long as the object lives.

    Parameters
    ----------
    tick : callable
        A bound method; it is held weakly. What it raises ends the thread.
    seconds : float
        Between the calls.
    """

    def __init__(self, tick: Callable[[], None], seconds: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_loop,
            args=(weakref.WeakMethod(tick), self._stop, seconds),
            name="raven-live-view",
            daemon=True,
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Call no more; wait for a call that is going on."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)


def _loop(
    tick: weakref.WeakMethod[Callable[[], None]], stop: threading.Event, seconds: float
) -> None:
    due = time.monotonic()
    while not stop.is_set():
        call = tick()
        if call is None:
            return
        call()
        del call
        # What was missed is left out.
        due = max(due + seconds, time.monotonic())
        stop.wait(due - time.monotonic())
