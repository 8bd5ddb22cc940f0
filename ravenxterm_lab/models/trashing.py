"""The registry's part that frees space: what could go, the trash, and the way back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import TrashError, UnknownModelError, did_you_mean
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.space import ModelCopy
from ravenxterm_lab.models.space_reading import read_space
from ravenxterm_lab.models.trash_report import TrashItem, TrashReport
from ravenxterm_lab.tables import printable
from ravenxterm_lab.trash import Stock, Trash, Trashed, noted, open_elsewhere, take_stock
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ravenxterm_lab.discovery import ScanCache, Source
    from ravenxterm_lab.models.space import SpaceReport
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.trash import Comparison, Holding, Item, Plan

__all__ = ["Housekeeping"]

#: A leftover that changed so recently may be of a download that goes on (s).
_RECENT = 600.0


class Housekeeping:
    """What a registry offers to see and free the space that models take."""

    _bench: Workbench
    _cache: ScanCache
    _comparison: Comparison
    _sources: list[Source]

    if TYPE_CHECKING:

        @property
        def available_models(self) -> Mapping[str, ModelMetadata]:
            """The models by name."""

        @property
        def next_step(self) -> str:
            """What to run next."""

    def space(self, unused_days: float = 30.0) -> SpaceReport:
        """Say what the models take on disk and what could be freed; nothing is changed.

        Parameters
        ----------
        unused_days : float
            For how long a model must not have been used to be called unused. One that is not
            known for that long is not. Uses are the executions and loads that were recorded.

        Returns
        -------
        SpaceReport
            By model, those that free the most first. Copies are told by their header and by
            samples; ``trash`` compares all of their bytes before it takes one for a copy.

        Raises
        ------
        TrashError
            If ``unused_days`` is negative.
        """
        _check_days("unused_days", unused_days)
        models = self.available_models
        held = sum(one.bytes for one in self._trash().entries())
        found = read_space(self._bench, self._stock(), models, unused_days, held)
        return found if models else replace(found, next_step=self.next_step)

    def trash(
        self,
        names: str | os.PathLike[str] | ModelMetadata | ModelCopy | Iterable[Any],
        *,
        everywhere: bool = False,
        dry_run: bool = False,
    ) -> TrashReport:
        """Move models to the trash, from where ``restore`` brings them back.

        The files move by renaming, on their own file system. What another model, revision or
        tag uses stays, and so do other places of the same model: the report says so. What is
        taken for a copy is first compared with what it is a copy of, byte by byte; if it differs,
        it is left, and the report says so.

        Parameters
        ----------
        names : str, path, ModelMetadata, ModelCopy, or several of them
            Models by name; copies that ``space`` lists, such as all of ``space().copies``, each
            under all of its names; the path of one place or of a leftover, for just that, copy
            or not; or the id of an interrupted move, to complete it.
        everywhere : bool
            Take every place of a model, its copies too.
        dry_run : bool
            Only say what would move and what that would free.

        Returns
        -------
        TrashReport
            What moved; the models leave ``available_models`` with the next scan.

        Raises
        ------
        UnknownModelError
            If no model, copy or leftover is called that.
        TrashError
            If one is in use, changed since it was scanned, or cannot be moved; those that are
            named after it are not touched, and the message says which before it were moved.
        """
        stock, trash = self._stock(), self._trash()
        cut_short = {one.id: one for one in trash.entries() if one.state == "interrupted"}
        asked = _several(names)
        to_finish = [one for name, one in cut_short.items() if name in asked]
        plans: list[tuple[str, Plan, tuple[str, ...]]] = []
        left_alone: list[TrashItem] = []
        left = stock
        for one in asked:
            if one in cut_short:
                continue
            name, holdings, notes = self._wanted(stock, one, everywhere=everywhere)
            if not holdings:
                assert isinstance(one, ModelCopy)
                left_alone.append(
                    TrashItem(name, one.path, one.source, (), 0, None, "left", None, notes)
                )
            there = [place for place in holdings if left.has(place)]
            if there:
                plan = left.plan(there)
                trash.check(plan)
                reasons = self._in_use(plan.items)
                if reasons:
                    raise TrashError(f"{printable(name)} is in use: {'; '.join(reasons)}.")
                plans.append((name, plan, (*plan.notes, *notes)))
                left = left.without(plan.holdings)
        if not dry_run:
            to_finish = [trash.finish(one.id) for one in to_finish]
        moved = [_item(one, one.state) for one in to_finish]
        for name, plan, notes in plans:
            if dry_run:
                moved.append(_planned(name, plan, notes))
                continue
            try:
                done = trash.put(plan, name=name, in_use=self._in_use)
            except TrashError as error:
                if not moved:
                    raise
                before = ", ".join(one.name for one in moved)
                raise TrashError(f"{error} In the trash already: {before}.") from error
            moved.extend(_item(one, one.state, notes) for one in done)
        if moved and not dry_run:
            self._bench.messages.add(
                "info", "trash", f"Moved to the trash: {', '.join(one.name for one in moved)}."
            )
        action = "would be moved to the trash" if dry_run else "moved to the trash"
        return TrashReport(action, (*moved, *left_alone))

    def trashed(self) -> TrashReport:
        """Return what is in the trash, the oldest first."""
        entries = self._trash().entries()
        return TrashReport("in the trash", tuple(_item(one, one.state) for one in entries))

    def restore(self, id_or_name: str) -> TrashReport:
        """Move what is in the trash back to where it was.

        Parameters
        ----------
        id_or_name : str
            An id that ``trashed`` lists; or a name, for everything that has it.

        Raises
        ------
        UnknownModelError
            If nothing in the trash is called that.
        TrashError
            If a place is taken again: nothing is overwritten. What is not back then is still
            in the trash.
        """
        trash = self._trash()
        entries = trash.entries()
        found = [one for one in entries if id_or_name in {one.id, one.name}]
        if not found:
            hint = did_you_mean(id_or_name, {one.name for one in entries} | {o.id for o in entries})
            hint = hint or " The trash is empty."
            raise UnknownModelError(f"Nothing in the trash is called {id_or_name!r}.{hint}")
        # The last one first: what several models shared went with the last of them.
        done = [trash.restore(one.id) for one in reversed(found)]
        return TrashReport("restored", tuple(_item(one, "restored") for one in done))

    def empty_trash(self, older_than_days: float | None = None, *, confirm: bool = False) -> int:
        """Delete what is in the trash for good: the only call that deletes a model.

        Parameters
        ----------
        older_than_days : float, optional
            Only what was trashed at least so many days ago.
        confirm : bool
            Must be True.

        Returns
        -------
        int
            Bytes freed. Interrupted moves are kept, to be restored or completed.

        Raises
        ------
        TrashError
            Without ``confirm=True``, and when something cannot be deleted.
        """
        days = 0.0 if older_than_days is None else older_than_days
        _check_days("older_than_days", days)
        trash = self._trash()
        if confirm is not True:
            entries = [one for one in trash.entries() if one.state == "complete"]
            size = format_bytes(sum(one.bytes for one in entries))
            count = format_number(len(entries), "model")
            raise TrashError(
                f"Nothing was deleted: the trash holds {count} ({size}), and emptying it cannot "
                "be undone. Say empty_trash(confirm=True) to delete."
            )
        return trash.empty(older_than_days=days)

    def _trash(self) -> Trash:
        roots = [root for source in self._sources for root in source.roots()]
        folders = [root.parent if root.is_file() else root for root in roots]
        return Trash(self._bench.paths.home, tuple(dict.fromkeys(folders)))

    def _stock(self) -> Stock:
        return take_stock(self._sources, self._cache)

    def _wanted(
        self, stock: Stock, name: object, *, everywhere: bool
    ) -> tuple[str, list[Holding], tuple[str, ...]]:
        """Return what it is called, the places to take, and what is to be said of the others."""
        models = self.available_models
        model = name if isinstance(name, ModelMetadata) else None
        if isinstance(name, str):
            model = models.get(name)
        if model is not None:
            places = stock.of(model)
            owners = [one for one in self._sources if one.name == model.source]
            if not places and owners and not owners[0].removable():
                what = "; ".join(model.notes) or f"its files belong to {model.source}"
                raise TrashError(f"{printable(model.name)} cannot be moved to the trash: {what}.")
            if not places:
                raise TrashError(
                    f"{printable(model.name)} is no longer what was scanned, or is gone. Scan "
                    "again; nothing was moved."
                )
            return model.name, *self._chosen(stock, places[0], places, everywhere=everywhere)
        if isinstance(name, ModelCopy):
            return name.model, *self._copy(stock, name)
        if isinstance(name, (str, os.PathLike)):
            place = stock.at(Path(os.path.abspath(os.fspath(name))))  # noqa: PTH100 - tidies ".."
            if place is not None:
                return self._at(stock, place, everywhere=everywhere)
        hint = did_you_mean(str(name), models) or " The registry is empty."
        raise UnknownModelError(
            f"No model, copy or leftover is called {str(name)!r}.{hint} space() lists them."
        )

    def _at(
        self, stock: Stock, place: Holding, *, everywhere: bool
    ) -> tuple[str, list[Holding], tuple[str, ...]]:
        if place.model is None:
            _check_quiet(place)
            return place.path.name, [place], ()
        mark = (place.model.model_type, place.model.fingerprint)
        named = (m for m in self.available_models.values() if (m.model_type, m.fingerprint) == mark)
        name = next(named, place.model).name
        places = stock.of(place.model)
        return name, *self._chosen(stock, place, places, everywhere=everywhere)

    def _chosen(
        self, stock: Stock, first: Holding, places: Sequence[Holding], *, everywhere: bool
    ) -> tuple[list[Holding], tuple[str, ...]]:
        """Return one place, with its true copies if they go too, and what is said of others."""
        copies, notes = self._comparison.copies(first, (one for one in places if one != first))
        if everywhere:
            return [first, *copies], notes
        return [first], (*_elsewhere(copies, stock, [first]), *notes)

    def _copy(self, stock: Stock, copy: ModelCopy) -> tuple[list[Holding], tuple[str, ...]]:
        """Return the names of a copy that are one of what would be kept, and why others are not."""
        there = [one for path in (copy.path, *copy.names) if (one := stock.at(path)) is not None]
        model = there[0].model if there else None
        places = stock.of(model) if model is not None else []
        kept = next((one for one in places if one not in there), None)
        if kept is None:
            raise TrashError(
                f"{printable(copy.path)} is gone, or is the only place of {printable(copy.model)} "
                "by now. See space() again; nothing was moved."
            )
        taken, notes = self._comparison.copies(kept, (one for one in there if one in places))
        return taken, (*(_elsewhere([kept], stock, taken) if taken else ()), *notes)

    def _in_use(self, items: Sequence[Item]) -> list[str]:
        """Return why files are in use: loaded here, open in another process, or being written."""
        paths = {item.path for item in items}
        marks = {(item.device, item.inode) for item in items if item.target is None}
        reasons: dict[str, None] = {}
        # The pool is made at its first use; without it nothing is loaded.
        pool = vars(self._bench).get("pool")
        for one in pool.resident() if pool is not None else ():
            files = [one.model.path, *one.model.shards, *one.model.companions]
            behind = {(s.device, s.inode) for f in files if (s := noted(_real(f))) is not None}
            if paths.intersection(files) or marks & behind:
                reasons["it is loaded; manager.close() unloads what is idle"] = None
        reasons.update(dict.fromkeys(open_elsewhere(items)))
        return list(reasons)


def _check_quiet(leftover: Holding) -> None:
    """Refuse what a download that is going on may need."""
    found = [item.mtime_ns for item in map(noted, leftover.entries) if item is not None]
    age = time.time() - max(found, default=0) / 1e9
    if age < _RECENT:
        raise TrashError(
            f"{printable(leftover.path)} changed {format_seconds(max(age, 0.0))} ago: a download "
            f"may be going on. Wait {format_seconds(_RECENT)} after its end; nothing was moved."
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _several(names: object) -> list[object]:
    if isinstance(names, (str, os.PathLike, ModelMetadata)) or not isinstance(names, Iterable):
        return [names]
    return list(dict.fromkeys(names))


def _elsewhere(
    others: Sequence[Holding], stock: Stock, taken: Sequence[Holding]
) -> tuple[str, ...]:
    """Return what is to be said of the places that stay."""
    staying = [one for one in others if one not in stock.plan(taken).holdings]
    if not staying:
        return ()
    more = f" and {len(staying) - 1} more" if len(staying) > 1 else ""
    return (f"still at {staying[0].path}{more}; everywhere=True takes every place",)


def _planned(name: str, plan: Plan, notes: tuple[str, ...]) -> TrashItem:
    first = plan.holdings[0]
    files = tuple(item.path for item in plan.items)
    return TrashItem(name, first.path, first.source, files, plan.freed_bytes, notes=notes)


def _item(one: Trashed, state: str, notes: tuple[str, ...] = ()) -> TrashItem:
    return TrashItem(
        one.name, one.path, one.source, one.files, one.bytes, one.id, state, one.time, notes
    )


def _check_days(name: str, days: object) -> None:
    number = isinstance(days, (int, float)) and not isinstance(days, bool)
    if not number or not 0 <= float(str(days)) <= 36_500:
        raise TrashError(f"{name} must be a number of days from 0 to 36,500, got {days!r}.")
