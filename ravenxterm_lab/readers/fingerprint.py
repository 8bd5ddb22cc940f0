"""A fingerprint that stays the same when a model is moved or renamed.

It is the SHA-256 over, for each shard in order: its size, its first and its last 64 KiB, and 16
blocks of 4 KiB spread evenly between them. A shard of up to 192 KiB is hashed whole. Neither
names nor times enter. Two files of one size that differ only outside these samples get one
fingerprint; a fine-tune, whose weights differ throughout, does not.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ravenxterm_lab.readers.binary import FileWindow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["fingerprint"]

_EDGE = 64 * 1024
_BLOCK = 4 * 1024
_BLOCKS = 16


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
    digest = hashlib.sha256(len(paths).to_bytes(8, "little"))
    for path in paths:
        with FileWindow(path, _BLOCK) as window:
            size = window.size
            digest.update(size.to_bytes(8, "little"))
            if size <= 2 * _EDGE + _BLOCKS * _BLOCK:
                digest.update(window.read(0, size))
                continue
            digest.update(window.read(0, _EDGE))
            between = size - 2 * _EDGE - _BLOCK
            for number in range(_BLOCKS):
                offset = _EDGE + between * number // (_BLOCKS - 1)
                digest.update(window.read(offset, _BLOCK))
            digest.update(window.read(size - _EDGE, _EDGE))
    return digest.hexdigest()[:32]
