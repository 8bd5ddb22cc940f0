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

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.checksums import adler32
from ravenxterm_lab.store.schema import CONTEXT
from ravenxterm_lab.store.segments import (
    BODY_SIZE,
    CAPACITY,
    ENTRY,
    FORMAT_VERSION,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    NO_CONTEXT,
    PACKED,
    SLOT_SIZE,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SLOT", "Numbers", "Rows", "SegmentFile", "list_segments", "unreadable"]

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
        ("mark", "u4"),
        ("checksum", "u4"),
    ]
)
_CHUNK = 8192
#: Payloads are read in pieces of at most so many bytes, or one by one where a piece holds more.
_PIECE = 1 << 24

_PLACE = "its sequence number does not fit its place"
_SLOT_OR_EXT = "its slot or its part of the .ext sidecar is damaged"
_STR = "its context in the .str sidecar is damaged or missing"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Payloads that hold the same named numbers.

    Attributes
    ----------
    names : tuple of str
        Names of the numbers.
    index : array of intp, shape (n,)
        Which slots of their `Rows` have them.
    values : array of float64, shape (n, len(names))
        The numbers.
    """

    names: tuple[str, ...]
    index: NDArray[np.intp]
    values: NDArray[np.float64]


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
    numbers : tuple of Numbers
        Payloads of numbers alone.
    documents : dict of int to dict
        Other payloads, by index into ``slots``.
    damaged : tuple of (int, str)
        Sequence numbers of events that cannot be read, and what is wrong with each.
    next_seq : int
        One past the last event that was looked at.
    """

    session: str
    slots: NDArray[np.void]
    contexts: dict[int, list[Any]]
    numbers: tuple[Numbers, ...]
    documents: dict[int, dict[str, Any]]
    damaged: tuple[tuple[int, str], ...]
    next_seq: int


