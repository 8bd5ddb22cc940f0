"""The SQL that makes millions of executions drawable without losing a peak.

Points are thinned by M4 (Jugel, Jerzak, Hackenbroich, Markl: "M4: A Visualization-Oriented Time
Series Data Aggregation", PVLDB 7(10), 2014): of each series and column of pixels the first, the
last, the least and the greatest value are kept, at their own times. Where there are few, a column
is a microsecond wide, and every execution is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.window import Window, clip, microseconds, period_of

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager

__all__ = [
    "NAMED",
    "RUNS",
    "Extent",
    "extent_of",
    "m4_points",
    "no_executions",
]

#: Series with a name of their own; the models with the fewest runs share one more.
SERIES = 8

_CHOSEN = """($model IS NULL OR model = $model) AND ($task IS NULL OR task = $task)"""

# Models with the most runs; one name too many is no group of others.
NAMED = f"""
named AS (
    SELECT model FROM execution_hours
    WHERE hour >= date_trunc('hour', $start) AND hour <= $end AND {_CHOSEN}
    GROUP BY model ORDER BY sum(runs) DESC, model LIMIT $named
)"""  # noqa: S608 - our own constants

# A run that the person stopped is no failure of the model. Least and greatest of a DOUBLE are
# found in half the time of those of a UBIGINT.
RUNS = f"""
runs AS NOT MATERIALIZED (
    SELECT
        ts, CASE WHEN model IN (SELECT model FROM named) THEN model END AS series,
        CASE
            WHEN success THEN 'run'
            WHEN extra->>'failure' = 'interrupted' THEN 'stopped'
            ELSE 'failed'
        END AS what,
        CASE WHEN success THEN ({{value}})::DOUBLE END AS value,
        error
    FROM executions
    WHERE ts BETWEEN $start AND $end AND {_CHOSEN}
)"""  # noqa: S608 - our own constants


def m4_points(runs: str, series: str = "series, what", text: str = "any_value(error)") -> str:
    """Return two common table expressions, ``columns`` and ``points``.

    Parameters
    ----------
    runs : str
        The expression with ``ts``, ``value`` and what tells the series apart.
    series : str
        The columns that do.
    text : str
        An aggregate that says more of a column.
    """
    return f"""
columns AS (
    SELECT
        {series}, (epoch_us(ts) - $first) // $width AS place, count(*) AS runs,
        min(ts) AS t1, arg_min(value, ts) AS v1, max(ts) AS t2, arg_max(value, ts) AS v2,
        arg_min(ts, value) AS t3, min(value) AS v3, arg_max(ts, value) AS t4, max(value) AS v4,
        {text} AS text
    FROM {runs} GROUP BY {series}, place
), points AS (
    SELECT DISTINCT * FROM (
        SELECT
            {series}, unnest([t1, t2, t3, t4]) AS ts, unnest([v1, v2, v3, v4]) AS value,
            runs, text
        FROM columns
    ) WHERE ts IS NOT NULL
)"""  # noqa: S608 - our own constants


@dataclass(frozen=True, slots=True)
class Extent:
    """What a window holds, by the hour.

    Attributes
    ----------
    window : Window
        From the first hour with an execution to the last execution.
    runs : int
        Executions, at most those of an hour too many at its begin.
    models : int
        How many ran.
    recorded : bool
        Whether anything was ever recorded, in this window or not.
    counts : str or None
        What every throughput in it counts, ``"tok"`` or ``"items"``; None where it differs.
    parameters : mapping of str to object
        Of the queries here: window, choice, and names.
    """

    window: Window
    runs: int
    models: int
    recorded: bool
    counts: str | None
    parameters: dict[str, Any]

    @property
    def series(self) -> int:
        """Series that are drawn."""
        return max(min(self.models, SERIES), 1)

    @property
    def period(self) -> float:
        """Seconds that one value of a line over time stands for."""
        return period_of(self.window.seconds)

    def sampling(self, points: int) -> dict[str, Any]:
        """Return the parameters of `m4_points` for at most so many points."""
        first = microseconds(self.window.start)
        columns = max(points // (4 * self.series), 20)
        width = 1 if self.runs <= points else -(-int(self.window.seconds * 1e6) // columns)
        return {"first": first, "width": max(width, 1)}

    def is_thinned(self, points: int) -> bool:
        """Say whether some executions are not drawn one by one."""
        return self.runs > points


_EXTENT = f"""
SELECT sum(runs)::BIGINT, count(DISTINCT model), min(hour), max(last_run),
       (SELECT count(*) > 0 FROM execution_hours),
       avg((task IS NOT DISTINCT FROM 'text_generation' OR coalesce(tokens_out, 0) > 0)::INTEGER)
           FILTER (throughput_count > 0)
FROM execution_hours
WHERE hour >= date_trunc('hour', $start) AND hour <= $end AND {_CHOSEN}
"""  # noqa: S608 - our own constants


def extent_of(manager: ModelManager, window: Window, model: str | None, task: str | None) -> Extent:
    """Look at the rollups for what a window holds, which takes milliseconds.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    window : Window
        Of time.
    model, task : str, optional
        Restrict to one.
    """
    chosen = {**window.parameters, "model": model, "task": task}
    runs, models, first, last, recorded, texts = manager.sql(_EXTENT, chosen).fetchall()[0]
    named = SERIES if models <= SERIES else SERIES - 1
    return Extent(
        clip(window, first, last),
        runs or 0,
        models,
        bool(recorded),
        {1.0: "tok", 0.0: "items"}.get(texts),
        {**chosen, "named": named},
    )


def no_executions(
    manager: ModelManager, extent: Extent, window: Window, model: str | None, task: str | None
) -> str:
    """Say why there is nothing to draw, and what to do.

    Parameters
    ----------
    manager : ModelManager
        Whose history it is.
    extent : Extent
        What the store holds.
    window : Window
        What was looked at.
    model, task : str or None
        What it was restricted to.
    """
    if not extent.recorded:
        return (
            f"No executions yet: {manager.registry.next_step}. Until then, "
            "ModelManager.sample() has a history to look at."
        )
    about = [name for name in (model, task and task.replace("_", " ")) if name]
    of = f" of {' for '.join(about)}" if about else ""
    return f"No executions{of} {window.when}: choose a longer window or other filters"
