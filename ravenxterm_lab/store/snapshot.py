"""Reading segments, of the living and of the dead, without ever mapping them.

Only ``pread`` is used: a mapped file that its writer truncates would be a SIGBUS here.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ravenxterm_lab.store.segments import (
    BODY_SIZE,
    CAPACITY,
    ENTRY,
    FORMAT_VERSION,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    NO_CONTEXT,
    SLOT_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SLOT", "Rows", "SegmentFile", "list_segments"]

SLOT = np.dtype(
    [
        ("seq", "u8"),
        ("ts", "i8"),
        ("latency", "f8"),
        ("throughput", "f8"),
        ("memory_efficiency", "f8"),
        ("offset", "u8"),
        ("length", "u4"),
        ("context", "u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("reserved", "u2"),
        ("crc", "u4"),
    ]
)
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole events of one segment.

    Attributes
    ----------
    session : str
        Who recorded them.
    slots : structured array of `SLOT`, shape (n,)
        Slots that passed every check, in order.
    contexts : dict of int to list
        The interned contexts that they refer to.
    payloads : dict of int to dict
        Payloads by index into ``slots``.
    damaged : tuple of (int, str)
        Sequence numbers of events that cannot be read, and what is wrong with each.
    next_seq : int
        One past the last event that was looked at.
    """

    session: str
    slots: NDArray[np.void]
    contexts: dict[int, list[Any]]
    payloads: dict[int, dict[str, Any]]
    damaged: tuple[tuple[int, str], ...]
    next_seq: int


