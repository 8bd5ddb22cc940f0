"""DISCOVER: every model on this machine, each once, under a unique name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.apart import tell_apart
from ravenxterm_lab.discovery.base import Discovery, Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.collector import pause_collector
from ravenxterm_lab.discovery.directory import DirectorySource
from ravenxterm_lab.discovery.huggingface import HuggingFaceSource, is_hub_cache
from ravenxterm_lab.discovery.llama_cpp import LlamaCppSource
from ravenxterm_lab.discovery.lm_studio import LMStudioSource
from ravenxterm_lab.discovery.naming import unique_names
from ravenxterm_lab.discovery.ollama import OllamaSource
from ravenxterm_lab.discovery.packages import PackagesSource
from ravenxterm_lab.discovery.places import absolute
from ravenxterm_lab.discovery.plugins import plugin_sources
from ravenxterm_lab.exceptions import ConfigurationError, RavenXTermError
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ravenxterm_lab.config import Paths
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = [
    "DirectorySource",
    "Discovery",
    "HuggingFaceSource",
    "LMStudioSource",
    "LlamaCppSource",
    "OllamaSource",
    "PackagesSource",
    "ScanCache",
    "Skipped",
    "Source",
    "discover",
    "sources_for",
    "tell_apart",
]


#: Models from which on a scan lets the collector of cyclic garbage run again.
_PAUSED = 20_000


def sources_for(
    models_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    paths: Paths,
    environment: Mapping[str, str] | None = None,
) -> list[Source]:
    """Return the sources that a registry looks into.

    Parameters
    ----------
    models_dir : path, sequence of paths or None
        Directories or files; None for the well-known stores, ``paths.models``, the installed
        Python packages and the sources that other packages bring (see ``plugins``). A hub cache
        or an Ollama store that is given by its path is recognised by its layout.
    paths : Paths
        Where this package keeps things.
    environment : mapping of str to str, optional
        By default ``os.environ``.

    Raises
    ------
    ConfigurationError
        If a path is empty or is not a path.
    """
    environment = os.environ if environment is None else environment
    if models_dir is None:
        own: list[Source] = [
            DirectorySource(paths.models, optional=True),
            HuggingFaceSource(environment),
            OllamaSource(environment),
            LMStudioSource(environment),
            LlamaCppSource(environment),
            PackagesSource(sys.path),
        ]
        return [*own, *plugin_sources(environment, {source.name for source in own})]
    if isinstance(models_dir, (str, os.PathLike)):
        return [_source(models_dir, environment)]
    if isinstance(models_dir, (bytes, Mapping)) or not isinstance(models_dir, Iterable):
        raise _no_path(models_dir)
    return [_source(one, environment) for one in models_dir]


def discover(
    sources: Iterable[Source],
    cache: ScanCache | None = None,
    progress: bool | Callable[[Path], None] = False,
) -> Discovery:
    """Look into every source; merge equal models and make the names unique.

    Parameters
    ----------
    sources : iterable of Source
        Where several hold the same bytes, the earlier one's entry is kept.
    cache : ScanCache, optional
        What earlier scans read; pass the same one again and only changed files are read.
    progress : bool or callable
        True shows a progress bar; a callable is told each model's first file.

    Returns
    -------
    Discovery
        Nothing is raised for what a source finds: it is in ``skipped``, with the reason.
    """
    started = time.perf_counter()
    cache = ScanCache() if cache is None else cache
    cache.begin()
    found: list[ModelMetadata] = []
    sources_of: list[Source] = []
    skipped: list[Skipped] = []
    roots: list[Path] = []
    tell, close = _progress(progress)
    resume = pause_collector()
    try:
        for source in sources:
            roots.extend(source.roots())
            try:
                for one in source.discover(tell, cache):
                    if isinstance(one, Skipped):
                        skipped.append(one)
                    else:
                        found.append(one)
                        sources_of.append(source)
                        if len(found) == _PAUSED:
                            resume()
            except (OSError, RavenXTermError) as error:
                place = next(iter(source.roots()), Path())
                skipped.append(Skipped(place, clean(str(error), 400), source.name))
        models = cache.merged(found)
        if models is None:
            models = _named(tell_apart(found, cache), sources_of)
            cache.keep_merged(found, models)
        cache.end()
    finally:
        resume()
        close()
    return Discovery(
        models=dict(models),
        skipped=list(dict.fromkeys(skipped)),
        seconds=time.perf_counter() - started,
        roots=tuple(dict.fromkeys(roots)),
        read=cache.misses,
    )


def _source(given: object, environment: Mapping[str, str]) -> Source:
    text: object = os.fspath(given) if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise _no_path(given)
    try:
        path = absolute(Path(text).expanduser())
    except RuntimeError as error:
        raise ConfigurationError(f"models_dir {text!r}: {error}") from error
    try:
        if (path / "manifests").is_dir() and (path / "blobs").is_dir():
            return OllamaSource(environment, path)
        if path.is_dir() and is_hub_cache(path):
            return HuggingFaceSource(environment, path)
    except OSError:
        pass  # what is wrong with the path is said by the scan, with the reason
    return DirectorySource(path)


def _no_path(given: object) -> ConfigurationError:
    return ConfigurationError(f"models_dir must be a path or several paths, got {given!r}.")


def _progress(
    wanted: bool | Callable[[Path], None],
) -> tuple[Callable[[Path], None] | None, Callable[[], object]]:
    if not isinstance(wanted, bool):
        return wanted, lambda: None
    if not wanted:
        return None, lambda: None
    from tqdm import tqdm

    bar = tqdm(desc="Scanning", unit=" models", leave=False)

    def tell(_path: Path) -> None:
        bar.update()

    return tell, bar.close


def _named(found: Sequence[ModelMetadata], sources: Sequence[Source]) -> dict[str, ModelMetadata]:
    """Return the models by unique name, sorted; those of the same bytes are one."""
    merged = _merge(list(zip(found, sources, strict=True)))
    models = [model for model, _, _ in merged]

    def labels(position: int) -> tuple[str, ...]:
        _, first, source = merged[position]
        return source.labels(first)

    names = unique_names(models, labels)
    named = {
        name: model if model.name == name else replace(model, name=name)
        for name, model in zip(names, models, strict=True)
    }
    return dict(sorted(named.items()))


def _merge(
    found: Sequence[tuple[ModelMetadata, Source]],
) -> list[tuple[ModelMetadata, ModelMetadata, Source]]:
    """Make one entry of those that hold the same bytes, in the order of the first of each.

    With each comes the one that it was made of, as its source found it.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for position, (model, _) in enumerate(found):
        groups.setdefault((model.model_type.value, model.fingerprint), []).append(position)
    merged = []
    for positions in groups.values():
        entries = [found[position] for position in positions]
        # A complete copy is worth more than an earlier one that misses something.
        best = min(range(len(entries)), key=lambda i: (bool(entries[i][0].problems), i))
        model, source = entries[best]
        others = [other for i, (other, _) in enumerate(entries) if i != best]
        merged.append((_with_others(model, others), model, source))
    return merged


def _with_others(model: ModelMetadata, others: Sequence[ModelMetadata]) -> ModelMetadata:
    if not others:
        return model
    own = {model.path, *model.shards}
    paths = dict.fromkeys(
        path for other in others for path in (other.shards or (other.path,)) if path not in own
    )
    names = dict.fromkeys(
        other.name for other in others if other.path == model.path and other.name != model.name
    )
    here = {path.name for path in model.companions}
    companions = list(model.companions)
    for other in others:
        if other.path == model.path:
            continue  # another tag of the same blob has a template of its own
        companions.extend(path for path in other.companions if path.name not in here)
        here.update(path.name for path in other.companions)
    notes = model.notes + ((f"also named {', '.join(names)}",) if names else ())
    return replace(
        model,
        duplicates=tuple(paths),
        companions=tuple(companions),
        notes=notes,
        task_types=model.task_types or next((o.task_types for o in others if o.task_types), ()),
        license=model.license or next((o.license for o in others if o.license), None),
    )
