"""The audit: proof that no event is missing and none is there twice, by session and sequence.

A process numbers its events from 1 without a gap. Each number is therefore in exactly one
row: of a table, or of what waits in the spool, or of one that was removed on purpose and
noted. A damaged event stands as a message under its own number. What nothing can tell is
an event after the last one known of a session, if its whole segment was deleted.

Presence is counted in words of 64 numbers, one bit each, so that the count is exact and
takes a sixty-fourth of the memory of a set of the numbers.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError, StoreVersionError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.reading import Readers
from ravenxterm_lab.store.schema import TABLES
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb

__all__ = ["CheckReport", "SessionCheck", "check"]

#: Ranges and rows that are named, of each kind and session; the rest is counted.
_NAMED = 8
#: Sessions whose faults are looked up one by one.
_SESSIONS = 50

_EVENTS = " UNION ALL BY NAME ".join(
    f"SELECT '{name}' AS table_name, session, seq FROM {name}"  # noqa: S608 - our own names
    for name in TABLES
)
_MOVED = " UNION ALL BY NAME ".join(
    f"SELECT '{name}' AS table_name, session, seq FROM {database.CATALOGUE}.{name}"  # noqa: S608 - our own names
    for name in TABLES
)

_PRESENCE = f"""
WITH words AS (
    SELECT session, seq >> 6 AS word, bit_or(1::UBIGINT << (seq & 63)) AS bits,
        count(*) AS rows, min(seq) AS lowest, max(seq) AS highest
    FROM ({_EVENTS}) WHERE session IS NOT NULL AND seq IS NOT NULL GROUP BY ALL
), found AS (
    SELECT session, sum(rows)::UBIGINT AS rows, sum(bit_count(bits))::UBIGINT AS numbers,
        min(lowest) AS lowest, max(highest) AS highest
    FROM words GROUP BY session
), removed AS (
    SELECT session, sum(rows)::UBIGINT AS removed, max(last_seq) AS last_removed
    FROM {database.CATALOGUE}.removals GROUP BY session
)
SELECT session, coalesce(rows, 0), coalesce(numbers, 0), lowest, highest, next_seq,
    coalesce(removed, 0), last_removed
FROM found FULL JOIN removed USING (session) FULL JOIN {database.CATALOGUE}.watermarks
    USING (session)
ORDER BY session
"""  # noqa: S608 - our own names

_NAMELESS = f"SELECT count(*) FROM ({_EVENTS}) WHERE session IS NULL OR seq IS NULL"  # noqa: S608 - our own names

_BEYOND = f"""
SELECT session, string_agg(DISTINCT table_name, ', ' ORDER BY table_name), count(*),
    min(seq), max(seq), any_value(next_seq)
