"""From slots to Arrow tables, one per table of events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.store.arrow import constant, dictionary, fixed, scattered
from ravenxterm_lab.store.schema import CONTEXT, KIND_OF, TABLES
from ravenxterm_lab.store.segments import SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from ravenxterm_lab.store.snapshot import Rows

__all__ = ["decode", "select_list"]

_TABLE_OF_KIND = {kind: name for name, kind in KIND_OF.items()}
_IN_SLOT = ("latency", "throughput", "memory_efficiency")


def select_list(table: str) -> str:
    """Return the SQL that turns the Arrow columns of ``table`` into those of the schema."""
    return ", ".join(
        f'"{name}"::{sql} AS "{name}"' for name, sql in TABLES[table].all_columns.items()
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
        Columns as in `TABLES`, `COMMON` first; damaged events appear as messages.
    """
    import pyarrow as pa

    parts: dict[str, list[pa.Table]] = {}
    for rows in batches:
        kinds = rows.slots["kind"]
        for kind in np.unique(kinds).tolist():
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
    slots = rows.slots[index]
    count = len(slots)
    columns: dict[str, pa.Array] = {
        "ts": fixed(slots["ts"] // 1000, "TIMESTAMP"),
        "session": constant(rows.session, count),
        "seq": fixed(slots["seq"], "UBIGINT"),
    }
    if name == "executions":
        for column in _IN_SLOT:
            columns[column] = fixed(slots[column], "DOUBLE", ~np.isnan(slots[column]))
        columns["success"] = fixed((slots["flags"] & SUCCESS) != 0, "BOOLEAN")
        columns |= _context_columns(rows, slots)
    cells: dict[str, tuple[list[Any], list[int]]] = {
        column: ([], []) for column in TABLES[name].columns if column not in columns
    }
    if rows.payloads:
        payload_of = rows.payloads.get
        for place, original in enumerate(index.tolist()):
            for column, value in (payload_of(original) or {}).items():
                cell = cells.get(column)
                if cell is not None and value is not None:
                    cell[0].append(value)
                    cell[1].append(place)
    for column, (values, at) in cells.items():
        columns[column] = scattered(values, at, TABLES[name].columns[column], count)
    return _assemble(name, columns)


def _context_columns(rows: Rows, slots: NDArray[np.void]) -> dict[str, pa.Array]:
    entries, inverse = np.unique(slots["context"], return_inverse=True)
    contexts = [rows.contexts[entry] for entry in entries.tolist()]
    columns = {
        column: dictionary([context[i] for context in contexts], inverse)
        for i, column in enumerate(CONTEXT)
        if column != "external"
    }
    external = np.array([context[CONTEXT.index("external")] for context in contexts], dtype=bool)
    columns["external"] = fixed(external[inverse], "BOOLEAN")
    return columns


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
