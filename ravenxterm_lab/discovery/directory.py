"""Plain directories of model files, scanned recursively."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.assemble import assemble_folder
from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.walk import Folder, list_folder, walk
from ravenxterm_lab.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["DirectorySource"]


class DirectorySource(Source):
    """One directory, or one file.

    Parameters
    ----------
    root : Path
    optional : bool
        A well-known place: nothing is said if it does not exist.
    """

    name: ClassVar[str] = "directory"

    def __init__(self, root: Path, *, optional: bool = False) -> None:
        if not str(root).strip() or "\0" in str(root):
            raise ConfigurationError(f"models_dir {str(root)!r} is not a path.")
        self._root = root
        self._optional = optional

    def roots(self) -> tuple[Path, ...]:
        """Return the directory."""
        return (self._root,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield every model below the directory."""
        cache = ScanCache() if cache is None else cache
        for root in self.roots():
            try:
                exists, is_file = root.exists(), root.is_file()
            except OSError as error:
                yield Skipped(root, f"cannot be looked at: {error.strerror}.", self.name)
                continue
            if not exists:
                if not self._optional:
                    reason = "does not exist; nothing was created. Give another path."
                    yield Skipped(root, reason, self.name)
            elif is_file:
                yield from self._one_file(root, progress, cache)
            else:
                for folder in walk(root, self.name, cache):
                    yield from assemble_folder(folder, root, self.name, progress, cache)

    def _one_file(
        self, path: Path, progress: Callable[[Path], None] | None, cache: ScanCache
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the model in one file; its directory is only looked into for companions."""
        folder = Folder(path.parent, list_folder(path.parent, self.name).files)
        for found in assemble_folder(folder, path.parent, self.name, progress, cache):
            if isinstance(found, Skipped):
                if found.path == path:
                    yield found
            elif path in found.shards:
                yield found
