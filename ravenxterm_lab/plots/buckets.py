"""Values counted by bucket, from which percentiles of any number of executions are quick.

The buckets are those of the store's daily histograms (`ravenxterm_lab.store.rollups`), 2 % wide:
selecting the percentiles of ten million values costs more than all the rest of a query.
"""

from __future__ import annotations

from ravenxterm_lab.store.rollups import GAMMA, ZERO_BUCKET

__all__ = ["BUCKET_VALUE", "HISTOGRAMS", "counted_days", "counted_runs"]

#: Quantities of which the store keeps a histogram a day.
HISTOGRAMS = frozenset({"latency", "throughput"})

#: The value in the middle of a bucket, or the value that was kept.
BUCKET_VALUE = (
    f"coalesce(exact, CASE WHEN bucket = {ZERO_BUCKET} THEN 0 ELSE pow({GAMMA}, bucket - 0.5) END)"
)


def counted_runs(*, by_part: bool = False, exact: str = "NULL::DOUBLE") -> str:
    """Return the common table expression ``counted``: the values of ``runs`` by bucket.

    Parameters
    ----------
    by_part : bool
        Count each ``$period`` (microseconds) apart, in a column ``part``.
    exact : str
        What to count apart within a bucket.
    """
    part = "epoch_us(ts) // $period AS part," if by_part else ""
    return f"""
counted AS MATERIALIZED (
    SELECT series, {part}
        CASE WHEN value > 0 THEN ceil(ln(value) / ln({GAMMA}))::INTEGER ELSE {ZERO_BUCKET} END
            AS bucket,
        {exact} AS exact, count(*) AS runs
    FROM runs WHERE value IS NOT NULL GROUP BY ALL
)"""  # noqa: S608 - our own constants


def counted_days(quantity: str, *, by_part: bool = False) -> str:
    """Return the same from the store's daily histograms.

    Those hold the values themselves where there are few.

    Parameters
    ----------
    quantity : str
        One of `HISTOGRAMS`.
    by_part : bool
        Count each ``$period`` (microseconds) apart, in a column ``part``.
    """
    part = "epoch_us(day) // $period AS part," if by_part else ""
    return f"""
counted AS MATERIALIZED (
    SELECT series, {part} bucket, exact, sum(runs) AS runs
    FROM (
        SELECT
            CASE WHEN model IN (SELECT model FROM named) THEN model END AS series, day,
            unnest(buckets) AS bucket, unnest(exact) AS exact, unnest(counts) AS runs
        FROM execution_histograms
        WHERE quantity = '{quantity}' AND day >= date_trunc('day', $start) AND day <= $end
          AND ($model IS NULL OR model = $model) AND ($task IS NULL OR task = $task)
    )
    GROUP BY ALL
)"""  # noqa: S608 - our own constants
