"""The wire format of protocol buffers, walked in a file without loading its large fields.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.readers import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["Field", "Walker"]

#: Field number, wire type, and: a varint's value, or the offset and end of a longer value.
Field = tuple[int, int, int, int]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LONGEST_TAG_AND_LENGTH = 20


class Walker:
    """Walks the messages of one file and counts the fields and packed numbers that it has seen.

    Parameters
    ----------
    window : FileWindow
    """

    __slots__ = ("fields_seen", "numbers_seen", "window")

    def __init__(self, window: FileWindow) -> None:
        self.window = window
        self.fields_seen = 0
        self.numbers_seen = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message in ``[start, end)``.

        Yields
        ------
        tuple of int
            ``(number, wire type, a, b)``: a varint's value in ``a``, else the bytes ``[a, b)``.

        Raises
        ------
        ModelFileError
            If the message is malformed, a field reaches beyond it, or the file has more fields
            than ``limits.ONNX_FIELDS``.
        """
        window, pos = self.window, start
        while pos < end:
            self.fields_seen += 1
            if self.fields_seen > limits.ONNX_FIELDS:
                raise window.fail(f"has more than {limits.ONNX_FIELDS} fields.")
            room = min(_LONGEST_TAG_AND_LENGTH, end - pos)
            index = window.at(pos, room)
            data, stop = window.data, index + room
            first = index
            tag, index = self._varint(data, index, stop)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise window.fail(f"is not a protocol buffer: field 0 at offset {pos}.")
            if wire == VARINT:
                value, index = self._varint(data, index, stop)
                pos += index - first
                yield number, wire, value, 0
                continue
            if wire == BYTES:
                length, index = self._varint(data, index, stop)
            elif wire == FIXED32:
                length = 4
            elif wire == FIXED64:
                length = 8
            else:
                raise window.fail(f"is not a protocol buffer: wire type {wire} at offset {pos}.")
            begin = pos + index - first
            pos = begin + length
            if pos > end:
                raise window.fail(
                    f"truncated or damaged: a field of {length} bytes at offset {begin} ends "
                    f"after its message ({end}). Download it again."
                )
            yield number, wire, begin, pos

    def text(self, start: int, end: int) -> str:
        """Return a short string; one above ``limits.ONNX_STRING`` bytes is cut."""
        raw = self.window.read(start, min(end - start, limits.ONNX_STRING))
        return raw.decode("utf-8", "replace")

    def varints(self, start: int, end: int, most: int) -> list[int]:
        """Return packed varints, at most ``most`` of them.

        Raises
        ------
        ModelFileError
            If there are more, or more than ``limits.ONNX_NUMBERS`` in the file.
        """
        if end - start > most * 10:
            raise self.window.fail(f"has a list of more than {most} numbers.")
        raw = self.window.read(start, end - start)
        found: list[int] = []
        index = 0
        while index < len(raw):
            value, index = self._varint(raw, index, len(raw))
            found.append(value)
        if len(found) > most:
            raise self.window.fail(f"has a list of more than {most} numbers.")
        self.numbers_seen += len(found)
        if self.numbers_seen > limits.ONNX_NUMBERS:
            raise self.window.fail(f"has more than {limits.ONNX_NUMBERS} numbers in lists.")
        return found

    def _varint(self, data: bytes, index: int, stop: int) -> tuple[int, int]:
        value = shift = 0
        while index < stop and shift < 70:
            byte = data[index]
            index += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, index
            shift += 7
        raise self.window.fail("is not a protocol buffer, or truncated: a number has no end.")
