"""A made-up year of executions in order of time, the same for the same seed and chunk size.

Twenty models of unequal popularity run four tasks. People work by day and less on weekends;
speeds are lognormal, drift over the year and jump once, as after an update of a driver. Some
runs fail, a tenth was judged, and one in twenty carries numbers of the caller's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["BEGIN", "END", "HARDWARE", "MODELS", "PER_SESSION", "TASKS", "Chunk", "chunks"]

BEGIN = datetime(2025, 1, 1)  # noqa: DTZ001 - the store's timestamps are UTC without a zone
END = BEGIN + timedelta(days=365)
HARDWARE = "hw:0123456789abcdef"
MODELS = [f"model-{number:02}-instruct-q4_k_m" for number in range(20)]
TASKS = ["text_generation", "chat", "summarization", "code_generation"]
#: Executions that one process records before the next one goes on.
PER_SESSION = 50_000

_HOURS = 365 * 24
_DAY_OF_UPDATE = 200.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive rows: as a whole, and what the peers need of them.

    Attributes
    ----------
    table : pyarrow.Table
        Columns of ``executions``, those that are always NULL left out.
    ts : array of int64, shape (n,)
        Microseconds since 1970 (UTC), ascending.
    model, task : array of int8, shape (n,)
        Indices into `MODELS` and `TASKS`.
    success : array of bool, shape (n,)
    latency, throughput, quality : array of float64, shape (n,)
        NaN for NULL.
    peak_memory : array of int64, shape (n,)
    """

    table: pa.Table
    ts: NDArray[np.int64]
    model: NDArray[np.int8]
    task: NDArray[np.int8]
    success: NDArray[np.bool_]
    latency: NDArray[np.float64]
    throughput: NDArray[np.float64]
    quality: NDArray[np.float64]
    peak_memory: NDArray[np.int64]


def _busy_hours() -> NDArray[np.float64]:
    """Return the share of the year's rows that came before each hour, shape (hours + 1,)."""
    hour = np.arange(_HOURS)
    by_day = 0.05 + np.clip(np.sin((hour % 24 - 7) / 14 * np.pi), 0, None)
    weekday = (hour // 24 + BEGIN.weekday()) % 7
    weight = by_day * np.where(weekday < 5, 1.0, 0.35)
    return np.concatenate([[0.0], np.cumsum(weight) / weight.sum()])


def _named(values: list[str], index: NDArray[np.integer]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(values))


def _numbers(random: np.random.Generator, has: NDArray[np.bool_]) -> pa.Array:
    """Build the column ``num``: two numbers where ``has``, NULL elsewhere."""
    count = int(has.sum())
    offsets = np.concatenate([[0], np.cumsum(has * 2)]).astype(np.int32)
    values = np.empty(count * 2)
    values[0::2] = random.integers(0, 11, count) / 10
    values[1::2] = random.integers(1, 9, count)
    keys = pa.array(np.tile(np.array([0, 1], np.int32), count))
    names = pa.DictionaryArray.from_arrays(keys, ["temperature", "batch"]).cast(pa.string())
    return pa.MapArray.from_arrays(offsets, names, pa.array(values), mask=pa.array(~has))


def chunks(rows: int, seed: int, size: int) -> Iterator[Chunk]:
    """Yield ``rows`` executions, at most ``size`` at a time, the oldest first."""
    year = np.random.default_rng(seed)
    shares = _busy_hours()
    popularity = np.cumsum(1 / np.arange(1, len(MODELS) + 1) ** 0.8)
    popularity /= popularity[-1]
    speed_of = year.lognormal(3.5, 0.6, len(MODELS))
    failing = year.uniform(0.002, 0.06, len(MODELS))
    memory_of = year.uniform(0.5e9, 12e9, len(MODELS))
    for start in range(0, rows, size):
        random = np.random.default_rng([seed, start])
        place = np.arange(start, min(start + size, rows))
        count = len(place)
        # The inverse of the cumulated shares: ascending without a sort, whatever the chunk.
        hours = np.interp((place + random.random(count)) / rows, shares, np.arange(_HOURS + 1))
        ts = np.datetime64(BEGIN, "us").astype(np.int64) + (hours * 3.6e9).astype(np.int64)
        model = np.searchsorted(popularity, random.random(count)).astype(np.int8)
        task = np.searchsorted([0.5, 0.75, 0.9], random.random(count)).astype(np.int8)
        day = hours / 24
        drift = 1 + 0.15 * np.sin(2 * np.pi * day / 365 + model) + 0.1 * (day > _DAY_OF_UPDATE)
        speed = speed_of[model] * drift / (1 + 0.1 * task)
        success = random.random(count) >= failing[model]
        tokens_in = np.clip(random.lognormal(5.5, 1.0, count), 1, 32_000).astype(np.int64)
        tokens_out = np.clip(random.lognormal(5.0, 0.8, count), 1, 4096).astype(np.int64)
        throughput = speed * random.lognormal(0.0, 0.25, count)
        first = tokens_in / (speed * 20) * random.lognormal(0.0, 0.2, count)
        latency = first + np.where(success, tokens_out / throughput, 0.05)
        throughput[~success] = np.nan
        quality = np.clip(random.normal(0.7, 0.15, count), 0, 1)
        quality[random.random(count) >= 0.1] = np.nan
        peak_memory = (memory_of[model] + tokens_in * 131_072).astype(np.int64)
        more = random.random(count) < 0.05
        session = place // PER_SESSION
        sessions = [f"{number:024x}" for number in range(session[0], session[-1] + 1)]
        table = pa.table(
            {
                "ts": pa.array(ts).cast(pa.timestamp("us")),
                "session": _named(sessions, session - session[0]),
                "seq": pa.array((place % PER_SESSION + 1).astype(np.uint64)),
                "model": _named(MODELS, model),
                "fingerprint": _named([f"sha256:{at:064x}" for at in range(len(MODELS))], model),
                "task": _named(TASKS, task),
                "device": _named(["cpu", "cuda:0"], model % 2),
                "runtime": _named(["llama_cpp", "onnx"], model % 5 // 4),
                "settings": _named(["ctx=4096", "ctx=8192"], model % 3 // 2),
                "hardware": _named([HARDWARE], np.zeros(count, np.int32)),
                "external": pa.array(np.zeros(count, bool)),
                "latency": pa.array(latency),
                "throughput": pa.array(throughput, mask=~success),
                "memory_efficiency": pa.array(random.uniform(0.3, 0.95, count)),
                "success": pa.array(success),
                "time_to_first_token": pa.array(first, mask=~success),
                "tokens_in": pa.array(tokens_in.astype(np.uint64)),
                "tokens_out": pa.array(tokens_out.astype(np.uint64), mask=~success),
                "peak_memory": pa.array(peak_memory.astype(np.uint64)),
                "quality": pa.array(quality, mask=np.isnan(quality)),
                "error": pa.array(np.full(count, "out of memory"), mask=success),
                "num": _numbers(random, more),
                "extra": pa.array(
                    np.full(count, '{"client": "notebook"}'),
                    mask=~(more & (random.random(count) < 0.2)),
                ),
            }
        )
        yield Chunk(
            table, ts, model, task, success, latency, throughput, quality, peak_memory
        )  # fmt: skip
