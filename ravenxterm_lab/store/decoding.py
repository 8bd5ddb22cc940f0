"""From slots to Arrow tables, one per table of events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.store.schema import CONTEXT, KIND_OF, TABLES
from ravenxterm_lab.store.segments import SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from ravenxterm_lab.store.snapshot import Rows

__all__ = ["arrow_type", "decode", "select_list"]

_TABLE_OF_KIND = {kind: name for name, kind in KIND_OF.items()}
_IN_SLOT = ("latency", "throughput", "memory_efficiency")


def arrow_type(sql: str) -> pa.DataType:
    """Return the Arrow type that carries a DuckDB type of the schema."""
    import pyarrow as pa

    types = {
        "TIMESTAMP": pa.timestamp("us"),
        "VARCHAR": pa.string(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "UBIGINT": pa.uint64(),
        "UINTEGER": pa.uint32(),
        "INTEGER": pa.int32(),
        "JSON": pa.string(),
        "VARCHAR[]": pa.list_(pa.string()),
        "MAP(VARCHAR, DOUBLE)": pa.map_(pa.string(), pa.float64()),
    }
    return types[sql]


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


def _table(name: str, rows: Rows, index: NDArray[np.intp]) -> pa.Table:
    import pyarrow as pa

    slots = rows.slots[index]
    count = len(slots)
    columns: dict[str, pa.Array] = {
        "ts": pa.array(slots["ts"] // 1000, pa.int64()).cast(pa.timestamp("us")),
        "session": pa.array([rows.session], pa.string()).take(
            pa.array(np.zeros(count, dtype="i4"))
        ),
        "seq": pa.array(slots["seq"].copy()),
    }
    if name == "executions":
        for column in _IN_SLOT:
            values = slots[column].copy()
            columns[column] = pa.array(values, mask=np.isnan(values))
        columns["success"] = pa.array((slots["flags"] & SUCCESS).astype(bool))
        columns |= _context_columns(rows, slots)
    payloads = rows.payloads
    documents = [payloads.get(i) for i in index.tolist()] if payloads else []
    for column, sql in TABLES[name].columns.items():
        if column not in columns:
            columns[column] = _payload_column(documents, column, sql, count)
    return pa.table({column: columns[column] for column in TABLES[name].all_columns})


def _context_columns(rows: Rows, slots: NDArray[np.void]) -> dict[str, pa.Array]:
    import pyarrow as pa

    entries, inverse = np.unique(slots["context"], return_inverse=True)
    contexts = [rows.contexts[entry] for entry in entries.tolist()]
    take = pa.array(inverse.astype("i4"))
    types = TABLES["executions"].columns
    return {
        column: pa.array([context[i] for context in contexts], arrow_type(types[column])).take(take)
        for i, column in enumerate(CONTEXT)
    }


def _payload_column(
    documents: list[dict[str, Any] | None], column: str, sql: str, count: int
) -> pa.Array:
    import pyarrow as pa

    kind = arrow_type(sql)
    values = [document.get(column) if document else None for document in documents]
    if not any(value is not None for value in values):
        return pa.nulls(count, kind)
    if sql == "JSON":
        values = [
            None if value is None else json.dumps(value, ensure_ascii=False) for value in values
        ]
    elif sql.startswith("MAP"):
        values = [None if value is None else list(value.items()) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Whatever wrote a value that the schema cannot hold, the others must not suffer.
        return pa.array([_or_none(value, kind) for value in values], kind)


def _or_none(value: object, kind: pa.DataType) -> object:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return value


def _damage(rows: Rows) -> pa.Table:
    """Turn damaged events into warnings under their own numbers, so that no number is missing."""
    import pyarrow as pa

    count = len(rows.damaged)
    columns: dict[str, pa.Array] = {
        "ts": pa.array([time.time_ns() // 1000] * count, pa.int64()).cast(pa.timestamp("us")),
        "session": pa.array([rows.session] * count, pa.string()),
        "seq": pa.array([seq for seq, _ in rows.damaged], pa.uint64()),
        "level": pa.array(["warning"] * count),
        "subject": pa.array(["store"] * count),
        "text": pa.array(
            [f"event {rows.session}:{seq} was skipped: {why}" for seq, why in rows.damaged]
        ),
    }
    return pa.table({column: columns[column] for column in TABLES["messages"].all_columns})
