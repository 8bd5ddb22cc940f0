"""Merging the partial rows of the rollups, within the transaction of an ingest.

Partial rows are right as they are, only ever more of them. To merge costs the gate, so:

- A period (an hour of the sums, a day of the histograms) is merged once a later one has
  begun: it will hardly grow any more, and that many small merges cost little.
- A period under way is merged when its partial rows outnumber both `MANY` and the rows
  that were merged before: each row is then merged about twice at most, however long the
  period and however fast the events.
- One pass merges at most `LIMIT` rows, the oldest period first. A histogram counts for as
  many rows as it has buckets. A period that alone holds
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
    import pyarrow as pa

__all__ = ["LIMIT", "MANY", "due", "merge_all", "merge_partials", "weight"]

#: Partial rows, or buckets, of a period under way that are worth a merge.
MANY = 16_384
#: Rows that one pass merges at most in each table: some 50 ms of the gate.
LIMIT = 60_000

_PERIOD = {"execution_hours": "hour", "execution_histograms": "day"}
_WEIGHT = {"execution_hours": "1", "execution_histograms": "len(buckets)"}
_KEYS = {
    "execution_hours": (
        "hour", "model", "fingerprint", "task", "device", "runtime", "settings", "hardware",
        "external",
    ),
    "execution_histograms": ("day", "model", "fingerprint", "task", "hardware", "quantity"),
}  # fmt: skip
_EXTREMES = {
    "latency_min": "min",
    "latency_max": "max",
    "peak_memory": "max",
    "peak_memory_succeeded": "max",
    "last_run": "max",
}


def _merged_hours(source: str, where: str) -> str:
    """Return the query of the merged sums."""
    parts = []
    for name, sql in ROLLUPS["execution_hours"].items():
        if name in _KEYS["execution_hours"]:
            parts.append(name)
        elif name == "merged":
            parts.append("true AS merged")
        else:
            parts.append(f"{_EXTREMES.get(name, 'sum')}({name})::{sql} AS {name}")
    return f"SELECT {', '.join(parts)} FROM {source} WHERE {where} GROUP BY ALL"  # noqa: S608 - our own names


def _merged_histograms(source: str, hours: str, where: str, totals: bool) -> str:
    """Return the query of the merged histograms.

    Single values are kept while model and task have few runs in all (``totals``: these are
    to be counted), as `summarise` does. Those of older periods then stay: less than `FEW`.
    """
    keys = ", ".join(_KEYS["execution_histograms"])
    items = (
        f"SELECT {keys}, unnest(buckets) AS bucket, unnest(exact) AS value, "  # noqa: S608 - our own names
        f"unnest(counts) AS n FROM {source} WHERE {where}"
    )
    few = "false"
    if totals:
        # Of the hours there are far fewer rows, and they hold the same counts.
        counts = " UNION ALL ".join(
            f"SELECT model AS m, task AS t, '{quantity}' AS q, "  # noqa: S608 - our own names
            f"sum({quantity}_count) < {FEW} AS small FROM {hours} GROUP BY ALL"
            for quantity in ("latency", "throughput")
        )
        items = (
            f"SELECT * FROM ({items}) LEFT JOIN ({counts}) "  # noqa: S608 - our own names
            "ON m = model AND t IS NOT DISTINCT FROM task AND q = quantity"
        )
        few = "small"
    return (
        f"SELECT {keys}, true AS merged, sum(n)::UBIGINT AS runs, "  # noqa: S608 - our own names
        "list(bucket ORDER BY bucket, value) AS buckets, "
        "CASE WHEN count(value) > 0 THEN list(value ORDER BY bucket, value) END AS exact, "
        "list(n ORDER BY bucket, value) AS counts "
        f"FROM (SELECT {keys}, bucket, CASE WHEN {few} THEN value END AS value, "
        f"sum(n)::UBIGINT AS n FROM ({items}) GROUP BY ALL) GROUP BY ALL"
    )


def due(
    census: Sequence[tuple[dt.datetime, int, int]], *, many: int = MANY, limit: int = LIMIT
) -> list[dt.datetime]:
    """Choose the periods to merge now.

    Parameters
    ----------
    census : sequence of (datetime, int, int)
        By period, in order: partial rows (at least one), and all rows; or buckets.
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


def weight(table: pa.Table) -> int:
    """Return how many rows a table of partial rows counts for."""
    if "counts" not in table.column_names:
        return int(table.num_rows)
    return sum(len(chunk.flatten()) for chunk in table.column("counts").chunks)


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
        target, weight = f"{catalogue}.{table}", _WEIGHT[table]
        census = connection.execute(
            f"SELECT {period}, coalesce(sum({weight}) FILTER (NOT merged), 0)::BIGINT, "  # noqa: S608 - our own names
            f"sum({weight})::BIGINT FROM {target} "
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
    if table == "execution_hours":
        query = _merged_hours(target, where)
    else:
        # The totals are spared where no single value is left that they decide on.
        totals = bool(
            connection.execute(
                f"SELECT 1 FROM {target} WHERE exact IS NOT NULL AND {where} LIMIT 1"  # noqa: S608 - our own names
            ).fetchall()
        )
        query = _merged_histograms(target, f"{catalogue}.execution_hours", where, totals)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE merged_rows AS {query}")
    connection.execute(f"DELETE FROM {target} WHERE {where}")  # noqa: S608 - our own names
    connection.execute(f"INSERT INTO {target} BY NAME FROM merged_rows")
    connection.execute("DROP TABLE merged_rows")
