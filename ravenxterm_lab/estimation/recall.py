"""Reading the history of the estimator: one query, and then what any process records since."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ravenxterm_lab.estimation.conformal import DEFAULT_LEVEL
from ravenxterm_lab.estimation.history import History, Outcome, Truth
from ravenxterm_lab.estimation.learning import Subject
from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.schema import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

    from ravenxterm_lab.store import Store
    from ravenxterm_lab.store.following import Follower
    from ravenxterm_lab.store.reading import Mark

__all__ = ["LEARNED_FROM", "HistoryReader", "basis_of"]

#: Tables of the store that a history is made of.
LEARNED_FROM = ("executions", "loads", "predictions")

#: The latest outcomes that are read; a cell counts its last sixty runs, a group its last 200.
MOST_OUTCOMES = 2000
#: Seconds for which nobody asks whether other processes recorded something worth knowing.
FRESH_SECONDS = 1.0
#: Seconds after which all outcomes are read again, and not only those that came since: their
#: ages move on, and to read 2,000 of them before each run would take longer than to choose.
WHOLE_SECONDS = 3600.0
#: How often totals are compared before everything is read again.
_MOST_LOOKS = 3
# Clocks of processes differ: as far back is read for what came since.
_OVERLAP = timedelta(seconds=10)

# A peak belongs to one engine with one set of settings: the context above all. What another
# program recorded of itself names no engine, and says nothing about ours.
_HISTORY_SQL = """
WITH runs AS (
    SELECT
        'runs' AS kind, coalesce(fingerprint, model) AS model_key, runtime AS engine, device,
        settings, max(peak_memory_succeeded) AS peak, sum(succeeded)::BIGINT AS n
    FROM execution_hours
    WHERE runtime IS NOT NULL AND coalesce(hardware, $hardware) = $hardware
    GROUP BY ALL
), loaded AS (
    SELECT
        'loads' AS kind, coalesce(fingerprint, model) AS model_key, runtime AS engine, device,
        settings, max(memory_bytes) AS peak, count(*) AS n
    FROM loads
    WHERE success AND runtime IS NOT NULL AND coalesce(hardware, $hardware) = $hardware
    GROUP BY ALL
), outcomes AS (
    SELECT
        'outcomes' AS kind, quantity, tier, engine, device, predicted, actual, low, high, level,
        spread, hardware IS NOT DISTINCT FROM $hardware AS here, basis::VARCHAR AS basis,
        ts, session, seq
    FROM predictions
    WHERE actual IS NOT NULL AND basis IS NOT NULL AND ts >= CAST($since AS TIMESTAMP)
    ORDER BY ts DESC, session DESC, seq DESC
    LIMIT $most
)
SELECT
    kind, model_key, engine, device, settings, peak, n, quantity, tier, predicted, actual, low,
    high, level, spread, here, basis, ts, session, seq
