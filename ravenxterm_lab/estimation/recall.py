"""Reading the history of the estimator from the store: one query, kept while nothing changes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation.conformal import DEFAULT_LEVEL
from ravenxterm_lab.estimation.history import History, Outcome, Truth
from ravenxterm_lab.estimation.learning import Subject
from ravenxterm_lab.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from ravenxterm_lab.store import Store
    from ravenxterm_lab.store.reading import Mark, Reader

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
# Clocks of processes differ: as far back is read for what came since.
_OVERLAP = timedelta(seconds=10)

# A peak belongs to one engine with one set of settings: the context above all. What another
# program recorded of itself names no engine, and says nothing about ours.
_HISTORY_SQL = """
WITH runs AS (
    SELECT
        coalesce(fingerprint, model) AS model_key, runtime AS engine, device, settings,
        max(peak_memory_succeeded) AS peak, sum(succeeded) AS n
    FROM execution_hours
    WHERE runtime IS NOT NULL AND coalesce(hardware, $hardware) = $hardware
    GROUP BY ALL
), loaded AS (
    SELECT
        coalesce(fingerprint, model) AS model_key, runtime AS engine, device, settings,
        max(memory_bytes) AS peak, count(*) AS n
    FROM loads
    WHERE success AND runtime IS NOT NULL AND coalesce(hardware, $hardware) = $hardware
    GROUP BY ALL
), truths AS (
    SELECT
        coalesce(r.model_key, l.model_key) AS model_key,
        coalesce(r.engine, l.engine) AS engine,
        coalesce(r.device, l.device, 'cpu') AS device,
        coalesce(r.settings, l.settings, '') AS settings,
        -- A run touches pages that the load did not: its peak comes first.
        coalesce(nullif(r.peak, 0), l.peak) AS peak,
        coalesce(nullif(r.n, 0), l.n)::BIGINT AS n
    FROM runs r FULL JOIN loaded l
        ON r.model_key = l.model_key AND r.engine = l.engine
        AND r.device IS NOT DISTINCT FROM l.device AND r.settings IS NOT DISTINCT FROM l.settings
    WHERE coalesce(nullif(r.peak, 0), l.peak) > 0
), outcomes AS (
    SELECT
        quantity, tier, engine, device, predicted, actual, low, high, level, spread,
        hardware IS NOT DISTINCT FROM $hardware AS here, basis::VARCHAR AS basis,
        date_diff('second', ts, CAST($now AS TIMESTAMP)) / 86400.0 AS age,
        ts, session, seq
    FROM predictions
    WHERE actual IS NOT NULL AND basis IS NOT NULL AND ts >= CAST($since AS TIMESTAMP)
    ORDER BY ts DESC, session DESC, seq DESC
    LIMIT $most
)
SELECT
    model_key, engine, device, settings, peak, n, quantity, tier, predicted, actual, low, high,
    level, spread, here, basis, age, ts, session, seq
FROM (FROM truths UNION ALL BY NAME FROM outcomes)
ORDER BY ts NULLS FIRST, session, seq
"""
_COLUMNS = (
    "model_key", "engine", "device", "settings", "peak", "n", "quantity", "tier", "predicted",
    "actual", "low", "high", "level", "spread", "here", "basis", "age", "ts", "session", "seq",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Kept:
    history: History
    mark: Mark
    #: When it was last known to be all that there is, by the clock of the reader, and how often
    #: this process had said by then that it recorded something.
    at: float
    changes: int


@dataclass(frozen=True, slots=True)
class _Known:
    history: History
    #: When all of it was read, by the clock of the reader.
    read_at: float
    latest: datetime | None
    # The rows that the next reading will see again, by session and number.
    overlap: dict[tuple[object, object], datetime]


class HistoryReader:
    """Reads histories from a store, and keeps each until something is recorded.

    What is recorded is added to the history that was read before; all of it is read again after
    `WHOLE_SECONDS`.

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
        self._kept: dict[str, _Kept] = {}
        self._known: dict[str, _Known] = {}
        #: How often this process said that it recorded something.
        self.changes = 0

    def forget(self) -> None:
        """Look into the store the next time: this process recorded something."""
        with self._lock:
            self.changes += 1

    def read(self, hardware: str) -> History:
        """Return the history as a machine sees it.

        Parameters
        ----------
        hardware : str
            Fingerprint of the machine; what was measured on others serves for calibration only.
        """
        at, changes = self._clock(), self.changes
        kept = self._kept.get(hardware)
        if kept is not None and kept.changes == changes and at - kept.at < FRESH_SECONDS:
            return kept.history
        try:
            known = None if self._outdated(hardware) else kept
            if known is not None and self._store.mark(LEARNED_FROM) == known.mark:
                self._kept[hardware] = replace(known, at=at, changes=changes)
                return known.history
            with self._store.snapshot() as reader:
                return self.read_from(reader, hardware, changes)
        except StoreError as error:
            if self._on_error is not None:
                self._on_error(error)
            self._kept[hardware] = _Kept(History(), (), at, changes)
            return self._kept[hardware].history

    def read_from(self, reader: Reader, hardware: str, changes: int) -> History:
        """Return the history as `read` does, from a store that is open already.

        Parameters
        ----------
        reader : Reader
            Of the store.
        hardware : str
            Fingerprint of the machine.
        changes : int
            What `changes` was before the store was opened.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        at, mark = self._clock(), reader.mark(LEARNED_FROM)
        kept = self._kept.get(hardware)
        if kept is None or kept.mark != mark or self._outdated(hardware):
            kept = _Kept(self._query(reader, hardware), mark, at, changes)
        self._kept[hardware] = replace(kept, at=at, changes=changes)
        return kept.history

    def _outdated(self, hardware: str) -> bool:
        known = self._known.get(hardware)
        return known is None or self._clock() - known.read_at >= WHOLE_SECONDS

    def _query(self, reader: Reader, hardware: str) -> History:
        at = self._clock()
        with self._lock:
            known = self._known.get(hardware)
        if known is None or self._outdated(hardware):
            known = _Known(History(), at, None, {})
        since = "-infinity" if known.latest is None else str(known.latest - _OVERLAP)
        rows = reader.rows(
            _HISTORY_SQL,
            {"hardware": hardware, "now": self._now(), "most": MOST_OUTCOMES, "since": since},
        )
        truths: dict[tuple[str, str, str, str], Truth] = {}
        outcomes: list[Outcome] = []
        seen = dict(known.overlap)
        for row in rows:
            values = dict(zip(_COLUMNS, row, strict=True))
            if values["quantity"] is None:
                key = (values["model_key"], values["engine"], values["device"], values["settings"])
                truths[key] = Truth(values["peak"], values["n"])
            elif (place := (values["session"], values["seq"])) not in seen:
                seen[place] = values["ts"]
                outcomes.append(_outcome(values))
        latest = max(seen.values(), default=None)
        if latest is not None:
            seen = {place: ts for place, ts in seen.items() if ts >= latest - _OVERLAP}
        history = known.history.extended(outcomes, truths)
        with self._lock:
            self._known[hardware] = _Known(history, known.read_at, latest, seen)
        return history


def basis_of(subject: Subject) -> dict[str, object]:
    """Return what the column ``basis`` holds of a subject, which `HistoryReader` reads again."""
    return {
        "parts": dict(subject.parts),
        "model": subject.model,
        "family": subject.family,
        "settings": subject.settings,
    }


def _outcome(values: Mapping[str, Any]) -> Outcome:
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
        age_days=max(values["age"], 0.0),
    )
