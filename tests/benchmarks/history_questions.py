"""The questions of ``bench_history.py``, and how the store, SQLite and pandas ask them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from history_rows import BEGIN, END, HARDWARE, MODELS

from ravenxterm_lab.selection.evidence import SPEED_HALF_LIFE_DAYS, Evidence
from ravenxterm_lab.store import Store

__all__ = ["DAY", "QUESTIONS", "Question", "Rows", "micros"]

DAY = 86_400_000_000
PIXELS = 1600


def micros(moment: datetime) -> int:
    """Return microseconds since 1970."""
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001 - the store's timestamps are UTC without a zone
    return (moment - epoch) // timedelta(microseconds=1)


FIRST, LAST = micros(BEGIN), micros(END)
MONTH_AGO, DAY_AGO = END - timedelta(days=30), END - timedelta(days=1)
HALF_LIFE = SPEED_HALF_LIFE_DAYS * DAY

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Question:
    """One question, and how each asks it.

    Attributes
    ----------
    name : str
    keys : int
        Rows are compared in order of so many first columns; as they come where it is 0.
    ours : dict of str to (str or callable)
        Ways of the store by label: SQL, or a function of the store.
    lite : str
        SQL over the table ``e`` of SQLite.
    frame : callable
        What pandas does.
    tolerance : dict of str to (dict of int to float)
        By label and column, how far an estimate may be from the exact answer, relatively.
    """

    name: str
    keys: int
    ours: dict[str, str | Callable[[Store], Rows]]
    lite: str
    frame: Callable[[pd.DataFrame], Rows]
    tolerance: dict[str, dict[int, float]] = field(default_factory=dict)


# --- what pandas does ---------------------------------------------------------------------------


def pandas_success(frame: pd.DataFrame) -> Rows:
    return list(frame.groupby("model", observed=True)["success"].mean().items())


def pandas_decayed(frame: pd.DataFrame) -> Rows:
    good = frame[frame["success"] & (frame["throughput"] > 0)]
    weight = np.exp2(-(LAST - good["ts"].astype("int64")) / HALF_LIFE)
    parts = pd.DataFrame(
        {
            "model": good["model"],
            "task": good["task"],
            "weight": weight,
            "product": weight * np.log(good["throughput"]),
        }
    )
    sums = parts.groupby(["model", "task"], observed=True).sum()
    sums["product"] /= sums["weight"]
    return [(*key, *values) for key, values in zip_rows(sums)]


def pandas_quantiles(frame: pd.DataFrame) -> Rows:
    recent = frame[frame["ts"] >= MONTH_AGO]
    day = recent["ts"].dt.floor("D")
    found = recent.groupby(["model", day], observed=True)["latency"].quantile([0.5, 0.95, 0.99])
    return [(*key, *values) for key, values in zip_rows(found.unstack())]


def pandas_day(frame: pd.DataFrame) -> Rows:
    recent = frame[frame["ts"] >= DAY_AGO]
    grouped = recent.groupby("model", observed=True)
    found = grouped.agg(runs=("success", "size"), ok=("success", "sum"), mean=("latency", "mean"))
    return [(key, *values) for key, values in zip_rows(found)]


def pandas_pixels(frame: pd.DataFrame) -> Rows:
    pixel = (frame["ts"].to_numpy().astype(np.int64) - FIRST) * PIXELS // (LAST - FIRST)
    return list(least_and_most(pixel, frame["latency"].to_numpy()))


def pandas_slowest(frame: pd.DataFrame) -> Rows:
    top = frame.nlargest(10, "latency")
    return list(zip(top["ts"], top["model"], top["latency"], strict=True))


def pandas_count(frame: pd.DataFrame) -> Rows:
    return [(len(frame),)]


def pandas_stats(frame: pd.DataFrame) -> Rows:
    keys = ["model", "task"]
    every = frame.groupby(keys, observed=True)
    good = frame[frame["success"]].groupby(keys, observed=True)
    quantiles = good["latency"].quantile([0.5, 0.95]).unstack()
    found = pd.DataFrame(
        {
            "runs": every.size(),
            "success": every["success"].mean(),
            "p50": quantiles[0.5],
            "p95": quantiles[0.95],
            "mean": good["throughput"].mean(),
            "median": good["throughput"].median(),
            "quality": every["quality"].mean(),
            "memory": every["peak_memory"].max(),
            "last": every["ts"].max(),
        }
    )
    return [(*key, *values) for key, values in zip_rows(found)]


def pandas_latest(frame: pd.DataFrame) -> Rows:
    top = frame.nlargest(20, "ts")
    return list(zip(top["ts"], top["model"], top["latency"], strict=True))


def zip_rows(frame: pd.DataFrame) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each label of the index with the values of its row."""
    return zip(frame.index, frame.itertuples(index=False, name=None), strict=True)


