"""What would be, was, or is in the trash, as people see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["TrashItem", "TrashReport"]


@dataclass(frozen=True, slots=True)
class TrashItem:
    """One model or leftover that would be, was, or is in the trash.

    Attributes
    ----------
    name : str
        Of the model; the file's name for a leftover.
    path : Path
        Where it is or was.
    source : str
        The store that it is of.
    files : tuple of Path
        Everything that moves, links and manifests before what they lead to.
    bytes : int
        What emptying the trash frees of it.
    id : str or None
        What ``restore`` takes; None when nothing was moved.
    state : str
        ``"planned"``, ``"complete"``, ``"moving"``, ``"interrupted"``, ``"damaged"`` or
        ``"restored"``; ``"left"`` where it is, because it is not the copy that it was taken for.
    time : datetime or None
        When it was trashed (UTC, without a zone).
    notes : tuple of str
        What stays, and why.
    """

    name: str
    path: Path
    source: str
    files: tuple[Path, ...]
    bytes: int
    id: str | None = None
    state: str = "planned"
    time: datetime | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrashReport(Displayed):
    """What would be, was, or is in the trash.

    Attributes
    ----------
    action : str
        ``"would be moved to the trash"``, ``"moved to the trash"``, ``"restored"`` or
        ``"in the trash"``.
    items : tuple of TrashItem
    """

    action: str
    items: tuple[TrashItem, ...]

    @property
    def bytes(self) -> int:
        """What emptying the trash frees of these (bytes)."""
        return sum(one.bytes for one in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[TrashItem]:
        return iter(self.items)

    def _card(self) -> Card:
        if not self.items:
            return Card(
                "The trash is empty",
                "registry.trash(name) moves a model here; registry.space() says what that frees.",
            )
        rows = [
            [
                one.name,
                format_bytes(one.bytes),
                f"{len(one.files):,}",
                one.id or one.state,
                "" if one.time is None else f"{one.time:%Y-%m-%d %H:%M}",
                "; ".join((*self._state(one), *one.notes)) or str(one.path),
            ]
            for one in self.items
        ]
        header = ["model", "frees", "files", "id", "trashed (UTC)", "remarks, or where it was"]
        if all(one.time is None for one in self.items):
            header.pop(4)
            for row in rows:
                row.pop(4)
        taken = sum(one.state != "left" for one in self.items)
        count = format_number(taken, "entry").replace("entrys", "entries")
        notes = {
            "moved to the trash": "restore(id) brings it back; empty_trash(confirm=True) deletes.",
            "would be moved to the trash": "Nothing was changed.",
            "in the trash": "restore(id) brings back; empty_trash(confirm=True) deletes.",
            "restored": "scan() lists it again.",
        }
        numeric = [False, True, True, *(False for _ in header[3:])]
        title = f"{count} {self.action}: {format_bytes(self.bytes)}"
        return Card(title, notes[self.action], [Table(header, rows, numeric)])

    @staticmethod
    def _state(one: TrashItem) -> tuple[str, ...]:
        said = {
            "interrupted": f"a move that was cut short: restore({one.id!r}) undoes it, "
            f"trash({one.id!r}) completes it",
            "moving": "a process moves it right now",
            "damaged": f"its record cannot be read; its files are in {one.path}",
        }
        return (said[one.state],) if one.state in said else ()
