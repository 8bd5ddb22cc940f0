"""What the files of one model say: read once, or recalled where none has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.cache import Passing
from ravenxterm_lab.discovery.walk import Files
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import (
    Fingerprint,
    facts_in,
    fingerprint,
    read_config,
    with_config,
)
from ravenxterm_lab.readers.base import active_parameters
from ravenxterm_lab.readers.binary import FileWindow, shown
from ravenxterm_lab.readers.gguf_layout import joined
from ravenxterm_lab.readers.gguf_types import quantization_of
from ravenxterm_lab.readers.model_card import read_card
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ravenxterm_lab.discovery.cache import ScanCache
    from ravenxterm_lab.discovery.facts_json import Facts
    from ravenxterm_lab.discovery.grouping import Group
    from ravenxterm_lab.discovery.walk import Folder
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.readers import FileFacts, ModelConfig

__all__ = ["DESCRIBING", "external_paths", "files_of", "mark_of", "read_group"]

#: What lies beside a model and says something of it.
DESCRIBING = ("config.json", "adapter_config.json", "modules.json", "README.md")
_CARD = DESCRIBING[-1]

#: Inode, size and modification time of a file: what it is recognised by.
Mark = tuple[int, int, int]


def mark_of(folder: Folder, name: str) -> Mark | None:
    """Return what a file is recognised by; None where there is none of that name.

    Device numbers do not enter: they change when a file system is mounted again.
    """
    files = folder.files
    status = files.look(name) if isinstance(files, Files) else files.get(name)
    return None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)


def read_group(
    group: Group, folder: Folder, cache: ScanCache, above: Folder | None = None
) -> Facts:
    """Read a group's files, or recall them where none has changed.

    Parameters
    ----------
    group : Group
    folder : Folder
        Where they lie.
    cache : ScanCache
    above : Folder, optional
        The directory above, if what describes them may lie there.

    Returns
    -------
    tuple, str or None
        Summed facts, fingerprint and problems; the reason why it is no model; or None for a
        file that only happens to have a suffix of ours.
    """
    names = tuple(path.name for path in group.paths)
    beside = above if above is not None and "config.json" not in folder.files else folder
    signature = (
        names,
        tuple(mark_of(folder, name) for name in names),
        tuple(mark_of(beside, name) for name in DESCRIBING),
        group.count,
        group.problems,
    )
    path = str(group.paths[0])
    before = cache.misses
    found = cache.facts(path, signature, lambda: _read(group, folder, beside, cache))
    if isinstance(found, tuple) and found[0].external:
        alone, fresh = found, cache.misses > before
        outside = tuple(_mark(folder.path / name) for name in alone[0].external)
        found = cache.facts(
            f"{path} and its external data",
            (signature, outside),
            # Its header may say what fits the external data: it is read again when that changed.
            lambda: _with_external(
                group, folder, alone if fresh else _read(group, folder, beside, cache)
            ),
        )
        cache.misses = min(cache.misses, before + 1)
    return found


def files_of(model: ModelMetadata, cache: ScanCache) -> tuple[Mark | None, ...]:
    """Return what the files of a model's weights are recognised by, as its facts were read."""
    signature = cache.signature(str(model.path))
    paths = model.shards or (model.path,)
    if isinstance(signature, tuple) and len(signature[1]) == len(paths):
        marks: tuple[Mark | None, ...] = signature[1]
        return marks
    return tuple(_mark(path) for path in paths)


def external_paths(directory: Path, facts: FileFacts) -> tuple[Path, ...]:
    """Return the files of external tensor data that are there."""
    paths = (directory / name for name in facts.external)
    return tuple(path for path in paths if _mark(path) is not None)


def _read(group: Group, folder: Folder, beside: Folder, cache: ScanCache) -> Facts:
    problems: list[str] = []
    try:
        read = _read_files(group, folder, cache, problems)
        if read is None:
            return None
        facts, mark = read
        if facts is None:
            return problems[0]
        facts = with_config(facts, _config(beside, cache))
        for path in group.paths:
            if _mark(path) != mark_of(folder, path.name):
                reason = "changed while it was read (a download, or a replacement). Scan again."
                return Passing(reason)
    except ModelFileError as error:
        reason = clean(str(error), 400).removeprefix(f"{shown(str(group.paths[0]))}: ")
        # What the operating system refuses today it may allow tomorrow.
        return Passing(reason) if isinstance(error.__cause__, OSError) else reason
    return facts, mark, tuple(problems)


