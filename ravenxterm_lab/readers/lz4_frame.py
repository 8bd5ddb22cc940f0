"""LZ4 frames, unpacked without a package that might not be there.

Sources: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md and lz4_Block_format.md.
Checksums are skipped: a damaged block shows in what it unpacks to.
"""

from __future__ import annotations

__all__ = ["LZ4_MAGIC", "Lz4Decoder"]

LZ4_MAGIC = b"\x04\x22\x4d\x18"
_HISTORY = 1 << 16
_BLOCK = 4 << 20


class Lz4Decoder:
    """Unpacks one frame, block by block.

    Attributes
    ----------
    eof : bool
        Whether the frame's end mark was met.
    unused_data : bytes
        What followed it.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._out = bytearray()
        self._done = 0
        self._header: tuple[bool, bool] | None = None
        self._ended = False
        self.eof = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out without more going in."""
        return self._done == len(self._out)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take in more of the frame and return at most ``max_length`` bytes of its content.

        Raises
        ------
        OSError
            If the frame is damaged.
        """
        self._waiting += data
        try:
            while self._done == len(self._out) and not self._ended and self._block():
                pass
        except IndexError as error:
            raise OSError("an LZ4 block ends too early") from error
        piece = bytes(self._out[self._done : self._done + max_length])
        self._done += len(piece)
        if self._ended and self._done == len(self._out):
            self.eof = True
            self.unused_data = bytes(self._waiting)
        elif self._done > 16 * _HISTORY:
            # The next block may point back as far as one history, never further.
            del self._out[: self._done - _HISTORY]
            self._done = _HISTORY
        return piece

    def _block(self) -> bool:
        """Unpack the next block; say whether there was a whole one."""
        waiting = self._waiting
        if self._header is None and not self._read_header():
            return False
        assert self._header is not None
        block_sums, content_sum = self._header
        if len(waiting) < 4:
            return False
        size = int.from_bytes(waiting[:4], "little")
        if size == 0:
            end = 8 if content_sum else 4
            if len(waiting) < end:
                return False
            del waiting[:end]
            self._ended = True
            return False
        plain, size = bool(size >> 31), size & 0x7FFF_FFFF
        if size > _BLOCK:
            raise OSError(f"an LZ4 block of {size} bytes")
        end = 4 + size + (4 if block_sums else 0)
        if len(waiting) < end:
            return False
        raw = bytes(waiting[4 : 4 + size])
        del waiting[:end]
        if plain:
            self._out += raw
        else:
            _unpack(raw, self._out)
        return True

    def _read_header(self) -> bool:
        waiting = self._waiting
        if len(waiting) < 7:
            return False
        flags = waiting[4]
        if bytes(waiting[:4]) != LZ4_MAGIC or flags >> 6 != 1:
            raise OSError("not an LZ4 frame of version 1")
        end = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
        if len(waiting) < end:
            return False
        del waiting[:end]
        self._header = (bool(flags & 0x10), bool(flags & 0x04))
        return True


def _unpack(raw: bytes, out: bytearray) -> None:
    """Append the content of one block, whose matches may point into what is there already."""
    limit = len(out) + _BLOCK
    pos, end = 0, len(raw)
    while True:
        token = raw[pos]
        pos += 1
        length = token >> 4
        if length == 15:
            while True:
                length += raw[pos]
                pos += 1
                if raw[pos - 1] != 255:
                    break
        if pos + length > end:
            raise OSError("an LZ4 block ends too early")
        out += raw[pos : pos + length]
        pos += length
        if pos == end:
            break
        offset = raw[pos] | raw[pos + 1] << 8
        pos += 2
        length = (token & 15) + 4
        if length == 19:
            while True:
                length += raw[pos]
                pos += 1
                if raw[pos - 1] != 255:
                    break
        start = len(out) - offset
        if offset == 0 or start < 0 or len(out) + length > limit:
            raise OSError("an LZ4 block points outside what it unpacks to")
        if offset >= length:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // offset + 1))[:length]
    if len(out) > limit:
        raise OSError("an LZ4 block is larger than a block may be")
