"""Where the entries of the trash lie: below the home, or beside the store that they come from."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.walk import TRASH
from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.trash.moving import lock_directory
from ravenxterm_lab.trash.record import IDENTITY, forget, is_void, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ravenxterm_lab.trash.record import Record
    from ravenxterm_lab.trash.removal import Item

__all__ = ["Places", "check_own", "folders_of"]


@dataclass(frozen=True, slots=True)
class Places:
    """The directories that a trash may use.

    Attributes
    ----------
    home : Path
        The one below ``$RAVENXTERM_HOME``, which also says where entries lie elsewhere.
    roots : tuple of Path
        Directories of the stores.
    """

    home: Path
    roots: tuple[Path, ...]

    def candidates(self, root: Path, device: int, items: Sequence[Item]) -> Iterator[Path]:
        """Yield where an entry may go: directories on the file system of its files."""
        own = items[0].path.parent
        while own != root and own.is_relative_to(root) and _device(own.parent) == device:
            own = own.parent
        for place in dict.fromkeys((self.home, root.parent / TRASH, root / TRASH, own / TRASH)):
            if _device(place) == device:
                yield place

    def _where(self) -> dict[Path, None]:
        beside = (place / TRASH for root in self.roots for place in (root.parent, root))
        return dict.fromkeys((self.home, *beside))

    def directories(self, ending: str = "") -> list[Path]:
        """Return the directories of the entries, also of those that lie elsewhere.

        One in which nothing lies, not even a record, is what a kill left of a beginning or an
        end; it is no entry.
        """
        return [path for path in self._all(ending) if ending or not is_void(path)]

    def sweep(self) -> None:
        """Remove what kills left: empty entries, and notes of entries that are gone."""
        for path in self._all(""):
            if is_void(path):
                with contextlib.suppress(OSError, TrashError), lock_directory(path, "in use"):
                    forget(path)
        with contextlib.suppress(OSError):
            for one in self.home.iterdir():
                if one.is_symlink() and IDENTITY.fullmatch(one.name) and not one.exists():
                    one.unlink()

    def _all(self, ending: str) -> list[Path]:
        found: dict[tuple[int, int], Path] = {}
        for place in self._where():
            try:
                names = [one.name for one in os.scandir(place)]
            except OSError:
                continue
            for name in sorted(names):
                path = place / name
                if IDENTITY.fullmatch(name) and path.is_symlink():
                    path = Path(f"{path.readlink()}{ending}")
                if not path.name.endswith(ending) or not IDENTITY.fullmatch(
                    path.name.removesuffix(ending)
                ):
                    continue
                try:
                    path = path.resolve(strict=True)
                    check_own(path.parent)
                    status = check_own(path)
                except (OSError, TrashError):
                    continue
                found.setdefault((status.st_dev, status.st_ino), path)
        return list(found.values())

    def point(self, record: Record) -> None:
        """Note in the home where an entry lies, so that every registry of it finds it."""
        if record.directory.parent != self.home:
            with contextlib.suppress(OSError):
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                (self.home / record.id).symlink_to(record.directory)
                sync_directory(self.home)

    def unpoint(self, identity: str) -> None:
        """Remove the note of an entry that is gone."""
        pointer = self.home / identity
        if pointer.is_symlink():
            with contextlib.suppress(OSError):
                pointer.unlink()


def check_own(directory: Path) -> os.stat_result:
    """Refuse a directory in which somebody else could have written a record."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise TrashError(f"{directory} is not a directory of your own that only you can write to.")
    return status


def folders_of(items: Sequence[Item], root: Path) -> tuple[tuple[Path, int], ...]:
    """Return the directories below the root that may be empty afterwards, the deepest first."""
    found: set[Path] = set()
    for item in items:
        for folder in item.path.parents:
            if folder == root or not folder.is_relative_to(root):
                break
            found.add(folder)
            if folder.name.startswith("models--"):
                found.update(folder / name for name in ("blobs", "refs", ".no_exist", "snapshots"))
    modes = []
    for folder in sorted(found, key=lambda one: (-len(one.parts), one)):
        with contextlib.suppress(OSError):
            modes.append((folder, stat.S_IMODE(folder.stat().st_mode)))
    return tuple(modes)


def _device(path: Path) -> int | None:
    """Return the device that a path lies on, or would if it were made."""
    for place in (path, *path.parents):
        try:
            return place.stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