class SegmentFile:
    """One segment, to be opened with ``with``; its name is trusted more than its header.

    Parameters
    ----------
    path : Path
        The file of slots.
    session : str
        Who records, or recorded, into it.
    first_seq : int
        Sequence number of its first slot.

    Raises
    ------
    FileNotFoundError
        On entering, if it was removed meanwhile: then every event in it was ingested.
    OSError
        On entering or reading, if it cannot be read.
    StoreError
        On entering, if another version of this package wrote it.
    """

    def __init__(self, path: Path, session: str, first_seq: int) -> None:
        self.path = path
        self.session = session
        self.first_seq = first_seq
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if self._foreign_format():
            self.__exit__()
            raise StoreError("it was written by another version of this package; left untouched")
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        self._fd = -1

    def _foreign_format(self) -> bool:
        """Whether an intact header says that another version of this package wrote it."""
        raw = os.pread(self._fd, HEADER.size + ENTRY.size, 0)
        if len(raw) < HEADER.size + ENTRY.size:
            return False
        header = raw[: HEADER.size]
        magic, version = HEADER.unpack(header)[:2]
        intact = ENTRY.unpack(raw[HEADER.size :]) == (HEADER.size, zlib.crc32(header))
        return bool(intact and magic == MAGIC and version != FORMAT_VERSION)

    def written(self, from_seq: int) -> bool:
        """Whether anything from ``from_seq`` on is there, without checking it."""
        start = max(from_seq - self.first_seq, 0)
        return start < CAPACITY and bool(self._slots(start, 64)["checksum"].any())

    def read(self, from_seq: int, limit: int = CAPACITY) -> Rows:
        """Read at most ``limit`` events from ``from_seq`` on, as far as they are written.

        An event that is damaged is left out and reported. The unwritten end is no damage.
        """
        start = max(from_seq - self.first_seq, 0)
        slots, damaged = self._scan(start, limit)
        valid = np.ones(len(slots), dtype=bool)
        valid[list(damaged)] = False
        contexts = self._contexts(slots, valid, damaged)
        with _Sidecar(self.path.with_suffix(".ext")) as extras:
            payloads = _Payloads(slots, valid, extras)
            payloads.check()
            for index in np.flatnonzero(~payloads.intact & valid).tolist():
                # On machines that reorder stores, the checksum may be seen before the rest.
                self._refresh(slots, index, start)
                if not payloads.check_one(index):
                    damaged.setdefault(index, _SLOT_OR_EXT)
            keep = np.ones(len(slots), dtype=bool)
            keep[list(damaged)] = False
            numbers, documents = payloads.decode(keep, contexts, damaged)
        keep[list(damaged)] = False
        place = np.cumsum(keep) - 1
        first = self.first_seq + start
        return Rows(
            self.session,
            slots[keep],
            contexts,
            tuple(Numbers(n.names, place[n.index], n.values) for n in numbers),
            {int(place[i]): value for i, value in documents.items()},
            tuple((first + index, damaged[index]) for index in sorted(damaged)),
            first + len(slots),
        )

    def _slots(self, start: int, count: int) -> NDArray[np.void]:
        raw = os.pread(self._fd, count * SLOT_SIZE, HEADER_SIZE + start * SLOT_SIZE)
        return np.frombuffer(raw, dtype=SLOT, count=len(raw) // SLOT_SIZE)

    def _scan(self, start: int, limit: int) -> tuple[NDArray[np.void], dict[int, str]]:
        """Return the slots up to the last one in use, and those that do not fit their place."""
        parts: list[NDArray[np.void]] = []
        at, stop = start, min(start + limit, CAPACITY)
        while at < stop:
            part = self._slots(at, min(_CHUNK, stop - at))
            parts.append(part)
            at += len(part)
            # Slots are written in order; one that is damaged is no end.
            if not len(part) or not (part["checksum"][-1] or self._slots(at, 64)["checksum"].any()):
                break
        slots = np.concatenate(parts) if parts else np.empty(0, dtype=SLOT)
        places = np.arange(start, start + len(slots), dtype="u8") + np.uint64(self.first_seq)
        used = np.flatnonzero(slots["checksum"])
        end = int(used[-1]) + 1 if len(used) else 0
        wrong = (slots["checksum"][:end] == 0) | (slots["seq"][:end] != places[:end])
        damaged: dict[int, str] = {}
        # The copy was not made at one instant: what looked unwritten before a written
        # slot has been written by now, or is damaged.
        for index in np.flatnonzero(wrong).tolist():
            self._refresh(slots, index, start)
            if not slots["checksum"][index] or slots["seq"][index] != places[index]:
                damaged[index] = _PLACE
        return slots[:end], damaged

    def _refresh(self, slots: NDArray[np.void], index: int, start: int) -> None:
        again = self._slots(start + index, 1)
        if len(again):
            slots[index] = again[0]

    def _contexts(
        self, slots: NDArray[np.void], valid: NDArray[np.bool_], damaged: dict[int, str]
    ) -> dict[int, list[Any]]:
        contexts: dict[int, list[Any]] = {}
        with _Sidecar(self.path.with_suffix(".str")) as strings:
            for entry in np.unique(slots["context"][valid]).tolist():
                if entry == NO_CONTEXT:
                    continue
                context = strings.context(entry)
                if context is not None:
                    contexts[entry] = context
                    continue
                for index in np.flatnonzero(valid & (slots["context"] == entry)).tolist():
                    damaged[index] = _STR
        return contexts


class _Payloads:
    """The payloads of some slots: checked together with the slots, then decoded.

    Attributes
    ----------
    intact : array of bool, shape (n,)
        Which slots have a checksum that fits them and their payload.
    """

    def __init__(self, slots: NDArray[np.void], valid: NDArray[np.bool_], extras: _Sidecar) -> None:
        self._slots = slots
        self._extras = extras
        self._bytes = slots.view(np.uint8).reshape(len(slots), SLOT_SIZE)
        self.intact = np.zeros(len(slots), dtype=bool)
        lengths = slots["length"]
        self._plain = np.flatnonzero(valid & (lengths == 0))
        packed = (slots["mark"] & PACKED != 0) & (lengths % 8 == 0)
        self._packed = np.flatnonzero(valid & (lengths > 0) & packed)
        self._others = np.flatnonzero(valid & (lengths > 0) & ~packed)
        self._values: dict[int, tuple[NDArray[np.intp], NDArray[np.uint8]]] = {}
        self._texts: dict[int, bytes] = {}

    def check(self) -> None:
        """Compare every checksum."""
        slots = self._slots
        bodies = np.zeros(len(slots), dtype=np.uint32)
        if len(slots):
            bodies = adler32(self._bytes[:, :BODY_SIZE])
        sums = slots["checksum"]
        self.intact[self._plain] = bodies[self._plain] == sums[self._plain]
        for length in np.unique(slots["length"][self._packed]).tolist():
            index = self._packed[slots["length"][self._packed] == length]
            data, there = self._extras.gather(slots["offset"][index], length)
            index = index[there]
            self.intact[index] = adler32(data, bodies[index]) == sums[index]
            self._values[length] = (index, data)
        self._check_others(bodies)

    def _check_others(self, bodies: NDArray[np.uint32]) -> None:
        others = self._others
        columns = (self._slots[name][others].tolist() for name in ("offset", "length", "checksum"))
        read, adler = self._extras.read, zlib.adler32
        for index, body, offset, length, checksum in zip(
            others.tolist(), bodies[others].tolist(), *columns, strict=True
        ):
            payload = read(offset, length)
            if len(payload) == length and adler(payload, body) == checksum:
                self._texts[index] = payload
                self.intact[index] = True

    def check_one(self, index: int) -> bool:
        """Check a slot again that was read anew; a payload of numbers is then a text too."""
        slot = self._slots[index]
        length = int(slot["length"])
        payload = self._extras.read(int(slot["offset"]), length) if length else b""
        body = zlib.adler32(slot.tobytes()[:BODY_SIZE])
        intact = len(payload) == length and zlib.adler32(payload, body) == slot["checksum"]
        if intact and payload:
            self._texts[index] = payload
        return intact

    def decode(
        self,
        keep: NDArray[np.bool_],
        contexts: dict[int, list[Any]],
        damaged: dict[int, str],
    ) -> tuple[list[Numbers], dict[int, dict[str, Any]]]:
        """Return the numbers and the documents of the slots to ``keep``, by index."""
        numbers: list[Numbers] = []
        for index, data in self._values.values():
            good = keep[index] & self.intact[index]
            numbers += self._named(index[good], data[good], contexts, damaged)
        texts: dict[int, bytes] = {}
        for at, payload in self._texts.items():
            if keep[at] and self._slots["mark"][at] & PACKED:
                raw = np.frombuffer(payload, dtype=np.uint8)[None, :]
                numbers += self._named(np.array([at], dtype=np.intp), raw, contexts, damaged)
            elif keep[at]:
                texts[at] = payload
        # One parse of all is half the time of one each.
        parsed = json.loads(b"[" + b",".join(texts.values()) + b"]")
        return numbers, dict(zip(texts, parsed, strict=True))

    def _named(
        self,
        index: NDArray[np.intp],
        data: NDArray[np.uint8],
        contexts: dict[int, list[Any]],
        damaged: dict[int, str],
    ) -> list[Numbers]:
        values = np.ascontiguousarray(data).view(np.float64)
        entries = self._slots["context"][index]
        found = []
        for entry in np.unique(entries).tolist():
            here = entries == entry
            names = contexts[entry][len(CONTEXT) :]
            if names and len(names[0]) == values.shape[1]:
                found.append(Numbers(tuple(names[0]), index[here], values[here]))
            else:
                damaged.update(dict.fromkeys(index[here].tolist(), _STR))
        return found


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

    def gather(
        self, offsets: NDArray[np.uint64], length: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return ``length`` bytes from each offset, one row each, and which are all there.

        Rows that are not all there are left out of the first value.
        """
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        there = (offsets < size) & (offsets.astype(np.int64) <= size - length)
        starts = offsets[there].astype(np.int64)
        found = np.empty((len(starts), length), dtype=np.uint8)
        step = max(_PIECE // max(length, 1) // 4, 1)
        for begin in range(0, len(starts), step):
            part = starts[begin : begin + step]
            low, high = int(part.min()), int(part.max()) + length
            if high - low <= _PIECE:
                piece = np.frombuffer(os.pread(self._fd, high - low, low), dtype=np.uint8)
                if len(piece) == high - low:
                    found[begin : begin + step] = piece[
                        (part - low)[:, None] + np.arange(length, dtype=np.int64)
                    ]
                    continue
            for row, offset in enumerate(part.tolist(), begin):
                raw = np.frombuffer(self.read(offset, length), dtype=np.uint8)
                found[row] = raw if len(raw) == length else 0
        return found, there

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


def list_segments(spool: Path) -> list[SegmentFile]:
    """Return the segments of a spool, ordered by session and sequence."""
    found: list[tuple[str, int, Path]] = []
    try:
        entries = [path for path in spool.iterdir() if path.suffix == ".rec"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    for path in entries:
        session, dash, first = path.stem.rpartition("-")
        if dash and first.isascii() and first.isdigit():
            found.append((session, int(first), path))
    return [SegmentFile(path, session, first_seq) for session, first_seq, path in sorted(found)]


def unreadable(path: Path, error: OSError | StoreError) -> str:
    """Return the sentence that says that a segment could not be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{path} cannot be read for now ({reason}); its events are kept where they are."
