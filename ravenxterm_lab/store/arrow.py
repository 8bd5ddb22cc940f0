"""Arrow arrays out of numpy, buffer by buffer.

``pyarrow.array`` would do, were it not that it imports pandas to look whether it was
given a Series: most of a second and 60 MiB in every process that ingests.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = [
    "constant",
    "dictionaries",
    "dictionary",
    "fixed",
    "lists",
    "merged",
    "nulls",
    "number_maps",
    "scattered",
]

_NUMBERS = {
    "DOUBLE": "f8",
    "UBIGINT": "u8",
    "UINTEGER": "u4",
    "INTEGER": "i4",
    "BOOLEAN": "?",
    "TIMESTAMP": "i8",
}

#: Columns of at most so many different strings are remembered.
_FEW_LABELS = 64


@functools.cache
def _arrow_type(sql: str) -> pa.DataType:
    import pyarrow as pa

    return {
        "DOUBLE": pa.float64(),
        "UBIGINT": pa.uint64(),
        "UINTEGER": pa.uint32(),
        "INTEGER": pa.int32(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP": pa.timestamp("us"),
        "VARCHAR": pa.large_string(),
        "JSON": pa.large_string(),
        "VARCHAR[]": pa.list_(pa.large_string()),
        "MAP(VARCHAR, DOUBLE)": pa.map_(pa.large_string(), pa.float64()),
    }[sql]


def _bits(mask: NDArray[np.bool_]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(mask, bitorder="little").tobytes())


def _validity(valid: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if valid is None or valid.all() else _bits(valid)


def fixed(values: NDArray[Any], sql: str, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Build a column of numbers, booleans or timestamps (µs).

    Parameters
    ----------
    values : array, shape (n,)
        Anything that casts to the type.
    sql : str
        DuckDB type of the column.
    valid : array of bool, shape (n,), optional
        False for NULL.
    """
    import pyarrow as pa

    typed = np.ascontiguousarray(values, dtype=_NUMBERS[sql])
    data = _bits(typed) if sql == "BOOLEAN" else pa.py_buffer(typed)
    return pa.Array.from_buffers(_arrow_type(sql), len(typed), [_validity(valid), data])


def _strings(
    values: list[str], at: NDArray[np.intp] | None = None, count: int | None = None
) -> pa.Array:
    """Build a column of ``count`` strings, with ``values`` at ``at`` and NULL elsewhere."""
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    count = len(values) if count is None else count
    offsets = np.zeros(count + 1, dtype="i8")
    lengths = np.fromiter(map(len, encoded), dtype="i8", count=len(encoded))
    valid = None
    if at is None:
        offsets[1:] = lengths
    else:
        offsets[at + 1] = lengths
        valid = np.zeros(count, dtype=bool)
        valid[at] = True
    np.cumsum(offsets, out=offsets)
    buffers = [_validity(valid), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), count, buffers)


def nulls(sql: str, count: int) -> pa.Array:
    """Build a column of ``count`` rows without a value."""
    import pyarrow as pa

    return pa.nulls(count, _arrow_type(sql))


def dictionaries(
    columns: Iterable[Sequence[str | None]], index: NDArray[np.integer[Any]]
) -> list[pa.Array]:
    """Build columns of strings that repeat: row ``i`` of each is ``values[index[i]]``."""
    import pyarrow as pa

    indices = np.ascontiguousarray(index, dtype="i4")
    buffer = pa.py_buffer(indices)
    whole = pa.Array.from_buffers(pa.int32(), len(indices), [None, buffer])
    found = []
    for values in columns:
        numbers = whole
        if None in values:
            # A NULL among the values becomes a NULL of the index, which every reader
            # understands.
            valid = np.array([value is not None for value in values], dtype=bool)[indices]
            buffers = [_validity(valid), buffer]
            numbers = pa.Array.from_buffers(pa.int32(), len(indices), buffers)
        labels = _labels(tuple(values)) if len(values) <= _FEW_LABELS else _filled(values)
        found.append(pa.DictionaryArray.from_arrays(numbers, labels))
    return found


def dictionary(values: Sequence[str | None], index: NDArray[np.integer[Any]]) -> pa.Array:
    """Build a column of strings that repeat: row ``i`` is ``values[index[i]]``."""
    [array] = dictionaries([values], index)
    return array


def _filled(values: Iterable[str | None]) -> pa.Array:
    return _strings([value or "" for value in values])


# The same few come again and again: the models, the devices, the sessions.
_labels = functools.lru_cache(maxsize=256)(_filled)


def constant(value: str, count: int) -> pa.Array:
    """Build a column that holds one string ``count`` times."""
    return dictionary([value], np.zeros(count, dtype="i4"))


