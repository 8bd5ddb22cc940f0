"""Arrow columns as numpy sees them without a copy, and sums over groups of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["Column", "Sums", "both", "column", "ln", "number_groups", "positive"]

#: Entries up to which a look-up table beats sorting.
_TABLE = 1 << 20


class Column(NamedTuple):
    """Numbers of a column, and which of them are there (None: all)."""

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None


def _bits(buffer: pa.Buffer, offset: int, count: int) -> NDArray[np.bool_]:
    raw = np.frombuffer(buffer, dtype="u1", count=(offset + count + 7) // 8)
    return np.unpackbits(raw, bitorder="little", count=offset + count)[offset:].view(np.bool_)


def _valid(array: pa.Array) -> NDArray[np.bool_] | None:
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return None
    return _bits(bitmap, array.offset, len(array))


def _numbers(array: pa.Array, dtype: str) -> Column:
    """Look at the buffers of a column of numbers; an absent one has no valid row."""
    count, offset = len(array), array.offset
    if array.null_count == count:
        return Column(np.zeros(count, dtype=dtype), np.zeros(count, dtype=np.bool_))
    data = array.buffers()[1]
    if dtype == "?":
        return Column(_bits(data, offset, count), _valid(array))
    values = np.frombuffer(data, dtype=dtype, count=offset + count)[offset:]
    return Column(values, _valid(array))


def column(batches: Sequence[pa.RecordBatch], name: str, dtype: str) -> Column:
    """Return a column of numbers or booleans (``"?"``) over several batches.

    One batch is looked at in place; what stands where nothing is valid means nothing.
    """
    parts = [_numbers(batch.column(name), dtype) for batch in batches]
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    if all(part.valid is None for part in parts):
        return Column(values, None)
    masks = [np.ones(len(p.values), dtype=bool) if p.valid is None else p.valid for p in parts]
    return Column(values, np.concatenate(masks))


def number_groups(
    batches: Sequence[pa.RecordBatch], names: Sequence[str], hour: NDArray[np.int64]
) -> tuple[NDArray[np.intp], list[tuple[Any, ...]]]:
    """Give each distinct key of the rows a number.

    Parameters
    ----------
    batches : sequence of RecordBatch
        None of them empty.
    names : sequence of str
        Columns of strings or booleans that make up the key.
    hour : array of int, shape (n,)
        A whole number that belongs to the key as well.

    Returns
    -------
    array of int, shape (n,)
        Number of each row's key.
    list of tuple
        The keys: the hour, then the values of the columns.
    """
    numbers: dict[tuple[Any, ...], int] = {}
    parts = []
    start = 0
    for batch in batches:
        hours = hour[start : start + batch.num_rows]
        start += batch.num_rows
        arrays = [batch.column(name) for name in names]
        codes, count = _distinct(arrays, hours)
        first = np.empty(count, dtype=np.intp)
        first[codes] = np.arange(len(codes))
        cells = [_values_at(array, first) for array in arrays]
        # Two entries of a dictionary may hold the same text, and so do two batches.
        local = [
            numbers.setdefault(key, len(numbers))
            for key in zip(hours[first].tolist(), *cells, strict=True)
        ]
        parts.append(np.array(local, dtype=np.intp)[codes])
    return parts[0] if len(parts) == 1 else np.concatenate(parts), list(numbers)


def _distinct(arrays: Sequence[pa.Array], hours: NDArray[np.int64]) -> tuple[NDArray[np.intp], int]:
    """Give each distinct combination of the columns a number, by their raw codes."""
    codes = np.zeros(len(hours), dtype=np.intp)
    count = 1
    seen: NDArray[Any] | None = None
    for array in arrays:
        if array.null_count == len(array):
            continue
        raw, size = _codes(array)
        # The columns of a context mostly share one index: to compare is to save a pass.
        if seen is not None and np.array_equal(raw, seen):
            continue
        seen = raw
        codes, count = _combined(codes, count, raw, size)
    low, high = int(hours.min()), int(hours.max())
    if low != high:
        codes, count = _combined(codes, count, hours - low, high - low + 1)
    return codes, count


def _codes(array: pa.Array) -> tuple[NDArray[Any], int]:
    if str(array.type) == "bool":
        column, size = _numbers(array, "?"), 2
        raw = column.values.view("u1")
    else:
        array = _encoded(array)
        column, size = _numbers(array.indices, str(array.indices.type)), len(array.dictionary)
        raw = column.values
    if column.valid is not None:
        raw = np.where(column.valid, raw, size)
        size += 1
    return raw, size


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    return array if hasattr(array, "dictionary") else array.dictionary_encode()


def _combined(
    codes: NDArray[np.intp], count: int, raw: NDArray[Any], size: int
) -> tuple[NDArray[np.intp], int]:
    """Give each distinct pair of two codes a number, without gaps."""
    if count == 1:
        pairs = raw.astype(np.intp)
    else:
        pairs = codes * size
        pairs += raw
    if count * size > _TABLE:
        distinct, dense = np.unique(pairs, return_inverse=True)
        return dense, len(distinct)
    used = np.zeros(count * size, dtype=np.bool_)
    used[pairs] = True
    return (np.cumsum(used) - 1)[pairs], int(used.sum())


def _values_at(array: pa.Array, rows: NDArray[np.intp]) -> list[Any]:
    raw, _ = _codes(array)
    if array.null_count == len(array):
        values: list[Any] = []
    elif str(array.type) == "bool":
        values = [False, True]
    else:
        values = _encoded(array).dictionary.to_pylist()
    return [values[code] if code < len(values) else None for code in raw[rows].tolist()]


class Sums:
    """Reductions by group; each takes the rows where a mask holds (None: all).

    Parameters
    ----------
    group : array of int, shape (n,)
        The group of each row.
    size : int
        Number of groups.
    """

    def __init__(self, group: NDArray[np.intp], size: int) -> None:
        self.group = group
        self.size = size

    def count(self, mask: NDArray[np.bool_] | None) -> NDArray[np.intp]:
        """Count the rows."""
        chosen = self.group if mask is None else self.group[mask]
        return np.bincount(chosen, minlength=self.size)

    def sum(self, values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        """Add up the values, as floating-point numbers: no sum of counts can overflow."""
        group = self.group if mask is None else self.group[mask]
        chosen = np.asarray(values if mask is None else values[mask], dtype=np.float64)
        return np.asarray(np.bincount(group, chosen, minlength=self.size), dtype=np.float64)

    def extreme(
        self, ufunc: np.ufunc, start: float, values: NDArray[Any], mask: NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        """Return the least or largest value; ``start`` where there is none."""
        out = np.full(self.size, start, dtype=values.dtype)
        if mask is None:
            ufunc.at(out, self.group, values)
        else:
            ufunc.at(out, self.group[mask], values[mask])
        return out


def both(*masks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return where all hold; None for everywhere."""
    result: NDArray[np.bool_] | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else result & mask
    return None if result is None or result.all() else result


def positive(values: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Return where the value is above zero; None for everywhere."""
    return None if values.size and values.min() > 0 else values > 0


def ln(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln where the value is above zero, and 0 elsewhere."""
    return np.log(np.where(values > 0, values, 1.0))
