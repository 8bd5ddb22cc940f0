"""What the models take on disk, when each was last used, and what could be freed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Leftover", "ModelCopy", "ModelSpace", "SpaceReport"]

_SHOWN = 20
_MIDDLE = (False, True, False)


@dataclass(frozen=True, slots=True)
class ModelCopy:
    """Another place of a model than the one that would be kept, told by header and samples.

    Whether it has the same bytes throughout is seen when ``registry.trash`` is given it.

    Attributes
    ----------
    model : str
        Name.
    path : Path
        Its first file there; in an Ollama store, its manifest.
    names : tuple of Path
        Further names of just the same bytes: hard links, other tags.
    source : str
        The store that it was found in.
    is_link : bool
        Whether it leads to bytes that the kept place holds too: a link, a hard link, a blob of
        several revisions or tags.
    freed_bytes : int
        What moving this, under all its names, to the trash, and emptying that, would free.
    """

    model: str
    path: Path
    names: tuple[Path, ...]
    source: str
    is_link: bool
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class ModelSpace:
    """What one model takes. All sizes are apparent sizes in bytes, each file counted once.

    Attributes
    ----------
    model : ModelMetadata
    bytes : int
        Its files and companions in every place; links take nothing, copies take their own.
    freed_bytes : int
        What moving every place of it to the trash, and emptying that, would free: less than
        ``bytes`` where another model, revision or tag uses some of them.
    duplicate_bytes : int
        What keeping one place, the model's ``path``, would free.
    copies : tuple of ModelCopy
        Its other places.
    last_used : datetime or None
        Its last execution or load that was recorded (UTC, without a zone); None for never.
    known_since : datetime or None
        When it was first recorded in the catalogue (UTC, without a zone).
    runs : int
        Executions that were recorded.
    usage : str
        ``"used"`` within the time that was asked for; ``"unused"`` for longer; ``"never"`` used
        although known for longer; ``"new"``: never used, but not known for that long;
        ``"unknown"`` when the store cannot be read.
    """

    model: ModelMetadata
    bytes: int
    freed_bytes: int
    duplicate_bytes: int
    copies: tuple[ModelCopy, ...]
    last_used: datetime | None
    known_since: datetime | None
    runs: int
    usage: str

    @property
    def is_unused(self) -> bool:
        """Whether it was known for the time that was asked for and not used within it."""
        return self.usage in {"unused", "never"}

    @property
    def places(self) -> int:
        """How many places it was found in."""
        return 1 + sum(1 + len(copy.names) for copy in self.copies)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no model needs.

    Attributes
    ----------
    path : Path
        What ``registry.trash`` takes.
    kind : str
        ``"incomplete"``: a download that is not finished, which may still be going on;
        ``"orphan"``: a blob that no revision or manifest names.
    source : str
        The store that it was found in.
    bytes : int
        Size, of all parts of a download together.
    """

    path: Path
    kind: str
    source: str
    bytes: int


