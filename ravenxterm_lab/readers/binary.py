"""Bounded random access to one regular file.

The file is read in windows with ``pread`` rather than mapped: a mapped file that another
process truncates kills the interpreter with SIGBUS.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Self

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["FileWindow", "shown"]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)


def shown(name: object, limit: int = 120) -> str:
    r"""Return a name from an untrusted file as one printable line of at most ``limit`` characters.

    Examples
    --------
    >>> shown("a\nb")
    "'a\\nb'"
    """
    whole = True
    if isinstance(name, str | bytes | list | tuple):
        # Cut first: an untrusted name may have millions of characters.
        name, whole = name[:limit], len(name) <= limit
    try:
        text = ascii(name)
    except RecursionError:
        text = "(too deeply nested to be shown)"
    return text if whole and len(text) <= limit else f"{text[: limit - 1]}…"


class FileWindow:
    """A regular file, opened for reading, of which one window lies in memory.

    Parameters
    ----------
    path : Path
        A regular file, or a link to one. A device, a socket or a FIFO is never opened.
    chunk : int
        Bytes that are read at once.

    Attributes
    ----------
    path : Path
    chunk : int
    size : int
        Bytes, when the file was opened.
    data : bytes
        The window.
    base : int
        Offset of the window's first byte in the file.
    left : int
        Bytes that may still be read, over and over included.
    kept : int
        Bytes of memory that its reader keeps of what it read (see ``keep``).

    Raises
    ------
    ModelFileError
        If it cannot be opened or is not a regular file.
    """

    __slots__ = ("_fd", "_until", "base", "chunk", "data", "kept", "left", "path", "size")

    def __init__(self, path: Path, chunk: int = 1 << 16) -> None:
        self.path = path
        self.chunk = chunk
        self.data = b""
        self.base = 0
        self.left = limits.FILE_READ_BYTES
        self.kept = 0
        self._until = time.monotonic() + limits.FILE_SECONDS
        self._fd = -1
        try:
            # Looked at before it is opened: opening alone has effects on some devices.
            name = os.fspath(path)
            self._check(os.stat(name).st_mode)  # noqa: PTH116 - thousands of files a scan
            self._fd = os.open(name, _FLAGS)
            status = os.fstat(self._fd)
            self._check(status.st_mode)
        except (OSError, ValueError) as error:
            self.close()
            if isinstance(error, ModelFileError):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelFileError(f"{shown(str(path))} cannot be opened: {reason}.") from error
        self.size = status.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fail(self, reason: str) -> ModelFileError:
        """Return the error that says what is wrong with this file."""
        return ModelFileError(f"{shown(str(self.path))}: {reason}")

    def at(self, offset: int, count: int) -> int:
        """Bring ``count`` bytes from ``offset`` on into the window.

        Returns
        -------
        int
            The index of the first of them in ``data``.

        Raises
        ------
        ModelFileError
            If the file ends before.
        """
        index = offset - self.base
        if index >= 0 and index + count <= len(self.data):
            return index
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.fail(
                f"truncated: {count} bytes are needed at offset {offset}, but the file has "
                f"{self.size} bytes ({format_bytes(self.size)}). Download it again."
            )
        self.data = self._pread(offset, max(count, min(self.chunk, self.size - offset)))
        self.base = offset
        if len(self.data) < count:
            raise self.fail("became shorter while it was read; it is being replaced. Scan again.")
        return 0

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset`` on (see ``at`` for what is raised)."""
        index = self.at(offset, count)
        return self.data[index : index + count]

    def head(self, count: int) -> bytes:
        """Return at most ``count`` bytes from the start."""
        return self.read(0, min(count, self.size))

    def keep(self, count: int) -> None:
        """Take note of ``count`` more bytes of memory for what is kept of the file.

        A file can name one long string a million times, and each becomes one of its own.

        Raises
        ------
        ModelFileError
            If they are more than ``limits.FILE_KEPT_BYTES`` in all.
        """
        self.kept += count
        if self.kept > limits.FILE_KEPT_BYTES:
            raise self.fail(
                f"would take more than {format_bytes(limits.FILE_KEPT_BYTES)} of memory to "
                "describe: more names, numbers and tensors than any model has."
            )

    def _check(self, mode: int) -> None:
        if stat.S_ISREG(mode):
            return
        kinds = (
            (stat.S_ISDIR, "a directory"),
            (stat.S_ISFIFO, "a FIFO"),
            (stat.S_ISSOCK, "a socket"),
            (stat.S_ISCHR, "a character device"),
            (stat.S_ISBLK, "a block device"),
        )
        kind = next((name for test, name in kinds if test(mode)), "not a regular file")
        raise self.fail(f"is {kind}, not a regular file; it was not opened.")

    def _pread(self, offset: int, count: int) -> bytes:
        parts = []
        self.left -= count
        if self.left < 0:
            raise self.fail(
                f"makes a reader read more than {format_bytes(limits.FILE_READ_BYTES)} of it; "
                "it is not read any further."
            )
        if time.monotonic() > self._until:
            # As what the operating system refuses: it may be faster another time.
            raise self.fail(
                f"took more than {limits.FILE_SECONDS:.0f} s to read. Its disk may be slow: scan "
                "again."
            ) from TimeoutError()
        try:
            while count > 0:
                part = os.pread(self._fd, count, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                count -= len(part)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.fail(f"cannot be read: {reason}.") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)
