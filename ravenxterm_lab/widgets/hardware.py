"""The machine: what it has, and its load over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab import plots
from ravenxterm_lab.units import NOT_MEASURED, format_bytes
from ravenxterm_lab.widgets.figures import FigurePanel
from ravenxterm_lab.widgets.look import escape, table

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots import View

__all__ = ["HardwarePanel"]

_SHOWN = 10
_HEADER = ["time (UTC)", "CPU load", "memory used", "memory of this process"]


class HardwarePanel(FigurePanel):
    """The hardware profile, and the recorded load of CPU and memory.

    Parameters
    ----------
    manager : ModelManager
        Whose registry and store are read.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._profile = widgets.HTML()
        super().__init__(manager, self._view, _latest, between=[self._profile])

    def _view(self) -> View:
        profile = self.manager.registry.hardware_profile
        self._profile.value = profile._repr_mimebundle_()["text/html"]
        return plots.hardware(self.manager)


def _latest(view: View) -> str:
    rows = [_row(item) for item in view.data().tail(_SHOWN).iter_rows(named=True)]
    return table("The latest samples, newest last", _HEADER, rows)


def _row(item: dict[str, Any]) -> list[str]:
    load = item["cpu_percent"]
    return [
        escape(f"{item['ts']:%Y-%m-%d %H:%M:%S}"),
        NOT_MEASURED if load is None else f"{load:.0f}%",
        format_bytes(item["memory_used"]),
        format_bytes(item["process_memory"]),
    ]
