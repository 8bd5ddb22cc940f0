"""Which loads failed here lately, read from the store and kept until something was loaded."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.models.loading import engine_of
from ravenxterm_lab.selection import LONGEST_WAIT, FailedLoads, Violation, failures_against

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions

__all__ = ["Failing", "LoadFailures"]

_FAILED_SQL = """
WITH tried AS (
    SELECT coalesce(fingerprint, model) AS model_key, engine, device, settings, success,
        failure, error, ts
    FROM loads
    WHERE coalesce(hardware, $hardware) = $hardware AND ts >= CAST($since AS TIMESTAMP)
), worked AS (
    SELECT model_key, engine, device, settings, max(ts) AS ts
    FROM tried WHERE success GROUP BY ALL
), otherwise AS (
    SELECT DISTINCT model_key, engine FROM worked
)
SELECT
    t.model_key, t.engine, t.device, t.settings, count(*), arg_max(t.failure, t.ts),
    arg_max(t.error, t.ts), max(t.ts), bool_or(o.engine IS NOT NULL)
FROM tried t LEFT JOIN worked w
    ON w.model_key = t.model_key AND w.engine = t.engine AND w.device = t.device
    AND w.settings = t.settings
LEFT JOIN otherwise o ON o.model_key = t.model_key AND o.engine = t.engine
WHERE NOT t.success AND t.engine IS NOT NULL AND (w.ts IS NULL OR t.ts > w.ts)
GROUP BY t.model_key, t.engine, t.device, t.settings
"""

#: A way to load: model key, engine with its version, device, settings.
_Way = tuple[str, str, str, str]


class Failing:
    """A snapshot: what speaks against loads that failed before.

    Parameters
    ----------
    bench : Workbench
        For the runtimes.
    failed : mapping
        By way of loading.
    now : datetime
        The moment (UTC, without a zone).
    """

    def __init__(self, bench: Workbench, failed: Mapping[_Way, FailedLoads], now: datetime) -> None:
        self._bench = bench
        self._failed = failed
        self._now = now

    @property
    def any(self) -> bool:
        """Whether any load failed."""
        return bool(self._failed)

    def against(self, model: ModelMetadata, options: LoadOptions) -> tuple[Violation, ...]:
        """Return what speaks against loading a model so; mostly nothing.

        Parameters
        ----------
        model : ModelMetadata
            Which.
        options : LoadOptions
            How.
        """
        if not self._failed or not model.runtimes:
            return ()
        engine = engine_of(self._bench.runtime(model.runtimes[0]))
        way = (model_key(model), engine, options.device.value, options.settings)
        failed = self._failed.get(way)
        if failed is None:
            return ()
        found = failures_against(failed, self._now, _written(model))
        return () if found is None else (found,)


class LoadFailures:
    """Reads failed loads, and keeps them until any process recorded a load. Any thread may ask.

    Parameters
    ----------
    bench : Workbench
        Whose store and hardware.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._lock = threading.Lock()
        self._follower = bench.store.follow(("loads",))
        self._failed: dict[_Way, FailedLoads] | None = None

    def now(self) -> Failing:
        """Return what counts at this moment; nothing, with a message, if it cannot be read."""
        moment = datetime.fromisoformat(self._bench.now())
        with self._lock:
            try:
                failed = self._read(moment)
            except StoreError as error:
                self._failed, failed = None, {}
                text = f"Loads that failed before are not known, history cannot be read: {error}"
                self._bench.messages.add("warning", "store", text)
        return Failing(self._bench, failed, moment)

    def _read(self, now: datetime) -> dict[_Way, FailedLoads]:
        if self._failed is not None:
            tables, sure = self._follower.news()
            if sure and not tables:
                return self._failed
        self._failed = None
        if self._bench.store.blank:
            self._follower = self._bench.store.follow(("loads",))
            self._failed = {}
            return self._failed
        self._follower.start()
        rows = self._bench.store.rows(
            _FAILED_SQL,
            {"hardware": self._bench.hardware.fingerprint, "since": str(now - LONGEST_WAIT)},
        )
        self._failed = {
            (key, engine, device, settings): FailedLoads(
                count, kind or "", error or "", last, otherwise
            )
            for key, engine, device, settings, count, kind, error, last, otherwise in rows
        }
        return self._failed


def _written(model: ModelMetadata) -> datetime | None:
    """Return when the files of a model were last written; None where that cannot be said."""
    try:
        newest = max(path.stat().st_mtime for path in model.shards or (model.path,))
    except OSError:
        return None
    return datetime.fromtimestamp(newest, UTC).replace(tzinfo=None)
