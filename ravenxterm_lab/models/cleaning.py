"""Giving back what is not needed: idle models, caches, free space of the store."""

from __future__ import annotations

import ctypes
import shutil
import sys
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.models.status import directory_bytes
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences

__all__ = ["clean"]


def clean(bench: Workbench, preferences: UserPreferences) -> int:
    """Unload idle models, prune caches above the threshold, and compact the store.

    Parameters
    ----------
    bench : Workbench
        Whose pool, caches, store and messages they are.
    preferences : UserPreferences
        For the threshold of the caches.

    Returns
    -------
    int
        Bytes freed, in memory and on disk together, as measured; a message itemises them.
    """
    memory = bench.pool.unload_idle()
    cache = bench.paths.cache
    held = directory_bytes(cache)
    pruned = 0
    if held > preferences.auto_cleanup_threshold_bytes:
        shutil.rmtree(cache, ignore_errors=True)
        pruned = held - directory_bytes(cache)
    before = directory_bytes(bench.paths.store)
    bench.store.ingest_now()
    try:
        bench.store.compact(force=False)
    except StoreError as error:
        bench.messages.add("warning", "cleanup", str(error))
    spool = max(before - directory_bytes(bench.paths.store), 0)
    bench.messages.add(
        "info",
        "cleanup",
        f"Freed {format_bytes(memory)} of memory, {format_bytes(pruned)} of caches and "
        f"{format_bytes(spool)} of the store.{_kept(bench)}",
    )
    bench.store.rest()
    _give_back_heap()
    return memory + pruned + spool


def _give_back_heap() -> None:
    """Return free pages of this process's own heap to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _kept(bench: Workbench) -> str:
    """Say what still holds memory, as measured after the unloading."""
    holders = [
        f"{item.model.name} ({format_bytes(item.memory.total)}, "
        f"{'in use' if item.in_use else 'loaded meanwhile'})"
        for item in bench.pool.resident()
    ]
    return f" Still in memory: {', '.join(holders)}." if holders else ""