def lists(
    values: pa.Array, lengths: NDArray[np.intp], valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Build a column of lists out of their items, one list after the other.

    Parameters
    ----------
    values : pyarrow.Array, shape (sum of lengths,)
        The items; those of a list that is NULL are not seen.
    lengths : array of int, shape (n,)
        Items of each list.
    valid : array of bool, shape (n,), optional
        False for NULL.
    """
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, dtype="i4")
    np.cumsum(lengths, out=offsets[1:])
    buffers = [_validity(valid), pa.py_buffer(offsets)]
    kind = pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(lengths), buffers, children=[values])


def scattered(values: list[Any], at: list[int], sql: str, count: int) -> pa.Array:
    """Build a column of ``count`` rows, with ``values`` at ``at`` and NULL elsewhere.

    A value that the type cannot hold becomes NULL: whatever wrote it, the other rows
    must not suffer.
    """
    try:
        return _scattered(values, np.array(at, dtype=np.intp), sql, count)
    except (TypeError, ValueError, OverflowError, AttributeError):
        good = [i for i, value in enumerate(values) if _fits(value, sql)]
        places = np.array([at[i] for i in good], dtype=np.intp)
        return _scattered([values[i] for i in good], places, sql, count)


def _fits(value: object, sql: str) -> bool:
    try:
        _scattered([value], np.zeros(1, dtype=np.intp), sql, 1)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
    return True


def _scattered(values: list[Any], at: NDArray[np.intp], sql: str, count: int) -> pa.Array:
    if sql in _NUMBERS:
        numbers = np.zeros(count, dtype=_NUMBERS[sql])
        valid = np.zeros(count, dtype=bool)
        numbers[at] = np.array(values, dtype=_NUMBERS[sql])
        valid[at] = True
        return fixed(numbers, sql, valid)
    if sql == "VARCHAR":
        return _strings(values, at, count)
    if sql == "JSON":
        return _strings([json.dumps(value, ensure_ascii=False) for value in values], at, count)
    return _nested(values, at, sql, count)


def merged(
    blocks: list[tuple[NDArray[np.intp], NDArray[np.float64]]],
    values: list[Any],
    at: list[int],
    sql: str,
    count: int,
) -> pa.Array:
    """Build a column of numbers out of blocks of rows and single ``values`` at ``at``."""
    kind = _NUMBERS[sql]
    good = [i for i, value in enumerate(values) if _fits(value, sql)]
    numbers = np.zeros(count, dtype=kind)
    valid = np.zeros(count, dtype=bool)
    numbers[[at[i] for i in good]] = np.array([values[i] for i in good], dtype=kind)
    valid[[at[i] for i in good]] = True
    for rows, block in blocks:
        numbers[rows] = block.astype(kind)
        valid[rows] = True
    return fixed(numbers, sql, valid)


def number_maps(
    blocks: list[tuple[NDArray[np.intp], tuple[str, ...], NDArray[np.float64]]],
    values: list[Any],
    at: list[int],
    count: int,
) -> pa.Array:
    """Build a column of maps from string to number.

    Parameters
    ----------
    blocks : list of (rows, names, numbers)
        Rows that have the same names: numbers has the shape (rows, names).
    values : list of dict
        Single maps, for the rows ``at``; what is no such map becomes NULL.
    """
    kind = "MAP(VARCHAR, DOUBLE)"
    singles = [(at[i], value) for i, value in enumerate(values) if _fits(value, kind)]
    lengths = np.zeros(count, dtype="i4")
    valid = np.zeros(count, dtype=bool)
    for rows, names, _ in blocks:
        lengths[rows] = len(names)
        valid[rows] = True
    for row, value in singles:
        lengths[row] = len(value)
        valid[row] = True
    offsets = np.zeros(count + 1, dtype="i4")
    np.cumsum(lengths, out=offsets[1:])
    known: dict[str, int] = {}
    codes = np.empty(int(offsets[-1]), dtype="i4")
    numbers = np.empty(len(codes), dtype="f8")
    for rows, names, block in blocks:
        here = offsets[rows][:, None] + np.arange(len(names))
        codes[here] = [known.setdefault(name, len(known)) for name in names]
        numbers[here] = block
    for row, value in singles:
        single = slice(offsets[row], offsets[row + 1])
        codes[single] = [known.setdefault(name, len(known)) for name in value]
        numbers[single] = list(value.values())
    keys = dictionary(list(known), codes).dictionary_decode()
    return _map_array(offsets, valid, keys, numbers)


def _map_array(
    offsets: NDArray[np.int32], valid: NDArray[np.bool_], keys: pa.Array, numbers: NDArray[Any]
) -> pa.Array:
    import pyarrow as pa

    kind = _arrow_type("MAP(VARCHAR, DOUBLE)")
    pairs = [keys, fixed(numbers, "DOUBLE")]
    entries = pa.Array.from_buffers(
        pa.struct([kind.key_field, kind.item_field]), len(keys), [None], children=pairs
    )
    buffers = [_validity(valid), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(valid), buffers, children=[entries])


def _nested(values: list[Any], at: NDArray[np.intp], sql: str, count: int) -> pa.Array:
    """Build a column of lists of strings, or of maps from string to number."""
    import pyarrow as pa

    offsets = np.zeros(count + 1, dtype="i4")
    offsets[at + 1] = np.fromiter(map(len, values), dtype="i4", count=len(values))
    np.cumsum(offsets, out=offsets)
    valid = np.zeros(count, dtype=bool)
    valid[at] = True
    flat = _strings([item for value in values for item in value])
    if sql == "VARCHAR[]":
        buffers = [_validity(valid), pa.py_buffer(offsets)]
        kind = _arrow_type(sql)
        return pa.Array.from_buffers(kind, count, buffers, children=[flat])
    numbers = np.array([item for value in values for item in value.values()], dtype="f8")
    return _map_array(offsets, valid, flat, numbers)
