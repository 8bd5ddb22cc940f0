"""llama.cpp's own cache of downloads.

An older version lays it out flat: ``<owner>_<repository>_<file>.gguf``, with ``.etag`` or
``.json`` beside each and ``manifest=<owner>=<repository>=<tag>.json`` for each repository. A newer
one lays it out as a hub cache, and uses the hub's own place unless ``LLAMA_CACHE`` names another
(see ``common/download.cpp`` and ``common/hf-cache.cpp`` in llama.cpp). Both may lie in one place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.huggingface import hub_models
from ravenxterm_lab.discovery.places import cache_home, expanded, home
from ravenxterm_lab.discovery.walk import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["LlamaCppSource"]

_PROJECTOR = "mmproj"


class LlamaCppSource(Source):
    """Models that llama.cpp downloaded (``LLAMA_CACHE``).

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``.
    """

    name: ClassVar[str] = "llama_cpp"

    def __init__(self, environment: Mapping[str, str]) -> None:
        stated = environment.get("LLAMA_CACHE")
        if stated:
            self._root = expanded(stated, environment)
        elif sys.platform == "darwin":
            self._root = home(environment) / "Library" / "Caches" / "llama.cpp"
        else:
            self._root = cache_home(environment) / "llama.cpp"

    def roots(self) -> tuple[Path, ...]:
        """Return the cache's directory."""
        return (self._root,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the models of both layouts."""
        cache = ScanCache() if cache is None else cache
        yield from hub_models(self._root, self.name, progress, cache, _by_repository)


def _by_repository(top: Folder) -> list[Folder]:
    """Split a flat cache's files by repository: a projector belongs to its own one's models."""
    prefixes = set()
    for name in top.files:
        parts = name.split("=")
        if len(parts) == 4 and parts[0] == "manifest" and name.endswith(".json"):
            prefixes.add(f"{parts[1]}_{parts[2]}_")
        elif _PROJECTOR in name:
            prefixes.add(name[: name.index(_PROJECTOR)])
    longest_first = sorted(prefixes - {""}, key=lambda one: (-len(one), one))
    groups: dict[str, Folder] = {}
    for name, status in top.files.items():
        prefix = next((one for one in longest_first if name.startswith(one)), "")
        groups.setdefault(prefix, Folder(top.path)).files[name] = status
    return [groups[prefix] for prefix in sorted(groups)]
