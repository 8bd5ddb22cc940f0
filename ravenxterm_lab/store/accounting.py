"""The books of restored rows, so that an audit still finds every number of every session.

An audit (`ravenxterm_lab.store.audit`) counts the rows of a session up to its watermark, and
those that were removed on purpose. A row that comes back is no longer removed; a session of
another store has a watermark here from then on, and what was not brought along counts as
removed, of a table without a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.store import database
from ravenxterm_lab.store.schema import TABLES

if TYPE_CHECKING:
    from datetime import datetime

    import duckdb

__all__ = ["account_for_strangers", "take_back"]

#: The table of rows that stayed in another store, in ``removals``.
ELSEWHERE = ""

_REMOVALS = f"{database.CATALOGUE}.removals"
_WATERMARKS = f"{database.CATALOGUE}.watermarks"
_NUMBERS = " UNION ALL BY NAME ".join(
    f"SELECT session, seq FROM {database.CATALOGUE}.{name}"  # noqa: S608 - our own names
    for name in TABLES
)
# Each row belongs to the first removal whose range holds it.
_BACK = """
SELECT place, count(*) FROM (
    SELECT min(r.rowid) AS place
    FROM restored AS f JOIN {removals} AS r ON r.table_name = $table AND r.session = f.session
        AND f.seq BETWEEN r.first_seq AND r.last_seq AND r.rows > 0
    GROUP BY f.session, f.seq
) GROUP BY place
"""
_STRANGERS = f"""
WITH strangers AS (
    SELECT session FROM visitors LEFT JOIN {_WATERMARKS} USING (session) GROUP BY session
    HAVING max(last) >= coalesce(any_value(next_seq), 0)
        OR session IN (SELECT session FROM {_REMOVALS} WHERE table_name = $elsewhere)
)
SELECT n.session, max(n.seq) AS last, count(DISTINCT n.seq) AS numbers, min(n.seq) AS lowest
FROM ({_NUMBERS}) AS n SEMI JOIN strangers USING (session) GROUP BY n.session
"""  # noqa: S608 - our own names


def take_back(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Strike the rows of the temporary table ``restored`` from what was removed of a table.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Within the transaction that restores them.
    table : str
        Where they were put.
    """
    query = _BACK.format(removals=_REMOVALS)
    for place, rows in connection.execute(query, {"table": table}).fetchall():
        connection.execute(
            f"UPDATE {_REMOVALS} SET rows = greatest(rows::BIGINT - $rows, 0) WHERE rowid = $place",  # noqa: S608 - our own names
            {"rows": rows, "place": place},
        )
    connection.execute(f"DELETE FROM {_REMOVALS} WHERE rows = 0")  # noqa: S608 - our own names


def account_for_strangers(connection: duckdb.DuckDBPyConnection, now: datetime, path: str) -> None:
    """Enter the sessions of the temporary table ``visitors`` that are not of this store.

    What this store recorded itself lies below its watermark, once what waited was moved.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Within the transaction that restored rows of them.
    now : datetime
        UTC, without a zone.
    path : str
        Where the rows came from.
    """
    given = {"elsewhere": ELSEWHERE}
    for session, last, numbers, lowest in connection.execute(_STRANGERS, given).fetchall():
        one = {"session": session}
        connection.execute(
            f"DELETE FROM {_REMOVALS} WHERE session = $session AND table_name = $elsewhere",  # noqa: S608 - our own names
            {**one, **given},
        )
        [(removed,)] = connection.execute(
            f"SELECT coalesce(sum(rows), 0) FROM {_REMOVALS} WHERE session = $session",  # noqa: S608 - our own names
            one,
        ).fetchall()
        known = connection.execute(
            f"SELECT next_seq FROM {_WATERMARKS} WHERE session = $session",  # noqa: S608 - our own names
            one,
        ).fetchall()
        following = max(last + 1, *(row[0] for row in known)) if known else last + 1
        connection.execute(f"DELETE FROM {_WATERMARKS} WHERE session = $session", one)  # noqa: S608 - our own names
        connection.execute(
            f"INSERT INTO {_WATERMARKS} VALUES ($session, $following)",  # noqa: S608 - our own names
            {**one, "following": following},
        )
        absent = following - 1 + (1 if lowest == 0 else 0) - numbers - int(removed)
        if absent > 0:
            connection.execute(
                f"INSERT INTO {_REMOVALS} BY NAME SELECT $now::TIMESTAMP AS ts, "
                "$elsewhere AS table_name, $session AS session, $absent AS rows, "
                "1 AS first_seq, $last AS last_seq, $reason AS reason",
                {
                    **one, **given, "now": now, "absent": absent, "last": following - 1,
                    "reason": f"not among the rows that were restored from {path}",
                },
            )  # fmt: skip
