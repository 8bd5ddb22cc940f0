"""What history says of each (model, task): sufficient statistics, computed by one SQL query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ravenxterm_lab.store import Store

__all__ = ["CellEvidence", "Evidence"]

#: Days after which a speed measurement counts half; machines and drivers change.
SPEED_HALF_LIFE_DAYS = 14.0

# One query, since each opens the store anew, and over the hourly sums, since it is asked before
# every choice: a history of 10 million executions is some thousand rows. An hour counts as a whole,
# with the age of its middle, so that a weight is off by at most half an hour's decay: 0.11 %.
# Quality belongs to the model, so it is not tied to the hardware; speed and failures are.
# A thumb up or down arrives late: it shifts the sum by what it replaces, and the latest one counts.
# What loads took, in memory and in time, is the estimator's (estimation/recall.py).
_EVIDENCE_SQL = """
WITH corrections AS (
    SELECT
        coalesce(fingerprint, model) AS model_key,
        task,
        sum(judged - coalesce(measured, 0)) AS shift,
        count(*) FILTER (measured IS NULL) AS added
    FROM judgements
    WHERE task IS NOT NULL
    GROUP BY ALL
), hours AS (
    SELECT
        *,
        coalesce(fingerprint, model) AS model_key,
        coalesce(hardware, $hardware) = $hardware AS here,
        pow(2, -greatest(date_diff('second', hour, CAST($now AS TIMESTAMP)) - 1800, 0)
               / ($half_life * 86400.0)) AS weight
    FROM execution_hours
), sums AS (
    SELECT
        model_key,
        task,
        sum(runs - interrupted) AS everywhere,
        sum(runs - interrupted) FILTER (here) AS runs,
        sum(succeeded) FILTER (here) AS succeeded,
        sum(quality_count) AS quality_n,
        sum(quality_sum) AS quality_sum,
        sum(weight * ln_throughput_count) FILTER (here) AS speed_n,
        sum(weight * ln_throughput_sum) FILTER (here) AS speed_sum,
        sum(ln_work_count) AS work_n,
        sum(ln_work_sum) AS work_sum,
        sum(time_to_first_token_sum) FILTER (here) AS first_token_sum,
        sum(time_to_first_token_count) FILTER (here) AS first_token_n
    FROM hours
    WHERE task IS NOT NULL
    GROUP BY model_key, task
), cells AS (
    SELECT
        s.model_key,
        s.task,
        coalesce(s.runs, 0)::BIGINT AS runs,
        coalesce(s.succeeded, 0)::BIGINT AS succeeded,
        coalesce(s.runs - s.succeeded, 0)::BIGINT AS failed,
        (s.quality_n + coalesce(c.added, 0))::BIGINT AS quality_n,
        (coalesce(s.quality_sum, 0) + coalesce(c.shift, 0))
            / nullif(s.quality_n + coalesce(c.added, 0), 0) AS quality_mean,
        s.speed_n,
        s.speed_sum / nullif(s.speed_n, 0) AS speed_mean,
        s.work_n::BIGINT AS work_n,
        s.work_sum / nullif(s.work_n, 0) AS work_mean,
        s.first_token_sum / nullif(s.first_token_n, 0) AS first_token_mean
    FROM sums s
    LEFT JOIN corrections c ON c.model_key = s.model_key AND c.task = s.task
    WHERE s.everywhere > 0
)
FROM cells
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
    """

    cells: Mapping[tuple[str, str], CellEvidence]

    @classmethod
    def none(cls) -> Evidence:
        """Return the evidence of an empty history."""
        return cls({})

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
        rows = store.rows(
            _EVIDENCE_SQL,
            {
                "hardware": hardware,
                "now": now,
                "half_life": SPEED_HALF_LIFE_DAYS,
            },
        )
        cells = {}
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
        ) in rows:
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
        return cls(cells)

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
