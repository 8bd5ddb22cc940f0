"""The evidence for selection: kept in memory, brought up to date, and watched for changes.

Every execution that any process recorded counts at once; what another process found to have
changed holds here too. A change is recorded, and said, once.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.selection.evidence import SPEED_HALF_LIFE_DAYS, Evidence
from ravenxterm_lab.selection.ledger import Found, Ledger
from ravenxterm_lab.selection.observed import Whole
from ravenxterm_lab.selection.reading import read_whole, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.selection.observed import Mark, Run

__all__ = ["Learning"]

_TABLES = ("executions", "feedback", "changes")
#: More new executions than this are added up by the store.
_MOST_NEWS = 5000
#: How often totals are compared before everything is read again.
_MOST_LOOKS = 3
#: Seconds after which everything is read anew, whatever was told since.
_WHOLE_SECONDS = 3600.0


class Learning:
    """What selection learns from. Any thread may ask.

    Parameters
    ----------
    bench : Workbench
        Whose store, hardware and messages.
    clock : callable, optional
        Seconds that never go back.
    """

    def __init__(self, bench: Workbench, clock: Callable[[], float] = time.monotonic) -> None:
        self._bench = bench
        self._clock = clock
        self._lock = threading.Lock()
        self._follower = bench.store.follow(_TABLES)
        self._ledger: Ledger | None = None
        self._read_at = 0.0
        # Rows of each of the tables, and rows ever removed (see `Store.mark`).
        self._totals: tuple[int, ...] = ()
        self._latest: Mark | None = None
        self._own: set[tuple[str, int]] = set()
        self._kept: tuple[datetime, Evidence] | None = None

    def evidence(self) -> Evidence:
        """Return what counts now; look for changes first, where something came.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        with self._lock:
            try:
                found = self._load() if self._due() else self._follow()
                if found:
                    self._tell(found)
            except BaseException:
                # Half of what came may be counted.
                self._ledger = None
                raise
            # A minute changes a weight by 0.003 %.
            now = self._now().replace(second=0, microsecond=0)
            if self._kept is None or self._kept[0] != now:
                assert self._ledger is not None
                self._kept = (now, self._ledger.evidence(now))
            return self._kept[1]

    def _due(self) -> bool:
        late = self._clock() - self._read_at >= _WHOLE_SECONDS
        return self._ledger is None or late

    def _now(self) -> datetime:
        return datetime.fromisoformat(self._bench.now())

    def _load(self) -> list[Found]:
        """Read everything; return the changes that it shows."""
        self._kept, self._ledger = None, None
        self._read_at, now = self._clock(), self._now()
        if self._bench.store.blank:
            # What comes from now on is news from its first row on.
            self._follower = self._bench.store.follow(_TABLES)
            self._totals = (0,) * (len(_TABLES) + 1)
            self._latest, self._ledger = None, Ledger(Whole([], []), now)
            return []
        with self._bench.store.snapshot() as reader:
            self._follower.start_from(reader)
            self._totals = reader.mark(_TABLES)
            whole = read_whole(
                reader,
                hardware=self._bench.hardware.fingerprint,
                now=now,
                half_life_days=SPEED_HALF_LIFE_DAYS,
            )
        ledger = Ledger(whole, now)
        self._latest = max((run.mark for run in whole.runs), default=None)
        found = ledger.watch()
        self._ledger = ledger
        return found

    def _follow(self) -> list[Found]:
        """Take in what came since; read everything where that is not enough."""
        tables, sure = self._follower.news()
        found = self._take(tables)
        if found is None:
            return self._load()
        if sure:
            return found
        # They differ where a row came between the two questions: both are asked again.
        for _ in range(_MOST_LOOKS):
            if self._bench.store.mark(_TABLES) == self._totals:
                return found
            more = self._take(self._follower.news()[0])
            if more is None:
                break
            found += more
        return self._load()

    def _take(self, tables: dict[str, pa.Table]) -> list[Found] | None:
        """Count new rows; None where they change what was counted before."""
        if not tables:
            return []
        if "executions" in tables and tables["executions"].num_rows > _MOST_NEWS:
            return None
        runs = self._runs(tables)
        foreign = set()
        if "changes" in tables:
            rows = tables["changes"].select(["session", "seq"]).to_pylist()
            foreign = {(row["session"], row["seq"]) for row in rows} - self._own
        if "feedback" in tables or foreign:
            return None
        if runs and self._latest is not None and runs[0].mark <= self._latest:
            return None
        return self._count(runs)

    def _runs(self, tables: dict[str, pa.Table]) -> list[Run]:
        table = tables.get("executions")
        return [] if table is None else runs_of(table, self._bench.hardware.fingerprint)

    def _count(self, runs: list[Run]) -> list[Found]:
        if not runs:
            return []
        assert self._ledger is not None
        self._kept = None
        self._latest = runs[-1].mark
        self._add_to("executions", len(runs))
        now = self._now()
        return [found for run in runs for found in self._ledger.add(run, now)]

    def _add_to(self, table: str, rows: int) -> None:
        place = _TABLES.index(table)
        counted = self._totals[place] + rows
        self._totals = (*self._totals[:place], counted, *self._totals[place + 1 :])

    def _tell(self, found: list[Found]) -> None:
        try:
            self._settle(found)
        except StoreError as error:
            if self._ledger is None:
                raise
            # Nobody else learns of it, but here it counts.
            text = f"{found[0].change.message(found[0].model)}. Not recorded: {error}"
            self._bench.messages.add("warning", found[0].model, text)

    def _settle(self, found: list[Found]) -> None:
        """Record what changed, unless another process did before; say it once."""
        store = self._bench.store
        with store.alone("changes"):
            place = _TABLES.index("changes")
            if store.mark(_TABLES)[place] != self._totals[place]:
                found = self._load()
            for one in found:
                self._record(one)

    def _record(self, found: Found) -> None:
        change, noticed = found.change, found.noticed
        level = "info" if change.after > change.before else "warning"
        recorded = self._bench.record(
            "changes",
            metric=noticed.metric,
            model=found.model,
            fingerprint=found.fingerprint,
            task=noticed.task,
            runtime=noticed.runtime,
            device=noticed.device,
            settings=noticed.settings,
            hardware=self._bench.hardware.fingerprint if noticed.metric == "speed" else None,
            since=noticed.first.microseconds,
            first_execution=noticed.first.execution,
            noticed=noticed.noticed.microseconds,
            noticed_execution=noticed.noticed.execution,
            before=change.before,
            after=change.after,
            runs=change.n,
            statistic=change.statistic,
        )
        if recorded is not None:
            self._own.add((recorded.session, recorded.seq))
            self._add_to("changes", 1)
        self._bench.messages.add(level, found.model, change.message(found.model))
