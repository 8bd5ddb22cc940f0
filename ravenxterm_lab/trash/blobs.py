"""Stores that keep their bytes as blobs: which links and manifests lead to which blob.

Read from the directory entries alone, and generously: a digest anywhere in a manifest counts as a
use, and a manifest that cannot be read keeps every blob of its store in use.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import FileWindow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["BlobUses", "hub_revision", "is_ollama_store", "revision_entries"]

_DIGEST = re.compile(rb"sha256[:-]([0-9a-fA-F]{64})")
#: So many links may lead from one to the next, as for the kernel.
_STEPS = 40
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
#: A payload of the store that the repositories of a hub cache may share, below ``blobs/<2>/``.
_SHARED = re.compile(r"[0-9a-f]{64}")


def hub_revision(path: Path) -> Path | None:
    """Return the directory of the hub revision that a path lies in, if it lies in one.

    Examples
    --------
    >>> str(hub_revision(Path("hub/models--a--b/snapshots/1f/onnx/model.onnx")))
    'hub/models--a--b/snapshots/1f'
    """
    parts = path.parts
    for i in range(len(parts) - 3):
        if parts[i].startswith("models--") and parts[i + 1] == "snapshots":
            return Path(*parts[: i + 3])
    return None


def is_ollama_store(root: Path) -> bool:
    """Say whether a directory has the layout of an Ollama store."""
    try:
        return (root / "manifests").is_dir() and (root / "blobs").is_dir()
    except OSError:
        return False


def revision_entries(revision: Path) -> list[Path]:
    """Return what goes with a whole hub revision: its files, its refs, its notes of absence."""
    repository = revision.parent.parent
    found = [path for path, _ in _files(revision)]
    for path, status in _files(repository / "refs"):
        # A ref holds 40 digits; what is larger is none of the hub's.
        if status.st_size <= 256 and _head(path, 256).strip() == revision.name.encode():
            found.append(path)
    found.extend(path for path, _ in _files(repository / ".no_exist" / revision.name))
    return found


@dataclass(slots=True)
class BlobUses:
    """What leads to each blob.

    Attributes
    ----------
    of : dict of Path to set of Path
        For each blob or target of a link, the directory entries that lead to it.
    stores : dict of Path to bool
        Ollama stores; False where a manifest could not be read.
    repositories : dict of Path to bool
        Hub repositories; False where a directory could not be listed.
    hubs : dict of Path to bool
        Hub caches; False where it is not known what leads to the blobs that repositories share.
    """

    of: dict[Path, set[Path]] = field(default_factory=dict)
    stores: dict[Path, bool] = field(default_factory=dict)
    repositories: dict[Path, bool] = field(default_factory=dict)
    hubs: dict[Path, bool] = field(default_factory=dict)
    _named: dict[Path, tuple[Path, ...]] = field(default_factory=dict)
    _behind: dict[Path, Path] = field(default_factory=dict)
    _folders: dict[Path, Path] = field(default_factory=dict)

    def without(self, gone: Collection[Path]) -> BlobUses:
        """Return what is left when some directory entries have gone."""
        left = {path: users.difference(gone) for path, users in self.of.items() if path not in gone}
        named = {path: blobs for path, blobs in self._named.items() if path not in gone}
        return BlobUses(
            left, self.stores, self.repositories, self.hubs, named, self._behind, self._folders
        )

    def add_hub(self, root: Path) -> None:
        """Index every repository of a hub cache, and the blobs that several of them share."""
        try:
            with os.scandir(root) as entries:
                names = [one.name for one in entries if "--" in one.name]
        except OSError:
            return
        unread: list[OSError] = []
        shared: dict[Path, Path] = {}
        for name in names:
            if name.startswith("models--"):
                self.add_repository(root / name)
            # Repositories of data sets share the same store.
            for path, status in _files(root / name / "blobs", unread):
                target = _target(path) if stat.S_ISLNK(status.st_mode) else None
                if target is not None:
                    self.of.setdefault(target, set()).add(path)
                    if target.parent.parent == root / "blobs":
                        shared[path] = target
        if names:
            self.hubs[root] = not unread
        if not unread:
            self._behind.update(shared)

    def add_repository(self, repository: Path) -> None:
        """Index the links of every revision of a hub repository."""
        if repository in self.repositories:
            return
        unread: list[OSError] = []
        own: dict[Path, Path] = {}
        blobs = repository / "blobs"
        for path, status in _files(repository / "snapshots", unread):
            target = _target(path) if stat.S_ISLNK(status.st_mode) else None
            if target is not None:
                self.of.setdefault(target, set()).add(path)
                if target.parent == blobs:
                    own[path] = target
        self.repositories[repository] = not unread
        if not unread:
            self._behind.update(own)

    def add_ollama(self, store: Path) -> None:
        """Index the manifests of an Ollama store."""
        if store in self.stores:
            return
        unread: list[OSError] = []
        certain = True
        for path, _ in _files(store / "manifests", unread):
            try:
                with FileWindow(path) as window:
                    certain = certain and window.size <= limits.CONFIG_BYTES
                    raw = window.head(limits.CONFIG_BYTES)
            except ModelFileError:
                certain = False
                continue
            digests = dict.fromkeys(match.decode().lower() for match in _DIGEST.findall(raw))
            blobs = tuple(store / "blobs" / f"sha256-{digest}" for digest in digests)
            self._named[path] = blobs
            for blob in blobs:
                self.of.setdefault(blob, set()).add(path)
        self.stores[store] = certain and not unread

    def add_links(self, entries: Iterable[Path]) -> None:
        """Note what the links among some directory entries lead to, by every step of the way."""
        for entry in entries:
            step: Path | None = entry if hub_revision(entry) is None else None
            for _ in range(_STEPS):
                if step is None or not step.is_symlink():
                    break
                step = _target(step)
                if step is not None:
                    self.of.setdefault(self._placed(step), set()).add(entry)

    def users(self, path: Path) -> set[Path]:
        """Return every directory entry that leads to a file."""
        direct = self.of.get(path, set())
        placed = self._placed(path)
        return direct if placed == path else direct | self.of.get(placed, set())

    def _placed(self, path: Path) -> Path:
        """Return a path with the links among its directories resolved, but not itself."""
        real = self._folders.get(path.parent)
        if real is None:
            real = self._folders[path.parent] = Path(os.path.realpath(path.parent))
        return path if real == path.parent else real / path.name

    def manifests(self, blob: Path) -> list[Path]:
        """Return the manifests that name a blob, sorted."""
        return sorted(path for path in self.of.get(blob, ()) if path in self._named)

    def of_manifest(self, path: Path) -> tuple[Path, ...]:
        """Return the blobs that a manifest names; empty for any other file."""
        return self._named.get(path, ())

    def behind(self, entry: Path) -> tuple[Path, ...]:
        """Return the blobs of its own store that a link or a manifest leads to."""
        if entry in self._named:
            store = next((s for s in self.stores if entry.is_relative_to(s)), None)
            return self._named[entry] if store is not None and self.stores[store] else ()
        target = self._behind.get(entry)
        return () if target is None else (target,)

    def leftovers(self) -> Iterator[tuple[Path, str]]:
        """Yield blobs that nothing leads to, each with ``"incomplete"`` or ``"orphan"``."""
        for place, certain in (*self.stores.items(), *self.repositories.items()):
            for path, status in _files(place / "blobs"):
                if path in self.of or not stat.S_ISREG(status.st_mode):
                    continue
                if path.name.endswith(".incomplete") or "-partial" in path.name:
                    yield path, "incomplete"
                elif certain and (place not in self.stores or _BLOB.fullmatch(path.name)):
                    yield path, "orphan"
        for hub, certain in self.hubs.items():
            for path, _ in _files(hub / "blobs") if certain else ():
                if _SHARED.fullmatch(path.name) and path not in self.of:
                    yield path, "orphan"


def _files(
    directory: Path, unread: list[OSError] | None = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a directory that is not a directory, links not followed."""
    failed = [] if unread is None else unread
    for folder, folders, names in os.walk(directory, onerror=failed.append):
        for name in sorted((*names, *folders)):
            path = Path(folder, name)
            if name in folders and not path.is_symlink():
                continue
            try:
                yield path, path.lstat()
            except OSError as error:
                failed.append(error)
    if failed and isinstance(failed[0], FileNotFoundError) and not directory.is_dir():
        failed.clear()


def _target(link: Path) -> Path | None:
    """Return what a link says, as a path; what that leads to in turn is not followed."""
    try:
        return Path(os.path.normpath(link.parent / link.readlink()))
    except OSError:
        return None


def _head(path: Path, limit: int) -> bytes:
    try:
        with FileWindow(path) as window:
            return window.head(limit)
    except ModelFileError:
        return b""