FROM ({_MOVED}) LEFT JOIN {database.CATALOGUE}.watermarks USING (session)
WHERE seq >= coalesce(next_seq, 0) AND session IS NOT NULL GROUP BY session ORDER BY session
"""  # noqa: S608 - our own names

_MISSING = f"""
WITH numbers AS (
    SELECT DISTINCT seq::HUGEINT AS seq FROM ({_EVENTS}) WHERE session = $session
    UNION ALL SELECT 0 UNION ALL SELECT $end
)
SELECT seq + 1, following - 1 FROM (
    SELECT seq, lead(seq) OVER (ORDER BY seq) AS following FROM numbers
) WHERE following > seq + 1 ORDER BY 1 LIMIT {_NAMED + 1}
"""  # noqa: S608 - our own names

_REPEATED = f"""
SELECT seq, count(*), string_agg(DISTINCT table_name, ' and ' ORDER BY table_name)
FROM ({_EVENTS}) WHERE session = $session
GROUP BY seq HAVING count(*) > 1 ORDER BY seq LIMIT {_NAMED}
"""  # noqa: S608 - our own names

_ROLLUPS = f"""
WITH written AS (
    SELECT date_trunc('hour', ts) AS hour, count(*) AS rows
    FROM {database.CATALOGUE}.executions GROUP BY 1
), summed AS (
    SELECT hour, sum(runs)::HUGEINT AS runs FROM {database.CATALOGUE}.execution_hours GROUP BY 1
)
SELECT coalesce(hour, TIMESTAMP 'epoch') AS hour, coalesce(rows, 0), coalesce(runs, 0)
FROM written FULL JOIN summed USING (hour)
WHERE coalesce(rows, 0) <> coalesce(runs, 0) ORDER BY 1
"""  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class SessionCheck:
    """What was found of one session.

    Attributes
    ----------
    session : str
        The recording process.
    rows, numbers : int
        Rows, those that wait included, and different numbers among them.
    lowest, highest : int or None
        Least and largest number; None without rows.
    watermark : int or None
        First number that was not moved into the database; None when nothing was.
    removed : int
        Rows that were removed on purpose.
    missing : int
        Numbers that should be there and are not.
    """

    session: str
    rows: int
    numbers: int
    lowest: int | None
    highest: int | None
    watermark: int | None
    removed: int
    missing: int

    @property
    def repeated(self) -> int:
        """Rows too many."""
        return self.rows - self.numbers


@dataclass(frozen=True, slots=True)
class CheckReport(Displayed):
    """What an audit found. It is true, and ``ok``, when there is no problem.

    Attributes
    ----------
    path : Path
        The store.
    events : int
        Events that are there, those that wait included.
    pending : int
        Events that wait in the spool.
    removed : int
        Events that were removed on purpose: exported, or rolled up by minute.
    gaps, duplicates, beyond : int
        Events missing, rows too many, and rows that a watermark says still wait.
    damaged : int
        Events or segments in the spool that cannot be read.
    skipped : int
        Events that were found damaged earlier, and stand as messages; no problem of today.
    rollup_hours : int
        Hours whose rollup disagrees with the executions.
    sessions : tuple of SessionCheck
        All of them, by name.
    problems : tuple of str
        Each names the session, the table and the range, and the remedy.
    seconds : float
        Wall time.
    """

    path: Path
    events: int = 0
    pending: int = 0
    removed: int = 0
    gaps: int = 0
    duplicates: int = 0
    beyond: int = 0
    damaged: int = 0
    skipped: int = 0
    rollup_hours: int = 0
    sessions: tuple[SessionCheck, ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def _card(self) -> Card:
        note = (
            f"{self.path}: {format_number(self.events, 'event')} of "
            f"{format_number(len(self.sessions), 'session')}, "
            f"{self.pending:,} of them waiting; {self.gaps:,} missing, {self.duplicates:,} "
            f"twice; {self.removed:,} removed on purpose, {self.skipped:,} skipped as damaged "
            f"earlier. {format_seconds(self.seconds)}."
        )
        title = "The store is whole"
        if not self.ok:
            title = f"{format_number(len(self.problems), 'problem')} in the store"
        if self.ok:
            return Card(title, note)
        return Card(title, note, [Table(["problem"], [[text] for text in self.problems])])


@dataclass(slots=True)
class _Findings:
    """The counts and sentences, as they are collected."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count


