"""Segments: append-only files of fixed slots that one process writes through a memory map.

A segment is ``<session>-<first_seq>.rec`` (a header of 4 KiB, then 64-byte slots) with
two sidecars: ``.str`` holds interned contexts, ``.ext`` holds payloads, both written
before the slot that refers to them. A slot's checksum, which is never zero, is written
last; a slot counts only if its sequence number fits its place and its checksum fits all.
Dirty pages belong to the operating system: what `Recorder.append` returned from survives
the death of the process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import os
import secrets
import struct
import zlib
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import MetricError, StoreError
from ravenxterm_lab.store.locks import lock_new_file, unlock
from ravenxterm_lab.store.validation import check_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "BODY",
    "BODY_SIZE",
    "CAPACITY",
    "ENTRY",
    "FORMAT_VERSION",
    "HEADER",
    "HEADER_SIZE",
    "KIND",
    "MAGIC",
    "NAN",
    "NO_CONTEXT",
    "PACKED",
    "SLOT_SIZE",
    "SUCCESS",
    "SegmentWriter",
    "segment_name",
    "store_error",
    "sync_file",
]

MAGIC = b"RVNXSEG\x00"
FORMAT_VERSION = 2
HEADER_SIZE = 4096
SLOT_SIZE = 64
CAPACITY = 65_536
#: Magic, version, slot size, capacity, first sequence number, process, creation (ns), session.
HEADER = struct.Struct("=8sHHIQQq32s")
#: Sequence number, ts (ns), latency, throughput, memory efficiency, payload offset, payload
#: length, context, kind (8 bits) and flags (from bit 8 on). Adler-32 (RFC 1950) of these
#: and the payload follows: on 60 bytes its sums do not wrap, so that no error of one or two
#: bytes escapes it, and it takes a third of the time of a CRC.
BODY = struct.Struct("=QqdddQIII")
BODY_SIZE = BODY.size
#: Before each interned context: its length and its CRC-32.
ENTRY = struct.Struct("=II")
NO_CONTEXT = 0xFFFF_FFFF
#: Flags of a slot: the execution succeeded; its payload holds doubles, whose names stand at
#: the end of its context, instead of JSON.
SUCCESS = 1 << 8
PACKED = 1 << 9
#: The bits that hold the kind.
KIND = 0xFF
#: What stands in a slot for "not measured"; no metric can have it as its value.
NAN = math.nan

_WARM_SLOTS = 4096
_EXT_START = 1024 * 1024
_EXT_STEP = 16 * 1024 * 1024
_MAX_SIDECAR = 1 << 31

_crc32 = zlib.crc32


def segment_name(session: str, first_seq: int) -> str:
    """Return the file name of a segment without its suffix."""
    return f"{session}-{first_seq}"


def store_error(
    path: Path, error: OSError, *, verb: str = "write", so: str = "nothing was recorded"
) -> StoreError:
    """Turn an `OSError` met below ``path`` into one that says what follows, and the remedy."""
    remedy = {
        errno.ENOSPC: "Free space on the disk",
        errno.EDQUOT: "Free some of your quota",
        errno.EMFILE: "Raise the limit of open files (ulimit -n)",
        errno.EROFS: "Make it writable",
        errno.EACCES: "Make it writable",
        errno.EPERM: "Make it writable",
    }.get(error.errno or 0, "Make it a writable directory")
    return StoreError(
        f"The metric store cannot {verb} {path} ({error.strerror or error}); {so}. "
        f"{remedy}, or set RAVENXTERM_HOME to another directory."
    )


def _reserve(fd: int, size: int) -> None:
    """Allocate the blocks now, so that a full disk is an error here and never a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    # macOS has no posix_fallocate; writing zeros past the end allocates all the same.
    at = os.fstat(fd).st_size
    while at < size:
        at += os.pwrite(fd, bytes(min(size - at, 1 << 20)), at)


def sync_file(path: Path) -> None:
    """Bring what was written to ``path`` to the disk, mapped pages included."""
    # A descriptor of its own: the writer's may be closed meanwhile by a roll.
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            getattr(os, "fdatasync", os.fsync)(fd)
        finally:
            os.close(fd)


