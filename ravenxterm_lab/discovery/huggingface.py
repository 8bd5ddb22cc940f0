"""The Hugging Face hub cache: ``models--<owner>--<name>/{refs,blobs,snapshots/<revision>}``.

Files of a snapshot are links to blobs that several revisions share; entries of the same bytes
are merged later, by fingerprint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.assemble import assemble_folder
from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.places import cache_home
from ravenxterm_lab.discovery.walk import list_folder, walk
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers.files import is_directory
from ravenxterm_lab.readers.text import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["HuggingFaceSource"]


class HuggingFaceSource(Source):
    """A hub cache.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``: ``HF_HUB_CACHE``, ``HUGGINGFACE_HUB_CACHE``, ``HF_HOME`` and
        ``XDG_CACHE_HOME`` count, in this order.
    root : Path, optional
        The cache itself; overrides the environment.
    """

    name: ClassVar[str] = "huggingface"

    def __init__(self, environment: Mapping[str, str], root: Path | None = None) -> None:
        self._root = root if root is not None else _hub(environment)

    def roots(self) -> tuple[Path, ...]:
        """Return the cache's directory."""
        return (self._root,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the models of every revision of every repository."""
        cache = ScanCache() if cache is None else cache
        if not is_directory(self._root):
            return
        listed = list_folder(self._root, self.name)
        yield from listed.skipped
        for repository in listed.folders:
            if repository.name.startswith("models--"):
                yield from self._repository(repository, progress, cache)

    def _repository(
        self, repository: Path, progress: Callable[[Path], None] | None, cache: ScanCache
    ) -> Iterator[ModelMetadata | Skipped]:
        yield from self._unfinished(repository / "blobs")
        snapshots = repository / "snapshots"
        if not is_directory(snapshots):
            reason = "a repository without snapshots: its download was interrupted"
            yield Skipped(repository, reason, self.name)
            return
        listed = list_folder(snapshots, self.name)
        yield from listed.skipped
        for snapshot in sorted(listed.folders, key=_in_use_first(repository)):
            for folder in walk(snapshot, self.name):
                yield from assemble_folder(folder, snapshot, self.name, progress, cache)

    def _unfinished(self, blobs: Path) -> Iterator[Skipped]:
        """Yield the blobs that are not finished; the others are reached by their names."""
        try:
            with os.scandir(blobs) as entries:
                names = sorted(one.name for one in entries if one.name.endswith(".incomplete"))
        except FileNotFoundError:
            return
        except OSError as error:
            yield Skipped(blobs, f"cannot be listed: {error.strerror}.", self.name)
            return
        for name in names:
            reason = "a download that is not finished; it was not read"
            yield Skipped(blobs / name, reason, self.name)


def _hub(environment: Mapping[str, str]) -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        stated = environment.get(variable)
        if stated:
            return Path(stated).expanduser()
    stated = environment.get("HF_HOME")
    base = Path(stated).expanduser() if stated else cache_home(environment) / "huggingface"
    return base / "hub"


def _in_use_first(repository: Path) -> Callable[[Path], tuple[bool, str]]:
    try:
        main = read_text(repository / "refs" / "main", 256).strip()
    except ModelFileError:
        main = ""
    return lambda snapshot: (snapshot.name != main, snapshot.name)
