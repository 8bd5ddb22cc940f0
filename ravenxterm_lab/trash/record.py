"""What the trash writes down before it moves anything: one record for each entry.

An entry is a directory that holds its record and, under plain numbers, the files that were moved.
The state of an entry follows from what lies where, so no step of a move has to be noted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import ModelFileError, TrashError
from ravenxterm_lab.readers.text import clean, read_json
from ravenxterm_lab.trash.removal import Item, freed_bytes, noted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "IDENTITY",
    "Record",
    "forget",
    "is_same",
    "is_void",
    "read_record",
    "sync_directory",
    "write_record",
]

IDENTITY = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
_NAME = "record.json"
_DRAFT = "record.json.new"
_VERSION = 1
#: A hub revision of 10,000 files with long names takes about 5 MB.
_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the trash, as it was written before its files were moved.

    Attributes
    ----------
    id : str
        What ``restore`` takes.
    name, fingerprint : str
        Of the model; the name of the file where it is none.
    source : str
        The store that it was found in.
    path : Path
        Where it was.
    time : datetime
        When (UTC, without a zone).
    directory : Path
        Of the entry.
    items : tuple of Item
        What it consists of, in the order in which it is moved.
    folders : tuple of (Path, int)
        Directories that may be empty afterwards, and are removed then; with their permissions.
    """

    id: str
    name: str
    fingerprint: str
    source: str
    path: Path
    time: datetime
    directory: Path
    items: tuple[Item, ...]
    folders: tuple[tuple[Path, int], ...]

    def place(self, number: int) -> Path:
        """Return where an item lies in the trash.

        The name has no suffix, so that no scan takes it for a model.
        """
        return self.directory / f"{number:06d}"

    def inside(self) -> Iterator[tuple[Path, Item]]:
        """Yield what lies in the trash, each with the item that it was."""
        for number, item in enumerate(self.items):
            place = self.place(number)
            if os.path.lexists(place):
                yield place, item

    def outside(self) -> Iterator[tuple[Path, Item]]:
        """Yield the items that are still, or again, where they were, each after its place."""
        for number, item in enumerate(self.items):
            place = self.place(number)
            if not os.path.lexists(place) and is_same(noted(item.path), item):
                yield place, item

    def freed_bytes(self) -> int:
        """Return the bytes that emptying frees: of files without another name elsewhere."""
        found = (noted(place) for place, _ in self.inside())
        return freed_bytes([item for item in found if item is not None])


def forget(directory: Path) -> None:
    """Remove the record of an entry, and its directory once nothing is in it."""
    for name in (_NAME, _DRAFT):
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()


def is_void(directory: Path) -> bool:
    """Say whether an entry has no record, and nothing that one could be of."""
    try:
        names = {one.name for one in os.scandir(directory)}
    except OSError:
        return False
    return names <= {_DRAFT}


def is_same(now: Item | None, then: Item) -> bool:
    """Say whether a directory entry is still the one that was noted.

    The number of a device may change when the machine starts again, so it does not count.
    """
    return now is not None and (now.inode, now.size, now.mtime_ns, now.target) == (
        then.inode,
        then.size,
        then.mtime_ns,
        then.target,
    )


def write_record(record: Record) -> None:
    """Write a record, so that it is on the disk when this returns.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    facts = asdict(record) | {"version": _VERSION, "time": record.time.isoformat()}
    del facts["directory"]
    # A name that is not UTF-8 holds lone surrogates, which the escapes of JSON keep.
    text = json.dumps(facts, default=str, indent=1)
    draft = record.directory / _DRAFT
    with draft.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(record.directory / _NAME)
    sync_directory(record.directory)
    sync_directory(record.directory.parent)


def read_record(directory: Path) -> Record:
    """Read the record of an entry.

    Raises
    ------
    TrashError
        If there is none, or it is not what this package writes.
    """
    try:
        facts = read_json(directory / _NAME, _BYTES)
        if facts["version"] != _VERSION:
            raise TrashError(f"{directory} was made by another version of this package; update it.")
        return Record(
            id=directory.name,
            name=_text(facts["name"]),
            fingerprint=_text(facts["fingerprint"]),
            source=_text(facts["source"]),
            path=_path(facts["path"]),
            time=datetime.fromisoformat(_text(facts["time"])),
            directory=directory,
            items=tuple(_item(one) for one in facts["items"]),
            folders=tuple((_path(path), int(mode) & 0o7777) for path, mode in facts["folders"]),
        )
    except (ModelFileError, KeyError, TypeError, ValueError) as error:
        raise TrashError(
            f"The record of {clean(str(directory), 400)} cannot be read "
            f"({clean(str(error), 200)}); what lies there was left as it is."
        ) from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut, where the file system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _item(facts: dict[str, Any]) -> Item:
    target = facts["target"]
    return Item(
        path=_path(facts["path"]),
        device=int(facts["device"]),
        inode=int(facts["inode"]),
        size=int(facts["size"]),
        mtime_ns=int(facts["mtime_ns"]),
        links=int(facts["links"]),
        target=None if target is None else _text(target),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} is no absolute path")
    return path
