"""A digest of whole headers, for models whose samples are equal."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import FileWindow
from ravenxterm_lab.readers.dispatch import facts_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["header_digest"]

_CHUNK = 1024 * 1024
#: Formats whose header comes first and is read forward, to its end and no further.
_FORWARD = frozenset({ModelType.GGUF, ModelType.SAFETENSORS})
#: Bytes of any other file, in which what describes the tensors lies among them.
_OTHERS = 8 * 1024 * 1024


def header_digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the headers of some files, 64 hexadecimal digits.

    Of GGUF and safetensors the header is read to its end, of other formats the first 8 MiB.

    Parameters
    ----------
    paths : sequence of Path
        Every file that holds weights, in order.

    Raises
    ------
    ModelFileError
        If one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with FileWindow(path) as window:
            facts = facts_in(window)
            length = min(window.size, _OTHERS)
            if facts is not None and facts.model_type in _FORWARD:
                # The last that was read is the end of the header, and a little of what follows.
                length = window.base + len(window.data)
            digest.update(length.to_bytes(8, "little"))
            window.left = limits.FILE_READ_BYTES
            window.chunk = _CHUNK
            for offset in range(0, length, _CHUNK):
                digest.update(window.read(offset, min(_CHUNK, length - offset)))
    return digest.hexdigest()