class SegmentFile:
    """One segment, opened for reading; what its name says is trusted more than its header.

    Raises
    ------
    FileNotFoundError
        If it was removed meanwhile: then every event in it was ingested.
    """

    def __init__(self, path: Path, session: str, first_seq: int) -> None:
        self.path = path
        self.session = session
        self.first_seq = first_seq
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def newer_format(self) -> bool:
        """Whether an intact header says that a newer version of this package wrote it."""
        raw = os.pread(self._fd, HEADER.size + ENTRY.size, 0)
        if len(raw) < HEADER.size + ENTRY.size:
            return False
        header = raw[: HEADER.size]
        magic, version = HEADER.unpack(header)[:2]
        intact = ENTRY.unpack(raw[HEADER.size :]) == (HEADER.size, zlib.crc32(header))
        return bool(intact and magic == MAGIC and version > FORMAT_VERSION)

    def read(self, from_seq: int, limit: int = CAPACITY) -> Rows:
        """Read at most ``limit`` events from ``from_seq`` on, as far as they are written.

        An event that is damaged is left out and reported. The unwritten end is no damage.
        """
        start = max(from_seq - self.first_seq, 0)
        slots, valid = self._scan(start, limit)
        damaged: dict[int, str] = dict.fromkeys(
            np.flatnonzero(~valid).tolist(), "its sequence number does not fit its place"
        )
        payloads: dict[int, dict[str, Any]] = {}
        contexts: dict[int, list[Any]] = {}
        faulty: dict[int, str] = {}
        with _Sidecar(self.path.with_suffix(".str")) as strings:
            for entry in np.unique(slots["context"][valid]).tolist():
                if entry == NO_CONTEXT:
                    continue
                context = strings.context(entry)
                if context is None:
                    faulty[entry] = "its context in the .str sidecar is damaged or missing"
                else:
                    contexts[entry] = context
        with _Sidecar(self.path.with_suffix(".ext")) as extras:
            damaged.update(self._check(start, slots, valid, extras, payloads))
        for entry, trouble in faulty.items():
            for index in np.flatnonzero(valid & (slots["context"] == entry)).tolist():
                damaged.setdefault(index, trouble)
        keep = np.ones(len(slots), dtype=bool)
        keep[list(damaged)] = False
        place = np.cumsum(keep) - 1
        first = self.first_seq + start
        return Rows(
            self.session,
            slots[keep],
            contexts,
            {int(place[i]): value for i, value in payloads.items() if keep[i]},
            tuple((first + index, damaged[index]) for index in sorted(damaged)),
            first + len(slots),
        )

    def written(self, from_seq: int) -> bool:
        """Whether anything from ``from_seq`` on is there, without checking it."""
        start = max(from_seq - self.first_seq, 0)
        return start < CAPACITY and bool(self._slots(start, 64)["seq"].any())

    def _slots(self, start: int, count: int) -> NDArray[np.void]:
        raw = os.pread(self._fd, count * SLOT_SIZE, HEADER_SIZE + start * SLOT_SIZE)
        return np.frombuffer(raw, dtype=SLOT, count=len(raw) // SLOT_SIZE).copy()

    def _scan(self, start: int, limit: int) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """Return the slots up to the last one in use, and which of them fit their place."""
        parts: list[NDArray[np.void]] = []
        at, stop = start, min(start + limit, CAPACITY)
        while at < stop:
            part = self._slots(at, min(_CHUNK, stop - at))
            parts.append(part)
            at += len(part)
            if not part["seq"].any():
                break
        slots = np.concatenate(parts) if parts else np.empty(0, dtype=SLOT)
        places = np.arange(start, start + len(slots), dtype="u8") + np.uint64(self.first_seq)
        valid = slots["seq"] == places
        filled = np.flatnonzero(slots["seq"])
        end = int(filled[-1]) + 1 if len(filled) else 0
        # The copy was not made at one instant: what looked unwritten before a written
        # slot has been written by now, or is damaged.
        for index in np.flatnonzero(~valid[:end]).tolist():
            self._refresh(slots, index, start)
            valid[index] = slots["seq"][index] == places[index]
        return slots[:end], valid[:end]

    def _refresh(self, slots: NDArray[np.void], index: int, start: int) -> None:
        again = self._slots(start + index, 1)
        if len(again):
            slots[index] = again[0]

    def _check(
        self,
        start: int,
        slots: NDArray[np.void],
        valid: NDArray[np.bool_],
        extras: _Sidecar,
        payloads: dict[int, dict[str, Any]],
    ) -> list[tuple[int, str]]:
        """Verify the checksums, collect the payloads, and return what failed."""
        crc32, read = zlib.crc32, extras.read
        raw = memoryview(slots.tobytes())
        offsets, lengths, crcs = (slots[name].tolist() for name in ("offset", "length", "crc"))
        failed = []
        texts: dict[int, bytes] = {}
        for index in np.flatnonzero(valid).tolist():
            at = index * SLOT_SIZE + 8
            length = lengths[index]
            payload = read(offsets[index], length) if length else b""
            if crc32(payload, crc32(raw[at : at + BODY_SIZE])) == crcs[index]:
                if length:
                    texts[index] = payload
                continue
            # On machines that reorder stores, the number may be seen before the rest.
            self._refresh(slots, index, start)
            again = self._payload(slots[index], extras)
            if again is None:
                failed.append((index, "its slot or its part of the .ext sidecar is damaged"))
            elif again:
                texts[index] = again
        # One parse of all is half the time of one each.
        parsed = json.loads(b"[" + b",".join(texts.values()) + b"]")
        payloads.update(zip(texts, parsed, strict=True))
        return failed

    @staticmethod
    def _payload(slot: np.void, extras: _Sidecar) -> bytes | None:
        """Return the payload of a slot, empty if it has none, None if a check fails."""
        length = int(slot["length"])
        crc = zlib.crc32(slot.tobytes()[8 : 8 + BODY_SIZE])
        payload = extras.read(int(slot["offset"]), length) if length else b""
        if len(payload) == length and zlib.crc32(payload, crc) == slot["crc"]:
            return payload
        return None


class _Sidecar:
    """A sidecar read in windows; it may be missing, and may be shorter than it should."""

    _WINDOW = 1 << 20

    def __init__(self, path: Path) -> None:
        self._start = 0
        self._window = b""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer, when they are not all there."""
        at = offset - self._start
        if at >= 0 and at + length <= len(self._window):
            return self._window[at : at + length]
        if self._fd < 0 or offset + length > os.fstat(self._fd).st_size:
            return b""
        self._start = offset
        self._window = os.pread(self._fd, max(length, self._WINDOW), offset)
        return self._window[:length]

    def context(self, offset: int) -> list[Any] | None:
        """Return the context interned at ``offset``, or None when it is damaged."""
        head = self.read(offset, ENTRY.size)
        if len(head) < ENTRY.size:
            return None
        length, crc = ENTRY.unpack(head)
        text = self.read(offset + ENTRY.size, length)
        if len(text) != length or zlib.crc32(text) != crc:
            return None
        context: list[Any] = json.loads(text)
        return context


def list_segments(spool: Path, note: Callable[[str], None]) -> list[SegmentFile]:
    """Open every segment of a spool, ordered by session and sequence; close them all.

    What cannot be opened is reported through ``note`` and left out, and with it the later
    segments of its session: a watermark says up to where *all* events were ingested.
    """
    found: list[tuple[str, int, Path]] = []
    try:
        entries = [path for path in spool.iterdir() if path.suffix == ".rec"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    for path in entries:
        session, dash, first = path.stem.rpartition("-")
        if dash and first.isascii() and first.isdigit():
            found.append((session, int(first), path))
    segments = []
    interrupted: set[str] = set()
    for session, first_seq, path in sorted(found):
        if session in interrupted:
            continue
        try:
            segment = SegmentFile(path, session, first_seq)
        except FileNotFoundError:
            continue
        except OSError as error:
            note(f"{path} cannot be read ({error.strerror}); its events are left out for now.")
            interrupted.add(session)
            continue
        if segment.newer_format():
            segment.close()
            interrupted.add(session)
            note(f"{path} was written by a newer version of this package; left untouched.")
            continue
        segments.append(segment)
    return segments
