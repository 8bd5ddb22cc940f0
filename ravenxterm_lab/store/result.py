"""The result of a query: materialised, so that it holds no connection to anything."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["QueryResult"]

_SHOWN = 20
_CELL = 60


class QueryResult(Displayed):
    """What a query returned. Iterating yields rows as tuples of Python values.

    Parameters
    ----------
    sql : str
        The query.
    table : pyarrow.Table
        The rows.
    types : tuple of str
        DuckDB type of each column.
    elapsed : float
        Wall time of the query, opening the store included (s).

    Attributes
    ----------
    sql : str
        The query.
    types : tuple of str
        DuckDB type of each column.
    elapsed : float
        Wall time of the query (s).
    hint : str
        What to do next, where there are no rows because nothing was recorded.
    """

    __slots__ = ("_table", "elapsed", "hint", "sql", "types")

    def __init__(self, sql: str, table: pa.Table, types: tuple[str, ...], elapsed: float) -> None:
        self.sql = sql
        self.types = types
        self.elapsed = elapsed
        self.hint = ""
        self._table = _tidy(table, types)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, each of them once."""
        return list(self._table.column_names)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def to_arrow_table(self) -> pa.Table:
        """Return the rows as an Arrow table, without a copy."""
        return self._table

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table, without a copy."""
        return self._table

    def pl(self) -> pl.DataFrame:
        """Return the rows as a polars data frame; a MAP becomes a list of key and value."""
        import polars as pl

        frame = pl.from_arrow(self._table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def df(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame.

        Strings are backed by Arrow; whole numbers and booleans with missing values keep
        their type (nullable columns), so that a count never turns into a float.
        """
        import pandas as pd
        import pyarrow as pa

        nullable: dict[Any, Any] = {
            pa.bool_(): pd.BooleanDtype(),
            pa.int8(): pd.Int8Dtype(),
            pa.int16(): pd.Int16Dtype(),
            pa.int32(): pd.Int32Dtype(),
            pa.int64(): pd.Int64Dtype(),
            pa.uint8(): pd.UInt8Dtype(),
            pa.uint16(): pd.UInt16Dtype(),
            pa.uint32(): pd.UInt32Dtype(),
            pa.uint64(): pd.UInt64Dtype(),
        }
        frame: pd.DataFrame = self._table.to_pandas(types_mapper=nullable.get)
        for name, column in zip(self.columns, self._table.columns, strict=True):
            if column.type in nullable and not column.null_count:
                frame[name] = frame[name].astype(column.type.to_pandas_dtype())
        return frame

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples of Python values; a MAP becomes a dict."""
        return list(self)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._head(self.rows))

    def _head(self, count: int) -> list[tuple[Any, ...]]:
        head = self._table.slice(0, count)
        if not head.num_columns:
            return []
        values = [column.to_pylist(maps_as_pydicts="lossy") for column in head.columns]
        return list(zip(*values, strict=True))

    @property
    def _caption(self) -> str:
        rows = format_number(self.rows, "row")
        shown = f", the first {_SHOWN} shown" if self.rows > _SHOWN else ""
        return f"{rows}{shown} · {format_seconds(self.elapsed)}"

    def _card(self) -> Card:
        if not self.rows:
            empty = f"No rows ({', '.join(self.columns)}) · {format_seconds(self.elapsed)}"
            return Card("", f"{empty}. {self.hint}" if self.hint else empty)
        rows = [[_text(cell) for cell in row] for row in self._head(_SHOWN)]
        numeric = [_is_number(column.type) for column in self._table.columns]
        return Card("", self._caption, [Table(self.columns, rows, numeric)])

    def __repr__(self) -> str:
        return str(self)


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _tidy(table: pa.Table, types: tuple[str, ...]) -> pa.Table:
    """Make the names unique, and sums of counts whole numbers instead of decimals."""
    import pyarrow as pa

    columns, names, taken = [], [], set[str]()
    for name, sql, column in zip(table.column_names, types, table.columns, strict=True):
        unique, number = name, 1
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        names.append(unique)
        columns.append(column)
        if sql == "HUGEINT":
            with contextlib.suppress(pa.ArrowInvalid):
                columns[-1] = column.cast(pa.int64())
    return pa.table(columns, names=names)
