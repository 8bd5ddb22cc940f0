"""FlatBuffers, walked in a file without a generated schema and without loading long vectors.

A table is found by an offset, and says where its own field table (the vtable) lies; both come
from the file, so that every position is checked against the end of the buffer before it is read.
Source: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

from ravenxterm_lab.readers import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["FlatBuffer", "Table"]

_U16 = struct.Struct("<H")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
#: Bytes of memory, at most, of a number in a tuple.
_NUMBER_BYTES = 48


class FlatBuffer:
    """One buffer, which may lie inside another file.

    Parameters
    ----------
    window : FileWindow
    start, end : int
        Where in the file it lies; nothing outside is read.
    """

    __slots__ = ("_vtables", "end", "start", "tables_seen", "window")

    def __init__(self, window: FileWindow, start: int, end: int) -> None:
        self.window = window
        self.start = start
        self.end = end
        self.tables_seen = 0
        self._vtables: dict[int, tuple[int, ...]] = {}

    def root(self) -> Table:
        """Return the root table.

        Raises
        ------
        ModelFileError
            If the buffer is too short, or its root is not a table.
        """
        return self.table(self.follow(self.start))

    def table(self, pos: int) -> Table:
        """Return the table at a position.

        Raises
        ------
        ModelFileError
            If it reaches beyond the buffer, or the buffer has more than ``limits.FLAT_TABLES``.
        """
        self.tables_seen += 1
        if self.tables_seen > limits.FLAT_TABLES:
            raise self.window.fail(f"has more than {limits.FLAT_TABLES} tables.")
        return Table(self, pos, self._vtable(pos - self.number(pos, _I32)))

    def number(self, pos: int, form: struct.Struct) -> int:
        """Return the integer at a position."""
        index = self.window.at(self.within(pos, form.size), form.size)
        return int(form.unpack_from(self.window.data, index)[0])

    def follow(self, pos: int) -> int:
        """Return the position that the offset at ``pos`` leads to, always a later one."""
        offset = self.number(pos, _U32)
        if offset < 4:
            raise self.window.fail(f"is damaged: an offset of {offset} at byte {pos}.")
        return pos + offset

    def within(self, pos: int, count: int) -> int:
        """Return ``pos``, after checking that ``count`` bytes from there lie in the buffer."""
        if pos < self.start or pos + count > self.end:
            raise self.window.fail(
                f"truncated or damaged: {count} bytes are needed at offset {pos}, but its data "
                f"lies between {self.start} and {self.end}. Download it again."
            )
        return pos

    def vector(self, pos: int, width: int) -> tuple[int, int]:
        """Return where the items of the vector at a position begin, and their number.

        Raises
        ------
        ModelFileError
            If its items, of ``width`` bytes each, reach beyond the buffer.
        """
        count = self.number(pos, _U32)
        return self.within(pos + 4, count * width), count

    def _vtable(self, pos: int) -> tuple[int, ...]:
        known = self._vtables.get(pos)
        if known is not None:
            return known
        size = self.number(pos, _U16)
        if size < 4 or size % 2 or size > limits.FLAT_VTABLE_BYTES:
            raise self.window.fail(f"is damaged: a table of {size} bytes of fields at byte {pos}.")
        raw = self.window.read(self.within(pos, size), size)
        fields = struct.unpack(f"<{size // 2}H", raw)[1:]
        if len(self._vtables) < limits.FLAT_VTABLES:
            self.window.keep(_NUMBER_BYTES * size // 2)
            self._vtables[pos] = fields
        return fields


class Table:
    """One table; its fields are numbered in the order of the schema, from 0.

    Parameters
    ----------
    buffer : FlatBuffer
    pos : int
        Where it lies.
    fields : tuple of int
        Bytes of the table itself, then the offset of each field in it (0 where it is absent).
    """

    __slots__ = ("_fields", "_pos", "buffer")

    def __init__(self, buffer: FlatBuffer, pos: int, fields: tuple[int, ...]) -> None:
        self.buffer = buffer
        self._pos = pos
        self._fields = fields

    def at(self, field: int, width: int) -> int | None:
        """Return where a field of ``width`` bytes lies, or None where it is absent."""
        if field + 1 >= len(self._fields):
            return None
        offset = self._fields[field + 1]
        if offset == 0:
            return None
        if offset < 4 or offset + width > self._fields[0]:
            raise self.buffer.window.fail(
                f"is damaged: field {field} of the table at byte {self._pos} lies outside it."
            )
        return self._pos + offset

    def unsigned(self, field: int, width: int = 4) -> int:
        """Return an unsigned integer of 1, 4 or 8 bytes; 0 where it is absent."""
        pos = self.at(field, width)
        if pos is None:
            return 0
        if width == 1:
            return self.buffer.window.read(self.buffer.within(pos, 1), 1)[0]
        return self.buffer.number(pos, _U64 if width == 8 else _U32)

    def child(self, field: int) -> Table | None:
        """Return the table that a field leads to."""
        pos = self.at(field, 4)
        return None if pos is None else self.buffer.table(self.buffer.follow(pos))

    def children(self, field: int) -> Iterator[Table]:
        """Yield the tables that a field's vector leads to."""
        place = self.vector(field, 4)
        if place is None:
            return
        start, count = place
        for number in range(count):
            yield self.buffer.table(self.buffer.follow(start + 4 * number))

    def vector(self, field: int, width: int) -> tuple[int, int] | None:
        """Return where a vector's items of ``width`` bytes begin, and their number."""
        pos = self.at(field, 4)
        return None if pos is None else self.buffer.vector(self.buffer.follow(pos), width)

    def integers(self, field: int, most: int) -> tuple[int, ...]:
        """Return a vector of signed 32-bit integers, to be kept.

        Raises
        ------
        ModelFileError
            If there are more than ``most``, or more is kept than a file may take.
        """
        place = self.vector(field, 4)
        if place is None:
            return ()
        start, count = place
        if count > most:
            raise self.buffer.window.fail(f"has a list of {count} numbers; {most} are accepted.")
        self.buffer.window.keep(_NUMBER_BYTES * count)
        return struct.unpack(f"<{count}i", self.buffer.window.read(start, 4 * count))

    def text(self, field: int, most: int) -> str:
        """Return a string, to be kept, cut to ``most`` bytes; an empty one where it is absent.

        Raises
        ------
        ModelFileError
            If more is kept than a file may take.
        """
        place = self.vector(field, 1)
        if place is None:
            return ""
        start, count = place
        # A string ends with a zero that is not counted.
        self.buffer.within(start, count + 1)
        raw = self.buffer.window.read(start, min(count, most))
        text = raw.decode("utf-8", "replace")
        self.buffer.window.keep(sys.getsizeof(text))
        return text
