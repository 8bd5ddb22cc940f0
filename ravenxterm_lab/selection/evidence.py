"""What history says of each (model, task): sufficient statistics, computed by one SQL query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ravenxterm_lab.store import Store

__all__ = ["INTERRUPTED", "CellEvidence", "Evidence"]

#: Days after which a speed measurement counts half; machines and drivers change.
SPEED_HALF_LIFE_DAYS = 14.0

#: The recorded ``failure`` of a run that the person stopped: no evidence about the model.
INTERRUPTED = "interrupted"

# One query, since each opens the store anew. Quality belongs to the model, so it is not tied to the
# hardware; speed, memory and failures are. A thumb up or down arrives late and simply joins by
# execution; the latest one counts. Memory depends on the engine's settings (the context above
# all), so a peak holds for them only.
_EVIDENCE_SQL = """
WITH judged AS (
    SELECT execution, arg_max(quality, ts) AS quality FROM feedback GROUP BY execution
), runs AS (
    SELECT
        coalesce(e.fingerprint, e.model) AS model_key,
        e.task,
        e.success,
        coalesce(e.hardware, $hardware) = $hardware AS here,
        coalesce(j.quality, e.quality) AS quality,
        CASE WHEN e.success AND e.throughput > 0 THEN ln(e.throughput) END AS ln_speed,
        CASE WHEN e.success AND coalesce(e.tokens_out, e.latency * e.throughput) > 0
             THEN ln(coalesce(e.tokens_out, e.latency * e.throughput)) END AS ln_work,
        CASE WHEN e.success THEN e.time_to_first_token END AS first_token,
        pow(2, -greatest(date_diff('second', e.ts, CAST($now AS TIMESTAMP)), 0)
               / ($half_life * 86400.0)) AS weight
    FROM executions e
    LEFT JOIN judged j ON j.execution = e.session || ':' || e.seq
    WHERE e.task IS NOT NULL AND coalesce(e.extra->>'failure', '') <> $interrupted
), cells AS (
    SELECT
        model_key,
        task,
        count(*) FILTER (here) AS runs,
        count(*) FILTER (here AND success) AS succeeded,
        count(*) FILTER (here AND NOT success) AS failed,
        count(quality) AS quality_n,
        avg(quality) AS quality_mean,
        sum(weight) FILTER (here AND ln_speed IS NOT NULL) AS speed_n,
        sum(weight * ln_speed) FILTER (here AND ln_speed IS NOT NULL)
            / sum(weight) FILTER (here AND ln_speed IS NOT NULL) AS speed_mean,
        count(ln_work) AS work_n,
        avg(ln_work) AS work_mean,
        avg(first_token) FILTER (here) AS first_token_mean
    FROM runs
    GROUP BY model_key, task
), peaks AS (
    SELECT coalesce(fingerprint, model) AS model_key, coalesce(settings, '') AS settings,
           max(peak_memory) AS peak
    FROM executions
    WHERE success AND peak_memory > 0 AND coalesce(hardware, $hardware) = $hardware
    GROUP BY ALL
), waits AS (
    SELECT coalesce(fingerprint, model) AS model_key, median(seconds) AS load_seconds
    FROM loads
    WHERE success AND seconds IS NOT NULL AND coalesce(hardware, $hardware) = $hardware
    GROUP BY model_key
)
FROM cells UNION ALL BY NAME FROM peaks UNION ALL BY NAME FROM waits
"""


@dataclass(frozen=True, slots=True)
class CellEvidence:
    """Statistics of one model on one task.

    ``*_n`` are (weighted) counts, ``*_mean`` means; speed is ln tokens/s, work is ln output
    tokens (or items), seconds and bytes as everywhere.
    """

    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    quality_n: float = 0.0
    quality_mean: float | None = None
    speed_n: float = 0.0
    speed_mean: float | None = None
    work_n: float = 0.0
    work_mean: float | None = None
    first_token_mean: float | None = None

    def statistic(self, metric: str) -> tuple[float, float | None]:
        """Return count and mean of ``"quality"``, ``"speed"`` or ``"work"``."""
        return getattr(self, f"{metric}_n"), getattr(self, f"{metric}_mean")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was measured.

    The model key is the fingerprint, or the name of a model that has none.

    Attributes
    ----------
    cells : mapping of (model key, task) to CellEvidence
        Executions.
    peaks : mapping of (model key, engine settings) to int
        Largest measured memory, bytes.
    load_seconds : mapping of model key to float
        Median load time.
    """

    cells: Mapping[tuple[str, str], CellEvidence]
    peaks: Mapping[tuple[str, str], int]
    load_seconds: Mapping[str, float]

    @classmethod
    def none(cls) -> Evidence:
        """Return the evidence of an empty history."""
        return cls({}, {}, {})

    @classmethod
    def from_store(cls, store: Store, *, hardware: str, now: str) -> Evidence:
        """Read the statistics from the store.

        Parameters
        ----------
        store : Store
            Where executions, feedback and loads are.
        hardware : str
            Fingerprint of this machine; rows of unknown hardware count as measured here.
        now : str
            The moment (ISO 8601, UTC) from which the half-life counts back.
        """
        rows = store.sql(
            _EVIDENCE_SQL,
            {
                "hardware": hardware,
                "now": now,
                "half_life": SPEED_HALF_LIFE_DAYS,
                "interrupted": INTERRUPTED,
            },
        ).fetchall()
        cells, peaks, waits = {}, {}, {}
        for (
            key,
            task,
            runs,
            ok,
            failed,
            qn,
            qm,
            sn,
            sm,
            wn,
            wm,
            first,
            settings,
            peak,
            wait,
        ) in rows:
            if peak is not None:
                peaks[key, settings] = peak
            elif wait is not None:
                waits[key] = wait
            else:
                cells[key, task] = CellEvidence(
                    runs=runs,
                    succeeded=ok,
                    failed=failed,
                    quality_n=float(qn or 0),
                    quality_mean=qm,
                    speed_n=float(sn or 0),
                    speed_mean=sm,
                    work_n=float(wn or 0),
                    work_mean=wm,
                    first_token_mean=first,
                )
        return cls(cells, peaks, waits)

    def cell(self, key: str, task: str) -> CellEvidence:
        """Return the statistics of one cell; empty ones when it was never run.

        Parameters
        ----------
        key : str
            Fingerprint of the model, or its name without one.
        task : str
            Normalised task name.
        """
        return self.cells.get((key, task), CellEvidence())

    def of_model(self, key: str) -> Iterator[CellEvidence]:
        """Yield the cells of one model, over all tasks."""
        return (cell for (model, _), cell in self.cells.items() if model == key)