def _read_files(
    group: Group, folder: Folder, cache: ScanCache, problems: list[str]
) -> tuple[FileFacts | None, str] | None:
    """Return facts and fingerprint; None for what is no model; no facts if no shard is whole."""
    statuses = [folder.files[path.name] for path in group.paths]
    # Revisions share blobs, and names share inodes: one of them is read for all.
    inodes = [(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in statuses]
    key = (group.count, *inodes, *[path.suffix.lower() for path in group.paths])
    shared = cache.shared.get(key)
    if shared is not None:
        return shared
    alone = len(group.paths) == group.count == 1
    parts: list[FileFacts] = []
    made = Fingerprint(len(group.paths))
    for path in group.paths:
        with FileWindow(path) as window:
            try:
                facts = facts_in(window)
            except ModelFileError as error:
                if alone or isinstance(error.__cause__, OSError):
                    raise
                problems.append(clean(str(error), 400))
            else:
                if facts is None:
                    return None
                parts.append(facts)
            made.add(window)
    if not parts:
        return None, made.text()
    facts, mark = _sum(parts, group, problems), made.text()
    # What it says of its neighbours is not the same for every name.
    if not (problems or facts.external or facts.problems) and all(s.st_ino for s in statuses):
        cache.shared[key] = facts, mark
    return facts, mark


def _config(beside: Folder, cache: ScanCache) -> ModelConfig:
    """Return what lies beside a model; what several revisions share is read once in a scan."""
    *marks, of_card = (mark_of(beside, name) for name in DESCRIBING)
    device = next((beside.files[n].st_dev for n in DESCRIBING if n in beside.files), 0)
    card = cache.cards.get((device, of_card))
    if card is None:
        card = read_card(beside.path / _CARD if of_card is not None else None)
        if not card.notes:  # those name the file
            cache.cards[device, of_card] = card
    key = (device, *marks, card)
    known = cache.configs.get(key)
    if known is None:
        known = read_config(beside.path, beside.files, card)
        if not known.notes:
            cache.configs[key] = known
    return known


def _sum(parts: list[FileFacts], group: Group, problems: list[str]) -> FileFacts:
    """Sum the facts of all shards; what only the first states is taken from it."""
    first = parts[0]
    counts = {part.split[1] for part in parts if part.split is not None}
    if counts - {group.count} or (counts and group.count == 1):
        problems.append(
            f"says it is one of {max(counts)} shards, but {group.count} are named as a set"
        )
    if len(parts) == 1:
        return first
    tensor_bytes: dict[str, int] = {}
    for part in parts:
        for kind, size in part.tensor_bytes.items():
            tensor_bytes[kind] = tensor_bytes.get(kind, 0) + size
    total = sum(part.parameter_count or 0 for part in parts)
    in_experts = sum(part.expert_parameter_count for part in parts)
    quantization, _ = quantization_of(first.file_type, {}, tensor_bytes)
    unknown = in_experts and first.experts is None
    widths = next((part for part in parts if part.embedding_length), first)
    kinds = {part.kind for part in parts}
    return replace(
        first,
        kind="model" if "model" in kinds else first.kind,
        size_bytes=sum(part.size_bytes for part in parts),
        parameter_count=total,
        active_parameter_count=(
            None if unknown else active_parameters(total, in_experts, first.experts)
        ),
        expert_parameter_count=in_experts,
        quantization=first.quantization if first.file_type is not None else quantization,
        embedding_length=widths.embedding_length,
        vocabulary_size=first.vocabulary_size or widths.vocabulary_size,
        tensor_bytes=tensor_bytes,
        weight_layout=joined([part.weight_layout for part in parts]),
        pickle_globals=tuple(dict.fromkeys(name for p in parts for name in p.pickle_globals)),
        problems=tuple(dict.fromkeys(text for part in parts for text in part.problems)),
        notes=tuple(dict.fromkeys(text for part in parts for text in part.notes)),
    )


def _with_external(group: Group, folder: Folder, alone: Facts) -> Facts:
    """Add the files of external data to size and fingerprint."""
    if not isinstance(alone, tuple):
        return alone
    facts, _, problems = alone
    size = facts.size_bytes
    missing: list[str] = []
    for name in facts.external:
        mark = _mark(folder.path / name)
        if mark is not None:
            size += mark[1]
            continue
        text = f"missing external data: {clean(name)}"
        if text not in facts.problems:
            missing.append(text)
    try:
        whole = fingerprint((*group.paths, *external_paths(folder.path, facts)))
    except ModelFileError as error:
        return Passing(clean(str(error), 400))
    return replace(facts, size_bytes=size), whole, (*problems, *missing)


def _mark(path: Path) -> Mark | None:
    try:
        status: os.stat_result = path.stat()
    except (OSError, ValueError):
        return None
    regular = status.st_mode & 0o170000 == 0o100000
    return (status.st_ino, status.st_size, status.st_mtime_ns) if regular else None
