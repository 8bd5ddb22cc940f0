"""Merging the partial rows of the rollups, within the transaction of an ingest.

Partial rows are right as they are, only ever more of them. To merge costs the gate, so:

- A period (an hour of the sums, a day of the histograms) is merged once a later one has
  begun: it will hardly grow any more, and that many small merges cost little.
- A period under way is merged when its partial rows outnumber both `MANY` and the rows
  that were merged before: each row is then merged about twice at most, however long the
  period and however fast the events.
- One pass merges at most `LIMIT` rows, the oldest period first. A period that alone holds
  more, for it has that many keys, is left to `merge_all`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.store.rollups import FEW
from ravenxterm_lab.store.schema import ROLLUPS

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import duckdb

__all__ = ["LIMIT", "MANY", "due", "merge_all", "merge_partials"]

#: Partial rows of a period under way that are worth a merge.
MANY = 16_384
#: Rows that one pass merges at most in each table: some 50 ms of the gate.
LIMIT = 60_000

_PERIOD = {"execution_hours": "hour", "execution_histograms": "day"}
_KEYS = {
    "execution_hours": (
        "hour", "model", "fingerprint", "task", "device", "runtime", "settings", "hardware",
        "external",
    ),
    "execution_histograms": (
        "day", "model", "fingerprint", "task", "hardware", "quantity", "bucket",
    ),
}  # fmt: skip
_EXTREMES = {
    "latency_min": "min",
    "latency_max": "max",
    "peak_memory": "max",
    "peak_memory_succeeded": "max",
    "last_run": "max",
}


def _selected(table: str) -> str:
    """Return the SQL of the columns of a merged row."""
    parts = []
    for name, sql in ROLLUPS[table].items():
        if name in _KEYS[table]:
            parts.append(name)
        elif name == "merged":
            parts.append("true AS merged")
        elif name == "value":
            parts.append("CASE WHEN $few THEN value END AS value")
        else:
            parts.append(f"{_EXTREMES.get(name, 'sum')}({name})::{sql} AS {name}")
    return ", ".join(parts)


def _merged(catalogue: str, table: str, where: str, totals: bool) -> str:
    """Return the query of the merged rows.

    Single values are kept while model and task have few runs in all (``totals``: these are
    to be counted), as `summarise` does. Those of older periods then stay: less than `FEW`.
    """
    source = f"{catalogue}.{table}"
    few = "false"
    if totals:
        # Of the hours there are far fewer rows, and they hold the same counts.
        counts = " UNION ALL ".join(
            f"SELECT model AS m, task AS t, '{quantity}' AS q, "  # noqa: S608 - our own names
            f"sum({quantity}_count) < {FEW} AS small "
            f"FROM {catalogue}.execution_hours GROUP BY ALL"
            for quantity in ("latency", "throughput")
        )
        source += (
            f" LEFT JOIN ({counts}) ON m = model AND t IS NOT DISTINCT FROM task AND q = quantity"
        )
        few = "small"
    selected = _selected(table).replace("$few", few)
    return f"SELECT {selected} FROM {source} WHERE {where} GROUP BY ALL"  # noqa: S608 - our own names


def due(
    census: Sequence[tuple[dt.datetime, int, int]], *, many: int = MANY, limit: int = LIMIT
) -> list[dt.datetime]:
    """Choose the periods to merge now.

    Parameters
    ----------
    census : sequence of (datetime, int, int)
        By period, in order: partial rows (at least one), and all rows.
    many, limit : int
        See `MANY` and `LIMIT`.
    """
    chosen = []
    for place, (period, partial, total) in enumerate(census):
        closed = place < len(census) - 1
        if total <= limit and (closed or partial >= max(many, total - partial)):
            chosen.append(period)
            limit -= total
    return chosen


def merge_partials(connection: duckdb.DuckDBPyConnection, catalogue: str) -> None:
    """Merge what is due, within the caller's transaction.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Within a transaction.
    catalogue : str
        Name under which the file is attached for writing.
    """
    for table, period in _PERIOD.items():
        target = f"{catalogue}.{table}"
        census = connection.execute(
            f"SELECT {period}, count(*) FILTER (NOT merged), count(*) FROM {target} "  # noqa: S608 - our own names
            f"WHERE {period} IN (SELECT {period} FROM {target} WHERE NOT merged) "
            f"GROUP BY {period} ORDER BY {period}"
        ).fetchall()
        periods = due(census)
        if periods:
            # Written out, they prune the scans; as parameters of a subquery they do not.
            begins = ", ".join(f"TIMESTAMP '{begin}'" for begin in periods)
            _replace(connection, catalogue, table, f"{period} IN ({begins})")


def merge_all(connection: duckdb.DuckDBPyConnection, catalogue: str) -> None:
    """Merge everything, within the caller's transaction; for maintenance.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Within a transaction.
    catalogue : str
        Name under which the file is attached for writing.
    """
    for table in _PERIOD:
        _replace(connection, catalogue, table, "true")


def _replace(connection: duckdb.DuckDBPyConnection, catalogue: str, table: str, where: str) -> None:
    target = f"{catalogue}.{table}"
    # The totals are spared where no single value is left that they decide on.
    totals = table == "execution_histograms" and bool(
        connection.execute(
            f"SELECT 1 FROM {target} WHERE value IS NOT NULL AND {where} LIMIT 1"  # noqa: S608 - our own names
        ).fetchall()
    )
    query = _merged(catalogue, table, where, totals)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE merged_rows AS {query}")
    connection.execute(f"DELETE FROM {target} WHERE {where}")  # noqa: S608 - our own names
    connection.execute(f"INSERT INTO {target} BY NAME FROM merged_rows")
    connection.execute("DROP TABLE merged_rows")
