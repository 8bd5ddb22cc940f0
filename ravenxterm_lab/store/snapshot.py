"""Reading segments, of the living and of the dead, without ever mapping them.

Only ``pread`` is used: a mapped file that its writer truncates would be a SIGBUS here.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.payloads import BAD_CONTEXT, SLOT, Numbers, Payloads, Sidecar, distinct
from ravenxterm_lab.store.segments import (
    CAPACITY,
    ENTRY,
    FORMAT_VERSION,
    HEADER,
    HEADER_SIZE,
    KIND,
    MAGIC,
    NO_CONTEXT,
    SLOT_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Rows", "SegmentFile", "list_segments", "unreadable"]

#: Slots that are read at once, and among which a gap of damaged ones is no end.
_CHUNK = 8192
#: Slots that are read first where few are expected.
_GLANCE = 64

_PLACE = "its sequence number does not fit its place"
_SLOT_OR_EXT = "its slot or its part of the .ext sidecar is damaged"


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
        The interned contexts that they refer to; there may be others.
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

    def end(self) -> int:
        """Return one past the last event that is written, without checking any."""
        low, high = 0, CAPACITY
        while low < high:
            middle = (low + high) // 2
            # A damaged slot is no end, but 64 of them are.
            if self.written(self.first_seq + middle):
                low = middle + 1
            else:
                high = middle
        return self.first_seq + low

    def count(self, from_seq: int) -> NDArray[np.intp]:
        """Return how many events there are of each kind from ``from_seq`` on, without checking any.

        Returns
        -------
        array of int, shape (KIND + 1,)
            By kind (see `KIND_OF`).
        """
        slots, _ = self._scan(max(from_seq - self.first_seq, 0), CAPACITY, _GLANCE)
        return np.bincount(slots["mark"] & KIND, minlength=KIND + 1)

    def read(
        self,
        from_seq: int,
        limit: int = CAPACITY,
        *,
        contexts: dict[int, list[Any]] | None = None,
        kinds: Collection[int] | None = None,
    ) -> Rows:
        """Read at most ``limit`` events from ``from_seq`` on, as far as they are written.

        An event that is damaged is left out and reported. The unwritten end is no damage.

        Parameters
        ----------
        from_seq : int
            Sequence number to begin with.
        limit : int
            The most events to look at.
        contexts : dict, optional
            What earlier calls for this segment read; it is added to. Few events are
            expected then.
        kinds : collection of int, optional
            Kinds of the events that are wanted (see `KIND_OF`); what is damaged is none of them.
        """
        start = max(from_seq - self.first_seq, 0)
        first = self.first_seq + start
        slots, damaged = self._scan(start, limit, _CHUNK if contexts is None else _GLANCE)
        contexts = {} if contexts is None else contexts
        count = len(slots)
        if not count:
            return Rows(self.session, slots, contexts, (), {}, (), first)
        valid = np.ones(count, dtype=bool)
        valid[list(damaged)] = False
        places = np.arange(count)
        if kinds is not None:
            found = slots["mark"] & KIND
            # What has no kind yet may get one: see below.
            places = places[valid & (np.isin(found, list(kinds)) | (found == 0))]
            slots, damaged, valid = slots[places], {}, valid[places]
            if not len(slots):
                return Rows(self.session, slots, contexts, (), {}, (), first + count)
        with Sidecar(self.path, ".ext") as extras:
            payloads = Payloads(slots, valid, extras)
            for index in np.flatnonzero(payloads.intact != valid).tolist():
                # On machines that reorder stores, the checksum may be seen before the rest.
                self._refresh(slots, index, start + int(places[index]))
                if not payloads.check_one(index):
                    damaged[index] = _SLOT_OR_EXT
            self._read_contexts(slots, contexts, damaged)
            numbers, documents = payloads.decode(contexts, damaged)
        if damaged:
            keep = np.ones(len(slots), dtype=bool)
            keep[list(damaged)] = False
            place = np.cumsum(keep) - 1
            slots = slots[keep]
            numbers = [Numbers(n.names, place[n.index], n.values) for n in numbers]
            documents = {int(place[i]): value for i, value in documents.items()}
        return Rows(
            self.session,
            slots,
            contexts,
            tuple(numbers),
            documents,
            tuple((first + int(places[index]), damaged[index]) for index in sorted(damaged)),
            first + count,
        )

    def _slots(self, start: int, count: int) -> NDArray[np.void]:
        raw = os.pread(self._fd, count * SLOT_SIZE, HEADER_SIZE + start * SLOT_SIZE)
        return np.frombuffer(raw, dtype=SLOT, count=len(raw) // SLOT_SIZE)

    def _scan(self, start: int, limit: int, step: int) -> tuple[NDArray[np.void], dict[int, str]]:
        """Return the slots up to the last one in use, and those that do not fit their place.

        The first ``step`` slots are looked at first, then ever more of them at once.
        """
        most = max(min(limit, CAPACITY - start), 0)
        slots = np.empty(most if step == _CHUNK else min(step, most), dtype=SLOT)
        have = 0
        while have < most:
            part = self._slots(start + have, min(step, most - have))
            if have + len(part) > len(slots):
                slots, few = np.empty(most, dtype=SLOT), slots
                slots[:have] = few[:have]
            slots[have : have + len(part)] = part
            have += len(part)
            # Slots are written in order; one that is damaged is no end.
            if not len(part) or not (
                part["checksum"][-1] or self._slots(start + have, 64)["checksum"].any()
            ):
                break
            step = min(8 * step, _CHUNK)
        used = np.flatnonzero(slots["checksum"][:have])
        slots = slots[: int(used[-1]) + 1 if len(used) else 0]
        first = self.first_seq + start
        places = np.arange(first, first + len(slots), dtype="u8")
        damaged: dict[int, str] = {}
        # The copy was not made at one instant: what looked unwritten before a written
        # slot has been written by now, or is damaged.
        if len(used) < len(slots) or not np.array_equal(slots["seq"], places):
            wrong = (slots["checksum"] == 0) | (slots["seq"] != places)
            for index in np.flatnonzero(wrong).tolist():
                self._refresh(slots, index, start + index)
                if not slots["checksum"][index] or slots["seq"][index] != places[index]:
                    damaged[index] = _PLACE
        return slots, damaged

    def _refresh(self, slots: NDArray[np.void], index: int, place: int) -> None:
        again = self._slots(place, 1)
        if len(again):
            slots[index] = again[0]

    def _read_contexts(
        self, slots: NDArray[np.void], contexts: dict[int, list[Any]], damaged: dict[int, str]
    ) -> None:
        """Add the contexts of the slots that are not damaged; those without one are damaged."""
        entries = slots["context"]
        if damaged:
            entries = np.delete(entries, list(damaged))
        new = [
            entry
            for entry in distinct(entries).tolist()
            if entry not in contexts and entry != NO_CONTEXT
        ]
        if not new:
            return
        with Sidecar(self.path, ".str") as strings:
            for entry in new:
                context = strings.context(entry)
                if context is not None:
                    contexts[entry] = context
                    continue
                for index in np.flatnonzero(slots["context"] == entry).tolist():
                    damaged.setdefault(index, BAD_CONTEXT)


def list_segments(spool: Path) -> list[SegmentFile]:
    """Return the segments of a spool, ordered by session and sequence."""
    try:
        with os.scandir(spool) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[tuple[str, int, str]] = []
    for name in names:
        session, dash, first = name.removesuffix(".rec").rpartition("-")
        if name.endswith(".rec") and dash and first.isascii() and first.isdigit():
            found.append((session, int(first), name))
    return [SegmentFile(spool / name, session, first) for session, first, name in sorted(found)]


def unreadable(path: Path, error: OSError | StoreError) -> str:
    """Return the sentence that says that a segment could not be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{path} cannot be read for now ({reason}); its events are kept where they are."
