"""Whether another place of a model really is a copy of it: byte by byte, before anything moves.

A fingerprint samples a file; two that differ outside the samples share one. That is good enough
to list them, and not good enough to remove one of them.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ravenxterm_lab.trash.holdings import Holding

__all__ = ["Comparison"]

#: Bytes of each of the two files that are in memory at once.
_CHUNK = 1024 * 1024
#: From so many bytes on a bar shows how far it is: less takes about a second.
_SHOWN = 512 * 1024 * 1024
#: What the hub and Ollama call the blobs whose name is the SHA-256 of their bytes.
_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")

#: Device, inode, size, and the times of the last change of the bytes and of the inode.
_State = tuple[int, int, int, int, int]


class Comparison:
    """Compares the weights of places, and remembers what it read for as long as it lives.

    What it remembers holds until the time of a file's last change (``ctime``) is another; unlike
    its ``mtime``, a program cannot just set that back.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[_State, _State], bool] = {}

    def copies(
        self, kept: Holding, places: Iterable[Holding]
    ) -> tuple[list[Holding], tuple[str, ...]]:
        """Say which places hold just the bytes of another one.

        Files that are one file, and blobs that are named by one SHA-256, are not read. Of the
        others both are, up to the first difference, at most 2 MiB in memory at once.

        Parameters
        ----------
        kept : Holding
            What they are compared with.
        places : iterable of Holding
            Others of the same fingerprint.

        Returns
        -------
        copies : list of Holding
        notes : tuple of str
            For each of the others, why it is not taken for a copy, and how it can go by itself.
        """
        same: list[Holding] = []
        notes: list[str] = []
        for place in places:
            reason = self._difference(kept, place)
            if reason is None:
                same.append(place)
            else:
                notes.append(f"{_name(place)} {reason}; left, trash it by its own path")
        return same, tuple(notes)

    def _difference(self, kept: Holding, place: Holding) -> str | None:
        files, others = _weights(kept), _weights(place)
        if len(files) != len(others):
            return f"differs from {_name(kept)} in the number of its files"
        try:
            if all(map(self._same, files, others)):
                return None
        except OSError as error:
            why = clean(error.strerror or str(error))
            return f"cannot be compared with {_name(kept)} ({why})"
        return f"differs from {_name(kept)} in its bytes"

    def _same(self, one: Path, other: Path) -> bool:
        first, second = _state(one.stat()), _state(other.stat())
        if first[:2] == second[:2]:
            return True
        if first[2] != second[2]:
            return False
        digests = _digest(one), _digest(other)
        if None not in digests:
            return digests[0] == digests[1]
        key = (min(first, second), max(first, second))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _read_both(one, other, first, second)
        return known


def _weights(place: Holding) -> tuple[Path, ...]:
    if place.model is None:
        return place.entries
    return place.model.shards or (place.model.path,)


def _read_both(one: Path, other: Path, first: _State, second: _State) -> bool:
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in (one, other)]
        update = _progress(stack, one, first[2])
        while (part := files[0].read(_CHUNK)) or files[1].peek(1):
            if part != files[1].read(_CHUNK):
                return False
            update(len(part))
        for file, state in zip(files, (first, second), strict=True):
            if _state(os.fstat(file.fileno())) != state:
                raise OSError("it changed while it was read")
    return True


def _open(path: Path) -> BufferedReader[FileIO]:
    # Without O_NONBLOCK opening a FIFO that took the file's place would wait for ever.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = BufferedReader(FileIO(number), _CHUNK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise OSError("it is no regular file any more")
    return file


def _progress(stack: ExitStack, path: Path, size: int) -> Callable[[int], object]:
    if size < _SHOWN:
        return lambda _: None
    from tqdm import tqdm

    bar = tqdm(
        desc=f"Comparing {clean(path.name, 40)}", total=size, unit="B", unit_scale=True,
        unit_divisor=1024, leave=False,
    )  # fmt: skip
    stack.callback(bar.close)
    return bar.update


def _state(status: os.stat_result) -> _State:
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def _digest(path: Path) -> str | None:
    """Return the SHA-256 that a blob of the hub or of Ollama is named by."""
    real = Path(os.path.realpath(path))
    match = _BLOB.fullmatch(real.name)
    inside = "blobs" in {real.parent.name, real.parent.parent.name}
    return match[1] if match is not None and inside else None


def _name(place: Holding) -> str:
    return clean(str(place.path), 400)
