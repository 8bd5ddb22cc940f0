"""Compressed data as a stream that is unpacked forward, a piece at a time, and never twice.

What comes out is capped in bytes and in its ratio to what went in, and so is what the decoders
themselves may take; a piece that was read past is let go.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.lz4_frame import LZ4_MAGIC, Lz4Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ravenxterm_lab.exceptions import ModelFileError
    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["Inflated", "compression_of", "refuse_bomb", "unpacked"]

_STEP = 1 << 16


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    """zlib and gzip with the interface that ``bz2`` and ``lzma`` have."""

    def __init__(self) -> None:
        # 32 more than the largest window: zlib and gzip headers are both recognised.
        self._inner = zlib.decompressobj(wbits=47)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=limits.LZMA_MEMORY)


_DECODERS: tuple[tuple[bytes, str, Callable[[], _Decoder]], ...] = (
    (b"\x78\x01", "zlib", _Zlib),
    (b"\x78\x5e", "zlib", _Zlib),
    (b"\x78\x9c", "zlib", _Zlib),
    (b"\x78\xda", "zlib", _Zlib),
    (b"\x1f\x8b", "gzip", _Zlib),
    (b"BZh", "bz2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", _lzma),
    (b"\x5d\x00\x00", "lzma", _lzma),
    (LZ4_MAGIC, "lz4", Lz4Decoder),
)


def compression_of(head: bytes) -> str | None:
    """Name the compression whose magic these bytes begin with; None for any other.

    Examples
    --------
    >>> compression_of(b"BZh91AY"), compression_of(b"GGUF")
    ('bz2', None)
    """
    return next((name for magic, name, _ in _DECODERS if head.startswith(magic)), None)


def refuse_bomb(window: FileWindow, name: str, packed: int, size: int) -> None:
    """Refuse what unpacks to far more than its size.

    Raises
    ------
    ModelFileError
        If ``size`` is above 1 MiB and above ``limits.ARCHIVE_RATIO`` times ``packed`` bytes.
    """
    if size > 1 << 20 and size > packed * limits.ARCHIVE_RATIO:
        raise window.fail(
            f"{shown(name)} unpacks to more than {limits.ARCHIVE_RATIO} times its size: a zip bomb."
        )


def unpacked(window: FileWindow) -> Iterator[bytes]:
    """Yield the content of a compressed file, in pieces of at most 64 KiB.

    Streams that follow one another are read as one, as the formats' own tools do. A stream that
    is cut short ends the pieces.

    Raises
    ------
    ModelFileError
        If the data are damaged, are a bomb, or need more memory than ``limits.LZMA_MEMORY``.
    """
    pos = size = streams = 0
    decoder: _Decoder | None = None
    rest = b""
    try:
        while True:
            if decoder is None:
                head = rest or window.read(pos, min(_STEP, window.size - pos))
                pos += 0 if rest else len(head)
                make = next((make for magic, _, make in _DECODERS if head.startswith(magic)), None)
                streams += 1
                if make is None or streams > limits.INFLATE_STREAMS:
                    return
                decoder, block = make(), head
            elif decoder.needs_input:
                if pos >= window.size:
                    return
                block = window.read(pos, min(_STEP, window.size - pos))
                pos += len(block)
            else:
                block = b""
            piece = decoder.decompress(block, _STEP)
            size += len(piece)
            refuse_bomb(window, window.path.name, pos, size)
            if piece:
                yield piece
            if decoder.eof:
                rest, decoder = decoder.unused_data, None
                if not rest and pos >= window.size:
                    return
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise window.fail(f"cannot be decompressed: {shown(str(error))}.") from error


class Inflated:
    """Bytes at offsets that only ever grow: a ``Source`` of opcodes over pieces of a stream.

    Parameters
    ----------
    window : FileWindow
        The file that the pieces come from.
    pieces : iterator of bytes
    most : int
        Bytes after which no more are asked for.

    Attributes
    ----------
    size : int
        Bytes of the content, once its end was met; ``most`` before.
    cut : bool
        Whether the content went on after ``most`` bytes.
    """

    __slots__ = ("_base", "_data", "_pieces", "_window", "cut", "size")

    def __init__(self, window: FileWindow, pieces: Iterator[bytes], most: int) -> None:
        self._window = window
        self._pieces = pieces
        self._data = b""
        self._base = 0
        self.size = most
        self.cut = False

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset`` on, fewer at the end of the content."""
        index = max(offset - self._base, 0)
        while index + count > len(self._data):
            end = self._base + len(self._data)
            if end >= self.size:
                break
            piece = next(self._pieces, None)
            if piece is None:
                self.size = end
                break
            if end + len(piece) > self.size:
                piece = piece[: self.size - end]
                self.cut = True
            self._data = self._data[index:] + piece
            self._base = min(offset, end)
            index = max(offset - self._base, 0)
        return self._data[index : index + count]

    def fail(self, reason: str) -> ModelFileError:
        """Return the error that says what is wrong with the file."""
        return self._window.fail(reason)
