"""A bounded walk through a directory tree that only regular files come out of.

It costs little more than the listing: what a directory entry is comes with the listing itself,
and only links, and files that somebody asks about, are looked at one by one.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.readers.dispatch import SUFFIXES

if TYPE_CHECKING:
    from ravenxterm_lab.discovery.cache import ScanCache

__all__ = ["TRASH", "UNFINISHED", "Files", "Folder", "list_folder", "walk"]

_DEPTH = 40
_FOLDERS = 500_000
#: Of the files in one directory that are of no known kind, so many are kept by name.
_OTHERS = 100_000
#: The directory beside a store that trashed models wait in.
TRASH = ".ravenxterm-trash"
_NEVER = frozenset(
    {".git", "__pycache__", "node_modules", ".ipynb_checkpoints", ".no_exist", TRASH}
)
#: Suffixes of downloads that are not finished.
UNFINISHED = frozenset(
    {".incomplete", ".part", ".crdownload", ".aria2", ".download", ".downloadinprogress"}
)
_WEIGHTS, _PARTIAL, _TEXT = 1, 2, 3
_GONE = os.stat_result((0,) * 10)
#: What models are described by.
_TEXTS = frozenset({".json", ".md", ".txt", ".model", ".jinja"})


class Files(MutableMapping[str, os.stat_result]):
    """The regular files of a directory by name, each looked at when it is first asked for.

    One that has gone since it was listed has the status of no file: zero bytes of inode zero.

    Parameters
    ----------
    entries : dict of str to os.DirEntry or os.stat_result, optional
        In the order in which they are iterated.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[str, os.DirEntry[str] | os.stat_result] | None = None) -> None:
        self._entries = {} if entries is None else entries

    def __getitem__(self, name: str) -> os.stat_result:
        entry = self._entries[name]
        if isinstance(entry, os.stat_result):
            return entry
        try:
            status = entry.stat()
        except OSError:
            status = _GONE
        self._entries[name] = status
        return status

    def look(self, name: str) -> os.stat_result | None:
        """Return the status of a file, None where there is none of that name."""
        entry = self._entries.get(name)
        if entry is None or isinstance(entry, os.stat_result):
            return entry
        return self[name]

    def __setitem__(self, name: str, status: os.stat_result) -> None:
        self._entries[name] = status

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(slots=True)
class Folder:
    """One directory.

    Attributes
    ----------
    path : Path
    files : mapping of str to os.stat_result
        Regular files, links followed.
    folders : list of Path
        Directories in it, links not yet followed.
    links : set of Path
        Those of ``folders`` that are links.
    skipped : list of Skipped
    above : Folder or None
        The directory that it lies in, where the walk came through that.
    broken : list of str
        Links to nothing, of any suffix; ``skipped`` has those that might be weights.
    inodes : list of int
        Of its files, and of those that links lead to.
    """

    path: Path
    files: MutableMapping[str, os.stat_result] = field(default_factory=Files)
    folders: list[Path] = field(default_factory=list)
    links: set[Path] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)
    above: Folder | None = None
    broken: list[str] = field(default_factory=list)
    inodes: list[int] = field(default_factory=list)


def list_folder(path: Path, source: str, cache: ScanCache | None = None) -> Folder:
    """List one directory; what cannot be listed is in ``skipped``.

    Parameters
    ----------
    path : Path
    source : str
        The name of the source, for what is skipped.
    cache : ScanCache, optional
        Whose budget of entries this counts against.
    """
    folder = Folder(path)
    left = sys.maxsize if cache is None else cache.budget.entries_left
    found: dict[str, os.DirEntry[str] | os.stat_result] = {}
    inodes = folder.inodes
    others = count = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                count += 1
                if count > left:
                    break
                name = entry.name
                kind = _kind(name)
                if not entry.is_file(follow_symlinks=False):
                    status = _other(folder, entry, source)
                    if status is not None:
                        found[name] = status
                        inodes.append(status.st_ino)
                elif kind or others < _OTHERS:
                    others += not kind
                    found[name] = entry
                    inodes.append(entry.inode())
                if kind == _PARTIAL and name in found:
                    reason = "a download that is not finished; it was not read"
                    folder.skipped.append(Skipped(Path(entry.path), reason, source))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = " Check its permissions." if isinstance(error, PermissionError) else ""
        folder.skipped.append(Skipped(path, f"cannot be listed: {reason}.{remedy}", source))
    # Every scan of the same files has the same order.
    folder.files = Files({name: found[name] for name in sorted(found)})
    folder.folders.sort(key=str)
    if len(folder.skipped) > 1:
        folder.skipped.sort(key=lambda item: item.path)
    if cache is not None and cache.budget.spend(count):
        folder.skipped.append(Skipped(path, cache.budget.reason, source))
    return folder