def least_and_most(pixel: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, float, float]]:
    """Yield the number, the least and the largest value of each pixel that has one."""
    low, high = np.full(PIXELS, np.inf), np.full(PIXELS, -np.inf)
    np.minimum.at(low, pixel, values)
    np.maximum.at(high, pixel, values)
    for number in np.flatnonzero(low <= high):
        yield int(number), float(low[number]), float(high[number])


# --- what the store does beside SQL ---------------------------------------------------------------


def fetch_then_reduce(store: Store) -> Rows:
    table = store.sql("SELECT ts, latency FROM executions").to_arrow_table()
    ts = table["ts"].cast("int64").to_numpy()
    pixel = (ts - FIRST) * PIXELS // (LAST - FIRST)
    return list(least_and_most(pixel, table["latency"].to_numpy()))


def evidence(store: Store) -> Rows:
    """Return what the selector reads before each choice, reduced to the decayed speeds."""
    found = Evidence.from_store(store, hardware=HARDWARE, now=END.isoformat())
    names = {f"sha256:{at:064x}": name for at, name in enumerate(MODELS)}
    return [
        (names[key], task, cell.speed_n, cell.speed_mean)
        for (key, task), cell in found.cells.items()
    ]


# --- the questions --------------------------------------------------------------------------------


def lite_quantiles(name: str, keys: str, value: str, source: str, shares: dict[str, float]) -> str:
    """Return common table expressions for interpolated quantiles, which SQLite has none for."""
    # The two neighbours of a rank between two rows share the weight, all others have none.
    quantiles = ", ".join(
        f"sum(v * max(0, 1 - abs(k - {share} * n))) AS {column}" for column, share in shares.items()
    )
    return f"""
    {name}_ranked AS (
        SELECT {keys}, {value} AS v,
            row_number() OVER (PARTITION BY {keys} ORDER BY {value}) - 1 AS k,
            count(*) OVER (PARTITION BY {keys}) - 1 AS n
        FROM {source}
    ), {name} AS (SELECT {keys}, {quantiles} FROM {name}_ranked GROUP BY {keys})"""


_MONTH = f"(SELECT *, ts / {DAY} * {DAY} AS day FROM e WHERE ts >= {micros(MONTH_AGO)})"
_LITE_MONTH = lite_quantiles(
    "q", "model, day", "latency", _MONTH, {"p50": 0.5, "p95": 0.95, "p99": 0.99}
)
_GOOD = "e WHERE success"
_LITE_LATENCY = lite_quantiles("l", "model, task", "latency", _GOOD, {"p50": 0.5, "p95": 0.95})
_LITE_SPEED = lite_quantiles("s", "model, task", "throughput", _GOOD, {"p50": 0.5})
_DECAYED = """
SELECT model, task, sum(w), sum(w * ln(throughput)) / sum(w) FROM (
    SELECT model, task, throughput, pow(2, ({ts} - {last}) / {half_life}) AS w
    FROM {table} WHERE success AND throughput > 0
) GROUP BY model, task"""
_PIXEL = f"({{ts}} - {FIRST}) * {PIXELS} {{divide}} {LAST - FIRST}"
_PIXELS = "SELECT {pixel} AS pixel, min(latency), max(latency) FROM {table} GROUP BY pixel"

