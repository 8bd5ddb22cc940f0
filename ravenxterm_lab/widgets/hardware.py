"""The machine: what it has, its load as it happens, what is loaded, and what lies on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab import plots
from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.plots.hardware_figure import GPU, MACHINE
from ravenxterm_lab.plots.live import have_same_traces, live_figure, replace_traces
from ravenxterm_lab.plots.theme import CONFIG
from ravenxterm_lab.widgets.feed import Feed, Ticker
from ravenxterm_lab.widgets.figures import FigurePanel, labelled
from ravenxterm_lab.widgets.look import escape, status

if TYPE_CHECKING:
    from ravenxterm_lab.hardware import HardwareSample
    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.models.monitoring import RecordingMonitor
    from ravenxterm_lab.plots import View
    from ravenxterm_lab.plots.live import LiveFigure

__all__ = ["HardwareMonitor"]

_LOAD, _MEMORY, _DISK = "load", "memory", "disk"
_SECONDS = 1.0
#: In words, and in hours.
_WINDOWS = (
    ("last minute", 1 / 60),
    ("last 10 minutes", 1 / 6),
    ("last hour", 1.0),
    ("last 24 hours", 24.0),
    ("last 14 days", 336.0),
)
#: What goes on longer would move by less than a pixel a second.
_LIVE_HOURS = 1.0
_LIVE = "Live: a sample a second; press Stop to end it."
_PRESS = "press Live, or run monitor = manager.monitor(), for a sample a second."
# A figure widget is 700 pixels wide until it hears that the window has another size.
_FIT = """
const panel = this.closest('.raven-lab');
const fit = () => panel.querySelectorAll('.js-plotly-plot').forEach(plot => {
  if (plot.ravenFitted || !plot.querySelector('.main-svg')) return;
  plot.ravenFitted = true;
  // It draws once more after it has come onto the page, at a time that nothing tells.
  for (const wait of [100, 1000]) setTimeout(() => window.dispatchEvent(new Event('resize')), wait);
});
if (panel) new MutationObserver(fit).observe(panel, {childList: true, subtree: true});
"""
#: Runs of other processes are looked for this often (s): a look costs tens of milliseconds.
_LOOK = 60.0


class HardwareMonitor(FigurePanel):
    """The load of the machine, live or of the past, with the executions on the same axis.

    Live, a sample a second is taken and drawn, until it is stopped or closed, or the kernel ends.
    A monitor that was running goes on then. While it is live the figure is a widget; stopped,
    it is one that a saved notebook keeps.

    Parameters
    ----------
    manager : ModelManager
        Whose machine, pool and store are looked at.

    Attributes
    ----------
    kind : Dropdown
        Load over time, the memory of the pool, or the models on disk.
    window : Dropdown
        How far back.
    live : ToggleButton
        Whether it samples and draws once a second.
    """

    def __init__(self, manager: ModelManager) -> None:
        self.kind = labelled(
            widgets.Dropdown, "view", width="260px",
            options=[
                ("load over time", _LOAD), ("memory of the pool", _MEMORY), ("disk", _DISK),
            ],
        )  # fmt: skip
        self.window = labelled(
            widgets.Dropdown, "window", width="210px", options=_WINDOWS, value=24.0
        )
        self.live = widgets.ToggleButton(
            description="Live",
            icon="play",
            tooltip="Sample and draw once a second, until it is pressed again",
            layout={"width": "auto"},
        )
        self._now = widgets.HTML()
        self._profile = widgets.HTML()
        self._feed: Feed | None = None
        self._ticker: Ticker | None = None
        self._monitor: RecordingMonitor | None = None
        self._own_monitor = False
        self._widget: LiveFigure | None = None
        self._look_at = 0.0
        super().__init__(
            manager, self._view, [self.kind, self.window, self.live], between=[self._now]
        )
        self.children = (*self.children, self._profile)
        self._hook.value = f'<style onload="{_FIT}"></style>'
        self.kind.observe(self._changed, "value")
        self.window.observe(self._changed, "value")
        self.live.observe(self._toggled, "value")

    # -- what is drawn -----------------------------------------------------------------------

    def _view(self) -> View:
        if not self._profile.value:
            card = self.manager.registry.hardware_profile._repr_mimebundle_()["text/html"]
            self._profile.value = f"<details><summary>This machine</summary>{card}</details>"
        if self.kind.value == _MEMORY:
            return plots.memory(self.manager)
        if self.kind.value == _DISK:
            return plots.disk(self.manager)
        return plots.hardware(self.manager, hours=self.window.value)

    def refresh(self) -> None:
        """Read the store again and draw; live, look for executions of other processes too."""
        if self._closed:
            return
        if self.live.value:
            self._look_at = 0.0
        else:
            self._draw_still()

    def _draw_still(self) -> None:
        super().refresh()
        if self.view is not None and self.view.rows is None and not self.live.disabled:
            self._sentence.value = status(f"{self.view.summary.partition(':')[0]}: {_PRESS}")

    def _changed(self, _change: dict[str, Any]) -> None:
        over_time = self.kind.value == _LOAD
        self.window.disabled = not over_time
        self.live.disabled = not over_time
        if self.live.value and (not over_time or self.window.value > _LIVE_HOURS):
            self.live.value = False
        elif self.live.value:
            self._look_at = 0.0
        else:
            self._draw_still()

    # -- live --------------------------------------------------------------------------------

    def start(self) -> None:
        """Sample and draw once a second; does nothing when it does already."""
        self.live.value = True

    def stop(self) -> None:
        """Draw no more, and end the monitor that was started for this."""
        self.live.value = False

    def _toggled(self, _change: dict[str, Any]) -> None:
        if self._closed:
            return
        if not self.live.value:
            self._end()
            self._draw_still()
            return
        if self.window.value > _LIVE_HOURS:
            self.window.value = 1 / 6
        try:
            running = self.manager._bench.monitoring.running
            self._own_monitor = running is None
            self._monitor = running or self.manager.monitor(_SECONDS)
        except RavenXTermError as error:
            self._sentence.value = status(str(error), error=True)
            self.live.value = False
            return
        self.live.icon, self.live.description = "stop", "Stop"
        self._sentence.value = status(_LIVE)
        self._look_at = 0.0
        self._ticker = Ticker(self._tick, _SECONDS)

    def _tick(self) -> None:
        monitor = self._monitor
        if self._closed or monitor is None or not self.live.value:
            return
        latest = monitor.latest
        if latest is None:
            return
        now = time.time_ns()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK
            if not self._draw_widget():
                # The first sample is in memory a moment before it is in the store.
                self._look_at = 0.0
        if self._feed is not None and not self._feed.take(monitor.samples, now):
            self._look_at = 0.0
        self._now.value = _now_html(latest)

    def _draw_widget(self) -> bool:
        """Make the figure anew from the store; say whether there was something to draw."""
        try:
            self.view = plots.hardware(self.manager, hours=self.window.value)
        except RavenXTermError as error:
            self._now.value = f'<div class="raven-dim">{escape(error)}</div>'
            return True
        if self.view.rows is None:
            return False
        if self._widget is not None and have_same_traces(self._widget, self.view.figure):
            replace_traces(self._widget, self.view.figure)
        else:
            old, self._widget = self._widget, live_figure(self.view)
            self._widget._config = {**CONFIG, "responsive": True}
            # Responsive, it would take the height of a panel that has none.
            height = self._keep_height(self.view.figure.layout.height)
            self._sentence.value = status(_LIVE) + height
            self._place.children = (self._widget,)
            if old is not None:
                old.close()
        self._feed = Feed(self._widget, self.window.value * 3600, _last_sample(self.view))
        self._table.value = ""
        return True

    def _end(self) -> None:
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.end()
        monitor, self._monitor = self._monitor, None
        if monitor is not None and self._own_monitor:
            monitor.stop()
        self._feed = None
        self._place.children = (self._figure,)
        widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()
        self.live.icon, self.live.description = "play", "Live"
        self._now.value = ""

    def close(self) -> None:
        """End it, and the monitor that was started for it. Safe to call twice."""
        if not self._closed:
            self._end()
        super().close()


def _last_sample(view: View) -> int:
    """Return when the last sample that is drawn was taken (ns since the epoch)."""
    frame = view.data().filter(view.data()["what"] == "memory_used")
    return int(frame["ts"].dt.epoch("us").max() or 0) * 1000  # type: ignore[arg-type]


def _now_html(sample: HardwareSample) -> str:
    parts = []
    for place, row in enumerate(sample.rows()):
        if place == 0:
            parts += [
                f"{line.label} {line.show(row[name])}"
                for name, line in MACHINE.items()
                if row[name] is not None
            ]
        if row["gpu"] is not None:
            parts += [
                f"GPU {row['gpu']} {line.label} {line.show(row[name])}"
                for name, line in GPU.items()
                if row[name] is not None
            ]
    return f'<div class="raven-dim">Now: {escape("; ".join(parts))}</div>'
