"""Retention: samples of the hardware are kept for 14 days, then a row per minute stands for them.

Executions, and every other table, are kept for ever; see `ravenxterm_lab.store.export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.store.access import failure, reading, writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import duckdb

__all__ = ["RAW_DAYS", "ROW_LIMIT", "Trimmed", "trim_samples"]

#: Days for which every sample of the hardware is kept.
RAW_DAYS = 14
#: Samples that one transaction rolls up, so that the gate is held only shortly.
ROW_LIMIT = 50_000

# Whole hours, so that an hour of one process is one row in `removals` and no more.
_CUTOFF = f"date_trunc('hour', $now::TIMESTAMP - INTERVAL {RAW_DAYS} DAY)"

_BOUNDARY = f"""
WITH minutes AS (
    SELECT date_trunc('minute', ts) AS minute, count(*) AS samples
    FROM hardware_samples WHERE ts < {_CUTOFF} GROUP BY 1
), running AS (
    SELECT minute, sum(samples) OVER (ORDER BY minute) AS total, samples FROM minutes
)
SELECT max(minute) FILTER (WHERE total <= $limit OR total = samples) + INTERVAL 1 MINUTE,
    max(minute) + INTERVAL 1 MINUTE
FROM running
"""  # noqa: S608 - our own names

_ROLL_UP = """
INSERT INTO hardware_minutes BY NAME
SELECT
    date_trunc('minute', ts) AS minute, session, hardware, gpu, count(*) AS samples,
    avg(cpu_percent) AS cpu_percent, max(cpu_percent) AS cpu_percent_max,
    round(avg(memory_used))::UBIGINT AS memory_used, max(memory_used) AS memory_used_max,
    min(memory_available) AS memory_available, max(process_memory) AS process_memory,
    avg(gpu_percent) AS gpu_percent, max(gpu_percent) AS gpu_percent_max,
    round(avg(gpu_memory_used))::UBIGINT AS gpu_memory_used,
    max(gpu_memory_used) AS gpu_memory_used_max,
    avg(gpu_power) AS gpu_power, max(gpu_power) AS gpu_power_max,
    avg(gpu_temperature) AS gpu_temperature, max(gpu_temperature) AS gpu_temperature_max,
    avg(cpu_power) AS cpu_power, max(process_anonymous) AS process_anonymous,
    max(process_file) AS process_file, avg(process_cpu_percent) AS process_cpu_percent,
    avg(gpu_clock) AS gpu_clock
FROM hardware_samples WHERE ts < $boundary
GROUP BY 1, session, hardware, gpu ORDER BY 1
"""

_NOTE = f"""
INSERT INTO removals BY NAME
SELECT $now::TIMESTAMP AS ts, 'hardware_samples' AS table_name, session, count(*) AS rows,
    min(seq) AS first_seq, max(seq) AS last_seq,
    'older than {RAW_DAYS} days, rolled up by minute' AS reason
FROM hardware_samples WHERE ts < $boundary GROUP BY session
"""  # noqa: S608 - our own names

_REMOVE = "DELETE FROM hardware_samples WHERE ts < $boundary"


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What one call did.

    Attributes
    ----------
    rows : int
        Samples that were rolled up and removed.
    more : bool
        Whether more are due than one transaction takes, or the gate was not to be had.
    """

    rows: int
    more: bool


def trim_samples(
    directory: Path,
    now: datetime,
    *,
    patience: float,
    stop: Callable[[], bool] | None = None,
    limit: int = ROW_LIMIT,
) -> Trimmed:
    """Roll up the oldest of the samples that are due; the caller holds ``ingest.lock``.

    The minutes, the removal and its record are one transaction: a death at any point
    leaves all of it or nothing.

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
    limit : int
        About how many samples at most; a minute is never split.

    Raises
    ------
    StoreError
        If the database cannot be read or written.
    """
    import duckdb

    try:
        with reading(directory) as connection:
            boundary, last = _due(connection, now, limit)
        if boundary is None:
            return Trimmed(0, more=False)
        with writing(directory, patience=patience, stop=stop) as connection:
            if connection is None:
                return Trimmed(0, more=True)
            connection.execute("BEGIN")
            connection.execute(_ROLL_UP, {"boundary": boundary})
            connection.execute(_NOTE, {"boundary": boundary, "now": now})
            [[rows]] = connection.execute(_REMOVE, {"boundary": boundary}).fetchall()
            connection.execute("COMMIT")
    except duckdb.Error as error:
        raise failure(
            f"Old samples of the hardware in {directory} could not be rolled up",
            error,
            "They are kept as they are, and it is tried again later.",
        ) from error
    return Trimmed(int(rows), more=boundary != last)


def _due(
    connection: duckdb.DuckDBPyConnection | None, now: datetime, limit: int
) -> tuple[datetime | None, datetime | None]:
    """Return up to where samples can be rolled up at once, and up to where they are due."""
    if connection is None:
        return None, None
    [row] = connection.execute(_BOUNDARY, {"now": now, "limit": limit}).fetchall()
    return row
