"""What would go with some holdings, what would stay, and how many bytes that frees.

References go before what they refer to, so that a removal that is cut short leaves a blob that
nothing names, never a name that leads nowhere.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.units import format_bytes, format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.trash.holdings import Holding, Stock

__all__ = ["Item", "Plan", "freed_bytes", "make_plan", "noted"]

_SHARD = re.compile(r"-\d{5,6}-of-\d{5,6}(?=\.\w+$)")


@dataclass(frozen=True, slots=True)
class Item:
    """One directory entry, as it was when it was looked at; links are not followed.

    Attributes
    ----------
    path : Path
    device, inode : int
    size : int
        Bytes; 0 for a link.
    mtime_ns : int
        Nanoseconds since 1970.
    links : int
        Hard links: how many names the file has.
    target : str or None
        What a symbolic link says.
    """

    path: Path
    device: int
    inode: int
    size: int
    mtime_ns: int
    links: int
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go with some holdings.

    Attributes
    ----------
    holdings : tuple of Holding
        Those that were asked for, and the links that would lead nowhere without them.
    items : tuple of Item
        Every directory entry that would go, references first.
    notes : tuple of str
        What stays, and why.
    """

    holdings: tuple[Holding, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...]

    @property
    def freed_bytes(self) -> int:
        """Bytes of the files that no name would be left of; links take nothing."""
        return freed_bytes(self.items)

    @property
    def inodes(self) -> dict[tuple[int, int], int]:
        """Device, inode and size (bytes) of the files that would go, links left out."""
        return {(one.device, one.inode): one.size for one in self.items if one.target is None}


def freed_bytes(items: Sequence[Item]) -> int:
    """Return the bytes of the files all of whose names are among some items."""
    names: dict[tuple[int, int], int] = {}
    for item in items:
        key = (item.device, item.inode)
        names[key] = names.get(key, 0) + 1
    counted: set[tuple[int, int]] = set()
    total = 0
    for item in items:
        key = (item.device, item.inode)
        if item.target is None and key not in counted and names[key] >= item.links:
            counted.add(key)
            total += item.size
    return total


def noted(path: Path) -> Item | None:
    """Return a directory entry as it is now; None if it is neither a file nor a link."""
    try:
        status = path.lstat()
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None  # noqa: PTH115 - a Path would tidy the target
    except OSError:
        return None
    if target is None and not stat.S_ISREG(status.st_mode):
        return None
    size = status.st_size if target is None else 0
    return Item(
        path,
        status.st_dev,
        status.st_ino,
        size,
        status.st_mtime_ns,
        status.st_nlink,
        target,
    )


def make_plan(stock: Stock, holdings: Sequence[Holding]) -> Plan:
    """Say what would go with some holdings; nothing is changed.

    Parameters
    ----------
    stock : Stock
        Everything there is, so that what others use stays.
    holdings : sequence of Holding
    """
    notes: list[str] = []
    chosen = dict.fromkeys(holdings)
    chosen.update(_links_along(stock, dict(chosen), notes))
    going = dict.fromkeys(entry for one in chosen for entry in one.entries)
    for revision in dict.fromkeys(one.revision for one in chosen if one.revision is not None):
        if all(one in chosen for one in stock.in_revision(revision)):
            going.update(dict.fromkeys(stock.revision_entries(revision)))
    for one in chosen:
        going.update(dict.fromkeys(_indexes(one, going)))
    companions = {companion: one for one in chosen for companion in one.companions}
    for companion, one in companions.items():
        user = next((o for o in stock.with_entry(companion) if o not in chosen), None)
        if user is not None:
            name = user.model.name if user.model is not None else str(user.path)
            notes.append(f"{clean(companion.name)} stays: {clean(name)} uses it too")
        elif one.revision is not None or stock.skipped_in(companion.parent) <= going.keys():
            going[companion] = None
    staying: dict[Path, Path] = {}
    queue = [blob for entry in going for blob in stock.uses.behind(entry)]
    for blob in queue:
        others = sorted(user for user in stock.uses.users(blob) if user not in going)
        if others:
            staying[blob] = others[0]
        elif blob not in going:
            staying.pop(blob, None)
            going[blob] = None
            # A blob may be a link itself, into the store that repositories share.
            queue.extend(stock.uses.behind(blob))
    items = [item for item in (noted(path) for path in going) if item is not None]
    # Links and manifests first; the order of the rest is that of the model's files.
    items.sort(key=lambda item: item.target is None and not stock.uses.of_manifest(item.path))
    notes.extend(_stays(items, staying, stock))
    return Plan(tuple(chosen), tuple(items), tuple(dict.fromkeys(notes)))


def _links_along(
    stock: Stock, holdings: dict[Holding, None], notes: list[str]
) -> dict[Holding, None]:
    """Return the holdings that are links to these, and to nothing else."""
    real = {
        Path(os.path.realpath(entry))
        for one in holdings
        if one.revision is None
        for entry in one.entries
        if not entry.is_symlink()
    }
    along: dict[Holding, None] = {}
    for file in real:
        for link in stock.uses.users(file):
            for other in stock.with_entry(link):
                if other in holdings or other in along:
                    continue
                if all(Path(os.path.realpath(entry)) in real for entry in other.entries):
                    along[other] = None
                else:
                    notes.append(f"{clean(str(link), 400)} leads to it, and will lead nowhere")
    return along


def _indexes(holding: Holding, going: dict[Path, None]) -> list[Path]:
    """Return the shard indexes that name nothing but what goes."""
    found = []
    for entry in holding.entries:
        if entry in going:
            index = entry.with_name(f"{_SHARD.sub('', entry.name)}.index.json")
            if index not in going and os.path.lexists(index):
                found.append(index)
    return list(dict.fromkeys(found))


def _stays(items: Sequence[Item], staying: dict[Path, Path], stock: Stock) -> list[str]:
    notes = []
    if staying:
        size = sum(item.size for item in map(noted, staying) if item is not None)
        user = clean(str(next(iter(staying.values()))), 400)
        blobs = format_number(len(staying), "blob")
        notes.append(f"keeps {blobs} ({format_bytes(size)}): {user} leads there too")
    paths = {item.path for item in items}
    for item in items:
        if item.target is not None and not stock.uses.behind(item.path):
            target = Path(os.path.realpath(item.path))
            if target not in paths and target.exists() and target not in staying:
                notes.append(f"only the link goes; {clean(str(target), 400)} stays")
    files = [item for item in items if item.target is None]
    held = sum({(i.device, i.inode): i.size for i in files}.values()) - freed_bytes(files)
    if held:
        notes.append(f"frees {format_bytes(held)} less: a hard link elsewhere keeps them")
    return notes