def check(directory: Path) -> CheckReport:
    """Audit the store, with the gate shared: readers go on.

    Nothing is written, but as any reader it upgrades a file of an older version, and mends
    one that a killed process left half-written.

    Parameters
    ----------
    directory : Path
        The store; one that does not exist is whole.

    Raises
    ------
    StoreVersionError
        If a newer version of this package made it.
    """
    import duckdb

    start = time.perf_counter()
    found = _Findings()
    notes: list[str] = []
    sessions: tuple[SessionCheck, ...] = ()
    pending = 0
    try:
        readers = Readers(directory, notes.append)
        with contextlib.closing(readers), readers.open(rollups=False) as reader:
            pending = reader.pending
            sessions = _audit(reader.connection, found)
    except StoreVersionError:
        raise
    except StoreError as error:
        found.problems.append(str(error))
    except duckdb.Error as error:
        found.problems.append(
            f"DuckDB cannot read {directory / database.DATABASE} ({database.reason(error)}). "
            "Keep a copy of the file, then restore it from a backup, or move it aside to begin "
            "a new one."
        )
    found.add("damaged", len(notes))
    found.problems += [
        f"{text.rstrip('.')}. Restore the file from a backup before it is ingested, or accept "
        "the loss: it is then noted as a message."
        for text in notes
    ]
    return CheckReport(
        path=directory,
        pending=pending,
        sessions=sessions,
        events=sum(one.rows for one in sessions),
        problems=tuple(found.problems),
        seconds=time.perf_counter() - start,
        **found.counts,
    )


def _audit(connection: duckdb.DuckDBPyConnection, found: _Findings) -> tuple[SessionCheck, ...]:
    sessions = tuple(_session(*row) for row in connection.execute(_PRESENCE).fetchall())
    found.add("removed", sum(one.removed for one in sessions))
    [[nameless]] = connection.execute(_NAMELESS).fetchall()
    if nameless:
        found.add("duplicates", nameless)
        found.problems.append(
            f"{nameless} rows lack their session or number: they were not written by this "
            "package. Remove them from the database."
        )
    faulty = [one for one in sessions if one.missing or one.repeated]
    for number, one in enumerate(faulty):
        found.add("gaps", max(one.missing, 0))
        found.add("duplicates", one.repeated)
        if number < _SESSIONS:
            _name_faults(connection, one, found)
    if len(faulty) > _SESSIONS:
        found.problems.append(
            f"{len(faulty) - _SESSIONS} more sessions have gaps or duplicates; see "
            "`sessions` of the report."
        )
    _check_watermarks(connection, found)
    _check_rollups(connection, found)
    [[skipped]] = connection.execute(
        "SELECT count(*) FROM messages WHERE subject = 'store' AND text LIKE 'event % was skipped%'"
    ).fetchall()
    found.add("skipped", skipped)
    return sessions


def _session(
    session: str,
    rows: int,
    numbers: int,
    lowest: int | None,
    highest: int | None,
    watermark: int | None,
    removed: int,
    last_removed: int | None,
) -> SessionCheck:
    # The numbers begin at 1; the watermark tells of rows that were moved, should they be gone.
    expected = max(highest or 0, (watermark or 1) - 1, last_removed or 0)
    extra = 1 if lowest == 0 else 0
    missing = expected + extra - numbers - removed
    return SessionCheck(session, rows, numbers, lowest, highest, watermark, removed, missing)


def _name_faults(
    connection: duckdb.DuckDBPyConnection, one: SessionCheck, found: _Findings
) -> None:
    if one.repeated:
        rows = connection.execute(_REPEATED, {"session": one.session}).fetchall()
        places = "; ".join(f"{seq} {times} times in {tables}" for seq, times, tables in rows)
        more = "" if len(rows) == one.repeated else ", and possibly others"
        found.problems.append(
            f"Session {one.session}: {one.repeated:,} rows too many, namely number {places}{more}. "
            "Remove all but one of each from the database; report this, for it should not happen."
        )
    if one.missing < 0:
        found.problems.append(
            f"Session {one.session}: {-one.missing:,} more rows are there or noted as removed "
            f"than the {one.numbers + one.removed + one.missing:,} that it recorded. Rows that "
            "were exported have come back, for instance from a backup: remove them again."
        )
    elif one.missing:
        expected = one.numbers + one.removed + one.missing
        rows = connection.execute(
            _MISSING, {"session": one.session, "end": expected + 1}
        ).fetchall()
        removed = _removed_ranges(connection, one.session)
        ranges = [f"{a}" if a == b else f"{a}-{b}" for a, b in _outside(rows, removed)]
        listed = ", ".join(ranges[:_NAMED]) + (", …" if len(ranges) > _NAMED else "")
        among = f" ({one.removed:,} of these were removed on purpose)" if one.removed else ""
        found.problems.append(
            f"Session {one.session}: {format_number(one.missing, 'event')} missing from every "
            f"table, within the numbers {listed}{among}. Restore them from a backup or an "
            "export; if their segment was deleted from the spool, they are lost."
        )


