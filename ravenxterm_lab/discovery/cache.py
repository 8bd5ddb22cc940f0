"""What earlier scans read, so that an unchanged file is not read again."""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ravenxterm_lab.discovery.budget import Budget
from ravenxterm_lab.discovery.facts_json import FORMAT, Facts, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.readers import FileFacts, ModelConfig
    from ravenxterm_lab.readers.model_card import ModelCard

__all__ = ["APART", "HEADER", "Passing", "Remembered", "ScanCache"]

#: What the path of a model's first file is followed by where more than its facts is remembered:
#: the digest of its whole header, and that this told it from another one.
HEADER, APART = " and its whole header", " told apart by its header"

_T = TypeVar("_T")


class Passing(str):
    """A reason that may have gone at the next look, such as a permission; never remembered."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was read of one model, in the form in which it is kept between processes.

    Attributes
    ----------
    path : str
        Its first file.
    signature : str
        What the facts were read from: sizes, times and inodes of the files, and the readers.
    facts : object
        As JSON can hold it.
    """

    path: str
    signature: str
    facts: Any


class ScanCache:
    """Remembers results by what they were computed from.

    The signature of a model is the path, size, modification time and inode of every file that
    its entry depends on. Held by a registry; used by one scan at a time.

    Parameters
    ----------
    budget : Budget, optional
        What each scan may take.

    Attributes
    ----------
    misses : int
        Results that had to be computed since ``begin``.
    budget : Budget
    shared : dict
        Facts and fingerprint of the files of each model that this scan read, by their inodes.
    beside : set of str
        Paths, each with ``HEADER`` or ``APART``, of which such a thing is remembered.
    cards, configs : dict
        What this scan read of the files that describe models, by their inodes.
    """

    __slots__ = (
        "_decoded", "_entries", "_folders", "_folders_seen", "_known", "_lost", "_merged", "_met",
        "_news", "_seen", "beside", "budget", "cards", "configs", "misses", "shared",
    )  # fmt: skip

    def __init__(self, budget: Budget | None = None) -> None:
        self._entries: dict[Hashable, tuple[Hashable, object]] = {}
        self._seen: set[Hashable] = set()
        self._met: list[Hashable] = []
        self._folders: dict[Hashable, tuple[Hashable, tuple[Hashable, ...], object]] = {}
        self._folders_seen: set[Hashable] = set()
        self._decoded: dict[str, Facts] = {}
        self._known: dict[str, tuple[str, object]] = {}
        self._news: dict[str, tuple[Hashable, Facts]] = {}
        self._lost: dict[str, None] = {}
        self.misses = 0
        self.budget = budget or Budget()
        self._merged: tuple[list[ModelMetadata], dict[str, ModelMetadata]] = ([], {})
        self.beside: set[str] = set()
        self.shared: dict[Hashable, tuple[FileFacts, str]] = {}
        self.cards: dict[Hashable, ModelCard] = {}
        self.configs: dict[Hashable, ModelConfig] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self) -> None:
        """Start a scan."""
        self._seen.clear()
        self._folders_seen.clear()
        self.shared.clear()
        self.cards.clear()
        self.configs.clear()
        self.misses = 0
        self.budget.begin()

    def end(self) -> None:
        """End a scan: forget what it did not meet."""
        self.shared.clear()
        self.cards.clear()
        self.configs.clear()
        # One that ended early did not meet everything that is there.
        if not self.budget.reason:
            self._lost.update(dict.fromkeys(self._known))
            self._known.clear()
            self._decoded.clear()
            for key in self._entries.keys() - self._seen:
                del self._entries[key]
                if isinstance(key, tuple) and key[0] == "facts":
                    self._lost[key[1]] = None
            if self.beside:
                self.beside = {path for path in self.beside if ("facts", path) in self._entries}
            for key in self._folders.keys() - self._folders_seen:
                del self._folders[key]

    def get(
        self, key: Hashable, signature: Hashable, compute: Callable[[], _T], *, count: bool = True
    ) -> _T:
        """Return the remembered result of an equal signature, else compute and remember it.

        Parameters
        ----------
        key : hashable
            What the result is of, such as a path.
        signature : hashable
            What it depends on, such as size and modification time.
        compute : callable
            Makes the result.
        count : bool
            Whether computing it is a miss.
        """
        self._seen.add(key)
        self._met.append(key)
        known = self._entries.get(key)
        if known is not None and known[0] == signature:
            return known[1]  # type: ignore[return-value]  # one key always holds one kind of result
        self.misses += count
        value = compute()
        if not isinstance(value, Passing):
            self._entries[key] = (signature, value)
        return value

    def folder(
        self, key: Hashable, signature: Hashable, compute: Callable[[], tuple[_T, bool]]
    ) -> _T:
        """Return what a directory held, if nothing that this depends on has changed.

        Parameters
        ----------
        key : hashable
            Which directory, and how it was reached.
        signature : hashable
            Its names, and what its files are recognised by.
        compute : callable
            Makes the result, and says whether to remember it; what it gets from this cache
            counts as met whenever the result is returned.
        """
        known = self._folders.get(key)
        if known is not None and known[0] == signature:
            self._folders_seen.add(key)
            self._seen.update(known[1])
            return known[2]  # type: ignore[return-value]  # one key always holds one kind of result
        self._met = []
        value, lasting = compute()
        if lasting:
            self._folders[key] = (signature, tuple(self._met), value)
            self._folders_seen.add(key)
        return value

    def facts(self, path: str, signature: Hashable, compute: Callable[[], Facts]) -> Facts:
        """Return what is known of a model's files, also from earlier processes.

        Parameters
        ----------
        path : str
            The first file.
        signature : hashable
            What the facts depend on; its ``repr`` is the same in every process.
        compute : callable
            Reads the files; what it returns is what ``facts_json`` can write.
        """
        key = ("facts", path)
        known = self._entries.get(key)
        if known is None or known[0] != signature:
            self._recall(key, path, signature)
        before = self.misses
        value = self.get(key, signature, compute)
        if self.misses > before and not isinstance(value, Passing):
            self._news[path] = (signature, value)
        return value

    def beside_facts(self, path: str, signature: Hashable, compute: Callable[[], Facts]) -> Facts:
        """Return what is remembered beside the facts of a model; computing it is no miss.

        Parameters
        ----------
        path : str
            The first file, with ``HEADER`` or ``APART``.
        signature : hashable
        compute : callable
            As for ``facts``.
        """
        before = self.misses
        value = self.facts(path, signature, compute)
        self.misses = before
        self.beside.add(path)
        return value

    def signature(self, path: str) -> Hashable:
        """Return what the facts of a model were read from; None where they were not read here."""
        known = self._entries.get(("facts", path))
        return None if known is None else known[0]

    def merged(self, found: list[ModelMetadata]) -> dict[str, ModelMetadata] | None:
        """Return what the last scan made of these models, if it found the very same ones.

        Parameters
        ----------
        found : list of ModelMetadata
            In the order in which the sources yielded them.
        """
        last, made = self._merged
        if len(last) != len(found) or not all(map(operator.is_, last, found)):
            return None
        self._seen.update(("facts", path) for path in self.beside)
        return made

    def keep_merged(self, found: list[ModelMetadata], made: dict[str, ModelMetadata]) -> None:
        """Keep what was made of the models that a scan found.

        Parameters
        ----------
        found : list of ModelMetadata
            As for ``merged``.
        made : dict of str to ModelMetadata
            By unique name.
        """
        self._merged = (found, made)

    def remember(self, rows: Iterable[tuple[object, object, object]]) -> None:
        """Take what earlier processes read: path, signature and facts as JSON text.

        Whatever is not of our own making is passed over when it is asked for: the files are
        then read.
        """
        for path, signature, facts in rows:
            if isinstance(path, str) and isinstance(signature, str):
                self._known[path] = (signature, facts)
                if path.endswith((HEADER, APART)):
                    self.beside.add(path)

    def news(self) -> Iterator[Remembered]:
        """Yield, and forget, what was read since the last call."""
        while self._news:
            path, (signature, value) = self._news.popitem()
            yield Remembered(path, _digest(signature), encode(value))

    def lost(self) -> Iterator[str]:
        """Yield, and forget, the first files that were known and that no scan met since."""
        while self._lost:
            yield self._lost.popitem()[0]

    def _recall(self, key: Hashable, path: str, signature: Hashable) -> None:
        """Move what an earlier process read to what is known, if it still holds."""
        stored = self._known.pop(path, None)
        if stored is None or stored[0] != _digest(signature):
            return
        text = stored[1]
        # Revisions with the same blobs have the same facts.
        if not isinstance(text, str):
            return
        if text not in self._decoded:
            try:
                self._decoded[text] = decode(text)
            except (ValueError, TypeError, RecursionError):
                return  # damaged, or of somebody else's making
        self._entries[key] = (signature, self._decoded[text])


def _digest(signature: Hashable) -> str:
    text = f"{FORMAT}:{signature!r}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
