"""Models that installed Python packages bring along, such as a voice detector or a classifier.

They are found by the lists of files that every installed distribution has (``RECORD``, see the
specification "Recording installed projects"); no package is imported, and no directory of one is
walked through. What lies among a package's tests is not a model that anybody has.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.assemble import assemble_folder
from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.naming import printable
from ravenxterm_lab.discovery.places import absolute
from ravenxterm_lab.discovery.walk import list_folder
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import FileWindow, shown
from ravenxterm_lab.readers.dispatch import SUFFIXES
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["PackagesSource"]

#: A smaller file holds an example or a test's fixture, not a model.
_SMALLEST = 32 * 1024
# Pickles of every kind of data are called so; a model in one is nearly always a test's.
_NOT_HERE = frozenset({".pkl", ".pickle", ".dat", ".data"})
_TESTS = frozenset({"test", "tests", "testing", "testdata", "test_data", "test-data"})
_LINES = 8
_INFO = re.compile(r"^(?P<name>[^-]+)-(?P<version>[^-]+)\.dist-info$")

#: What a ``RECORD`` depends on, and the files of models that it lists.
_Known = tuple[tuple[int, int, int], tuple[str, ...] | str]


class PackagesSource(Source):
    """Models inside the Python packages that this interpreter could import.

    Parameters
    ----------
    search : sequence of str
        Such as ``sys.path``: the directories that distributions are installed into.

    Notes
    -----
    The list of a distribution is read again only when its ``RECORD`` has changed.
    """

    name: ClassVar[str] = "packages"

    def __init__(self, search: Sequence[str]) -> None:
        # An empty entry means the working directory, which nothing is installed into.
        self._search = tuple(dict.fromkeys(absolute(Path(one)) for one in search if one))
        self._known: dict[Path, _Known] = {}
        self._owners: dict[Path, str] = {}

    def roots(self) -> tuple[Path, ...]:
        """Return the directories of ``search`` that hold an installed distribution."""
        return tuple(site for site in self._search if _any_distribution(site))

    def removable(self) -> bool:
        """Return False: they go with their package, by its package manager."""
        return False

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        """Return the name of the distribution."""
        owner = self._owners.get(model.path)
        return () if owner is None else (owner,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the models of every installed distribution."""
        cache = ScanCache() if cache is None else cache
        self._owners.clear()
        seen: set[tuple[int, int]] = set()
        met: set[Path] = set()
        for site in self._search:
            try:
                status = site.stat()
            except (OSError, ValueError):
                continue  # ``sys.path`` names directories that do not exist
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            try:
                installed = _distributions(site)
            except OSError as error:
                reason = f"cannot be listed: {error.strerror}. Check its permissions."
                yield Skipped(site, reason, self.name)
                continue
            for info, owner in installed:
                met.add(info)
                listed = self._listed(info)
                if isinstance(listed, str):
                    yield Skipped(info / "RECORD", listed, self.name)
                elif listed:
                    yield from self._distribution(site, owner, listed, progress, cache)
        for gone in self._known.keys() - met:
            del self._known[gone]

    def _listed(self, info: Path) -> tuple[str, ...] | str:
        """Return the files of models that a distribution lists, or why its list is not read."""
        record = info / "RECORD"
        try:
            status = record.stat()
        except FileNotFoundError:
            return ()  # installed by the system's package manager, which keeps its own list
        except OSError as error:
            return f"cannot be looked at: {error.strerror}."
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(info)
        if known is None or known[0] != signature:
            known = (signature, _read_record(record))
            self._known[info] = known
        return known[1]

    def _distribution(
        self,
        site: Path,
        owner: str,
        listed: tuple[str, ...],
        progress: Callable[[Path], None] | None,
        cache: ScanCache,
    ) -> Iterator[ModelMetadata | Skipped]:
        folders: dict[Path, set[str]] = {}
        for name in listed:
            # Lexically: what a package installs beside site-packages begins with "..".
            path = Path(os.path.normpath(site / name))
            if not any(path.is_relative_to(one) for one in (site, _prefix(site))):
                reason = (
                    f"{owner} lists {shown(name)}, outside the environment; it was not followed"
                )
                yield Skipped(site, reason, self.name)
                continue
            folders.setdefault(path.parent, set()).add(path.name)
        for directory, names in folders.items():
            folder = list_folder(directory, self.name)
            yield from (one for one in folder.skipped if one.path.name in names | {directory.name})
            for name in sorted(names - folder.files.keys()):
                if not any(one.path.name == name for one in folder.skipped):
                    reason = f"{owner} lists it and it is not there; install the package again"
                    yield Skipped(directory / name, reason, self.name)
            for name in [one for one in folder.files if _suffix(one) in SUFFIXES]:
                if name not in names:
                    del folder.files[name]
            folder.skipped.clear()
            root = _top(site, directory)
            for found in assemble_folder(folder, root, self.name, progress, cache):
                yield found if isinstance(found, Skipped) else self._named(found, owner)

    def _named(self, model: ModelMetadata, owner: str) -> ModelMetadata:
        self._owners[model.path] = owner
        named = model.name if _plain(owner) in _plain(model.name) else f"{owner}/{model.name}"
        notes = (*model.notes, f"part of the Python package {owner}: it goes when that goes")
        return replace(model, name=printable(named), notes=notes)


