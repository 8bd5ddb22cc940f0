"""The sidecars of a segment: payloads, checked together with their slots, and contexts."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ravenxterm_lab.store.checksums import adler32
from ravenxterm_lab.store.schema import CONTEXT
from ravenxterm_lab.store.segments import BODY_SIZE, ENTRY, PACKED, SLOT_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BAD_CONTEXT", "SLOT", "Numbers", "Payloads", "Sidecar", "distinct"]

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
#: What is wrong with an event whose context cannot be read.
BAD_CONTEXT = "its context in the .str sidecar is damaged or missing"
#: Payloads are read in pieces of at most so many bytes, or one by one where a piece holds more.
_PIECE = 1 << 24


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


def distinct(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the different values in order: `numpy.unique`, mostly without its sort."""
    if not len(values) or int(values.max()) >= 4 * len(values) + 4096:
        return np.unique(values)
    return np.flatnonzero(np.bincount(values)).astype(np.uint32)


class Payloads:
    """The payloads of some slots: checked together with the slots, then decoded.

    Parameters
    ----------
    slots : structured array of `SLOT`, shape (n,)
        One that is read anew later may be replaced in place, and is checked by `check_one`.
    valid : array of bool, shape (n,)
        Which of them are looked at.
    extras : Sidecar
        Where the payloads are.

    Attributes
    ----------
    intact : array of bool, shape (n,)
        Which of the valid slots have a checksum that fits them and their payload.
    """

    def __init__(self, slots: NDArray[np.void], valid: NDArray[np.bool_], extras: Sidecar) -> None:
        self._slots = slots
        self._valid = valid
        self._extras = extras
        self._values: dict[int, tuple[NDArray[np.intp], NDArray[np.uint8]]] = {}
        self._texts: dict[int, bytes] = {}
        self.intact = self._check()

    def _check(self) -> NDArray[np.bool_]:
        slots = self._slots
        content = slots.view(np.uint8).reshape(len(slots), SLOT_SIZE)
        bodies = adler32(content[:, :BODY_SIZE])
        lengths = slots["length"]
        intact: NDArray[np.bool_] = (bodies == slots["checksum"]) & self._valid
        if not lengths.any():
            return intact
        intact &= lengths == 0
        packed = (slots["mark"] & PACKED != 0) & (lengths % 8 == 0)
        some = self._valid & (lengths > 0)
        self._check_packed(np.flatnonzero(some & packed), bodies, intact)
        self._check_others(np.flatnonzero(some & ~packed), bodies, intact)
        return intact

    def _check_packed(
        self, packed: NDArray[np.intp], bodies: NDArray[np.uint32], intact: NDArray[np.bool_]
    ) -> None:
        slots = self._slots
        lengths = slots["length"][packed]
        for length in distinct(lengths).tolist():
            index = packed[lengths == length]
            data, there = self._extras.gather(slots["offset"][index], length)
            index = index[there]
            intact[index] = adler32(data, bodies[index]) == slots["checksum"][index]
            self._values[length] = (index, data)

    def _check_others(
        self, others: NDArray[np.intp], bodies: NDArray[np.uint32], intact: NDArray[np.bool_]
    ) -> None:
        columns = (self._slots[name][others].tolist() for name in ("offset", "length", "checksum"))
        read, adler = self._extras.read, zlib.adler32
        for index, body, offset, length, checksum in zip(
            others.tolist(), bodies[others].tolist(), *columns, strict=True
        ):
            payload = read(offset, length)
            if len(payload) == length and adler(payload, body) == checksum:
                intact[index] = True
                self._texts[index] = payload

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
        self, contexts: dict[int, list[Any]], damaged: dict[int, str]
    ) -> tuple[list[Numbers], dict[int, dict[str, Any]]]:
        """Return the numbers and the documents of the slots that are not damaged, by index."""
        numbers: list[Numbers] = []
        for index, data in self._values.values():
            good = self.intact[index]
            if damaged:
                good &= ~np.isin(index, list(damaged))
            chosen = slice(None) if good.all() else good
            numbers += self._named(index[chosen], data[chosen], contexts, damaged)
        if not self._texts:
            return numbers, {}
        texts: dict[int, bytes] = {}
        for at, payload in self._texts.items():
            if at in damaged:
                continue
            if self._slots["mark"][at] & PACKED:
                raw = np.frombuffer(payload, dtype=np.uint8)[None, :]
                numbers += self._named(np.array([at], dtype=np.intp), raw, contexts, damaged)
            else:
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
        layouts: dict[tuple[str, ...] | None, list[int]] = {}
        for entry in distinct(entries).tolist():
            names = contexts[entry][len(CONTEXT) :] if entry in contexts else None
            fits = names and len(names[0]) == values.shape[1]
            layouts.setdefault(tuple(names[0]) if names and fits else None, []).append(entry)
        found = []
        for layout, members in layouts.items():
            here = slice(None) if len(layouts) == 1 else np.isin(entries, members)
            if layout is None:
                damaged.update(dict.fromkeys(index[here].tolist(), BAD_CONTEXT))
            else:
                found.append(Numbers(layout, index[here], values[here]))
        return found


class Sidecar:
    """A sidecar read in windows; it may be missing, and may be shorter than it should.

    It is opened when something is first read from it.

    Parameters
    ----------
    segment : Path
        The file of slots.
    suffix : str
        That of the sidecar.
    """

    _WINDOW = 1 << 20

    def __init__(self, segment: Path, suffix: str) -> None:
        self._segment = segment
        self._suffix = suffix
        self._start = 0
        self._window = b""
        self._fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd is not None and self._fd >= 0:
            os.close(self._fd)

    def _open(self) -> int:
        """Return the descriptor, -1 when there is no such file."""
        if self._fd is None:
            try:
                path = self._segment.with_suffix(self._suffix)
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._fd = -1
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer, when they are not all there."""
        at = offset - self._start
        if at >= 0 and at + length <= len(self._window):
            return self._window[at : at + length]
        fd = self._open()
        if fd < 0 or offset + length > os.fstat(fd).st_size:
            return b""
        self._start = offset
        self._window = os.pread(fd, max(length, self._WINDOW), offset)
        return self._window[:length]

    def gather(
        self, offsets: NDArray[np.uint64], length: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return ``length`` bytes from each offset, one row each, and which are all there.

        Rows that are not all there are left out of the first value.
        """
        fd = self._open()
        size = os.fstat(fd).st_size if fd >= 0 else 0
        there = (offsets < size) & (offsets.astype(np.int64) <= size - length)
        starts = offsets[there].astype(np.int64)
        found = np.empty((len(starts), length), dtype=np.uint8)
        step = max(_PIECE // max(length, 1) // 4, 1)
        for begin in range(0, len(starts), step):
            part = starts[begin : begin + step]
            low, high = int(part.min()), int(part.max()) + length
            if high - low <= _PIECE:
                piece = os.pread(fd, high - low, low)
                if len(piece) == high - low:
                    # Every run of ``length`` bytes, as rows that overlap.
                    shape = (high - low - length + 1, length)
                    runs = np.ndarray(shape, np.uint8, piece, strides=(1, 1))
                    found[begin : begin + step] = runs[part - low]
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