class SegmentWriter:
    """The files of one segment, mapped for writing; `Recorder.append` fills the slots.

    Its owner serialises the calls.

    Parameters
    ----------
    spool : Path
        Created if need be.
    session : str
        At most 32 ASCII characters.
    first_seq : int
        Sequence number of the first slot, from 1.
    created : int
        Nanoseconds since 1970 (UTC).

    Attributes
    ----------
    count, limit : int
        Events written, and how many may be before `extend` has to be called.
    contexts : dict of tuple to int
        Numbers of the contexts that were interned.
    map : mmap
        The file of slots, as bytes.
    words : memoryview of uint32
        The same memory.

    Raises
    ------
    StoreError
        If the file cannot be created, allocated or locked; then it does not exist.
    """

    __slots__ = (
        "_ext_end",
        "_ext_fd",
        "_ext_map",
        "_ext_size",
        "_fd",
        "_sidecar_full",
        "_str_end",
        "_str_fd",
        "_view",
        "_warm",
        "contexts",
        "count",
        "first_seq",
        "limit",
        "map",
        "path",
        "words",
    )

    def __init__(self, spool: Path, session: str, first_seq: int, created: int) -> None:
        self.path = spool / f"{segment_name(session, first_seq)}.rec"
        self.first_seq = first_seq
        self.count = 0
        self.limit = 0
        self._warm = 0
        self._sidecar_full = False
        self.contexts: dict[tuple[object, ...], int] = {}
        self._str_fd = self._ext_fd = -1
        self._str_end = self._ext_end = self._ext_size = 0
        self._ext_map: mmap.mmap | None = None
        size = HEADER_SIZE + CAPACITY * SLOT_SIZE
        # Under its final name a segment is always whole and locked. The draft's name is new
        # at each attempt, for one that was broken off by Ctrl-C may have left its file.
        draft = self.path.with_suffix(f".{secrets.token_hex(4)}.new")
        self._fd = -1
        try:
            for directory in (spool.parent, spool):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            lock_new_file(self._fd, draft)
            _reserve(self._fd, size)
            header = HEADER.pack(
                MAGIC,
                FORMAT_VERSION,
                SLOT_SIZE,
                CAPACITY,
                first_seq,
                os.getpid(),
                created,
                session.encode("ascii"),
            )
            os.pwrite(self._fd, header + ENTRY.pack(len(header), _crc32(header)), 0)
            self.map = mmap.mmap(self._fd, size)
            draft.rename(self.path)
        except BaseException as error:
            if self._fd >= 0:
                os.close(self._fd)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise store_error(spool, error) from error
            raise
        self._view = memoryview(self.map)
        self.words = self._view.cast("I")

    def intern(self, context: tuple[object, ...]) -> int:
        """Write a context that is new to this segment and return its number.

        Raises
        ------
        MetricError
            If it cannot be written as it is.
        StoreError
            If the sidecar cannot grow.
        """
        check_context(context)
        try:
            text = json.dumps(context, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise MetricError(
                f"{error.object!r} cannot be recorded: it holds a lone surrogate, which is "
                "no valid Unicode text. Replace the character."
            ) from error
        entry = ENTRY.pack(len(text), _crc32(text)) + text
        path = self.path.with_suffix(".str")
        try:
            if self._str_fd < 0:
                self._str_fd = os.open(
                    path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
                )
            written = os.pwrite(self._str_fd, entry, self._str_end)
        except OSError as error:
            raise store_error(path, error) from error
        if written != len(entry):
            raise store_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        offset = self._str_end
        self._str_end += len(entry)
        self._limit_sidecar(self._str_end)
        self.contexts[context] = offset
        return offset

    def put(self, payload: bytes) -> int:
        """Write a payload and return its offset.

        Raises
        ------
        StoreError
            If the sidecar cannot grow; nothing was written.
        """
        offset = self._ext_end
        end = offset + len(payload)
        if end > self._ext_size:
            self._grow(end)
        assert self._ext_map is not None
        self._ext_map[offset:end] = payload
        self._ext_end = end
        self._limit_sidecar(end)
        return offset

    def _limit_sidecar(self, end: int) -> None:
        if end > _MAX_SIDECAR:
            self._sidecar_full = True
            self.limit = 0

    def extend(self) -> bool:
        """Raise `limit`; False when the segment is full and the next one has to begin.

        The pages ahead are brought into memory by one write, for to fault them in one by
        one from the map takes several times as long.
        """
        if self._sidecar_full or self.count >= CAPACITY:
            return False
        start = max(self._warm, self.count)
        self._warm = min(start + _WARM_SLOTS, CAPACITY)
        blank = bytes((self._warm - start) * SLOT_SIZE)
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, blank, HEADER_SIZE + start * SLOT_SIZE)
        self.limit = self._warm
        return True

    def _grow(self, end: int) -> None:
        path = self.path.with_suffix(".ext")
        doubled = min(max(2 * self._ext_size, _EXT_START), self._ext_size + _EXT_STEP)
        size = -(-max(doubled, end) // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            if self._ext_fd < 0:
                self._ext_fd = os.open(
                    path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
                )
            _reserve(self._ext_fd, size)
            grown = mmap.mmap(self._ext_fd, size)
        except OSError as error:
            raise store_error(path, error) from error
        if self._ext_map is not None:
            self._ext_map.close()
        self._ext_map, self._ext_size = grown, size

    def settle(self) -> None:
        """After an exception within an append: count the slot if it was written."""
        if self.words[(HEADER_SIZE + self.count * SLOT_SIZE + BODY_SIZE) >> 2]:
            self.count += 1

    def lost(self) -> bool:
        """Whether the file was deleted or replaced under its writer."""
        try:
            return self.path.stat().st_ino != os.fstat(self._fd).st_ino
        except OSError:
            return True

    def files(self) -> list[Path]:
        """Return the files to sync, the slots last."""
        return [self.path.with_suffix(suffix) for suffix in (".str", ".ext", ".rec")]

    def seal(self) -> None:
        """Give back what was preallocated and end the sign of life: the content is final."""
        self._close(self._finish)

    def abandon(self) -> None:
        """In a forked child: close what was inherited, without touching the parent's segment."""
        self._close(None)

    def _finish(self) -> None:
        end = HEADER_SIZE + self.count * SLOT_SIZE
        # Disk space is all that is at stake here, and the file may be gone or read-only by now.
        with contextlib.suppress(OSError):
            if self.count:
                os.ftruncate(self._fd, end)
                if self._ext_fd >= 0:
                    os.ftruncate(self._ext_fd, self._ext_end)
            elif not self.lost():
                for path in reversed(self.files()):
                    path.unlink(missing_ok=True)

    def _close(self, finish: Callable[[], None] | None) -> None:
        if self._fd < 0:
            return
        # The map holds a duplicate of the descriptor, and with it the lock: views first.
        for view in (self.words, self._view):
            view.release()
        self.map.close()
        if self._ext_map is not None:
            self._ext_map.close()
            self._ext_map = None
        if finish is not None:
            finish()
            unlock(self._fd, self.path)
        for fd in (self._str_fd, self._ext_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._str_fd = self._ext_fd = -1
