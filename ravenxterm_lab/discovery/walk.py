"""A bounded walk through a directory tree that only regular files come out of."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.readers.dispatch import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TRASH", "UNFINISHED", "Folder", "list_folder", "walk"]

_DEPTH = 40
_FOLDERS = 500_000
#: The directory beside a store that trashed models wait in.
TRASH = ".ravenxterm-trash"
_NEVER = frozenset(
    {".git", "__pycache__", "node_modules", ".ipynb_checkpoints", ".no_exist", TRASH}
)
#: Suffixes of downloads that are not finished.
UNFINISHED = frozenset(
    {".incomplete", ".part", ".crdownload", ".aria2", ".download", ".downloadinprogress"}
)


@dataclass(slots=True)
class Folder:
    """One directory.

    Attributes
    ----------
    path : Path
    files : dict of str to os.stat_result
        Regular files, links followed.
    folders : list of Path
        Directories in it, links not yet followed.
    links : set of Path
        Those of ``folders`` that are links.
    skipped : list of Skipped
    """

    path: Path
    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    links: set[Path] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def list_folder(path: Path, source: str) -> Folder:
    """List one directory; what cannot be listed is in ``skipped``."""
    folder = Folder(path)
    try:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                _add(folder, entry, source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = " Check its permissions." if isinstance(error, PermissionError) else ""
        folder.skipped.append(Skipped(path, f"cannot be listed: {reason}.{remedy}", source))
    return folder


def walk(root: Path, source: str) -> Iterator[Folder]:
    """Yield a directory and all below it, each real directory once.

    A link to a directory is followed unless it leads to a directory that was seen already or
    that contains the root (which would make the walk one over everything).
    """
    try:
        above = {_identity(parent.stat()) for parent in root.resolve().parents}
    except (OSError, RuntimeError):
        above = set()
    seen: set[tuple[int, int]] = set()
    queue = [(root, 0, False)]
    while queue:
        path, depth, is_link = queue.pop()
        try:
            identity = _identity(path.stat())
        except (OSError, ValueError):
            identity = None
        if identity is not None:
            if identity in seen:
                continue
            if is_link and identity in above:
                reason = "a link to a directory that contains the one that is scanned; not followed"
                folder = Folder(path, skipped=[Skipped(path, reason, source)])
                yield folder
                continue
            seen.add(identity)
        folder = list_folder(path, source)
        if depth >= _DEPTH or len(seen) > _FOLDERS:
            if folder.folders:
                reason = f"what lies more than {_DEPTH} levels deep was not scanned"
                folder.skipped.append(Skipped(path, reason, source))
            folder.folders.clear()
        yield folder
        queue.extend(
            (child, depth + 1, child in folder.links) for child in reversed(folder.folders)
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _add(folder: Folder, entry: os.DirEntry[str], source: str) -> None:
    # A Path for every entry would cost more than the listing itself.
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - see above
    reason = None
    try:
        status = entry.stat()
    except OSError as error:
        if suffix not in SUFFIXES or not entry.is_symlink():
            return
        reason = "a link to a file that does not exist (an incomplete download?)"
        if not isinstance(error, FileNotFoundError):
            reason = f"a link that cannot be followed: {error.strerror}"
    else:
        if stat.S_ISREG(status.st_mode):
            folder.files[entry.name] = status
            if suffix in UNFINISHED:
                reason = "a download that is not finished; it was not read"
        elif stat.S_ISDIR(status.st_mode):
            if entry.name not in _NEVER:
                path = Path(entry.path)
                folder.folders.append(path)
                if entry.is_symlink():
                    folder.links.add(path)
        elif suffix in SUFFIXES:
            reason = "not a regular file (a device, socket or FIFO); it was not opened"
    if reason is not None:
        folder.skipped.append(Skipped(Path(entry.path), reason, source))