FROM (FROM runs UNION ALL BY NAME FROM loaded UNION ALL BY NAME FROM outcomes)
ORDER BY ts NULLS FIRST, session, seq
"""
_COLUMNS = (
    "kind", "model_key", "engine", "device", "settings", "peak", "n", "quantity", "tier",
    "predicted", "actual", "low", "high", "level", "spread", "here", "basis", "ts", "session",
    "seq",
)  # fmt: skip

#: Model, engine, device and settings, as they were recorded.
_Place = tuple[str, str | None, str | None, str | None]


@dataclass(slots=True)
class _Known:
    """What was read of the store, and where what follows begins."""

    follower: Follower
    mark: Mark
    #: When all of it was read, by the clock of the reader.
    read_at: float
    history: History
    #: Largest peak (bytes) and number of the successful runs, and of the loads.
    runs: dict[_Place, tuple[int, int]]
    loads: dict[_Place, tuple[int, int]]
    latest: datetime | None = None
    # The outcomes that another reading would see again, by session and number.
    overlap: dict[tuple[object, object], datetime] = field(default_factory=dict)


class _Answer(NamedTuple):
    """A history that was all that there is at a moment, by the clock of the reader.

    Number ``changed`` of what this process said that it recorded is in it, and no later one.
    """

    at: float
    changed: int
    history: History


class HistoryReader:
    """Reads histories from a store, and keeps each until something is recorded.

    What any process recorded since is read from the spool and added to the history that was
    there before; all of it is read again after `WHOLE_SECONDS`. Any thread may ask.

    Parameters
    ----------
    store : Store
        Where predictions, loads and executions are.
    now : callable
        Returns the moment as ISO 8601 in UTC.
    on_error : callable, optional
        Told when the store cannot be read; the history is empty then.
    clock : callable, optional
        Seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], str],
        on_error: Callable[[StoreError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._now = now
        self._on_error = on_error
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._known: dict[str, _Known] = {}
        self._changes = itertools.count(1)
        self._changed = 0

    def forget(self) -> None:
        """Look into the store the next time: this process recorded something."""
        self._changed = next(self._changes)

    def read(self, hardware: str) -> History:
        """Return the history as a machine sees it.

        Parameters
        ----------
        hardware : str
            Fingerprint of the machine; what was measured on others serves for calibration only.
        """
        at, changed = self._clock(), self._changed
        last = self._answers.get(hardware)
        if last is not None and last.changed == changed and at - last.at < FRESH_SECONDS:
            return last.history
        with self._lock:
            try:
                history = self._current(hardware, at)
            except StoreError as error:
                if self._on_error is not None:
                    self._on_error(error)
                history = History()
            self._answers[hardware] = _Answer(at, changed, history)
        return history

    def _current(self, hardware: str, at: float) -> History:
        # Gone for good if this is broken off: half of what came may have been added.
        known = self._known.pop(hardware, None)
        if known is None or at - known.read_at >= WHOLE_SECONDS:
            known = self._read(hardware, None)
        elif not self._follow(hardware, known):
            known = self._read(hardware, known)
        self._known[hardware] = known
        return known.history

    def _follow(self, hardware: str, known: _Known) -> bool:
        """Add what came since; say whether it is certainly all."""
        tables, sure = known.follower.news()
        self._add(hardware, known, tables)
        if sure:
            return True
        # An ingest moves rows that were seen before; the totals tell whether it did no more. They
        # do not where a row came between the two questions: both are asked again.
        for _ in range(_MOST_LOOKS):
            if self._store.mark(LEARNED_FROM) == known.mark:
                return True
            tables, _ = known.follower.news()
            self._add(hardware, known, tables)
        return False

    def _add(self, hardware: str, known: _Known, tables: Mapping[str, pa.Table]) -> None:
        if not tables:
            return
        rows: list[dict[str, Any]] = []
        if "executions" in tables:
            rows += _run_rows(tables["executions"], hardware)
        if "loads" in tables:
            rows += _load_rows(tables["loads"], hardware)
        if "predictions" in tables:
            rows += _outcome_rows(tables["predictions"], hardware)
        _take(known, rows, self._now())
        counts = (tables[name].num_rows if name in tables else 0 for name in LEARNED_FROM)
        *there, removed = known.mark
        known.mark = (*(n + more for n, more in zip(there, counts, strict=True)), removed)

    def _read(self, hardware: str, before: _Known | None) -> _Known:
        """Read all of it, or what follows an earlier history."""
        at = self._clock()
        history = History() if before is None else before.history
        latest = None if before is None else before.latest
        since = "-infinity" if latest is None else str(latest - _OVERLAP)
        follower = self._store.follow(LEARNED_FROM)
        if before is None and self._store.blank:
            nothing = (0,) * (len(LEARNED_FROM) + 1)
            return _Known(follower, nothing, at, history, {}, {}, latest)
        with self._store.snapshot() as reader:
            follower.start_from(reader)
            mark = reader.mark(LEARNED_FROM)
            rows = reader.rows(
                _HISTORY_SQL, {"hardware": hardware, "most": MOST_OUTCOMES, "since": since}
            )
        known = _Known(follower, mark, at, history, {}, {}, latest)
        if before is not None:
            known.read_at, known.overlap = before.read_at, before.overlap
        _take(known, [dict(zip(_COLUMNS, row, strict=True)) for row in rows], self._now())
        return known


def _take(known: _Known, rows: Iterable[Mapping[str, Any]], now: str) -> None:
    """Add rows to what is known; the outcomes oldest first."""
    moment = datetime.fromisoformat(now)
    outcomes = []
    for row in rows:
        if row["kind"] == "outcomes":
            place = row["session"], row["seq"]
            if place not in known.overlap:
                known.overlap[place] = row["ts"]
                outcomes.append(_outcome(row, moment))
            continue
        peaks = known.runs if row["kind"] == "runs" else known.loads
        key = (row["model_key"], row["engine"], row["device"], row["settings"])
        peak, n = peaks.get(key, (0, 0))
        peaks[key] = max(peak, row["peak"] or 0), n + (row["n"] or 0)
    known.latest = max(known.overlap.values(), default=None)
    if known.latest is not None:
        kept = known.latest - _OVERLAP
        known.overlap = {place: ts for place, ts in known.overlap.items() if ts >= kept}
    truths: dict[tuple[str, str, str, str], Truth] = {}
    for model, engine, device, settings in known.runs.keys() | known.loads.keys():
        peak, n = known.runs.get((model, engine, device, settings), (0, 0))
        loaded, loads = known.loads.get((model, engine, device, settings), (0, 0))
        # A run touches pages that the load did not: its peak comes first.
        truth = Truth(peak or loaded, n or loads)
        there = (model, engine or "", device or "cpu", settings or "")
        if truth.peak_bytes > max(0, truths[there].peak_bytes if there in truths else 0):
            truths[there] = truth
    # Answers are kept by their history: an execution without a forecast or a peak changes none.
    if outcomes or truths != known.history.truths:
        known.history = known.history.extended(outcomes, truths)


def basis_of(subject: Subject) -> dict[str, object]:
    """Return what the column ``basis`` holds of a subject, which `HistoryReader` reads again."""
    return {
        "parts": dict(subject.parts),
        "model": subject.model,
        "family": subject.family,
        "settings": subject.settings,
    }


def _outcome(values: Mapping[str, Any], now: datetime) -> Outcome:
    basis = json.loads(values["basis"])
    parts = basis.get("parts") or {}
    return Outcome(
        quantity=values["quantity"],
        tier=values["tier"] or "",
        engine=values["engine"] or "",
        device=values["device"] or "",
        subject=Subject(
            {name: float(value) for name, value in parts.items()},
            basis.get("model") or "",
            basis.get("family") or "",
            basis.get("settings") or "",
        ),
        predicted=values["predicted"] or 0.0,
        actual=values["actual"],
        low=values["low"],
        high=values["high"],
        level=values["level"] or DEFAULT_LEVEL,
        spread=values["spread"],
        here=values["here"],
        age_days=max((now - values["ts"]).total_seconds() / 86400.0, 0.0),
    )


# What follows does in Python, for a few new rows, what `_HISTORY_SQL` does for all.


def _run_rows(table: pa.Table, hardware: str) -> list[dict[str, Any]]:
    found = []
    for row in table.select([*_PLACE, "hardware", "success", "peak_memory", "extra"]).to_pylist():
        if row["runtime"] is not None and row["hardware"] in (None, hardware):
            extra = json.loads(row["extra"]) if row["extra"] else {}
            good = row["success"] and extra.get("failure") != INTERRUPTED
            peak = row["peak_memory"] if good else None
            found.append({"kind": "runs", **_place(row), "peak": peak, "n": int(good)})
    return found


def _load_rows(table: pa.Table, hardware: str) -> list[dict[str, Any]]:
    return [
        {"kind": "loads", **_place(row), "peak": row["memory_bytes"], "n": 1}
        for row in table.select([*_PLACE, "hardware", "success", "memory_bytes"]).to_pylist()
        if row["success"] and row["runtime"] is not None and row["hardware"] in (None, hardware)
    ]


_PLACE = ("model", "fingerprint", "runtime", "device", "settings")


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_key": row["model"] if row["fingerprint"] is None else row["fingerprint"],
        "engine": row["runtime"],
        "device": row["device"],
        "settings": row["settings"],
    }


_OUTCOME = (
    "quantity", "tier", "engine", "device", "predicted", "actual", "low", "high", "level",
    "spread", "hardware", "basis", "ts", "session", "seq",
)  # fmt: skip


def _outcome_rows(table: pa.Table, hardware: str) -> list[dict[str, Any]]:
    rows = [
        {"kind": "outcomes", "here": row["hardware"] == hardware, **row}
        for row in table.select(_OUTCOME).to_pylist()
        if row["actual"] is not None and row["basis"] is not None
    ]
    return sorted(rows, key=lambda row: (row["ts"], row["session"], row["seq"]))
