"""Readings of model files that are of no use any more: removed, and noted as removed.

Of the table ``scans`` only the latest row of each path is ever asked for. A file that is written
again and again, such as a checkpoint, would otherwise fill the store. A row with an empty
signature says that its file is gone: it replaces the readings before it, and goes when it is
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.store.access import failure, reading, writing
from ravenxterm_lab.store.retention import ROW_LIMIT, Trimmed

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

__all__ = ["LEAST_ROWS", "trim_scans"]

#: Replaced rows below which it is not worth a transaction.
LEAST_ROWS = 1000

_REPLACED = """
SELECT rowid AS place, session, seq FROM scans
QUALIFY row_number() OVER (PARTITION BY path ORDER BY ts DESC, session DESC, seq DESC) > 1
    OR signature = '' AND count(*) OVER (PARTITION BY path) = 1
"""

_NOTE = """
INSERT INTO removals BY NAME
SELECT $now::TIMESTAMP AS ts, 'scans' AS table_name, session, count(*) AS rows,
    min(seq) AS first_seq, max(seq) AS last_seq,
    'replaced by a later reading of the same files, or these are gone' AS reason
FROM replaced GROUP BY session
"""


def trim_scans(
    directory: Path,
    now: datetime,
    *,
    patience: float,
    stop: Callable[[], bool] | None = None,
    least: int = LEAST_ROWS,
    limit: int = ROW_LIMIT,
) -> Trimmed:
    """Remove readings that a later one replaced; the caller holds ``ingest.lock``.

    The removal and its record are one transaction: a death at any point leaves all or nothing.

    Parameters
    ----------
    directory : Path
        The store.
    now : datetime
        By the clock of the store, UTC without a time zone.
    patience : float
        How long to wait for readers (s).
    stop : callable, optional
        Ends the wait early when it returns True.
    least : int
        Replaced rows from which on it is done.
    limit : int
        Rows at most.

    Raises
    ------
    StoreError
        If the database cannot be read or written.
    """
    import duckdb

    try:
        with reading(directory) as connection:
            if connection is None:
                return Trimmed(0, more=False)
            [[due]] = connection.execute(f"SELECT count(*) FROM ({_REPLACED})").fetchall()  # noqa: S608 - our own names
        if due < max(least, 1):
            return Trimmed(0, more=False)
        with writing(directory, patience=patience, stop=stop) as connection:
            if connection is None:
                return Trimmed(0, more=True)
            connection.execute("BEGIN")
            connection.execute(
                f"CREATE TEMP TABLE replaced AS {_REPLACED} ORDER BY place LIMIT {int(limit)}"
            )
            connection.execute(_NOTE, {"now": now})
            [[rows]] = connection.execute(
                "DELETE FROM scans WHERE rowid IN (SELECT place FROM replaced)"
            ).fetchall()
            connection.execute("COMMIT")
    except duckdb.Error as error:
        raise failure(
            f"Old readings of model files in {directory} could not be removed",
            error,
            "They are kept as they are, and it is tried again later.",
        ) from error
    return Trimmed(int(rows), more=rows < due)
