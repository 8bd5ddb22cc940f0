"""The recorded performance of one model, as an object that people can look into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import UnknownModelError, did_you_mean
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.store import QueryResult, Store

__all__ = ["PerformanceHistory", "read_history"]

# A judgement that came later replaces the quality that was recorded with the run.
_RUNS = """
WITH judged AS (
    SELECT execution, arg_max(quality, ts) AS quality FROM feedback GROUP BY execution
), runs AS (
    SELECT e.* REPLACE (coalesce(j.quality, e.quality) AS quality)
    FROM executions e LEFT JOIN judged j ON j.execution = e.session || ':' || e.seq
    WHERE (e.model = $name OR e.fingerprint = $fingerprint)
      AND e.ts >= CAST($now AS TIMESTAMP) - to_days(CAST($days AS INTEGER))
)
"""
_SUMMARY_SQL = (
    _RUNS
    + """
SELECT count(*), avg(success::INTEGER),
       quantile_cont(latency, 0.5) FILTER (success), quantile_cont(latency, 0.95) FILTER (success),
       median(throughput) FILTER (success), max(peak_memory), avg(quality), count(quality)
FROM runs
"""
)
_RUNS_SQL = _RUNS + "SELECT * FROM runs ORDER BY ts"  # noqa: S608 - two constants


@dataclass(frozen=True, slots=True)
class PerformanceHistory(Displayed):
    """What was recorded of a model within the history window.

    Attributes
    ----------
    name : str
        As asked for.
    model : ModelMetadata or None
        None for an external model (recorded, but not registered).
    runs : int
        Executions.
    success_rate : float or None
        0–1; None without runs.
    latency_p50, latency_p95 : float or None
        Seconds, over successful runs.
    throughput : float or None
        Median tokens (items) per second, over successful runs.
    peak_memory : int or None
        Largest peak, bytes.
    quality : float or None
        Mean of the recorded qualities (0–1); ``quality_n`` says of how many.
    window_days : int
        How far back it looks.
    origin : str
        Says of which history it is, where it is not this machine's.
    """

    name: str
    model: ModelMetadata | None
    runs: int
    success_rate: float | None
    latency_p50: float | None
    latency_p95: float | None
    throughput: float | None
    peak_memory: int | None
    quality: float | None
    quality_n: int
    window_days: int
    _result: QueryResult
    origin: str = ""

    def __len__(self) -> int:
        return self.runs

    def pl(self) -> pl.DataFrame:
        """Return the runs as a polars frame, oldest first (columns of ``executions``)."""
        return self._result.pl()

    def df(self) -> pd.DataFrame:
        """Return the runs as a pandas frame, oldest first."""
        return self._result.df()

    def to_arrow(self) -> pa.Table:
        """Return the runs as an Arrow table, oldest first."""
        return self._result.to_arrow_table()

    def _unit(self) -> str:
        if self.model is None:
            return "tokens or items"
        return "tok" if "text_generation" in self.model.task_types else "items"

    def _card(self) -> Card:
        if not self.runs:
            return Card(
                f"History of {self.name}",
                f"No executions in the last {self.window_days} days: run manager.run(…), or record "
                "your own with manager.record_execution_metrics(…).",
            )
        success = NOT_MEASURED if self.success_rate is None else f"{self.success_rate:.0%}"
        quality = NOT_MEASURED
        if self.quality is not None:
            quality = f"{self.quality:.2f} (n = {self.quality_n})"
        row = [
            str(self.runs),
            success,
            format_seconds(self.latency_p50),
            format_seconds(self.latency_p95),
            format_rate(self.throughput, self._unit()),
            format_bytes(self.peak_memory),
            quality,
        ]
        header = ["runs", "success", "latency p50", "p95", "throughput", "peak memory", "quality"]
        external = "" if self.model else "; external model"
        note = f"last {self.window_days} days{self.origin}{external}"
        return Card(f"History of {self.name}", note, [Table(header, [row])])


def read_history(
    store: Store,
    name: str,
    model: ModelMetadata | None,
    *,
    known: Iterable[str],
    days: int,
    now: str,
    next_step: str = "",
) -> PerformanceHistory:
    """Read the history of a model by name and fingerprint.

    Parameters
    ----------
    store : Store
        Where the executions are.
    name : str
        As asked for.
    model : ModelMetadata or None
        The registered model of that name.
    known : iterable of str
        Registered names, for the suggestion.
    days : int
        Window.
    now : str
        End of the window, ISO 8601 in UTC.
    next_step : str
        What to do where there are neither models nor executions.

    Raises
    ------
    UnknownModelError
        If the name is neither registered nor recorded.
    """
    if model is None:
        rows = store.sql("SELECT DISTINCT model FROM execution_hours").fetchall()
        recorded = {row[0] for row in rows}
        if name not in recorded:
            hint = did_you_mean(name, {*known, *recorded})
            if not (recorded or hint) and next_step:
                hint = f" No executions yet: {next_step}."
            raise UnknownModelError(f"No model and no history is called {name!r}.{hint}")
    parameters: dict[str, Any] = {
        "name": name,
        "fingerprint": model.fingerprint if model else name,
        "days": days,
        "now": now,
    }
    summary = store.sql(_SUMMARY_SQL, parameters).fetchall()[0]
    return PerformanceHistory(
        name=name,
        model=model,
        runs=summary[0],
        success_rate=summary[1],
        latency_p50=summary[2],
        latency_p95=summary[3],
        throughput=summary[4],
        peak_memory=summary[5],
        quality=summary[6],
        quality_n=summary[7],
        window_days=days,
        _result=store.sql(_RUNS_SQL, parameters),
    )
