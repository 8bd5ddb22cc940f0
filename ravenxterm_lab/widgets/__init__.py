"""SHOW: panels for a notebook. Each shows itself at the end of a cell, and is usable alone.

Every panel has ``.summary`` (one sentence) and ``close()``, which ends what it started.
Panels of one manager follow each other: preferences that one of them applies hold in all.
"""

from __future__ import annotations

from ravenxterm_lab.widgets.dashboard import Dashboard
from ravenxterm_lab.widgets.hardware import HardwareMonitor
from ravenxterm_lab.widgets.history import HistoryExplorer
from ravenxterm_lab.widgets.preferences import PreferencesPanel
from ravenxterm_lab.widgets.selection import SelectionPanel

__all__ = [
    "Dashboard",
    "HardwareMonitor",
    "HistoryExplorer",
    "PreferencesPanel",
    "SelectionPanel",
]
