"""A large made-up history for the pictures of the views: a year, and what goes with it.

The executions are those of ``tests/benchmarks/history_rows.py``; decisions, predictions and
samples of the hardware follow from them by formulas below, so that every view has something large
to draw; none of it was measured.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from history_loading import StoreLoading
from history_rows import BEGIN, HARDWARE, chunks

from ravenxterm_lab.store import database

__all__ = ["YEAR", "fill"]

#: The window of the views, as Python.
YEAR = '{"start": "2025-01-01", "end": "2026-01-01"}'
_CHUNK = 250_000
#: One execution in so many was decided by the selector.
_EVERY = 20

# A number from 0 to 1 that follows from the row.
_RANDOM = "(hash(seq, session, {salt}) % 10000 / 10000.0)"
_DECISIONS = f"""
INSERT INTO {{catalogue}}.selections BY NAME
SELECT
    ts, 'made-up' AS session, row_number() OVER (ORDER BY ts) AS seq,
    session || ':' || seq AS selection, task, model AS chosen, fingerprint,
    0.2 + 0.7 * {_RANDOM.format(salt=1)} AS probability, 'thompson' AS policy,
    '1. ' || model || '  score 0.641  (1,204 runs here)' AS reason, hardware
FROM {{catalogue}}.executions WHERE seq % {_EVERY} = 0
"""
_PREDICTIONS = f"""
INSERT INTO {{catalogue}}.predictions BY NAME
SELECT
    ts, 'made-up' AS session, 10_000_000 + row_number() OVER (ORDER BY ts) AS seq,
    session || ':' || seq AS execution, model, fingerprint, task, 'throughput' AS quantity,
    CASE WHEN seq % 100 = 0 THEN 'interpolated' WHEN seq % 700 = 40 THEN 'prior'
        ELSE 'measured' END AS tier,
    throughput * exp(0.6 * ({_RANDOM.format(salt=2)} + {_RANDOM.format(salt=3)} - 1)) AS predicted,
    predicted * 0.75 AS low, predicted * 1.35 AS high, throughput AS actual, device, hardware
FROM {{catalogue}}.executions WHERE seq % {_EVERY} = 0 AND throughput IS NOT NULL
"""
_SAMPLES = f"""
INSERT INTO {{catalogue}}.hardware_samples BY NAME
WITH told AS (
    SELECT
        TIMESTAMP '{{begin}}' + to_minutes(minute) AS ts, 'made-up' AS session,
        20_000_000 + minute AS seq,
        greatest(0.05, sin((minute % 1440 / 60 - 7) / 14 * pi())) AS busy
    FROM range(365 * 1440) AS minutes (minute)
)
SELECT
    ts, session, seq, '{{hardware}}' AS hardware,
    least(100, 90 * busy * {_RANDOM.format(salt=4)} + 3) AS cpu_percent,
    ((6 + 30 * busy + 4 * {_RANDOM.format(salt=5)}) * 1073741824)::UBIGINT AS memory_used,
    64::UBIGINT * 1073741824 - memory_used AS memory_available,
    memory_used // 2 AS process_memory, 0 AS gpu,
    least(100, 110 * busy * {_RANDOM.format(salt=6)}) AS gpu_percent,
    (20 * busy * 1073741824)::UBIGINT AS gpu_memory_used,
    25 + 3.2 * gpu_percent AS gpu_power, 35 + 0.4 * gpu_percent AS gpu_temperature
FROM told
"""


def fill(home: Path, rows: int, ready: Path | None = None) -> None:
    """Make the store of a home that was never opened.

    Parameters
    ----------
    home : Path
        Its ``store`` is made.
    rows : int
        Executions.
    ready : Path, optional
        The store of a year that was built before; it is copied, not changed.
    """
    place = home / "store"
    if ready is None:
        loading = StoreLoading(place)
        for chunk in chunks(rows, seed=0, size=_CHUNK):
            loading.take(chunk)
        loading.finish()
    else:
        shutil.copytree(ready, place)
    connection = database.connect()
    database.attach(connection, place, read_only=False)
    database.migrate(connection)
    names = {"catalogue": database.CATALOGUE, "begin": BEGIN, "hardware": HARDWARE}
    for sql in (_DECISIONS, _PREDICTIONS, _SAMPLES):
        connection.execute(sql.format(**names))
    connection.execute(f"DETACH {database.CATALOGUE}")
    connection.close()
