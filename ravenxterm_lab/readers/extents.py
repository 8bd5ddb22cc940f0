"""Where tensors lie in a file: within it, and without sharing bytes by halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.files import regular_size
from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["extent_problems", "extents_overlap", "external_problems"]


def extents_overlap(extents: Mapping[tuple[int, int], str]) -> str | None:
    """Name two tensors that share some of their bytes but not all, if there are any.

    Writers store equal tensors once; that two share exactly one extent is usual.

    Parameters
    ----------
    extents : mapping of tuple of int to str
        First byte and length, to the name of a tensor that lies there.

    Examples
    --------
    >>> extents_overlap({(0, 8): "a", (4, 8): "b"})
    "tensors 'a' and 'b' overlap"
    """
    end, before = 0, ""
    for (begin, length), name in sorted(extents.items()):
        if length and begin < end:
            return f"tensors {shown(before)} and {shown(name)} overlap"
        if begin + length > end:
            end, before = begin + length, name
    return None


def extent_problems(
    extents: Mapping[tuple[int, int], str], size: int, file: str
) -> tuple[str, ...]:
    """Say which tensor ends after its file, and which two overlap.

    Parameters
    ----------
    extents : mapping of tuple of int to str
        First byte and length, to the name of a tensor that lies there.
    size : int
        Bytes of the file.
    file : str
        Its name, for the message.
    """
    last = max(extents, key=lambda one: one[0] + one[1], default=(0, 0))
    if sum(last) > size:
        reason = (
            f"{shown(file)} is truncated: tensor {shown(extents[last])} ends at byte {sum(last)}, "
            f"but it has {size} bytes ({format_bytes(size)}). Download it again."
        )
        return (reason,)
    overlap = extents_overlap(extents)
    return () if overlap is None else (overlap,)


def external_problems(
    directory: Path, files: Mapping[str, Mapping[tuple[int, int], str]]
) -> tuple[str, ...]:
    """Say what is wrong with the files beside a model that hold its tensors; none is opened.

    Parameters
    ----------
    directory : Path
        Of the model's own file.
    files : mapping of str to mapping
        Name, relative to the directory, to the extents that tensors have in that file.
    """
    problems: list[str] = []
    for name, extents in files.items():
        size = regular_size(directory / name)
        if size is None:
            problems.append(f"missing external data: {clean(name)}")
        else:
            problems.extend(extent_problems(extents, size, name))
    return tuple(problems)
