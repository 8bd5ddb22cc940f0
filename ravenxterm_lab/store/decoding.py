"""From slots to Arrow tables, one per table of events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.store.arrow import (
    constant,
    dictionaries,
    dictionary,
    fixed,
    merged,
    nulls,
    number_maps,
    scattered,
)
from ravenxterm_lab.store.payloads import Numbers
from ravenxterm_lab.store.schema import CONTEXT, IN_SLOT, KIND_OF, PACKABLE, ROLLUPS, TABLES
from ravenxterm_lab.store.segments import KIND, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from ravenxterm_lab.store.snapshot import Rows

__all__ = ["decode", "select_list"]

_TABLE_OF_KIND = {kind: name for name, kind in KIND_OF.items()}
_IN_SLOT = IN_SLOT[:3]
#: Contexts are numbered by their place in the sidecar: up to here a table of them is small.
_SMALL = 4096
#: Batches of at most so many rows are put together.
_FEW = 8192


def select_list(table: str) -> str:
    """Return the SQL that turns the Arrow columns of ``table`` into those of the schema."""
    columns = ROLLUPS[table] if table in ROLLUPS else TABLES[table].all_columns
    # Arrow has every type but this one; each cast takes time whenever a view is bound.
    return ", ".join(
        f'"{name}"::JSON AS "{name}"' if sql == "JSON" else f'"{name}"'
        for name, sql in columns.items()
    )


def decode(batches: Iterable[Rows]) -> dict[str, pa.Table]:
    """Build one Arrow table for each table that has events.

    Parameters
    ----------
    batches : iterable of Rows
        What was read from segments, in any order.

    Returns
    -------
    dict of str to pyarrow.Table
        Columns as in `TABLES`, `COMMON` first; damaged events appear as messages. Rows of
        several small batches share one chunk.
    """
    import pyarrow as pa

    parts: dict[str, list[pa.Table]] = {}
    for group in _groups(batches):
        rows = _unite(group)
        kinds = (rows.slots["mark"] & KIND).astype(np.uint8)
        for kind in np.flatnonzero(np.bincount(kinds)).tolist():
            name = _TABLE_OF_KIND.get(kind)
            if name is not None:
                parts.setdefault(name, []).append(_table(name, rows, np.flatnonzero(kinds == kind)))
        parts.setdefault("messages", []).extend(_damage(one) for one in group if one.damaged)
    return {
        name: tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        for name, tables in parts.items()
        if tables
    }


def _groups(batches: Iterable[Rows]) -> Iterator[list[Rows]]:
    """Put small batches together: a few rows take hardly less time than a thousand."""
    group: list[Rows] = []
    for rows in batches:
        if sum(len(one.slots) for one in group) + len(rows.slots) > _FEW and group:
            yield group
            group = []
        group.append(rows)
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _United:
    """Several batches as one.

    Attributes
    ----------
    batches : list of Rows
        In order.
    slots : structured array, shape (n,)
        Those of the batches, one after the other.
    starts : array of int, shape (len(batches) + 1,)
        Where each batch begins, and where the last one ends.
    numbers, documents
        As those of `Rows`, with indices into ``slots``.
    """

    batches: list[Rows]
    slots: NDArray[np.void]
    starts: NDArray[np.intp]
    numbers: list[Numbers]
    documents: dict[int, dict[str, Any]]


def _unite(batches: list[Rows]) -> _United:
    starts = np.cumsum([0, *(len(rows.slots) for rows in batches)], dtype=np.intp)
    if len(batches) == 1:
        [rows] = batches
        return _United(batches, rows.slots, starts, list(rows.numbers), rows.documents)
    numbers = [
        Numbers(one.names, one.index + start, one.values)
        for rows, start in zip(batches, starts.tolist(), strict=False)
        for one in rows.numbers
    ]
    documents = {
        start + at: document
        for rows, start in zip(batches, starts.tolist(), strict=False)
        for at, document in rows.documents.items()
    }
    slots = np.concatenate([rows.slots for rows in batches])
    return _United(batches, slots, starts, numbers, documents)


def _assemble(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    import pyarrow as pa

    names = list(TABLES[name].all_columns)
    return pa.Table.from_arrays([columns[column] for column in names], names=names)


def _table(name: str, rows: _United, index: NDArray[np.intp]) -> pa.Table:
    whole = len(index) == len(rows.slots)
    slots = rows.slots if whole else rows.slots[index]
    # Where the rows of each batch begin among those of this table.
    starts = rows.starts if whole else np.searchsorted(index, rows.starts)
    count = len(slots)
    columns: dict[str, pa.Array] = {
        "ts": fixed(slots["ts"] // 1000, "TIMESTAMP"),
        "session": _sessions(rows, starts),
        "seq": fixed(slots["seq"], "UBIGINT"),
    }
    cells = _Cells(TABLES[name].columns, count)
    if name == "executions":
        for column in _IN_SLOT:
            columns[column] = fixed(slots[column], "DOUBLE", ~np.isnan(slots[column]))
        columns["success"] = fixed((slots["mark"] & SUCCESS) != 0, "BOOLEAN")
        columns |= _context_columns(rows.batches, slots["context"], starts)
        for numbers in rows.numbers:
            # Packed numbers belong to executions alone.
            at = numbers.index if whole else np.searchsorted(index, numbers.index)
            cells.add_numbers(numbers, at)
    if rows.documents:
        document_of = rows.documents.get
        for row, original in enumerate(index.tolist()):
            document = document_of(original)
            if document is not None:
                cells.add_document(document, row)
    for column in TABLES[name].columns:
        if column not in columns:
            columns[column] = cells.column(column)
    return _assemble(name, columns)


def _sessions(rows: _United, starts: NDArray[np.intp]) -> pa.Array:
    number: dict[str, int] = {}
    codes = [number.setdefault(batch.session, len(number)) for batch in rows.batches]
    return dictionary(list(number), np.repeat(np.array(codes, dtype="i4"), np.diff(starts)))


class _Cells:
    """The values of some rows beside those in the slots, column by column."""

    def __init__(self, kinds: Mapping[str, str], count: int) -> None:
        self._kinds = kinds
        self._count = count
        self._blocks: dict[str, list[tuple[NDArray[np.intp], NDArray[np.float64]]]] = {}
        self._others: list[tuple[NDArray[np.intp], tuple[str, ...], NDArray[np.float64]]] = []
        self._cells: dict[str, tuple[list[Any], list[int]]] = {name: ([], []) for name in kinds}

    def add_numbers(self, numbers: Numbers, at: NDArray[np.intp]) -> None:
        """Add named numbers for the rows ``at``."""
        other = [i for i, name in enumerate(numbers.names) if name not in PACKABLE]
        for i, name in enumerate(numbers.names):
            if name in PACKABLE:
                self._blocks.setdefault(name, []).append((at, numbers.values[:, i]))
        if other:
            names = tuple(numbers.names[i] for i in other)
            self._others.append((at, names, numbers.values[:, other]))

    def add_document(self, document: dict[str, Any], at: int) -> None:
        """Add what one event holds; what is no column is left out."""
        for name, value in document.items():
            cell = self._cells.get(name)
            if cell is not None and value is not None:
                cell[0].append(value)
                cell[1].append(at)

    def column(self, name: str) -> pa.Array:
        """Return one column, NULL where nothing was added."""
        values, at = self._cells[name]
        kind = self._kinds[name]
        if kind == "MAP(VARCHAR, DOUBLE)" and self._others:
            return number_maps(self._others, values, at, self._count)
        if name not in self._blocks and not values:
            return nulls(kind, self._count)
        if name in self._blocks:
            return merged(self._blocks[name], values, at, kind, self._count)
        return scattered(values, at, kind, self._count)


def _context_columns(
    batches: list[Rows], entries: NDArray[np.uint32], starts: NDArray[np.intp]
) -> dict[str, pa.Array]:
    """Build the columns of what is interned; equal contexts of two segments become one."""
    number: dict[tuple[Any, ...], int] = {}
    codes = np.empty(len(entries), dtype="i4")
    bounds = starts.tolist()
    for batch, start, stop in zip(batches, bounds, bounds[1:], strict=False):
        here, inverse = _distinct(entries[start:stop])
        known = [
            number.setdefault(tuple(batch.contexts[entry][: len(CONTEXT)]), len(number))
            for entry in here.tolist()
        ]
        codes[start:stop] = np.array(known, dtype="i4")[inverse]
    names = [column for column in CONTEXT if column != "external"]
    values = ([context[CONTEXT.index(name)] for context in number] for name in names)
    columns = dict(zip(names, dictionaries(values, codes), strict=True))
    external = np.array([context[CONTEXT.index("external")] for context in number], dtype=bool)
    columns["external"] = fixed(external[codes], "BOOLEAN")
    return columns


def _distinct(values: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """`numpy.unique` with its inverse, without the sort that takes most of its time."""
    if not len(values) or int(values.max()) >= 4 * len(values) + _SMALL:
        entries, inverse = np.unique(values, return_inverse=True)
        return entries, inverse
    entries = np.flatnonzero(np.bincount(values)).astype(np.uint32)
    number = np.empty(int(values.max()) + 1, dtype=np.intp)
    number[entries] = np.arange(len(entries))
    return entries, number[values]


def _damage(rows: Rows) -> pa.Table:
    """Turn damaged events into warnings under their own numbers, so that no number is missing."""
    count = len(rows.damaged)
    places = list(range(count))
    texts = [f"event {rows.session}:{seq} was skipped: {why}" for seq, why in rows.damaged]
    columns: dict[str, pa.Array] = {
        "ts": fixed(np.full(count, time.time_ns() // 1000), "TIMESTAMP"),
        "session": constant(rows.session, count),
        "seq": fixed(np.array([seq for seq, _ in rows.damaged], dtype="u8"), "UBIGINT"),
        "level": scattered(["warning"] * count, places, "VARCHAR", count),
        "subject": scattered(["store"] * count, places, "VARCHAR", count),
        "text": scattered(texts, places, "VARCHAR", count),
    }
    return _assemble("messages", columns)
