"""From a directory's files to models: facts of all shards summed, companions attached."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.grouping import Group, group_files
from ravenxterm_lab.discovery.naming import base_name, is_generic
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.readers import fingerprint, read_config, reader_for, with_config
from ravenxterm_lab.readers.base import active_parameters
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.gguf_types import quantization_of
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ravenxterm_lab.discovery.walk import Folder
    from ravenxterm_lab.readers import FileFacts

__all__ = ["assemble_folder", "build_model", "read_group"]

_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "modules.json",
    "adapter_config.json",
)
_DESCRIBING = ("config.json", "adapter_config.json", "modules.json", "README.md")
_POOLING = ("1_Pooling", "config.json")


def assemble_folder(
    folder: Folder,
    root: Path,
    source: str,
    progress: Callable[[Path], None] | None = None,
    cache: ScanCache | None = None,
) -> Iterator[ModelMetadata | Skipped]:
    """Yield the models whose weights lie in one directory, and what of it was skipped.

    Parameters
    ----------
    folder : Folder
        As the walk listed it.
    root : Path
        Where the walk began; nothing above it is looked at.
    source : str
        The name of the source.
    progress : callable, optional
        Is told each model's first file.
    cache : ScanCache, optional
        What earlier scans read.
    """
    cache = ScanCache() if cache is None else cache
    yield from folder.skipped
    found: list[tuple[Group, FileFacts, str, tuple[str, ...]]] = []
    attached: list[tuple[Path, FileFacts]] = []
    for group in group_files(folder, source, cache):
        if isinstance(group, Skipped):
            yield group
            continue
        if progress is not None:
            progress(group.paths[0])
        read = read_group(group, folder, cache)
        if isinstance(read, str):
            yield Skipped(group.paths[0], read, source)
        elif read is not None and read[0].kind == "model":
            found.append((group, *read))
        elif read is not None and read[0].kind != "other":
            attached.append((group.paths[0], read[0]))
    companions = _companions(folder, root)
    for group, facts, mark, problems in found:
        extra = _attach(attached, facts, len(found))
        yield build_model(
            facts,
            name=base_name(group.paths[0], root),
            paths=group.paths,
            mark=mark,
            source=source,
            companions=companions + extra,
            problems=group.problems + problems,
            external=_external_paths(folder.path, facts),
        )
    taken = {path for group, facts, *_ in found for path in _attach(attached, facts, len(found))}
    for path, facts in attached:
        if path not in taken:
            article = "an" if facts.kind == "adapter" else "a"
            reason = f"{article} {facts.kind}, not a model by itself; none to attach it to is here"
            yield Skipped(path, reason, source)


def read_group(
    group: Group, folder: Folder, cache: ScanCache
) -> tuple[FileFacts, str, tuple[str, ...]] | str | None:
    """Read a group's files, or recall them where none has changed.

    Returns
    -------
    tuple, str or None
        Summed facts, fingerprint and problems; the reason why it is no model; or None for a
        file that only happens to have a suffix of ours.
    """
    stats = [folder.files.get(path.name) for path in group.paths]
    beside = [folder.files.get(name) for name in _DESCRIBING]
    above = _stat(folder.path.parent / "config.json") if is_generic(folder.path.name) else None
    signature = tuple(
        (one.st_size, one.st_mtime_ns, one.st_ino) if one is not None else None
        for one in (*stats, *beside, above)
    )
    return cache.get(("group", group.paths), (group, signature), lambda: _read(group, folder))


def build_model(
    facts: FileFacts,
    *,
    name: str,
    paths: tuple[Path, ...],
    mark: str,
    source: str,
    companions: tuple[Path, ...] = (),
    problems: tuple[str, ...] = (),
    external: tuple[Path, ...] = (),
) -> ModelMetadata:
    """Make the entry of one model from its facts.

    Parameters
    ----------
    facts : FileFacts
        Summed over its files.
    name, source : str
    paths : tuple of Path
        The files that hold its weights, in order; ``external`` ones come after them.
    mark : str
        The fingerprint.
    companions : tuple of Path
    problems : tuple of str
        Beside those in the facts.
    external : tuple of Path
        Files of external tensor data.
    """
    return ModelMetadata(
        name=name,
        model_type=facts.model_type,
        path=paths[0],
        size_bytes=facts.size_bytes,
        quantization=facts.quantization,
        architecture=facts.architecture,
        parameter_count=facts.parameter_count,
        active_parameter_count=facts.active_parameter_count,
        context_length=facts.context_length,
        task_types=facts.task_types,
        license=facts.license,
        source=source,
        fingerprint=mark,
        shards=paths + external,
        tensor_bytes=dict(facts.tensor_bytes),
        attention=facts.attention,
        embedding_length=facts.embedding_length,
        vocabulary_size=facts.vocabulary_size,
        companions=companions,
        problems=facts.problems + problems,
        notes=facts.notes,
    )


def _read(group: Group, folder: Folder) -> tuple[FileFacts, str, tuple[str, ...]] | str | None:
    first = group.paths[0]
    parts: list[FileFacts] = []
    problems: list[str] = []
    try:
        for path in group.paths:
            reader = reader_for(path)
            if reader is None:
                return None
            try:
                parts.append(reader.read(path))
            except ModelFileError as error:
                if group.count == 1:
                    raise
                problems.append(clean(str(error), 400))
        if not parts:
            return problems[0]
        facts = _sum(parts, group, problems)
        directory = folder.path
        if is_generic(directory.name) and "config.json" not in folder.files:
            directory = directory.parent
        facts = with_config(facts, read_config(directory))
        external = _external_paths(folder.path, facts)
        facts = _with_external(facts, folder.path, problems)
        mark = fingerprint((*group.paths, *external))
        if any(_changed(path, folder.files.get(path.name)) for path in group.paths):
            return "changed while it was read (a download, or a replacement). Scan again."
    except ModelFileError as error:
        return clean(str(error), 400).removeprefix(f"{shown(str(first))}: ")
    return facts, mark, tuple(problems)


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
        pickle_globals=tuple(dict.fromkeys(name for p in parts for name in p.pickle_globals)),
        problems=tuple(dict.fromkeys(text for part in parts for text in part.problems)),
        notes=tuple(dict.fromkeys(text for part in parts for text in part.notes)),
    )


def _external_paths(directory: Path, facts: FileFacts) -> tuple[Path, ...]:
    paths = (directory / name for name in facts.external)
    return tuple(path for path in paths if is_file(path))


def _with_external(facts: FileFacts, directory: Path, problems: list[str]) -> FileFacts:
    size = facts.size_bytes
    for name in facts.external:
        status = _stat(directory / name)
        if status is None:
            problems.append(f"missing external data: {clean(name)}")
        else:
            size += status.st_size
    return replace(facts, size_bytes=size)


def _companions(folder: Folder, root: Path) -> tuple[Path, ...]:
    found = [folder.path / name for name in _COMPANIONS if name in folder.files]
    pooling = folder.path.joinpath(*_POOLING)
    if is_file(pooling):
        found.append(pooling)
    if folder.path != root and is_generic(folder.path.name):
        # A repository keeps its ONNX files one level below its tokenizer.
        here = {path.name for path in found}
        parent = folder.path.parent
        found.extend(
            parent / name for name in _COMPANIONS if name not in here and is_file(parent / name)
        )
        if not is_file(pooling) and is_file(parent.joinpath(*_POOLING)):
            found.append(parent.joinpath(*_POOLING))
    return tuple(found)


def _attach(
    attached: list[tuple[Path, FileFacts]], facts: FileFacts, models: int
) -> tuple[Path, ...]:
    """Return what belongs to a model: every projector, an adapter only if it is the one model."""
    if facts.model_type is not ModelType.GGUF and models > 1:
        return ()
    return tuple(
        path
        for path, other in attached
        if other.model_type is facts.model_type
        and (other.kind == "projector" or (other.kind == "adapter" and models == 1))
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _changed(path: Path, before: os.stat_result | None) -> bool:
    now = _stat(path)
    if now is None or before is None:
        return now is not before
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
