"""Two models that share a fingerprint, told apart by the whole of their headers.

A fingerprint samples a file, and a vocabulary of megabytes puts most of a header between the
samples. Where a scan finds one fingerprint on different files it reads their headers to the end,
once; those whose header differs get a fingerprint of their own, made of the shared one and of
their header. One of them keeps the shared one: the one that had it at an earlier comparison, else
the oldest file. What was told apart stays so when the other is gone. What differs beyond header
and samples is one model here, and is compared in full before it goes as a copy.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.cache import APART, HEADER, Passing
from ravenxterm_lab.discovery.contents import files_of
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import header_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ravenxterm_lab.discovery.cache import ScanCache
    from ravenxterm_lab.discovery.contents import Mark
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["tell_apart"]


def tell_apart(found: Sequence[ModelMetadata], cache: ScanCache) -> list[ModelMetadata]:
    """Return the models, with other fingerprints where one is that of different headers.

    Parameters
    ----------
    found : sequence of ModelMetadata
        As the sources yielded them, in a scan that has not ended yet.
    cache : ScanCache
        Remembers the headers and what was told apart.
    """
    result = list(found)
    if not cache.beside and len({model.fingerprint for model in found}) == len(found):
        return result
    groups: dict[tuple[str, str], list[int]] = {}
    for position, model in enumerate(found):
        groups.setdefault((model.model_type.value, model.fingerprint), []).append(position)
    for positions in groups.values():
        if len(positions) > 1 or f"{found[positions[0]].path}{APART}" in cache.beside:
            for position, mark in _marks([found[i] for i in positions], cache):
                place = positions[position]
                result[place] = replace(found[place], fingerprint=mark)
    return result


def _marks(models: Sequence[ModelMetadata], cache: ScanCache) -> Iterable[tuple[int, str]]:
    """Yield the position and the fingerprint of each that gets one of its own."""
    files = [files_of(model, cache) for model in models]
    told = {i for i, model in enumerate(models) if _was_told(model, files[i], cache)}
    if not told and len(set(files)) == 1:
        return
    compared = {i for i, model in enumerate(models) if f"{model.path}{HEADER}" in cache.beside}
    read: dict[tuple[Mark | None, ...], str] = {}
    # What was read before comes first: a new name of such a file is not read again.
    order = sorted(range(len(models)), key=lambda i: i not in compared)
    digests = {i: _digest(models[i], files[i], read, cache) for i in order}
    apart = {digests[i] for i in told}
    keeping = [i for i, digest in digests.items() if digest and digest not in apart]
    if keeping:
        first = min(keeping, key=lambda i: (i not in compared, _time(files[i]), i))
        apart = {digest for digest in digests.values() if digest != digests[first]}
    for i, digest in digests.items():
        if digest and digest in apart:
            cache.beside_facts(f"{models[i].path}{APART}", files[i], lambda: APART)
            mark = models[i].fingerprint
            yield i, hashlib.sha256(f"{mark}:{digest}".encode()).hexdigest()[: len(mark)]


def _was_told(model: ModelMetadata, files: tuple[Mark | None, ...], cache: ScanCache) -> bool:
    key = f"{model.path}{APART}"
    if key not in cache.beside:
        return False
    return not isinstance(cache.beside_facts(key, files, lambda: Passing("")), Passing)


def _digest(
    model: ModelMetadata,
    files: tuple[Mark | None, ...],
    read: dict[tuple[Mark | None, ...], str],
    cache: ScanCache,
) -> str:
    """Return the digest of the headers of a model; empty where they cannot be read now."""

    def compute() -> str:
        try:
            return header_digest(model.shards or (model.path,))
        except ModelFileError:
            return Passing("")

    found = read.get(files)
    value = cache.beside_facts(f"{model.path}{HEADER}", files, lambda: found or compute())
    digest = str(value or "")
    if digest:
        read[files] = digest
    return digest


def _time(files: tuple[Mark | None, ...]) -> int:
    return max((mark[2] for mark in files if mark is not None), default=0)
