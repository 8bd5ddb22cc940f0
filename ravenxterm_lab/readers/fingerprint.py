"""A fingerprint that stays the same when a model is moved or renamed.

It is the SHA-256 over, for each shard in order: its size, its first and its last 64 KiB, and
blocks of 4 KiB between them, one for each 8 MiB but at least 64 and at most 128. A shard of up to
384 KiB is hashed whole. Neither names nor times enter.

Each block lies somewhere in its own stretch, by a golden-section sequence rather than at even
steps: layers of a network repeat, and steps in tune with them would meet the same tensor in each.
A merged low-rank fine-tune changes a tenth of the weights, in short runs: 64 blocks miss all of
them once in 850 times, 128 blocks once in 720,000 (0.9⁶⁴ and 0.9¹²⁸). More would cost a disk that
seeks more than a second a model. Files of one size that differ only outside the samples get one
fingerprint: a scan then compares their headers (``discovery.apart``), and before one goes as a copy
all of its bytes are compared (``trash.comparing``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ravenxterm_lab.readers.binary import FileWindow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Fingerprint", "fingerprint"]

_EDGE = 64 * 1024
_BLOCK = 4 * 1024
_FEWEST, _MOST = 64, 128
_STRETCH = 8 * 1024 * 1024
#: 2³² divided by the golden section.
_GOLDEN = 2_654_435_769


class Fingerprint:
    """A fingerprint in the making, for whoever has the files open anyway.

    Parameters
    ----------
    count : int
        How many files will be added.
    """

    __slots__ = ("_digest",)

    def __init__(self, count: int) -> None:
        self._digest = hashlib.sha256(count.to_bytes(8, "little"))

    def add(self, window: FileWindow) -> None:
        """Add the next file, in order.

        Raises
        ------
        ModelFileError
            If it cannot be read.
        """
        digest, size = self._digest, window.size
        digest.update(size.to_bytes(8, "little"))
        if size <= 2 * _EDGE + _FEWEST * _BLOCK:
            digest.update(window.read(0, size))
            return
        window.chunk = _BLOCK
        digest.update(window.read(0, _EDGE))
        blocks = min(max(size // _STRETCH, _FEWEST), _MOST)
        between = size - 2 * _EDGE - _BLOCK
        for number in range(blocks):
            within = number * _GOLDEN & 0xFFFFFFFF
            offset = between * ((number << 32) + within) // (blocks << 32)
            digest.update(window.read(_EDGE + offset, _BLOCK))
        digest.update(window.read(size - _EDGE, _EDGE))

    def text(self) -> str:
        """Return the 32 hexadecimal digits."""
        return self._digest.hexdigest()[:32]


def fingerprint(paths: Sequence[Path]) -> str:
    """Return the fingerprint of a model's files, 32 hexadecimal digits.

    Parameters
    ----------
    paths : sequence of Path
        Every file that holds weights, in order.

    Raises
    ------
    ModelFileError
        If one of them cannot be read.
    """
    made = Fingerprint(len(paths))
    for path in paths:
        with FileWindow(path, _BLOCK) as window:
            made.add(window)
    return made.text()