QUESTIONS = [
    Question(
        "success rate per model",
        1,
        {
            "execution_hours": "SELECT model, sum(succeeded) / sum(runs) "
            "FROM execution_hours GROUP BY model",
            "hourly": "SELECT model, sum(succeeded) / sum(runs) FROM hourly GROUP BY model",
            "model_stats": "SELECT model, sum(success_rate * runs) / sum(runs) "
            "FROM model_stats GROUP BY model",
            "all rows": "SELECT model, avg(success::INT) FROM executions GROUP BY model",
        },
        "SELECT model, avg(success) FROM e GROUP BY model",
        pandas_success,
    ),
    Question(
        "decayed ln(speed) per model, task",
        2,
        {
            "the selector's evidence": evidence,
            "all rows": _DECAYED.format(
                ts="epoch_us(ts)", last=LAST, half_life=HALF_LIFE, table="executions"
            ),
        },
        _DECAYED.format(ts="ts", last=LAST, half_life=HALF_LIFE, table="e"),
        pandas_decayed,
        # Sums by the hour are up to an hour off, of a half-life of two weeks.
        {
            "the selector's evidence": dict.fromkeys(
                (2, 3), 2 ** (1 / (24 * SPEED_HALF_LIFE_DAYS)) - 1
            )
        },
    ),
    Question(
        "p50/p95/p99 per model-day, 30 days",
        2,
        {
            "": f"""
            SELECT model, day, q[1], q[2], q[3] FROM (
                SELECT model, date_trunc('day', ts) AS day,
                    quantile_cont(latency, [0.5, 0.95, 0.99]) AS q
                FROM executions WHERE ts >= TIMESTAMP '{MONTH_AGO}' GROUP BY model, day
            )"""
        },
        f"WITH {_LITE_MONTH} SELECT * FROM q",
        pandas_quantiles,
    ),
    Question(
        "last 24 h per model",
        1,
        {
            "": f"""
            SELECT model, count(*), count(*) FILTER (success), avg(latency)
            FROM executions WHERE ts >= TIMESTAMP '{DAY_AGO}' GROUP BY model"""
        },
        f"""
        SELECT model, count(*), sum(success), avg(latency)
        FROM e WHERE ts >= {micros(DAY_AGO)} GROUP BY model""",
        pandas_day,
    ),
    Question(
        f"a plot of all points, {PIXELS} pixels",
        1,
        {
            "min/max in SQL": _PIXELS.format(
                pixel=_PIXEL.format(ts="epoch_us(ts)", divide="//"), table="executions"
            ),
            "all fetched first": fetch_then_reduce,
        },
        _PIXELS.format(pixel=_PIXEL.format(ts="ts", divide="/"), table="e"),
        pandas_pixels,
    ),
    Question(
        "the 10 slowest",
        0,
        {"": "SELECT ts, model, latency FROM executions ORDER BY latency DESC LIMIT 10"},
        "SELECT ts, model, latency FROM e ORDER BY latency DESC LIMIT 10",
        pandas_slowest,
    ),
    Question(
        "how many",
        0,
        {"": "SELECT count(*) FROM executions"},
        "SELECT count(*) FROM e",
        pandas_count,
    ),
    Question(
        "model_stats",
        2,
        {
            "": "SELECT model, task, runs, success_rate, latency_p50, latency_p95, "
            "throughput_mean, throughput_p50, quality_mean, peak_memory_max, last_run "
            "FROM model_stats"
        },
        f"""
        WITH {_LITE_LATENCY}, {_LITE_SPEED}, a AS (
            SELECT model, task, count(*) AS runs, avg(success) AS rate, avg(throughput) AS mean,
                avg(quality) AS quality, max(peak_memory) AS memory, max(ts) AS last
            FROM e GROUP BY model, task
        )
        SELECT model, task, runs, rate, l.p50, l.p95, mean, s.p50, quality, memory, last
        FROM a JOIN l USING (model, task) JOIN s USING (model, task)""",
        pandas_stats,
        # Quantiles of the view come from histograms with buckets of two percent.
        {"": dict.fromkeys((4, 5, 7), 0.02)},
    ),
    Question(
        "the latest 20",
        0,
        {"": "SELECT ts, model, latency FROM executions ORDER BY ts DESC LIMIT 20"},
        "SELECT ts, model, latency FROM e ORDER BY ts DESC LIMIT 20",
        pandas_latest,
    ),
]
