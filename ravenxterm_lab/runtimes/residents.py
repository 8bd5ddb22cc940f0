"""One model in the pool: what it reserved, what it holds, and how far it may grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.runtimes.budgets import RAM

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel
    from ravenxterm_lab.runtimes.budgets import Bytes
    from ravenxterm_lab.runtimes.reports import MemoryUse

__all__ = ["Entry", "Resident", "divide"]


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, at one moment.

    Attributes
    ----------
    model : ModelMetadata
        Which.
    runtime : str
        What runs it.
    settings : str
        How it was loaded; see `LoadOptions.settings`.
    memory : MemoryUse
        What its process holds of the host memory (bytes).
    idle_seconds : float
        Since its last use ended; 0 while it is in use (s).
    in_use : int
        How many hold it now.
    load_seconds : float
        What its load took, and a reload would take (s).
    reserved : mapping of str to int
        By device, what was set aside for it when it was loaded (bytes).
    gpu_memory : mapping of str to int
        By GPU, what it holds as the driver tells, or what is reserved where it does not (bytes).
    """

    model: ModelMetadata
    runtime: str
    settings: str
    memory: MemoryUse
    idle_seconds: float
    in_use: int
    load_seconds: float
    reserved: Mapping[str, int] = field(default_factory=dict)
    gpu_memory: Mapping[str, int] = field(default_factory=dict)


class Entry:
    """A place in the pool, from the moment at which a load is allowed.

    Parameters
    ----------
    model : ModelMetadata
        Which.
    runtime : str
        What runs it.
    settings : str
        How it is loaded.
    reserved : mapping of str to int
        Bytes by device.

    Attributes
    ----------
    loaded : LoadedModel or None
        None while it loads.
    in_use : int
        How many hold it, the one that loads it included.
    last_used : float
        When its last use ended, by the pool's clock (s).
    """

    def __init__(self, model: ModelMetadata, runtime: str, settings: str, reserved: Bytes) -> None:
        self.model = model
        self.runtime = runtime
        self.settings = settings
        self.reserved = reserved
        self.loaded: LoadedModel | None = None
        self.in_use = 1
        self.last_used = 0.0

    def held(self, on_gpus: Mapping[int, Bytes]) -> dict[str, int]:
        """Return the bytes to count by device: what is measured, or reserved if that is more.

        A model takes pages as it runs: what it holds after its load is not yet all of it.

        Parameters
        ----------
        on_gpus : mapping of int to mapping of str to int
            By process and GPU, what the drivers tell (bytes).
        """
        measured = {} if self.loaded is None else dict(on_gpus.get(self.loaded.pid or 0, {}))
        measured[RAM] = self.resident_bytes
        return {
            device: max(measured.get(device, 0), self.reserved.get(device, 0))
            for device in {**self.reserved, **measured}
        }

    @property
    def resident_bytes(self) -> int:
        """What it holds of the host memory now; 0 while it loads."""
        return 0 if self.loaded is None else self.loaded.memory().total

    @property
    def load_seconds(self) -> float:
        """What its load took (s)."""
        return 0.0 if self.loaded is None else self.loaded.report.seconds

    def shown(self, now: float, on_gpus: Mapping[int, Bytes]) -> Resident | None:
        """Return it as people see it; None while it loads."""
        if self.loaded is None:
            return None
        told = on_gpus.get(self.loaded.pid or 0, {})
        gpus = {**{d: n for d, n in self.reserved.items() if d != RAM and n}, **told}
        return Resident(
            self.model,
            self.runtime,
            self.settings,
            self.loaded.memory(),
            0.0 if self.in_use else max(0.0, now - self.last_used),
            self.in_use,
            self.load_seconds,
            dict(self.reserved),
            gpus,
        )


def divide(entries: Collection[Entry], budget: int) -> int:
    """Let each loaded model grow so far that all of them together stay within the budget.

    Each may take what was reserved for it. What nobody has reserved is shared by those in use,
    those that load among them: an idle one does not grow.

    Parameters
    ----------
    entries : collection of Entry
        Everything in the pool.
    budget : int
        Bytes of host memory for all of them.

    Returns
    -------
    int
        What each one in use may take beyond what was reserved for it (bytes).
    """
    held = {id(entry): entry.resident_bytes for entry in entries}
    counted = [max(held[id(entry)], entry.reserved.get(RAM, 0)) for entry in entries]
    busy = sum(1 for entry in entries if entry.in_use)
    share = max(0, budget - sum(counted)) // max(1, busy)
    for entry in entries:
        if entry.loaded is not None:
            room = max(0, entry.reserved.get(RAM, 0) - held[id(entry)])
            entry.loaded.limit_growth(room + (share if entry.in_use else 0))
    return share
