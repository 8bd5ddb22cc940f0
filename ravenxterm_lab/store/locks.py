"""File locks between processes: the one place that calls ``flock``.

A lock belongs to an open file description, so two threads of one process exclude each
other as two processes do. Linux and macOS; elsewhere the first use is an error that
says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Self

from ravenxterm_lab.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = [
    "FileLock",
    "alone_with",
    "exclusive_gate",
    "holder",
    "is_locked",
    "lock_new_file",
    "shared_gate",
    "unlock",
]

#: How long a query waits for the database before it gives up (s).
READ_PATIENCE = 60.0

_REMEDY = "Set RAVENXTERM_HOME to a directory on a local disk."

# A child of fork() shares the open file description, and would keep the lock alive
# after its parent's death: it closes these first thing.
_held: set[int] = set()


def _close_inherited() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def _flock(fd: int, operation: str, path: object) -> bool:
    """Apply ``operation`` without waiting; False when another holds the lock."""
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            "The metric store needs the file locks of Linux or macOS, which this platform "
            "does not have. On Windows, run it inside WSL."
        ) from error
    flags = {
        "shared": fcntl.LOCK_SH | fcntl.LOCK_NB,
        "exclusive": fcntl.LOCK_EX | fcntl.LOCK_NB,
        "unlock": fcntl.LOCK_UN,
    }[operation]
    try:
        fcntl.flock(fd, flags)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise StoreError(
            f"{path} cannot be locked ({error.strerror}); the file system that it is on "
            f"does not support flock, as some network file systems do not. {_REMEDY}"
        ) from error
    return True


class FileLock:
    """A lock on one file, not reentrant; every instance opens the file anew.

    Parameters
    ----------
    path : Path
        The lock file.
    create : bool
        Whether to create it; a reader never does.

    Raises
    ------
    StoreError
        If the file can be neither opened nor created.
    FileNotFoundError
        If it does not exist and ``create`` is False.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        flags = os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)
        try:
            self._fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            remedy = (
                "Raise the limit of open files (ulimit -n)."
                if error.errno in (errno.EMFILE, errno.ENFILE)
                else "Make its directory accessible, or set RAVENXTERM_HOME to one that is."
            )
            raise StoreError(
                f"The lock file {path} cannot be opened ({error.strerror}). {remedy}"
            ) from error
        self._pid = os.getpid()
        _held.add(self._fd)

    def acquire(
        self,
        *,
        shared: bool,
        patience: float,
        stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Try for at most ``patience`` seconds; False when another still holds it.

        ``stop`` is asked between attempts and ends the wait early.
        """
        operation = "shared" if shared else "exclusive"
        deadline = time.monotonic() + patience
        pause = 0.0002
        while not _flock(self._fd, operation, self.path):
            if time.monotonic() >= deadline or (stop is not None and stop()):
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)
        return True

    def sign(self) -> None:
        """Write who holds the lock, and since when, into its file; see `holder`."""
        # Of one length, so that a longer text of an earlier holder leaves nothing behind. A
        # full disk must not keep anyone from the work that frees it.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, f"{os.getpid()} {time.time():.3f}".ljust(40).encode(), 0)

    def close(self) -> None:
        """Release the lock, if held, and close the file. Idempotent."""
        # Forgotten at once: by a second call the number may be another lock's.
        fd, self._fd = self._fd, -1
        if self._pid == os.getpid() and fd in _held:
            _held.discard(fd)
            # Unlocking first frees the lock even where a foreign fork holds a copy.
            _flock(fd, "unlock", self.path)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def lock_new_file(fd: int, path: Path) -> None:
    """Take the exclusive lock on a file just created, and prove that locks work here.

    Raises
    ------
    StoreError
        If a second lock on the same file is granted, or locks are not supported.
    """
    _flock(fd, "exclusive", path)
    if not is_locked(path):
        raise StoreError(
            f"The file system of {path} grants the same lock twice, so that processes cannot "
            f"be kept apart. {_REMEDY}"
        )


def alone_with(fd: int, path: Path, *, patience: float) -> bool:
    """Wait until no other process has a database file open; False when one still has.

    DuckDB holds a record lock (POSIX) on what it has open; this takes one of the same kind,
    which closing any descriptor of the file gives back.

    Parameters
    ----------
    fd : int
        Open for writing; this process has the file open nowhere else.
    path : Path
        Its name, for messages.
    patience : float
        How long to wait (s).

    Raises
    ------
    StoreError
        If the file system does not support such locks.
    """
    import fcntl

    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StoreError(
                    f"{path} cannot be locked ({error.strerror}). {_REMEDY}"
                ) from error
        else:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)


def is_locked(path: Path) -> bool:
    """Say whether a living process holds the exclusive lock on ``path``.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    """
    with FileLock(path, create=False) as probe:
        return not probe.acquire(shared=True, patience=0.0)


def holder(path: Path) -> tuple[int, float] | None:
    """Return the process that holds the lock on ``path``, and since when (s since 1970).

    None when nobody does; process 0 when the holder could not write its name.
    """
    try:
        if not is_locked(path):
            return None
        pid, since = path.read_text("ascii", errors="replace").split()
        return int(pid), float(since)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0, 0.0


@contextlib.contextmanager
def shared_gate(
    directory: Path, *, patience: float = READ_PATIENCE, create: bool = False
) -> Iterator[bool]:
    """Hold the gate of the database among readers; nobody writes meanwhile.

    ``create`` is for a database that is there without a gate, such as a copied one.

    Yields
    ------
    bool
        False, without any lock, when there is no gate: then nothing was ever ingested
        here, or, with ``create``, nothing can be, because the directory is read-only.

    Raises
    ------
    StoreError
        If a writer holds it for longer than ``patience`` seconds.
    """
    with contextlib.ExitStack() as stack:
        try:
            turnstile, gate = (
                stack.enter_context(_open_gate(directory / name, create=create))
                for name in ("turnstile.lock", "db.lock")
            )
        except (FileNotFoundError, NotADirectoryError):
            yield False
            return
        deadline = time.monotonic() + patience
        if not (
            turnstile.acquire(shared=False, patience=patience)
            and gate.acquire(shared=True, patience=deadline - time.monotonic())
        ):
            raise StoreError(
                f"{gate.path} has been held by another process for {patience:.0f} s. "
                "Look for a process that is stopped or hangs while it writes to "
                f"{directory}, and end it; nothing is lost by that."
            )
        turnstile.close()
        yield True


def _open_gate(path: Path, *, create: bool) -> FileLock:
    try:
        return FileLock(path, create=create)
    except StoreError as error:
        if create and not path.exists():
            raise FileNotFoundError(path) from error
        # Locking needs no right to write.
        return FileLock(path, create=False)


@contextlib.contextmanager
def exclusive_gate(
    directory: Path, *, patience: float, stop: Callable[[], bool] | None = None
) -> Iterator[bool]:
    """Hold the gate of the database alone, for one short transaction.

    New readers wait at the turnstile meanwhile, so ``patience`` (s) bounds how long a slow
    query of one process can keep all the others waiting.

    Yields
    ------
    bool
        Whether it was obtained in time.
    """
    with (
        FileLock(directory / "turnstile.lock", create=True) as turnstile,
        FileLock(directory / "db.lock", create=True) as gate,
    ):
        obtained = turnstile.acquire(shared=False, patience=patience, stop=stop) and gate.acquire(
            shared=False, patience=patience, stop=stop
        )
        turnstile.close()
        yield obtained


def unlock(fd: int, path: Path) -> None:
    """Release the lock of an open file, even where a foreign fork holds a copy of ``fd``."""
    with contextlib.suppress(StoreError):
        _flock(fd, "unlock", path)