def _removed_ranges(
    connection: duckdb.DuckDBPyConnection, session: str
) -> Sequence[tuple[int, int, int]]:
    return connection.execute(
        f"SELECT first_seq, last_seq, rows FROM {database.CATALOGUE}.removals "  # noqa: S608 - our own names
        "WHERE session = ? ORDER BY 1",
        [session],
    ).fetchall()


def _outside(
    missing: Sequence[tuple[int, int]], removed: Sequence[tuple[int, int, int]]
) -> list[tuple[int, int]]:
    """Leave out of the missing ranges what a removal accounts for in full."""
    left = [(int(a), int(b)) for a, b in missing]
    for first, last, rows in removed:
        if rows != last - first + 1:
            continue
        parts: list[tuple[int, int]] = []
        for a, b in left:
            parts += [(x, y) for x, y in ((a, min(b, first - 1)), (max(a, last + 1), b)) if x <= y]
        left = parts
    return left or [(int(a), int(b)) for a, b in missing]


def _check_watermarks(connection: duckdb.DuckDBPyConnection, found: _Findings) -> None:
    for session, tables, rows, first, last, watermark in connection.execute(_BEYOND).fetchall():
        found.add("beyond", rows)
        says = f"its watermark is {watermark}" if watermark is not None else "it has no watermark"
        found.problems.append(
            f"Session {session}: {rows:,} rows of {tables}, with numbers from {first} to {last}, "
            f"are in the database although {says}, so that they may be ingested again. Set "
            f"next_seq to {last + 1} in the table watermarks."
        )
    [[repeated]] = connection.execute(
        f"SELECT count(*) - count(DISTINCT session) FROM {database.CATALOGUE}.watermarks"  # noqa: S608 - our own names
    ).fetchall()
    if repeated:
        found.problems.append(
            f"{repeated} sessions have more than one watermark. Keep the largest of each."
        )


def _check_rollups(connection: duckdb.DuckDBPyConnection, found: _Findings) -> None:
    hours: list[tuple[Any, int, int]] = connection.execute(_ROLLUPS).fetchall()
    [[removed]] = connection.execute(
        f"SELECT coalesce(sum(rows), 0) FROM {database.CATALOGUE}.removals "  # noqa: S608 - our own names
        "WHERE table_name = 'executions'"
    ).fetchall()
    # Rollups outlive the rows that were removed on purpose, and nothing else.
    short = [hour for hour in hours if hour[1] < hour[2]]
    wrong = [hour for hour in hours if hour[1] > hour[2]]
    if sum(runs - rows for _, rows, runs in short) != removed:
        wrong += short
    if wrong:
        found.add("rollup_hours", len(wrong))
        named = ", ".join(
            f"{hour:%Y-%m-%d %H}:00 ({rows:,} rows, {runs:,} in the rollup)"
            for hour, rows, runs in sorted(wrong)[:_NAMED]
        )
        more = f", and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        remedy = "The rows are right, the statistics of these hours are not: report this."
        if found.counts.get("gaps") or found.counts.get("duplicates"):
            remedy = "Mend the rows first; the statistics may then agree again."
        found.problems.append(
            f"The table execution_hours disagrees with executions in "
            f"{format_number(len(wrong), 'hour')}: {named}{more}; "
            f"{format_number(removed, 'execution')} removed on purpose. {remedy}"
        )
