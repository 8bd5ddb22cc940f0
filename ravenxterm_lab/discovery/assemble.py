"""From a directory's files to models: facts of all shards summed, companions attached."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.discovery.cache import Passing, ScanCache
from ravenxterm_lab.discovery.contents import DESCRIBING, external_paths, mark_of, read_group
from ravenxterm_lab.discovery.grouping import INDEX_SUFFIX, Group, group_files
from ravenxterm_lab.discovery.naming import base_name, is_generic
from ravenxterm_lab.discovery.walk import list_folder
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.readers.dispatch import SUFFIXES
from ravenxterm_lab.readers.files import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ravenxterm_lab.discovery.facts_json import Facts
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
    marks = tuple(mark_of(folder, name) for name in folder.files if _matters(name))
    if not marks:
        return
    above = None
    # Comparing paths is slow, and most directories are the root themselves.
    if folder.path is not root and folder.path != root and is_generic(folder.path.name):
        # A repository keeps its ONNX files one level below its tokenizer.
        above = folder.above or list_folder(folder.path.parent, source)
    pooling = _pooling(folder, above)
    signature = (tuple(folder.files), marks, pooling, above and _marks_above(above))
    key = (source, str(root), str(folder.path))
    told: list[Path] = []

    def tell(path: Path) -> None:
        told.append(path)
        if progress is not None:
            progress(path)

    def compute() -> tuple[tuple[list[ModelMetadata | Skipped], list[Path]], bool]:
        groups = list(_read_groups(folder, source, tell, cache, above))
        beside = _companions(folder, above) + pooling if any(r for _, r in groups) else ()
        found = list(_models(groups, folder, root, source, beside))
        # What depends on files elsewhere, or on luck, is looked at every time.
        return (found, told), not any(_fleeting(read) for _, read in groups)

    found, paths = cache.folder(key, signature, compute)
    if progress is not None and paths is not told:
        for path in paths:
            progress(path)
    yield from found


def _read_groups(
    folder: Folder,
    source: str,
    progress: Callable[[Path], None],
    cache: ScanCache,
    above: Folder | None,
) -> Iterator[tuple[Group | Skipped, Facts]]:
    for group in group_files(folder, source, cache):
        if isinstance(group, Skipped):
            yield group, None
            continue
        progress(group.paths[0])
        yield group, read_group(group, folder, cache, above)


def _fleeting(read: Facts) -> bool:
    return isinstance(read, Passing) or (isinstance(read, tuple) and bool(read[0].external))


def _models(
    groups: list[tuple[Group | Skipped, Facts]],
    folder: Folder,
    root: Path,
    source: str,
    companions: tuple[Path, ...],
) -> Iterator[ModelMetadata | Skipped]:
    found: list[tuple[Group, FileFacts, str, tuple[str, ...]]] = []
    attached: list[tuple[Path, FileFacts]] = []
    for group, read in groups:
        if isinstance(group, Skipped):
            yield group
        elif isinstance(read, str):
            yield Skipped(group.paths[0], read, source)
        elif read is not None and read[0].kind == "model":
            found.append((group, *read))
        elif read is not None and read[0].kind != "other":
            attached.append((group.paths[0], read[0]))
    for group, facts, mark, problems in found:
        extra = _attach(attached, facts, len(found))
        yield build_model(
            facts,
            name=base_name(group.paths[0], root),
            paths=group.paths,
            mark=mark,
            source=source,
            companions=companions + extra,
            projector_bytes=_projector_bytes(attached, extra),
            problems=group.problems + problems,
            external=external_paths(folder.path, facts),
        )
    taken = {path for group, facts, *_ in found for path in _attach(attached, facts, len(found))}
    for path, facts in attached:
        if path not in taken:
            article = "an" if facts.kind == "adapter" else "a"
            reason = f"{article} {facts.kind}, not a model by itself; none to attach it to is here"
            yield Skipped(path, reason, source)


def build_model(
    facts: FileFacts,
    *,
    name: str,
    paths: tuple[Path, ...],
    mark: str,
    source: str,
    companions: tuple[Path, ...] = (),
    projector_bytes: int = 0,
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
    projector_bytes : int
        The largest projector among them.
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
        weight_layout=facts.weight_layout,
        network=facts.network,
        embedding_length=facts.embedding_length,
        vocabulary_size=facts.vocabulary_size,
        companions=companions,
        projector_bytes=projector_bytes,
        # That a file of tensors is missing is seen by the reader and by the scan.
        problems=tuple(dict.fromkeys(facts.problems + problems)),
        notes=facts.notes,
    )


@lru_cache(maxsize=4096)
def _matters(name: str) -> bool:
    """Say whether the content of a file of that name may decide what is found."""
    dot = name.rfind(".")
    return (
        (dot >= 0 and name[dot:].lower() in SUFFIXES)
        or name in DESCRIBING
        or name.endswith(INDEX_SUFFIX)
    )


def _marks_above(above: Folder) -> tuple[object, ...]:
    here = tuple(name for name in _COMPANIONS if name in above.files)
    return (here, tuple(mark_of(above, name) for name in DESCRIBING))


def _companions(folder: Folder, above: Folder | None) -> tuple[Path, ...]:
    found = [folder.path / name for name in _COMPANIONS if name in folder.files]
    if above is not None:
        found.extend(
            above.path / name
            for name in _COMPANIONS
            if name in above.files and name not in folder.files
        )
    return tuple(found)


def _pooling(folder: Folder, above: Folder | None) -> tuple[Path, ...]:
    """Return the pooling configuration of a sentence-transformers model, if there is one."""
    for place in (folder, above):
        if place is not None and any(child.name == _POOLING[0] for child in place.folders):
            path = place.path.joinpath(*_POOLING)
            if is_file(path):
                return (path,)
    return ()


def _projector_bytes(attached: list[tuple[Path, FileFacts]], extra: tuple[Path, ...]) -> int:
    """Return the bytes of the largest projector: of several one is loaded."""
    sizes = (f.size_bytes for path, f in attached if f.kind == "projector" and path in extra)
    return max(sizes, default=0)


def _attach(
    attached: list[tuple[Path, FileFacts]], facts: FileFacts, models: int
) -> tuple[Path, ...]:
    """Return what belongs to a model: projectors, and if it is the one model all the rest."""
    if facts.model_type is not ModelType.GGUF and models > 1:
        return ()
    return tuple(
        path
        for path, other in attached
        if other.model_type is facts.model_type and (other.kind == "projector" or models == 1)
    )