@dataclass(frozen=True, slots=True)
class SpaceReport(Displayed):
    """What the models take on disk and what could be freed; nothing was changed.

    Attributes
    ----------
    models : tuple of ModelSpace
        Those that free the most first.
    leftovers : tuple of Leftover
        The largest first.
    bytes : int
        All models together, each file once.
    unused_bytes : int
        What trashing every unused model, and emptying the trash, would free.
    duplicate_bytes : int
        What keeping one place of each model that is not unused would free.
    leftover_bytes : int
        Unfinished downloads and orphaned blobs.
    reclaimable_bytes : int
        The three together.
    trash_bytes : int
        What emptying the trash would free now.
    unused_days : float
        For how long a model must not have been used to be called unused.
    time : datetime
        Of the report (UTC, without a zone).
    next_step : str
        What to run where there are no models.
    """

    models: tuple[ModelSpace, ...]
    leftovers: tuple[Leftover, ...]
    bytes: int
    unused_bytes: int
    duplicate_bytes: int
    leftover_bytes: int
    reclaimable_bytes: int
    trash_bytes: int
    unused_days: float
    time: datetime
    next_step: str = ""

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[ModelSpace]:
        return iter(self.models)

    @property
    def unused(self) -> tuple[ModelSpace, ...]:
        """The models that were not used for that long, or never."""
        return tuple(one for one in self.models if one.is_unused)

    @property
    def copies(self) -> tuple[ModelCopy, ...]:
        """The places that hold the bytes of a model once more, the largest first."""
        found = [copy for one in self.models for copy in one.copies if copy.freed_bytes]
        return tuple(sorted(found, key=lambda one: (-one.freed_bytes, str(one.path))))

    def to_arrow(self) -> pa.Table:
        """Return a row for each model as an Arrow table, with the fields of ``ModelSpace``."""
        import pyarrow as pa

        columns = {
            "name": (pa.string(), [one.model.name for one in self.models]),
            "path": (pa.string(), [_utf8(one.model.path) for one in self.models]),
            "source": (pa.string(), [one.model.source for one in self.models]),
            "bytes": (pa.int64(), [one.bytes for one in self.models]),
            "freed_bytes": (pa.int64(), [one.freed_bytes for one in self.models]),
            "duplicate_bytes": (pa.int64(), [one.duplicate_bytes for one in self.models]),
            "places": (pa.int64(), [one.places for one in self.models]),
            "last_used": (pa.timestamp("us"), [one.last_used for one in self.models]),
            "known_since": (pa.timestamp("us"), [one.known_since for one in self.models]),
            "runs": (pa.int64(), [one.runs for one in self.models]),
            "usage": (pa.string(), [one.usage for one in self.models]),
        }
        return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})

    def pl(self) -> pl.DataFrame:
        """Return a row for each model as a polars frame."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def df(self) -> pd.DataFrame:
        """Return a row for each model as a pandas frame."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def _card(self) -> Card:
        if not (self.models or self.leftovers or self.trash_bytes):
            return Card("Models on disk", f"No models yet: {self.next_step}.")
        count = format_number(len(self.models), "model")
        title = (
            f"{count} take {format_bytes(self.bytes)}; "
            f"{format_bytes(self.reclaimable_bytes)} could be freed"
        )
        if len(self.models) == 1:
            title = title.replace(" take ", " takes ")
        note = (
            "Uses are those that were recorded here; what other programs use is not seen. "
            "Nothing was changed: registry.trash(name) moves a model to the trash, "
            "restore(name) brings it back, and only empty_trash deletes. Copies are told by header "
            "and samples; trash compares all their bytes before it moves one as a copy."
        )
        days = f"{self.unused_days:g} days"
        copies = sum(
            bool(copy.freed_bytes) for one in self.models if not one.is_unused
            for copy in one.copies
        )  # fmt: skip
        summary = [
            [f"models not used for {days}", f"{len(self.unused):,}",
             format_bytes(self.unused_bytes)],
            ["copies of the other models", f"{copies:,}", format_bytes(self.duplicate_bytes)],
            ["unfinished downloads, orphaned blobs", f"{len(self.leftovers):,}",
             format_bytes(self.leftover_bytes)],
            ["in the trash", "", format_bytes(self.trash_bytes)],
        ]  # fmt: skip
        tables = [Table(["what could be freed", "count", "frees"], summary, [False, True, True])]
        tables += [self._models_table()] if self.models else []
        tables += [self._copies_table()] if self.copies else []
        tables += [self._leftovers_table()] if self.leftovers else []
        return Card(title, note, tables)

    def _models_table(self) -> Table:
        rows = [
            [
                one.model.name,
                format_bytes(one.bytes),
                format_bytes(one.freed_bytes),
                str(one.places),
                _when(one, self.time),
            ]
            for one in self.models[:_SHOWN]
        ]
        name = _head("model", len(self.models))
        header = [name, "on disk", "frees", "places", "last use"]
        return Table(header, rows, [False, True, True, True, False])

    def _copies_table(self) -> Table:
        rows = [
            [one.model, format_bytes(one.freed_bytes), _where(one)] for one in self.copies[:_SHOWN]
        ]
        return Table([_head("copy of", len(self.copies)), "frees", "where"], rows, _MIDDLE)

    def _leftovers_table(self) -> Table:
        said = {"incomplete": "unfinished download", "orphan": "orphaned blob"}
        rows = [
            [said[one.kind], format_bytes(one.bytes), str(one.path)]
            for one in self.leftovers[:_SHOWN]
        ]
        return Table([_head("leftover", len(self.leftovers)), "frees", "where"], rows, _MIDDLE)


def _when(one: ModelSpace, now: datetime) -> str:
    def ago(then: datetime) -> str:
        days = max((now - then).days, 0)
        return "today" if days == 0 else f"{format_number(days, 'day')} ago"

    if one.last_used is not None:
        text = ago(one.last_used)
        return f"{text}: unused" if one.usage == "unused" else text
    if one.usage == "unknown":
        return "unknown: the store cannot be read"
    if one.known_since is None:
        return "none recorded; new"
    known = f"first seen {ago(one.known_since)}"
    return f"never used; {known}" if one.usage == "never" else f"none recorded; {known}"


def _where(copy: ModelCopy) -> str:
    more = f" and {format_number(len(copy.names), 'more name')}" if copy.names else ""
    return f"{copy.path}{more}"


def _head(name: str, count: int) -> str:
    return f"{name} ({count:,}, the first {_SHOWN} shown)" if count > _SHOWN else name


def _utf8(path: Path) -> str:
    # A file name that is not UTF-8 holds lone surrogates, which Arrow refuses.
    return str(path).encode("utf-8", "replace").decode("utf-8")
