"""Which runtimes there are: the entry points of the group ``ravenxterm_lab.runtimes``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from ravenxterm_lab.runtimes.base import Runtime

__all__ = ["ENTRY_POINT_GROUP", "RuntimeNote", "discover_runtimes", "installed_runtimes"]

ENTRY_POINT_GROUP = "ravenxterm_lab.runtimes"


@dataclass(frozen=True, slots=True)
class RuntimeNote:
    """An entry point that gave no runtime.

    Attributes
    ----------
    name : str
        The entry point's name.
    reason : str
        Why, and what to do.
    """

    name: str
    reason: str


def discover_runtimes() -> tuple[tuple[Runtime, ...], tuple[RuntimeNote, ...]]:
    """Return every runtime whose adapter can be imported, and a note for each that cannot.

    An adapter is here even if its engine is not installed; its ``gap`` then says so.

    Returns
    -------
    tuple of two tuples
        The runtimes, ordered by name, and the notes. A broken plugin never raises.
    """
    found: dict[str, Runtime] = {}
    notes: list[RuntimeNote] = []
    for point in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        try:
            runtime = point.load()()
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything
            reason = f"{point.value} cannot be imported ({type(error).__name__}: {error})"
            notes.append(RuntimeNote(point.name, f"{reason}; update or remove its package"))
            continue
        if not isinstance(runtime, Runtime):
            notes.append(RuntimeNote(point.name, f"{point.value} is not a Runtime"))
        elif runtime.name in found:
            if type(found[runtime.name]) is not type(runtime):
                reason = f"another runtime is already called {runtime.name!r}; it was left out"
                notes.append(RuntimeNote(point.name, reason))
        else:
            found[runtime.name] = runtime
    return tuple(found[name] for name in sorted(found)), tuple(notes)


def installed_runtimes() -> tuple[Runtime, ...]:
    """Return every runtime whose adapter can be imported; see `discover_runtimes`."""
    return discover_runtimes()[0]
