"""The Hugging Face hub cache: ``models--<owner>--<name>/{refs,blobs,snapshots/<revision>}``.

Files of a snapshot are links to blobs that several revisions share (where links are not possible
they are the files themselves); entries of the same bytes are merged later, by fingerprint. A
repository that is not whole is still looked into: the hub's own ``scan_cache_dir`` leaves all of
it out when one link or one ref leads nowhere.
"""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.assemble import assemble_folder
from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import Passing, ScanCache
from ravenxterm_lab.discovery.places import absolute, expanded, home, is_there
from ravenxterm_lab.discovery.walk import Folder, list_folder, walk
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.text import read_text
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["HuggingFaceSource", "hub_models", "is_hub_cache"]

_PREFIX = "models--"
_OWN = (_PREFIX, "datasets--", "spaces--")
#: Locks, and the payloads that several repositories share.
_OWN_FOLDERS = frozenset({".locks", "blobs"})
_REVISION = re.compile(r"[0-9a-fA-F]{7,64}")
_REF_BYTES = 256
_NAME = operator.attrgetter("name")
#: ``refs/refs/pr/1`` is the deepest that the hub itself makes.
_REF_DEPTH = 6
#: Files that an operating system leaves in any directory.
_STRAYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


class HuggingFaceSource(Source):
    """A hub cache.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``: ``HF_HUB_CACHE``, ``HUGGINGFACE_HUB_CACHE``, ``HF_HOME`` and
        ``XDG_CACHE_HOME`` count, in this order, as in ``huggingface_hub.constants``.
    root : Path, optional
        The cache itself; overrides the environment.
    """

    name: ClassVar[str] = "huggingface"

    def __init__(self, environment: Mapping[str, str], root: Path | None = None) -> None:
        self._root = root if root is not None else _hub(environment)
        self._given = root is not None

    def roots(self) -> tuple[Path, ...]:
        """Return the cache's directory."""
        return (self._root,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the models of every revision of every repository."""
        cache = ScanCache() if cache is None else cache
        # Somebody's own directory of models may hold more than the repositories.
        split = _together if self._given else None
        yield from hub_models(self._root, self.name, progress, cache, split)


def hub_models(
    root: Path,
    source: str,
    progress: Callable[[Path], None] | None,
    cache: ScanCache,
    split: Callable[[Folder], list[Folder]] | None = None,
) -> Iterator[ModelMetadata | Skipped]:
    """Yield the models of a directory that is laid out as a hub cache, and what is wrong in it.

    Parameters
    ----------
    root : Path
        The directory; nothing is yielded if it does not exist.
    source : str
        The name of the source, for what is found.
    progress, cache
        As for ``Source.discover``.
    split : callable, optional
        Look beside the repositories too, as in a plain directory; divides the files right in
        ``root`` into those that belong together.
    """
    there = is_there(root)
    if there is not True:
        if there:
            yield Skipped(root, there, source)
        return
    listed = list_folder(root, source, cache)
    yield from listed.skipped
    for name in listed.files:
        if name.startswith(_PREFIX):
            reason = "a file where the directory of a repository is expected"
            yield Skipped(root / name, reason, source)
    for repository in listed.folders:
        if repository.name.startswith(_PREFIX):
            yield from _repository(repository, source, progress, cache)
    if split is None:
        return
    for folder in split(Folder(root, listed.files)):
        yield from assemble_folder(folder, root, source, progress, cache)
    for child in listed.folders:
        if not child.name.startswith(_OWN) and child.name not in _OWN_FOLDERS:
            for folder in walk(child, source, cache):
                yield from assemble_folder(folder, root, source, progress, cache)


def _together(folder: Folder) -> list[Folder]:
    return [folder]


def is_hub_cache(root: Path) -> bool:
    """Say whether a directory holds a repository of the hub.

    Raises
    ------
    OSError
        If it cannot be listed.
    """
    return any(
        (entry / part).is_dir()
        for entry in root.glob(f"{_PREFIX}*")
        for part in ("snapshots", "blobs", "refs")
    )


@dataclass(slots=True)
class _Blobs:
    """What lies in ``blobs``: finished files by inode, and the names of unfinished ones."""

    finished: dict[int, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    problem: str | None = None


def _repository(
    repository: Path,
    source: str,
    progress: Callable[[Path], None] | None,
    cache: ScanCache,
) -> Iterator[ModelMetadata | Skipped]:
    blobs = _list_blobs(f"{repository}/blobs")
    if blobs.problem is not None:
        yield Skipped(repository / "blobs", blobs.problem, source)
    for name in blobs.unfinished:
        yield _unfinished(repository / "blobs" / name, source)
    refs, wrong = _refs(f"{repository}/refs", source, cache)
    yield from wrong
    snapshots = repository / "snapshots"
    there = is_there(snapshots)
    if there is not True:
        yield Skipped(repository, there or _without_snapshots(repository, blobs), source)
        return
    listed = list_folder(snapshots, source, cache)
    yield from listed.skipped
    for name in listed.files:
        if name not in _STRAYS:
            reason = "a file where the directory of a revision is expected"
            yield Skipped(snapshots / name, reason, source)
    here = {one.name for one in listed.folders}
    for ref, revision in refs.items():
        if revision not in here:
            reason = (
                f"refers to the revision {revision[:12]}, which is not here: its download did not "
                "get that far, or the revision was deleted. Download it again, or delete the ref."
            )
            yield Skipped(Path(ref), reason, source)
    main = refs.get(f"{repository}/refs/main")
    named = set(refs.values())
    whole = not listed.skipped
    for snapshot in sorted(
        listed.folders, key=lambda one: (one.name != main, one.name not in named, one.name)
    ):
        for folder in walk(snapshot, source, cache):
            # Links only: without blobs the files of a snapshot are its own.
            if blobs.finished:
                for inode in folder.inodes:
                    blobs.finished.pop(inode, None)
            if folder.broken:
                yield from _without_blob(folder, source)
            whole = whole and all(one.path != folder.path for one in folder.skipped)
            yield from assemble_folder(folder, snapshot, source, progress, cache)
    if blobs.finished and whole:
        yield Skipped(repository / "blobs", _left_over(repository / "blobs", blobs), source)


def _without_blob(folder: Folder, source: str) -> Iterator[Skipped]:
    """Yield the links to nothing that are no weights: a tokenizer that is missing matters too."""
    said = {one.path.name for one in folder.skipped}
    for name in sorted(folder.broken):
        if name not in said:
            reason = "a link to a blob that does not exist: download this file again"
            yield Skipped(folder.path / name, reason, source)


def _list_blobs(folder: str) -> _Blobs:
    found = _Blobs()
    finished = found.finished
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".incomplete"):
                    found.unfinished.append(name)
                elif name not in _STRAYS:
                    finished[_target(entry) if entry.is_symlink() else entry.inode()] = name
    except FileNotFoundError:
        pass  # a repository without blobs: its snapshots hold the files themselves
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        found.problem = f"cannot be listed: {reason}. Check its permissions."
    found.unfinished.sort()
    return found


def _target(entry: os.DirEntry[str]) -> int:
    """Return the inode that a blob links to, in a store that repositories share."""
    try:
        return entry.stat().st_ino
    except OSError:
        return entry.inode()


def _unfinished(path: Path, source: str) -> Skipped:
    try:
        so_far = f"{format_bytes(path.lstat().st_size)} so far"
    except OSError:
        so_far = "finished or removed meanwhile"
    reason = f"a download that is not finished: {so_far}; it was not read"
    return Skipped(path, reason, source)


def _refs(folder: str, source: str, cache: ScanCache) -> tuple[dict[str, str], list[Skipped]]:
    """Return the revision that each branch or tag refers to, and the refs that cannot be used."""
    found: dict[str, str] = {}
    wrong: list[Skipped] = []
    queue = [(folder, 0)]
    while queue:
        path, depth = queue.pop()
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=_NAME):
                    if entry.is_dir(follow_symlinks=False):
                        if depth < _REF_DEPTH:
                            queue.append((entry.path, depth + 1))
                    elif entry.name not in _STRAYS and not entry.name.endswith(".tmp"):
                        revision = _ref(entry, cache)
                        if _REVISION.fullmatch(revision):
                            found[entry.path] = revision
                        else:
                            wrong.append(Skipped(Path(entry.path), revision, source))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"cannot be listed: {error.strerror}. Check its permissions."
            wrong.append(Skipped(Path(path), reason, source))
    return found, wrong


def _ref(entry: os.DirEntry[str], cache: ScanCache) -> str:
    """Return the revision that a ref names, or why it cannot be used."""
    path = entry.path
    try:
        status = entry.stat()
    except OSError:
        return _read_ref(path)
    signature = (status.st_ino, status.st_size, status.st_mtime_ns)
    return cache.get(("ref", path), signature, lambda: _read_ref(path), count=False)


def _read_ref(path: str) -> str:
    try:
        revision = read_text(Path(path), _REF_BYTES).strip()
    except ModelFileError as error:
        return Passing(f"a ref that cannot be read: {error}")
    if _REVISION.fullmatch(revision):
        return revision
    return f"a ref that names {shown(revision, 60)}, no revision; it was not followed"


def _without_snapshots(repository: Path, blobs: _Blobs) -> str:
    if blobs.finished:
        return f"{_left_over(repository / 'blobs', blobs)}; there are no snapshots at all"
    if blobs.unfinished:
        return "a repository without snapshots: its download was interrupted"
    return "a repository without snapshots: nothing of it was downloaded"


def _left_over(folder: Path, blobs: _Blobs) -> str:
    size = 0
    for name in blobs.finished.values():
        try:
            size += (folder / name).stat().st_size
        except OSError:
            continue
    count = len(blobs.finished)
    what = "1 blob belongs" if count == 1 else f"{count} blobs belong"
    return (
        f"{what} to no snapshot ({format_bytes(size)}): left by an interrupted download or by a "
        "revision that was deleted by hand"
    )


def _hub(environment: Mapping[str, str]) -> Path:
    """Return the cache's directory, as ``huggingface_hub.constants`` finds it.

    A variable that is set and empty counts there, and means the working directory.
    """
    stated = environment.get("HF_HUB_CACHE", environment.get("HUGGINGFACE_HUB_CACHE"))
    if stated is not None:
        return expanded(stated, environment, variables=True)
    base = environment.get("HF_HOME")
    if base is None:
        # Not ``cache_home``: an empty XDG_CACHE_HOME counts too.
        usual = environment.get("XDG_CACHE_HOME", str(home(environment) / ".cache"))
        base = os.path.join(usual, "huggingface")  # noqa: PTH118 - "~" must stay the first part
    return absolute(expanded(base, environment, variables=True) / "hub")