def walk(root: Path, source: str, cache: ScanCache | None = None) -> Iterator[Folder]:
    """Yield a directory and all below it, each real directory once.

    A link to a directory is followed unless it leads to a directory that was seen already or
    that contains the root (which would make the walk one over everything).

    Parameters
    ----------
    root : Path
    source : str
        The name of the source, for what is skipped.
    cache : ScanCache, optional
        Whose budget of entries and time the walk keeps to; what is beyond is in ``skipped``.
    """
    above: set[tuple[int, int] | None] = set()
    # Only a link can lead to a directory twice: until there is one, none is looked at.
    passed: list[Path] = []
    seen: set[tuple[int, int] | None] | None = None
    count = 0
    queue: list[tuple[Path, int, bool, Folder | None]] = [(root, 0, False, None)]
    while queue:
        path, depth, is_link, parent = queue.pop()
        if is_link and seen is None:
            above, seen = _above(root), {_identity(one) for one in passed}
        if seen is None:
            passed.append(path)
        else:
            identity = _identity(path)
            if identity is not None and identity in seen:
                continue
            if is_link and identity in above:
                reason = "a link to a directory that contains the one that is scanned; not followed"
                yield Folder(path, skipped=[Skipped(path, reason, source)])
                continue
            seen.add(identity)
        count += 1
        if cache is not None and cache.budget.spent():
            yield Folder(path, skipped=[Skipped(path, cache.budget.reason, source)])
            return
        folder = list_folder(path, source, cache)
        folder.above = parent
        if depth >= _DEPTH or count > _FOLDERS:
            if folder.folders:
                reason = (
                    f"what lies more than {_DEPTH} levels deep was not scanned"
                    if depth >= _DEPTH
                    else f"more than {_FOLDERS:,} directories; the rest was not scanned"
                )
                folder.skipped.append(Skipped(path, reason, source))
            folder.folders.clear()
        yield folder
        queue.extend(
            (child, depth + 1, child in folder.links, folder) for child in reversed(folder.folders)
        )


def _above(root: Path) -> set[tuple[int, int] | None]:
    try:
        return {_identity(parent) for parent in root.resolve().parents} - {None}
    except (OSError, RuntimeError):
        return set()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


@lru_cache(maxsize=4096)
def _kind(name: str) -> int:
    """Say what a name is of: the same few names are in every repository."""
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    if suffix in SUFFIXES:
        return _WEIGHTS
    return _PARTIAL if suffix in UNFINISHED else _TEXT if suffix in _TEXTS else 0


def _other(folder: Folder, entry: os.DirEntry[str], source: str) -> os.stat_result | None:
    """Sort in what is not simply a file; return the status of the file that a link leads to."""
    is_link = entry.is_symlink()
    try:
        if not is_link and entry.is_dir(follow_symlinks=False):
            if entry.name not in _NEVER:
                folder.folders.append(Path(entry.path))
            return None
        status = entry.stat()
    except OSError as error:
        if is_link:
            folder.broken.append(entry.name)
        if is_link and _kind(entry.name) == _WEIGHTS:
            reason = "a link to a file that does not exist (an incomplete download?)"
            if not isinstance(error, FileNotFoundError):
                reason = f"a link that cannot be followed: {error.strerror}"
            folder.skipped.append(Skipped(Path(entry.path), reason, source))
        return None
    if stat.S_ISREG(status.st_mode):
        return status
    if stat.S_ISDIR(status.st_mode):
        if entry.name not in _NEVER:
            path = Path(entry.path)
            folder.folders.append(path)
            if is_link:
                folder.links.add(path)
    elif _kind(entry.name) == _WEIGHTS:
        reason = "not a regular file (a device, socket or FIFO); it was not opened"
        folder.skipped.append(Skipped(Path(entry.path), reason, source))
    return None
