"""What holds a model's bytes on disk: every place of it, and what else leads to the same files.

A *holding* is one place of one model: a set of files in a directory, one revision of a hub
repository, one manifest of an Ollama store; or a file that no model needs. The *stock* is all of
them, with the directory entries that lead to each blob, so that it can be said what would go with
a holding, what would stay because something else needs it, and how many bytes that frees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.discovery.apart import tell_apart
from ravenxterm_lab.discovery.base import Skipped
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.walk import UNFINISHED
from ravenxterm_lab.trash.blobs import (
    BlobUses,
    hub_revision,
    is_ollama_store,
    revision_entries,
)
from ravenxterm_lab.trash.removal import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from ravenxterm_lab.discovery.base import Source
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Holding", "Stock", "take_stock"]


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """One place of one model, or a file that no model needs.

    Attributes
    ----------
    model : ModelMetadata or None
        As its source found it there; None for a file that no model needs.
    path : Path
        Its first file; in an Ollama store, its manifest.
    source : str
        The store that it was found in.
    root : Path
        The directory of that store.
    entries : tuple of Path
        The directory entries that are this holding and nothing else's.
    companions : tuple of Path
        Entries that other models of the store may use too.
    revision : Path or None
        The hub revision that it lies in.
    kind : str
        ``"model"``, ``"incomplete"`` (a download that is not finished) or ``"orphan"`` (a blob
        that no revision or manifest names).
    """

    model: ModelMetadata | None
    path: Path
    source: str
    root: Path
    entries: tuple[Path, ...]
    companions: tuple[Path, ...] = ()
    revision: Path | None = None
    kind: str = "model"


@dataclass(slots=True)
class Stock:
    """Every holding of some sources, at one moment.

    Attributes
    ----------
    holdings : list of Holding
        Models, in the order of the sources.
    leftovers : list of Holding
        Unfinished downloads and orphaned blobs.
    roots : tuple of Path
        Directories of the sources.
    uses : BlobUses
        What leads to each blob, and to each file that a link leads to.
    skipped : tuple of Skipped
        What the sources did not take.
    """

    holdings: list[Holding] = field(default_factory=list)
    leftovers: list[Holding] = field(default_factory=list)
    roots: tuple[Path, ...] = ()
    uses: BlobUses = field(default_factory=BlobUses)
    skipped: tuple[Skipped, ...] = ()
    _by_folder: dict[Path, set[Path]] = field(default_factory=dict)
    _entries: dict[Path, list[Path]] = field(default_factory=dict)
    _by_entry: dict[Path, list[Holding]] = field(default_factory=dict)
    _by_revision: dict[Path, list[Holding]] = field(default_factory=dict)
    _by_mark: dict[tuple[str, str], list[Holding]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.skipped:
            self._by_folder.setdefault(one.path.parent, set()).add(one.path)

    def skipped_in(self, folder: Path) -> set[Path]:
        """Return what the sources did not take of a directory."""
        return self._by_folder.get(folder, set())

    def add(self, holding: Holding) -> None:
        """Add the holding of a model."""
        self.holdings.append(holding)
        if holding.model is not None:
            self._by_mark.setdefault(_mark(holding.model), []).append(holding)
        for path in dict.fromkeys((*holding.entries, *holding.companions)):
            self._by_entry.setdefault(path, []).append(holding)
        if holding.revision is not None:
            self._by_revision.setdefault(holding.revision, []).append(holding)

    def has(self, holding: Holding) -> bool:
        """Say whether a holding is of this stock."""
        return holding in self.with_entry(holding.entries[0]) or holding in self.leftovers

    def with_entry(self, path: Path) -> list[Holding]:
        """Return the holdings that a directory entry is of, as weights or as a companion."""
        return self._by_entry.get(path, [])

    def revision_entries(self, revision: Path) -> list[Path]:
        """Return what goes with a whole hub revision."""
        found = self._entries.get(revision)
        if found is None:
            found = self._entries[revision] = revision_entries(revision)
        return found

    def in_revision(self, revision: Path) -> list[Holding]:
        """Return the holdings of a hub revision."""
        return self._by_revision.get(revision, [])

    def of(self, model: ModelMetadata) -> list[Holding]:
        """Return every place of a model, the one at its ``path`` first.

        A link to another place of the model comes after what it leads to.
        """
        places = self._by_mark.get(_mark(model), [])
        tag = model.name.rpartition("/")[2].replace(":", "/")

        def order(one: Holding) -> tuple[bool, bool, bool]:
            assert one.model is not None
            link = one.revision is None and one.path.is_symlink()
            return link, one.model.path != model.path, not str(one.path).endswith(f"/{tag}")

        return sorted(places, key=order)

    def at(self, path: Path) -> Holding | None:
        """Return the holding that a path is of, if any."""
        for one in (*self.holdings, *self.leftovers):
            if path == one.path or path in one.entries:
                return one
            if one.model is not None and path == one.model.path:
                return one
        return None

    def without(self, gone: Collection[Holding]) -> Stock:
        """Return the stock that is left when some holdings have gone."""
        plan = self.plan(tuple(gone))
        left = Stock(
            [],
            [one for one in self.leftovers if one not in gone],
            self.roots,
            self.uses.without({item.path for item in plan.items}),
            self.skipped,
        )
        for one in self.holdings:
            if one not in plan.holdings:
                left.add(one)
        return left

    def plan(self, holdings: Sequence[Holding]) -> Plan:
        """Say what would go with some holdings; nothing is changed."""
        return make_plan(self, holdings)

    def inodes(self, holdings: Iterable[Holding]) -> dict[tuple[int, int], int]:
        """Return device, inode and size (bytes) of every file behind some holdings.

        Each file is there once, however many names or links lead to it.
        """
        found: dict[tuple[int, int], int] = {}
        for path in self.files(holdings):
            try:
                status = path.stat()
            except OSError:
                continue  # a companion that was removed meanwhile takes nothing
            found[status.st_dev, status.st_ino] = status.st_size
        return found

    def files(self, holdings: Iterable[Holding]) -> Iterator[Path]:
        """Yield the entries and companions of some holdings, and the blobs behind manifests."""
        for one in holdings:
            yield from one.entries
            yield from one.companions
            for entry in one.entries:
                yield from self.uses.of_manifest(entry)


def _mark(model: ModelMetadata) -> tuple[str, str]:
    return model.model_type.value, model.fingerprint


def take_stock(sources: Iterable[Source], cache: ScanCache | None = None) -> Stock:
    """Look into every source again, and note each place apart.

    Parameters
    ----------
    sources : iterable of Source
    cache : ScanCache, optional
        That of the scans of these sources: what did not change is not read again.
    """
    cache = ScanCache() if cache is None else cache
    cache.begin()
    found: list[tuple[ModelMetadata, Path]] = []
    skipped: list[tuple[Skipped, Path]] = []
    roots: list[Path] = []
    single: set[Path] = set()
    for source in sources:
        if not source.removable():
            continue
        for root in source.roots():
            if root.is_file():
                single.add(root.parent)
            roots.append(root.parent if root.is_file() else root)
        here = roots[len(roots) - len(source.roots()) :]
        for one in source.discover(None, cache):
            root = next((r for r in here if one.path.is_relative_to(r)), one.path.parent)
            if isinstance(one, Skipped):
                skipped.append((one, root))
            else:
                found.append((one, root))
    models = tell_apart([model for model, _ in found], cache)
    found = [(model, root) for model, (_, root) in zip(models, found, strict=True)]
    cache.end()
    stock = Stock(roots=tuple(dict.fromkeys(roots)), skipped=tuple(one for one, _ in skipped))
    _index(stock, found)
    seen: set[Path] = set()
    for model, root in found:
        for holding in _holdings(model, root, stock.uses, alone=root in single):
            if holding.path not in seen:
                seen.add(holding.path)
                stock.add(holding)
    stock.uses.add_links(entry for one in stock.holdings for entry in one.entries)
    _add_leftovers(stock, skipped)
    return stock


def _index(stock: Stock, found: list[tuple[ModelMetadata, Path]]) -> None:
    for root in stock.roots:
        if is_ollama_store(root):
            stock.uses.add_ollama(root)
        else:
            stock.uses.add_hub(root)
    for model, _ in found:
        revision = hub_revision(model.path)
        if revision is not None:
            stock.uses.add_repository(revision.parent.parent)


def _holdings(
    model: ModelMetadata, root: Path, uses: BlobUses, *, alone: bool
) -> Iterator[Holding]:
    store = model.path.parent.parent
    if store in uses.stores and model.path.parent.name == "blobs":
        for manifest in uses.manifests(model.path):
            yield Holding(model, manifest, model.source, store, (manifest,))
        return
    revision = hub_revision(model.path)
    entries = tuple(dict.fromkeys(model.shards or (model.path,)))
    # A registry of one file has not seen what else its directory's tokenizer serves.
    companions = () if alone else tuple(one for one in model.companions if one not in entries)
    yield Holding(model, model.path, model.source, root, entries, companions, revision)


def _add_leftovers(stock: Stock, skipped: list[tuple[Skipped, Path]]) -> None:
    found: dict[Path, Holding] = {}
    for path, kind in stock.uses.leftovers():
        store = path.parent.parent
        source, root = "huggingface", store.parent
        if store in stock.uses.stores:
            source, root = "ollama", store
        # The parts of one pull belong together.
        stem, partial, _ = path.name.partition("-partial")
        first = path.with_name(f"{stem}{partial}")
        entries = (*(found[first].entries if first in found else ()), path)
        found[first] = Holding(None, first, source, root, entries, kind=kind)
    for one, root in skipped:
        if one.path.suffix.lower() in UNFINISHED and os.path.lexists(one.path):
            entry = Holding(None, one.path, one.source, root, (one.path,), kind="incomplete")
            found.setdefault(one.path, entry)
    stock.leftovers.extend(found.values())
