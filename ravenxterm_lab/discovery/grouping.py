"""Files of one directory, grouped into models: shards together, with what is missing named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import FileWindow, shown
from ravenxterm_lab.readers.dispatch import SUFFIXES
from ravenxterm_lab.readers.json_stream import JsonStream
from ravenxterm_lab.readers.onnx import safe_relative_name
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ravenxterm_lab.discovery.cache import ScanCache
    from ravenxterm_lab.discovery.walk import Folder

__all__ = ["INDEX_SUFFIX", "Group", "group_files"]

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})(?P<suffix>\.\w+)$")
#: How the name of a shard index ends.
INDEX_SUFFIX = ".index.json"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Group:
    """The files that hold one model's weights.

    Attributes
    ----------
    paths : tuple of Path
        Those that are there, in order.
    count : int
        How many there should be.
    problems : tuple of str
        What is missing or wrong.
    """

    paths: tuple[Path, ...]
    count: int = 1
    problems: tuple[str, ...] = ()


def group_files(folder: Folder, source: str, cache: ScanCache) -> Iterator[Group | Skipped]:
    """Yield every group of weight files of a directory.

    Parameters
    ----------
    folder : Folder
    source : str
        The name of the source, for what is skipped.
    cache : ScanCache
        Shard indexes that were read before.
    """
    candidates = {name for name in folder.files if _may_hold_weights(name)}
    indexes = [name for name in folder.files if name.endswith(INDEX_SUFFIX)]
    for name in sorted(indexes):
        if name.count(".") >= 3:
            yield from _by_index(folder, name, candidates, source, cache)
    sets: dict[tuple[str, str, int], dict[int, str]] = {}
    for name in sorted(candidates):
        match = _SHARD.match(name)
        if match is None:
            yield Group((folder.path / name,))
            continue
        key = (match["stem"], match["suffix"], int(match["count"]))
        sets.setdefault(key, {})[int(match["number"])] = name
    for (stem, suffix, count), numbered in sets.items():
        yield _by_number(folder, stem, suffix, count, numbered)


@lru_cache(maxsize=4096)
def _may_hold_weights(name: str) -> bool:
    return "." + name.rpartition(".")[2].lower() in SUFFIXES


def _by_number(
    folder: Folder, stem: str, suffix: str, count: int, numbered: dict[int, str]
) -> Group:
    width = len(_SHARD.sub(r"\g<count>", next(iter(numbered.values()))))
    outside = [number for number in numbered if not 1 <= number <= count]
    missing = count - (len(numbered) - len(outside))
    problems: list[str] = []
    for number in range(1, count + 1):
        if len(problems) == _SHOWN or missing <= len(problems):
            break
        if number not in numbered:
            name = f"{stem}-{number:0{width}d}-of-{count:0{width}d}{suffix}"
            problems.append(f"missing shard {number} of {count}: {clean(name)}")
    if missing > len(problems):
        problems.append(f"missing {missing - len(problems)} more shards")
    problems.extend(f"shard {number} of {count} cannot be" for number in outside[:_SHOWN])
    paths = tuple(folder.path / numbered[number] for number in sorted(numbered))
    return Group(paths, count, tuple(problems))


def _by_index(
    folder: Folder, index: str, candidates: set[str], source: str, cache: ScanCache
) -> Iterator[Group | Skipped]:
    path = folder.path / index
    status = folder.files[index]
    signature = (status.st_size, status.st_mtime_ns, status.st_ino)
    names = cache.get(("index", path), signature, lambda: _names(path), count=False)
    if isinstance(names, str):
        yield Skipped(path, names, source)
        return
    there = [name for name in names if name in candidates]
    if not there:
        if names:
            reason = f"names {len(names)} files of weights, none of which is here"
            yield Skipped(path, reason, source)
        return
    candidates.difference_update(there)
    missing = [name for name in names if name not in folder.files]
    problems = [
        f"missing shard {names.index(name) + 1} of {len(names)}: {clean(name)}"
        for name in missing[:_SHOWN]
    ]
    if len(missing) > _SHOWN:
        problems.append(f"missing {len(missing) - _SHOWN} more shards")
    yield Group(tuple(folder.path / name for name in there), len(names), tuple(problems))


def _names(path: Path) -> list[str] | str:
    """Return the files that a shard index names, or why it cannot be used."""
    names: set[str] | str = "is a shard index without a weight_map"
    try:
        with FileWindow(path) as window:
            if window.size > limits.INDEX_BYTES:
                return f"has {window.size} bytes; at most {limits.INDEX_BYTES} are read"
            index = JsonStream(window, 0, window.size)
            for key in index.members():
                if key != "weight_map" or index.peek() != "{":
                    index.skip()
                else:
                    names = _shards(index)
                    if isinstance(names, str):
                        return names
            index.finish()
    except ModelFileError as error:
        return clean(str(error), 400)
    return names if isinstance(names, str) else sorted(names)


def _shards(index: JsonStream) -> set[str] | str:
    names: set[str] = set()
    for _ in index.members():
        name = index.value()
        if not isinstance(name, str) or "/" in name or not safe_relative_name(name):
            return (
                f"names the shard {shown(name)}, which is not a file of its own directory; "
                "it was not followed"
            )
        names.add(name)
        if len(names) > limits.SHARDS:
            return f"names more than {limits.SHARDS} shards"
    return names
