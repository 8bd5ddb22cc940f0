"""Everything in one place: a header line, and a tab for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.units import format_bytes, format_number
from ravenxterm_lab.widgets.hardware import HardwareMonitor
from ravenxterm_lab.widgets.history import HistoryExplorer
from ravenxterm_lab.widgets.look import escape
from ravenxterm_lab.widgets.panel import Panel
from ravenxterm_lab.widgets.preferences import PreferencesPanel
from ravenxterm_lab.widgets.selection import SelectionPanel

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager

__all__ = ["Dashboard"]

_SELECT, _HISTORY, _HARDWARE, _MODELS, _MESSAGES = range(5)


class Dashboard(Panel):
    """Preferences, selection, history, hardware, models and messages of a manager.

    A tab is brought up to date when it is opened, and the one that is open whenever an
    execution has ended.

    Parameters
    ----------
    manager : ModelManager
        Whose state it shows.

    Attributes
    ----------
    preferences : PreferencesPanel
        In the first tab.
    selection : SelectionPanel
        Beside it.
    history : HistoryExplorer
        What happened, and how good the guesses were.
    hardware : HardwareMonitor
        The machine, its memory and its disk.
    tabs : Tab
        Select, History, Hardware, Models, Messages.

    Examples
    --------
    >>> import tempfile
    >>> from ravenxterm_lab import ModelManager
    >>> dashboard = Dashboard(ModelManager(home=tempfile.mkdtemp(), models_dir=[]))
    >>> dashboard.tabs.titles[:3]
    ('Select', 'History', 'Hardware')
    """

    def __init__(self, manager: ModelManager) -> None:
        self.preferences = PreferencesPanel(manager)
        self.selection = SelectionPanel(manager)
        self.history = HistoryExplorer(manager)
        self.hardware = HardwareMonitor(manager)
        # The open tab is drawn by `refresh`, and no other.
        self.history.follows = self.hardware.follows = False
        self._models = widgets.HTML()
        self.scan_button = widgets.Button(
            description="Scan",
            icon="refresh",
            tooltip="Look for models again",
            layout={"width": "auto", "align_self": "flex-start"},
        )
        self._messages = widgets.HTML()
        self._header = widgets.HTML()
        self._warnings = 0
        # On a narrow page the one stands below the other, and takes the whole width.
        self.preferences.layout.flex = "1 1 270px"
        self.selection.layout.flex = "8 1 560px"
        self.selection.layout.min_width = "0"
        for panel in (self.preferences, self.selection):
            panel.add_class("raven-box")
        first = widgets.HBox(
            [self.preferences, self.selection],
            layout={"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "8px"},
        )
        self.tabs = widgets.Tab(
            [
                first,
                self.history,
                self.hardware,
                widgets.VBox([self.scan_button, self._models]),
                self._messages,
            ],
            titles=("Select", "History", "Hardware", "Models", "Messages"),
        )
        super().__init__(manager, [self._header, self.tabs])
        self.tabs.observe(lambda _: self.refresh(), "selected_index")
        self.scan_button.on_click(lambda _: self.selection.scan())
        self._listen("executions", self.refresh)
        self._listen("loads", self.refresh)
        self._listen("models", self.refresh)
        self._listen("preferences", self.refresh)
        self.refresh()

    @property
    def summary(self) -> str:
        """Models, disk, processor, free memory and GPUs, in one line."""
        return " · ".join(_facts(self.manager))

    def refresh(self) -> None:
        """Bring the header and the open tab up to date."""
        if self._closed:
            return
        self._header.value = _header(self.manager)
        count = sum(message.level != "info" for message in self.manager.messages)
        if count != self._warnings:
            self._warnings = count
            self.tabs.set_title(_MESSAGES, f"Messages ({count})" if count else "Messages")
        opened = self.tabs.selected_index
        if opened == _HISTORY:
            self.history.refresh()
        elif opened == _HARDWARE:
            self.hardware.refresh()
        elif opened == _MODELS:
            self._models.value = _html(self.manager.registry)
        elif opened == _MESSAGES:
            self._messages.value = _html(self.manager.messages)


def _html(shown: Any) -> str:
    return str(shown._repr_mimebundle_()["text/html"])


def _facts(manager: ModelManager) -> list[str]:
    models = manager.registry.available_models
    profile = manager.registry.hardware_profile
    free, total = format_bytes(profile.available_memory), format_bytes(profile.total_memory)
    size = format_bytes(sum(model.size_bytes for model in models.values()))
    gpus = ", ".join(gpu.name or "unnamed GPU" for gpu in profile.gpu_devices)
    cores = format_number(profile.cpu_cores, "core")
    return [
        format_number(len(models), "model"),
        f"{size} on disk",
        f"{profile.cpu_name or profile.cpu_architecture}, {cores}",
        f"{free} of {total} memory free (limit: {profile.memory_limit_source})",
        gpus or _no_gpu(profile.notes),
    ]


def _no_gpu(notes: tuple[str, ...]) -> str:
    about = [note for note in notes if "NVIDIA" in note or "GPU" in note]
    return about[0].split(";")[0].rstrip(".") if about else "no GPU found"


def _header(manager: ModelManager) -> str:
    facts = " · ".join(map(escape, _facts(manager)))
    return f'<div><strong>RavenXTerm Lab</strong>&emsp;<span class="raven-dim">{facts}</span></div>'
