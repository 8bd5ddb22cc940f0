"""What was observed of the models: executions, their sums, and the changes that were noticed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

__all__ = ["BEGIN", "Mark", "Noticed", "Run", "Sums", "Whole"]

#: What microseconds are counted from.
BEGIN = datetime(1970, 1, 1)  # noqa: DTZ001 - the store's timestamps are UTC without a zone


class Mark(NamedTuple):
    """When an execution was recorded, and which it is; executions are ordered by it."""

    at: datetime
    session: str
    seq: int

    @property
    def microseconds(self) -> int:
        """When it was recorded, since 1970 (µs)."""
        return (self.at - BEGIN) // timedelta(microseconds=1)

    @property
    def execution(self) -> str:
        """Which it is, as ``session:seq``."""
        return f"{self.session}:{self.seq}"


class Run(NamedTuple):
    """One execution, as far as it is evidence.

    Attributes
    ----------
    mark : Mark
        Which.
    model : str
        Name, for messages.
    key, fingerprint : str, str or None
        The model's key (its fingerprint, or its name without one), and its fingerprint.
    task, runtime, device, settings : str or None
        What ran how, as it was recorded.
    here : bool
        Whether it ran on this machine.
    interrupted, success : bool
        Whether the person stopped it, and whether it succeeded.
    throughput, work, first_token, quality : float or None
        Tokens (items) per second, tokens (items), seconds, and 0–1 as measured.
    """

    mark: Mark
    model: str
    key: str
    fingerprint: str | None
    task: str | None
    runtime: str | None
    device: str | None
    settings: str | None
    here: bool
    interrupted: bool
    success: bool
    throughput: float | None
    work: float | None
    first_token: float | None
    quality: float | None


class Noticed(NamedTuple):
    """A change that was noticed before: what changed, and the executions that bound it.

    Attributes
    ----------
    metric : str
        ``"speed"`` or ``"quality"``.
    key, task : str
        Model key and task.
    runtime, device, settings : str or None
        Of a speed, what it was measured with (see `engine_settings`); of a quality the type of
        the KV cache as ``settings``.
    first, noticed : Mark
        The first execution since then, and the one that made it certain.
    """

    metric: str
    key: str
    task: str
    runtime: str | None
    device: str | None
    settings: str | None
    first: Mark
    noticed: Mark


class Sums(NamedTuple):
    """Sums over the executions of one model on one task with one set of settings.

    ``everywhere`` counts the runs of all machines; runs, speed and first token those of this
    one. ``weighted_*`` are the speeds, and ``recent_*`` the outcomes, weighed by their age.
    """

    key: str
    task: str
    runtime: str | None
    device: str | None
    settings: str | None
    everywhere: int
    runs: int
    succeeded: int
    recent_runs: float
    recent_succeeded: float
    quality_n: int
    quality_sum: float
    speed_n: int
    speed_sum: float
    weighted_n: float
    weighted_sum: float
    work_n: int
    work_sum: float
    first_n: int
    first_sum: float


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything that the store knows.

    Attributes
    ----------
    sums : list of Sums
        Over all executions that count.
    runs : list of Run
        The latest executions one by one (they are within the sums), in order.
    noticed : list of Noticed
        Earlier changes, in order.
    """

    sums: list[Sums]
    runs: list[Run]
    noticed: list[Noticed] = field(default_factory=list)
