"""From slots to Arrow tables, one per table of events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.store.arrow import constant, dictionary, fixed, merged, number_maps, scattered
from ravenxterm_lab.store.schema import CONTEXT, IN_SLOT, KIND_OF, PACKABLE, ROLLUPS, TABLES
from ravenxterm_lab.store.segments import KIND, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from ravenxterm_lab.store.payloads import Numbers
    from ravenxterm_lab.store.snapshot import Rows

__all__ = ["decode", "select_list"]

_TABLE_OF_KIND = {kind: name for name, kind in KIND_OF.items()}
_IN_SLOT = IN_SLOT[:3]
#: Contexts are numbered by their place in the sidecar: up to here a table of them is small.
_SMALL = 1 << 20


def select_list(table: str) -> str:
    """Return the SQL that turns the Arrow columns of ``table`` into those of the schema."""
    columns = ROLLUPS[table] if table in ROLLUPS else TABLES[table].all_columns
    return ", ".join(f'"{name}"::{sql} AS "{name}"' for name, sql in columns.items())


def decode(batches: Iterable[Rows]) -> dict[str, pa.Table]:
    """Build one Arrow table for each table that has events.

    Parameters
    ----------
    batches : iterable of Rows
        What was read from segments, in any order.

    Returns
    -------
    dict of str to pyarrow.Table
        Columns as in `TABLES`, `COMMON` first; damaged events appear as messages.
    """
    import pyarrow as pa

    parts: dict[str, list[pa.Table]] = {}
    for rows in batches:
        kinds = (rows.slots["mark"] & KIND).astype(np.uint8)
        for kind in np.flatnonzero(np.bincount(kinds)).tolist():
            name = _TABLE_OF_KIND.get(kind)
            if name is not None:
                parts.setdefault(name, []).append(_table(name, rows, np.flatnonzero(kinds == kind)))
        if rows.damaged:
            parts.setdefault("messages", []).append(_damage(rows))
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


def _assemble(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    import pyarrow as pa

    names = list(TABLES[name].all_columns)
    return pa.Table.from_arrays([columns[column] for column in names], names=names)


def _table(name: str, rows: Rows, index: NDArray[np.intp]) -> pa.Table:
    slots = rows.slots if len(index) == len(rows.slots) else rows.slots[index]
    count = len(slots)
    columns: dict[str, pa.Array] = {
        "ts": fixed(slots["ts"] // 1000, "TIMESTAMP"),
        "session": constant(rows.session, count),
        "seq": fixed(slots["seq"], "UBIGINT"),
    }
    cells = _Cells(TABLES[name].columns, count)
    if name == "executions":
        for column in _IN_SLOT:
            columns[column] = fixed(slots[column], "DOUBLE", ~np.isnan(slots[column]))
        columns["success"] = fixed((slots["mark"] & SUCCESS) != 0, "BOOLEAN")
        columns |= _context_columns(rows, slots)
    place = np.cumsum(np.bincount(index, minlength=len(rows.slots))) - 1
    if name == "executions":
        for numbers in rows.numbers:
            cells.add_numbers(numbers, place[numbers.index])
    if rows.documents:
        document_of = rows.documents.get
        for at, original in enumerate(index.tolist()):
            document = document_of(original)
            if document is not None:
                cells.add_document(document, at)
    for column in TABLES[name].columns:
        if column not in columns:
            columns[column] = cells.column(column)
    return _assemble(name, columns)


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
        if name in self._blocks:
            return merged(self._blocks[name], values, at, kind, self._count)
        return scattered(values, at, kind, self._count)


def _context_columns(rows: Rows, slots: NDArray[np.void]) -> dict[str, pa.Array]:
    entries, inverse = _distinct(slots["context"])
    contexts = [rows.contexts[entry] for entry in entries.tolist()]
    columns = {
        column: dictionary([context[i] for context in contexts], inverse)
        for i, column in enumerate(CONTEXT)
        if column != "external"
    }
    external = np.array([context[CONTEXT.index("external")] for context in contexts], dtype=bool)
    columns["external"] = fixed(external[inverse], "BOOLEAN")
    return columns


def _distinct(values: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """`numpy.unique` with its inverse, without the sort that takes most of its time."""
    if not len(values) or int(values.max()) >= _SMALL:
        entries, inverse = np.unique(values, return_inverse=True)
        return entries, inverse
    entries = np.flatnonzero(np.bincount(values)).astype(np.uint32)
    number = np.empty(int(values.max()) + 1, dtype=np.intp)
    number[entries] = np.arange(len(entries))
    return entries, number[values]


def _damage(rows: Rows) -> pa.Table:
    """Turn damaged events into warnings under their own numbers, so that no number is missing."""
    count = len(rows.damaged)
    texts = [f"event {rows.session}:{seq} was skipped: {why}" for seq, why in rows.damaged]
    columns: dict[str, pa.Array] = {
        "ts": fixed(np.full(count, time.time_ns() // 1000), "TIMESTAMP"),
        "session": constant(rows.session, count),
        "seq": fixed(np.array([seq for seq, _ in rows.damaged], dtype="u8"), "UBIGINT"),
        "level": constant("warning", count),
        "subject": constant("store", count),
        "text": scattered(texts, list(range(count)), "VARCHAR", count),
    }
    return _assemble("messages", columns)
