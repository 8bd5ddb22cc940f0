"""The trash: models are moved into it and back by renaming; only ``empty`` deletes anything.

An entry lies on the file system of its model, for gigabytes are never copied: below
``$RAVENXTERM_HOME/trash`` where that is on the same one, else in ``.ravenxterm-trash`` beside the
store. Its record is on the disk before the first file moves, so that a move that is cut short, by
``kill -9`` or a power cut, is found, and undone by ``restore`` or done by ``finish``.

Any number of processes may use a trash at once. It knows neither the registry nor what is
loaded: whoever puts a model into it says what is in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.trash.moving import (
    gone,
    is_locked,
    lock_directory,
    move_back,
    move_in,
    obstacles,
    refusal,
    remove_empty,
)
from ravenxterm_lab.trash.places import Places, check_own, folders_of
from ravenxterm_lab.trash.record import (
    Record,
    forget,
    is_same,
    read_record,
    write_record,
)
from ravenxterm_lab.trash.removal import noted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ravenxterm_lab.trash.removal import Item, Plan

__all__ = ["Trash", "Trashed"]

_EMPTYING = ".emptying"


@dataclass(frozen=True, slots=True)
class Trashed:
    """One entry of the trash.

    Attributes
    ----------
    id : str
        What ``restore`` takes; entries of one model that lie on different file systems have one
        each.
    name : str
        Of the model, or of the file where it was none.
    fingerprint : str
    source : str
        The store that it was found in.
    path : Path
        Where it was.
    time : datetime
        When it was trashed (UTC, without a zone).
    directory : Path
        Where it waits.
    files : tuple of Path
        Where everything in it was.
    bytes : int
        What emptying frees.
    state : str
        ``"complete"``; ``"moving"`` while a process moves it; ``"interrupted"`` when a move was
        cut short, which ``restore`` undoes and ``finish`` completes; ``"damaged"`` when its
        record cannot be read.
    """

    id: str
    name: str
    fingerprint: str
    source: str
    path: Path
    time: datetime
    directory: Path
    files: tuple[Path, ...]
    bytes: int
    state: str = "complete"


class Trash:
    """Where models wait until they are restored or deleted for good.

    Parameters
    ----------
    home : Path
        ``$RAVENXTERM_HOME``; nothing is created before something is put.
    roots : sequence of Path
        Directories of the stores.
    """

    def __init__(self, home: Path, roots: Sequence[Path] = ()) -> None:
        self._places = Places(home / "trash", tuple(roots))

    def put(
        self,
        plan: Plan,
        *,
        name: str,
        in_use: Callable[[Sequence[Item]], Iterable[str]] = lambda _: (),
    ) -> tuple[Trashed, ...]:
        """Move everything in a plan into the trash.

        Parameters
        ----------
        plan : Plan
        name : str
            What the entry is called.
        in_use : callable
            Returns why items are in use, a reason each; any reason refuses the move.

        Returns
        -------
        tuple of Trashed
            An entry for each file system that the files lie on.

        Raises
        ------
        TrashError
            If something is in use, is not what was looked at, may not be moved, or cannot be;
            everything is in its place then.
        """
        self.check(plan)
        first = plan.holdings[0]
        held = first.path.parent
        if first.revision is not None:
            held = first.revision.parent.parent
        elif first.model is not None and first.path != first.model.path:
            held = first.root  # manifests of an Ollama store share its blobs
        with lock_directory(held, f"another process moves files of {name!r} right now"):
            for item in plan.items:
                if not is_same(noted(item.path), item):
                    raise gone(item.path)
            reasons = list(in_use(plan.items))
            if reasons:
                raise TrashError(f"{clean(name)} is in use: {'; '.join(reasons)}")
            by_device: dict[int, list[Item]] = {}
            for item in plan.items:
                by_device.setdefault(item.device, []).append(item)
            done: list[Record] = []
            try:
                for device, items in by_device.items():
                    done.append(self._put(plan, items, device, name))
            except BaseException:
                for record in reversed(done):
                    move_back(record)
                    self._forget(record)
                raise
        return tuple(self._shown(record) for record in done)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that may not be carried out; what it would move is not touched.

        Raises
        ------
        TrashError
            With every obstacle.
        """
        if not plan.items:
            raise TrashError("There is nothing to move: the files are gone. Scan again.")
        found = obstacles(plan, self._places.roots)
        if found:
            raise TrashError("Nothing was moved. " + " ".join(found))

    def entries(self) -> list[Trashed]:
        """Return what is in the trash, the oldest first; nothing is changed."""
        found = [self._entry(directory) for directory in self._places.directories()]
        return sorted(found, key=lambda one: (one.time, one.id))

    def restore(self, identity: str) -> Trashed:
        """Move an entry back to where it was, whole or interrupted.

        Nothing is overwritten. Directories that are gone are made again. An error in the middle
        leaves the rest in the trash, for another call.

        Raises
        ------
        TrashError
            If there is no such entry, a place is taken, or a file cannot be moved.
        """
        directory = self._find(identity)
        with lock_directory(directory, f"another process moves the files of {identity}"):
            record = read_record(directory)
            shown = self._shown(record, "restored")
            taken = [
                item.path
                for place, item in record.inside()
                if os.path.lexists(item.path) and not _one_file(place, item.path)
            ]
            if taken:
                more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
                raise TrashError(
                    f"{clean(str(taken[0]), 400)}{more} exists again; nothing was restored or "
                    "overwritten. Move what is there away, or rename it, and restore again."
                )
            move_back(record)
            self._forget(record)
        return shown

    def finish(self, identity: str) -> Trashed:
        """Complete an interrupted move into the trash.

        Raises
        ------
        TrashError
            If there is no such entry, or what is left of it cannot be moved.
        """
        directory = self._find(identity)
        with lock_directory(directory, f"another process moves the files of {identity}"):
            record = read_record(directory)
            try:
                move_in(record, list(record.outside()))
            except OSError as error:
                raise refusal(error, f"{identity} stays interrupted; restore undoes it") from error
            remove_empty(record)
        return self._shown(record)

    def empty(self, *, older_than_days: float = 0.0, now: datetime | None = None) -> int:
        """Delete what is in the trash, for good.

        Parameters
        ----------
        older_than_days : float
            Only what was trashed at least so many days ago.
        now : datetime, optional
            UTC, without a zone; by default the clock's.

        Returns
        -------
        int
            Bytes freed. Interrupted and damaged entries are kept.

        Raises
        ------
        TrashError
            If something cannot be deleted.
        """
        now = now or datetime.now(UTC).replace(tzinfo=None)
        freed = sum(self._delete(path) for path in self._places.directories(_EMPTYING))
        for entry in self.entries():
            if entry.state != "complete" or entry.time > now - timedelta(days=older_than_days):
                continue
            with lock_directory(entry.directory, f"another process moves the files of {entry.id}"):
                doomed = entry.directory.with_name(entry.id + _EMPTYING)
                # The point of no return: from here on it is no longer listed.
                entry.directory.rename(doomed)
            freed += self._delete(doomed)
        self._places.sweep()
        return freed

    def _put(self, plan: Plan, items: Sequence[Item], device: int, name: str) -> Record:
        first = plan.holdings[0]
        time = datetime.now(UTC).replace(tzinfo=None)
        identity = f"{time:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        reasons: list[str] = []
        for place in self._places.candidates(first.root, device, items):
            record = Record(
                id=identity,
                name=name,
                fingerprint=first.model.fingerprint if first.model is not None else "",
                source=first.source,
                path=first.path,
                time=time,
                directory=place / identity,
                items=tuple(items),
                folders=folders_of(items, first.root),
            )
            try:
                if self._try(record, reasons):
                    return record
            except OSError as error:
                raise refusal(error, "everything is where it was") from error
        why = clean("; ".join(reasons), 400) or "it is on a file system of its own"
        raise TrashError(
            f"{clean(str(first.path), 400)} cannot be moved into a trash on its own file system "
            f"({why}), and gigabytes are never copied. Make a little space where the disk is full; "
            "else make the store's directory writable, or set RAVENXTERM_HOME to a directory on "
            "that file system."
        )

    def _try(self, record: Record, reasons: list[str]) -> bool:
        """Move into one place; False, with the reason, if that place cannot take the files."""
        place = record.directory.parent
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_own(place)
            record.directory.mkdir(mode=0o700)
        except (OSError, TrashError) as error:
            reasons.append(f"{place}: {getattr(error, 'strerror', None) or error}")
            return False
        with lock_directory(record.directory, f"another process uses {record.id}"):
            try:
                write_record(record)
                self._places.point(record)
                move_in(record, [(record.place(n), item) for n, item in enumerate(record.items)])
            except BaseException as error:
                move_back(record)
                self._forget(record)
                # One file system may be mounted at two places, and nothing moves between these.
                if isinstance(error, OSError) and error.errno == errno.EXDEV:
                    reasons.append(f"{place}: {error.strerror}")
                    return False
                raise
            remove_empty(record)
        return True

    def _find(self, identity: str) -> Path:
        for directory in self._places.directories():
            if directory.name == identity:
                return directory
        raise TrashError(f"Nothing in the trash has the id {identity!r}.")

    def _entry(self, directory: Path) -> Trashed:
        try:
            return self._shown(read_record(directory))
        except TrashError:
            status = directory.stat()
            time = datetime.fromtimestamp(status.st_mtime, UTC).replace(tzinfo=None)
            return Trashed(
                directory.name, directory.name, "", "", directory, time, directory, (), 0, "damaged"
            )

    def _shown(self, record: Record, state: str = "") -> Trashed:
        if not state:
            state = "complete"
            if next(record.outside(), None) is not None or next(record.inside(), None) is None:
                state = "moving" if is_locked(record.directory) else "interrupted"
        return Trashed(
            id=record.id,
            name=record.name,
            fingerprint=record.fingerprint,
            source=record.source,
            path=record.path,
            time=record.time,
            directory=record.directory,
            files=tuple(item.path for item in record.items),
            bytes=record.freed_bytes(),
            state=state,
        )

    def _delete(self, directory: Path) -> int:
        freed = 0
        try:
            for path in sorted(directory.iterdir(), reverse=True):
                status = path.lstat()
                path.unlink()
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and path.name.isdigit():
                    freed += status.st_size
            directory.rmdir()
            self._places.unpoint(directory.name.removesuffix(_EMPTYING))
        except OSError as error:
            raise refusal(error, "the rest is deleted when the trash is emptied again") from error
        return freed

    def _forget(self, record: Record) -> None:
        forget(record.directory)
        self._places.unpoint(record.id)
        # A trash that is empty needs no directory beside the store.
        if record.directory.parent != self._places.home:
            with contextlib.suppress(OSError):
                record.directory.parent.rmdir()


def _one_file(one: Path, other: Path) -> bool:
    first, second = one.lstat(), other.lstat()
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