def _distributions(site: Path) -> list[tuple[Path, str]]:
    """Return the metadata directory and the name of every distribution in a directory.

    Raises
    ------
    OSError
        If there is a directory and it cannot be listed.
    """
    try:
        with os.scandir(site) as entries:
            names = sorted(one.name for one in entries if one.name.endswith(".dist-info"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []  # ``sys.path`` names what does not exist, and archives
    return [
        (site / name, printable(match["name"].replace("_", "-")))
        for name in names
        if (match := _INFO.match(name)) is not None
    ]


def _any_distribution(site: Path) -> bool:
    try:
        return bool(_distributions(site))
    except OSError:
        return False  # ``discover`` says so


def _read_record(record: Path) -> tuple[str, ...] | str:
    try:
        with FileWindow(record) as window:
            if window.size > limits.INDEX_BYTES:
                return f"has {window.size} bytes; at most {limits.INDEX_BYTES} are read"
            raw = window.head(window.size)
    except ModelFileError as error:
        return clean(str(error), 400)
    found: dict[str, None] = {}
    # Most lists name thousands of modules and no model: only lines with a suffix are parsed.
    for suffix in sorted(SUFFIXES.keys() - _NOT_HERE):
        mark = suffix.encode()
        position = raw.find(mark)
        while position >= 0:
            end = raw.find(b"\n", position)
            end = len(raw) if end < 0 else end
            if raw[position + len(mark) : position + len(mark) + 1] in (b",", b'"'):
                start = raw.rfind(b"\n", 0, position) + 1
                for _ in range(_LINES):  # a name in quotes may hold a line break
                    if raw.count(b'"', start, end) % 2 == 0 or not start:
                        break
                    start = raw.rfind(b"\n", 0, start - 1) + 1
                name = _model(raw[start:end].decode("utf-8", "surrogateescape"))
                if name is not None:
                    found[name] = None
            position = raw.find(mark, end)
    return tuple(sorted(found))


def _model(line: str) -> str | None:
    """Return the file that a line lists, if it is large enough and not a test's."""
    try:
        row = next(csv.reader([line]), [])
    except csv.Error:
        return None
    if len(row) != 3 or not row[2].isascii() or not row[2].isdigit() or len(row[2]) > 18:
        return None
    parts = row[0].lower().split("/")
    small = int(row[2]) < _SMALLEST
    wanted = _suffix(row[0]) in SUFFIXES.keys() - _NOT_HERE
    return row[0] if wanted and not small and not _TESTS.intersection(parts[:-1]) else None


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2].lower()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "", name.lower())


def _prefix(site: Path) -> Path:
    """Return the directory of the environment that a ``site-packages`` belongs to."""
    last = next((one for one in site.parents if one.name == "lib"), None)
    # What lies right in "/lib" would make all of the disk the environment.
    return site if last is None or last.parent == last.parent.parent else last.parent


def _top(site: Path, directory: Path) -> Path:
    """Return the directory of the package, above which nothing belongs to it."""
    if directory == site or not directory.is_relative_to(site):
        return directory
    return site / directory.relative_to(site).parts[0]
