"""Moving files between their places and the trash: locks, renames, and what forbids them."""

from __future__ import annotations

import contextlib
import errno
import os
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.trash.record import is_same, sync_directory
from ravenxterm_lab.trash.removal import noted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ravenxterm_lab.trash.record import Record
    from ravenxterm_lab.trash.removal import Item, Plan

__all__ = [
    "gone",
    "is_locked",
    "lock_directory",
    "move_back",
    "move_in",
    "obstacles",
    "refusal",
    "remove_empty",
]

_PACKAGES = frozenset({"site-packages", "dist-packages"})
#: How long another process may hold a lock before it is an error (s).
_PATIENCE = 5.0
#: Where hard links do not exist, are too many, or may not be made of another's file.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@contextlib.contextmanager
def lock_directory(directory: Path, busy: str) -> Iterator[None]:
    """Hold a lock on a directory for the length of a ``with`` block; it ends with the process.

    Raises
    ------
    TrashError
        If the directory cannot be opened, or another holds it; ``busy`` says what that means.
    """
    try:
        import fcntl
    except ImportError as error:
        raise TrashError(
            "The trash needs the file locks of Linux or macOS; on Windows, use WSL."
        ) from error
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise gone(directory) from error
    except OSError as error:
        raise refusal(error, "nothing was moved; scan again") from error
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TrashError(f"Nothing was moved: {busy}. Try again later.") from error
                time.sleep(0.02)
                continue
            except OSError:
                pass  # no locks on this file system: whose rename finds the file decides
            break
        yield
    finally:
        os.close(fd)


def is_locked(directory: Path) -> bool:
    """Say whether somebody holds a lock on a directory right now."""
    import fcntl

    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def gone(path: Path) -> TrashError:
    """Return the error to raise for what is not there, or is not the file that it was."""
    return TrashError(
        f"{clean(str(path), 400)} is no longer what was looked at: another process moved, "
        "replaced or removed it. Scan again; nothing was moved."
    )


def refusal(error: OSError, what_now: str) -> TrashError:
    """Return the error to raise for one of the operating system's.

    Parameters
    ----------
    error : OSError
    what_now : str
        What state everything is in.
    """
    name = error.filename if isinstance(error.filename, str) else "A file"
    reason = error.strerror or str(error)
    remedy = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = " Moving to the trash takes a few KiB: empty the trash, or delete a file, first."
    return TrashError(
        f"{clean(name, 400)} cannot be moved, written or removed: {reason}; {what_now}.{remedy}"
    )


def obstacles(plan: Plan, roots: Sequence[Path]) -> list[str]:
    """Return why the items of a plan may not be moved, a sentence each.

    Of a directory that is gone nothing is said: it is no obstacle, but news.
    """
    allowed = [os.path.realpath(root) for root in roots]
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    effective = os.access in os.supports_effective_ids
    found: dict[str, None] = {}
    for folder in dict.fromkeys(item.path.parent for item in plan.items):
        real = Path(os.path.realpath(folder))
        shown = clean(str(folder), 400)
        if _PACKAGES & set(real.parts) or any(real.is_relative_to(one) for one in libraries):
            found[f"{shown} belongs to an installed Python package; uninstall that instead."] = None
        elif not any(real.is_relative_to(root) for root in allowed):
            found[
                f"{shown} is really {clean(str(real), 400)}, outside every directory that was "
                "scanned; give that one as models_dir to trash it there."
            ] = None
        elif (
            not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
            # Asked afterwards: another process may remove it at any moment.
            and os.path.lexists(folder)
        ):
            found[f"{shown} is not writable for you; ask its owner, or change that."] = None
    return list(found)


def move_in(record: Record, items: Sequence[tuple[Path, Item]]) -> None:
    """Rename files into the trash, in the order given.

    Raises
    ------
    OSError
        By a rename; what was moved before stays in the trash.
    TrashError
        If a file was replaced in the last moment; the new one is back in its place.
    """
    folders = {record.directory}
    for place, item in items:
        item.path.rename(place)
        if not is_same(noted(place), item):
            place.rename(item.path)
            raise TrashError(
                f"{clean(str(item.path), 400)} was replaced just now, and was left where it is."
            )
        folders.add(item.path.parent)
    for folder in folders:
        sync_directory(folder)


def move_back(record: Record) -> None:
    """Put everything that lies in an entry back to where it was, what is referred to first.

    Raises
    ------
    TrashError
        If a file cannot be moved; the rest is still in the trash, for ``restore``.
    """
    folders = {record.directory}
    try:
        for folder, mode in reversed(record.folders):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(mode)
        for place, item in reversed(list(record.inside())):
            item.path.parent.mkdir(parents=True, exist_ok=True)
            _rename_anew(place, item.path)
            folders.add(item.path.parent)
    except OSError as error:
        raise refusal(
            error, f"what is not back yet waits in the trash: restore {record.id!r} goes on"
        ) from error
    for folder in folders:
        sync_directory(folder)


def remove_empty(record: Record) -> None:
    """Remove the directories that a move left empty."""
    for folder, _ in record.folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _rename_anew(source: Path, target: Path) -> None:
    """Rename, but never over another file: a hard link fails where a rename would replace."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # A kill between link and unlink leaves both names of one file.
        first, second = source.lstat(), target.lstat()
        if (first.st_dev, first.st_ino) != (second.st_dev, second.st_ino):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)
        return
    source.unlink()
