"""Hourly sums and daily histograms of the executions, built from one Arrow table of them.

Every pass of the ingest writes partial rows beside the executions that they describe, and
every query that asks for statistics adds those of what still waits. The SQL that merges
partial rows is in `ravenxterm_lab.store.merging`.

The buckets are those of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", PVLDB 12(12), 2019): bucket ``b`` holds
the values in (gamma^(b-1), gamma^b], so that any value taken from within the bucket of a
quantile is off by at most gamma - 1, 2 % of it. A model and task with fewer than `FEW`
runs keep every value, and their quantiles are exact.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.store.arrow import constant, dictionary, fixed, lists
from ravenxterm_lab.store.grouping import Column, Sums, both, column, ln, number_groups, positive
from ravenxterm_lab.store.schema import INTERRUPTED, ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["FEW", "GAMMA", "ZERO_BUCKET", "summarise", "tally"]

#: Ratio of the upper end of a bucket to the lower; also written in the SQL of the views.
GAMMA = 1.02
#: The bucket of the value 0, far below that of the least positive number (-37,593).
ZERO_BUCKET = -100_000
#: Runs of a model and task from which on only buckets are kept.
FEW = 1000

_KEY = (
    "model", "fingerprint", "task", "device", "runtime", "settings", "hardware", "external",
)  # fmt: skip
_COARSE_KEY = ("model", "fingerprint", "task", "hardware")
# Places in a key of a group, which begins with the hour.
_COARSE = tuple(_KEY.index(name) + 1 for name in _COARSE_KEY)
_MODEL, _TASK = _KEY.index("model") + 1, _KEY.index("task") + 1
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
#: Entries up to which counting in a table beats sorting.
_TABLE = 1 << 18


def summarise(
    executions: pa.Table, known: Mapping[tuple[str | None, str | None], int] | None = None
) -> dict[str, pa.Table]:
    """Build the partial rows of `ROLLUPS` for some executions.

    An interrupted run counts in ``runs``, ``interrupted`` and ``last_run`` and in nothing
    else: it is no evidence about the model. A failed run measures quality, memory, energy
    and tokens, but no speed.

    Parameters
    ----------
    executions : pyarrow.Table
        Rows of the table ``executions`` as `decode` gives them.
    known : mapping of (model, task) to int, optional
        Runs that are known to be in the store; of those with `FEW` or more only buckets
        are kept.

    Returns
    -------
    dict of str to pyarrow.Table
        ``execution_hours`` and ``execution_histograms``; empty for no executions.
    """
    batches = [batch for batch in executions.to_batches() if batch.num_rows]
    if not batches:
        return {}
    measures = {name: column(batches, name, dtype) for name, dtype in _MEASURES.items()}
    group, keys = number_groups(batches, _KEY, measures["ts"].values // _HOUR)
    stopped = _interrupted(batches)
    sums = Sums(group, len(keys))
    success = measures["success"]
    kept = None if stopped is None else ~stopped
    good = both(success.values, success.valid, kept)
    hours = _hours(measures, sums, good, kept)
    return {
        "execution_hours": _hours_table(keys, hours),
        "execution_histograms": _histograms(measures, sums, good, keys, known or {}),
    }


def tally(hours: pa.Table) -> Counter[tuple[str | None, str | None]]:
    """Count the successful runs by (model, task) in a table of partial ``execution_hours``."""
    counts: Counter[tuple[str | None, str | None]] = Counter()
    names = ("model", "task", "succeeded")
    for model, task, succeeded in zip(
        *(hours.column(name).to_pylist() for name in names), strict=True
    ):
        counts[model, task] += succeeded
    return counts


_MEASURES = {
    "ts": "i8",
    "success": "?",
    "latency": "f8",
    "throughput": "f8",
    "time_to_first_token": "f8",
    "tokens_in": "u8",
    "tokens_out": "u8",
    "peak_memory": "u8",
    "energy": "f8",
    "quality": "f8",
}


def _interrupted(batches: Sequence[pa.RecordBatch]) -> NDArray[np.bool_] | None:
    """Mark the runs whose extra field ``failure`` says so; None when there are none."""
    parts = [_interrupted_rows(batch.column("extra")) for batch in batches]
    if not any(parts):
        return None
    mask = np.zeros(sum(batch.num_rows for batch in batches), dtype=np.bool_)
    start = 0
    for batch, rows in zip(batches, parts, strict=True):
        mask[[start + row for row in rows]] = True
        start += batch.num_rows
    return mask


def _interrupted_rows(extra: pa.Array) -> list[int]:
    if extra.null_count == len(extra):
        return []
    _, places, data = extra.buffers()
    size = 8 if "large" in str(extra.type) else 4
    offsets = np.frombuffer(places, dtype=f"i{size}", count=extra.offset + len(extra) + 1)
    offsets = offsets[extra.offset :]
    text = memoryview(data)[int(offsets[0]) : int(offsets[-1])].tobytes()
    offsets = offsets - offsets[0]
    needle = f'"{INTERRUPTED}"'.encode()
    rows: list[int] = []
    # Parsing every extra would cost more than all the rest: only those with the word are.
    at = text.find(needle)
    while at >= 0:
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        end = int(offsets[row + 1])
        if extra[row].is_valid:
            fields = json.loads(text[int(offsets[row]) : end])
            if isinstance(fields, dict) and fields.get("failure") == INTERRUPTED:
                rows.append(row)
        at = text.find(needle, end)
    return rows


def _hours(
    measures: Mapping[str, Column],
    sums: Sums,
    good: NDArray[np.bool_] | None,
    kept: NDArray[np.bool_] | None,
) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Return the columns of numbers: values, and in which rows they are not NULL."""
    out: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    empty = np.zeros(sums.size, dtype=np.intp)

    def put(name: str, values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        # What was never measured is common, and costs nothing.
        absent = mask is not None and not mask.any()
        count = empty if absent else sums.count(mask)
        out[f"{name}_count"] = count, None
        out[f"{name}_sum"] = empty if absent else sums.sum(values, mask), count > 0
        return count

    out["runs"] = sums.count(None), None
    out["succeeded"] = sums.count(good), None
    out["interrupted"] = empty if kept is None else sums.count(~kept), None
    out["last_run"] = (
        sums.extreme(np.maximum, np.iinfo("i8").min, measures["ts"].values, None),
        None,
    )
    latency, throughput = measures["latency"], measures["throughput"]
    timed = both(good, latency.valid)
    count = put("latency", latency.values, timed)
    out["latency_min"] = sums.extreme(np.minimum, np.inf, latency.values, timed), count > 0
    out["latency_max"] = sums.extreme(np.maximum, -np.inf, latency.values, timed), count > 0
    paced = both(good, throughput.valid)
    put("throughput", throughput.values, paced)
    moving = both(paced, positive(throughput.values))
    put("ln_throughput", ln(throughput.values), moving)
    work, known = _work(measures)
    put("ln_work", ln(work), both(good, known, positive(work)))
    first_token = measures["time_to_first_token"]
    put("time_to_first_token", first_token.values, both(good, first_token.valid))
    quality = measures["quality"]
    put("quality", quality.values, both(kept, quality.valid))
    for name in ("tokens_in", "tokens_out", "energy"):
        put(name, measures[name].values, both(kept, measures[name].valid))
        del out[f"{name}_count"]
        out[name] = out.pop(f"{name}_sum")
    peak = measures["peak_memory"]
    for name, among in (("peak_memory", kept), ("peak_memory_succeeded", good)):
        mask = both(among, peak.valid)
        out[name] = sums.extreme(np.maximum, 0, peak.values, mask), sums.count(mask) > 0
    return out


def _work(
    measures: Mapping[str, Column],
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Return the output of each run, in tokens or items, and where it is known."""
    latency, throughput, tokens = (
        measures[name] for name in ("latency", "throughput", "tokens_out")
    )
    if tokens.valid is None:
        return tokens.values.astype("f8"), None
    both_known = both(latency.valid, throughput.valid)
    with np.errstate(over="ignore", invalid="ignore"):
        product = latency.values * throughput.values
    if not tokens.valid.any():
        return product, both_known
    work = np.where(tokens.valid, tokens.values, product)
    return work, None if both_known is None else tokens.valid | both_known


def _hours_table(
    keys: Sequence[tuple[Any, ...]],
    hours: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]],
) -> pa.Table:
    types = ROLLUPS["execution_hours"]
    rows = np.arange(len(keys))
    columns = {
        "hour": fixed(np.array([key[0] * _HOUR for key in keys], dtype="i8"), "TIMESTAMP"),
        "merged": fixed(np.zeros(len(keys)), "BOOLEAN"),
    }
    for place, name in enumerate(_KEY, start=1):
        values = [key[place] for key in keys]
        if types[name] == "BOOLEAN":
            there = np.array([value is not None for value in values], dtype=np.bool_)
            columns[name] = fixed(np.array(values, dtype=np.bool_), "BOOLEAN", there)
        else:
            columns[name] = dictionary(values, rows)
    for name, (numbers, valid) in hours.items():
        columns[name] = fixed(numbers, types[name], valid)
    return _assemble("execution_hours", columns)


def _histograms(
    measures: Mapping[str, Column],
    sums: Sums,
    good: NDArray[np.bool_] | None,
    keys: Sequence[tuple[Any, ...]],
    known: Mapping[tuple[str | None, str | None], int],
) -> pa.Table:
    import pyarrow as pa

    # From the keys of the hours to the coarser ones of the histograms, group by group.
    coarse: dict[tuple[Any, ...], int] = {}
    cells: dict[tuple[Any, ...], int] = {}
    place = np.array(
        [
            coarse.setdefault((key[0] * _HOUR // _DAY, *(key[i] for i in _COARSE)), len(coarse))
            for key in keys
        ]
    )
    cell = np.array([cells.setdefault((key[_MODEL], key[_TASK]), len(cells)) for key in keys])
    many = np.array([known.get(key, 0) >= FEW for key in cells])
    parts = []
    for quantity in ("latency", "throughput"):
        measured = measures[quantity]
        mask = both(good, measured.valid)
        runs = np.bincount(cell, sums.count(mask), minlength=len(cells))
        few = (~many & (runs < FEW))[cell]
        group = sums.group if mask is None else sums.group[mask]
        values = measured.values if mask is None else measured.values[mask]
        parts.append(_histogram(quantity, list(coarse), place, few, group, values))
    return pa.concat_tables(parts)


def _histogram(
    quantity: str,
    keys: Sequence[tuple[Any, ...]],
    place: NDArray[np.intp],
    few: NDArray[np.bool_],
    group: NDArray[np.intp],
    values: NDArray[np.float64],
) -> pa.Table:
    """Count the values of one quantity: one by one where there are few, by bucket elsewhere."""
    alone = few[group]
    parts = [_no_items()]
    for chosen, each in ((alone, True), (~alone, False)):
        if chosen.any():
            here, at = values[chosen], place[group[chosen]]
            parts.append(_by_value(here, at) if each else _by_bucket(here, at))
    index, buckets, exact, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    # The values of a key are either kept or not, so that its items stand next to each other.
    rows, starts, lengths = np.unique(index, return_index=True, return_counts=True)
    order = np.argsort(starts)
    rows, starts, lengths = rows[order], starts[order], lengths[order]
    types = ROLLUPS["execution_histograms"]
    days = np.array([key[0] * _DAY for key in keys], dtype="i8")
    runs = np.add.reduceat(counts, starts) if len(starts) else counts
    kept = ~np.isnan(exact)
    columns = {
        "day": fixed(days[rows], types["day"]),
        "quantity": constant(quantity, len(rows)),
        "merged": fixed(np.zeros(len(rows)), types["merged"]),
        "runs": fixed(runs, types["runs"]),
        "buckets": lists(fixed(buckets, "INTEGER"), lengths),
        "exact": lists(fixed(exact, "DOUBLE", kept), lengths, kept[starts]),
        "counts": lists(fixed(counts, "UBIGINT"), lengths),
    }
    for position, name in enumerate(_COARSE_KEY, start=1):
        columns[name] = dictionary([key[position] for key in keys], rows)
    return _assemble("execution_histograms", columns)


# Items of a histogram: place of the key, bucket, value (NaN: only its bucket), and runs.
_Items = tuple["NDArray[np.intp]", "NDArray[np.intp]", "NDArray[np.float64]", "NDArray[np.intp]"]


def _no_items() -> _Items:
    none = np.empty(0, dtype=np.intp)
    return none, none, none.astype(np.float64), none


def _by_value(values: NDArray[np.float64], place: NDArray[np.intp]) -> _Items:
    distinct, codes = np.unique(values, return_inverse=True)
    pairs, runs = np.unique(place * len(distinct) + codes, return_counts=True)
    exact = distinct[pairs % len(distinct)]
    return pairs // len(distinct), _bucket(exact), exact, runs


def _by_bucket(values: NDArray[np.float64], place: NDArray[np.intp]) -> _Items:
    buckets = _bucket(values)
    # The one of zero lies far below the rest; numbered next to them it takes no room.
    zero = buckets == ZERO_BUCKET
    above = buckets[~zero] if zero.any() else buckets
    low = int(above.min()) - 1 if above.size else 0
    codes = np.where(zero, 0, buckets - low)
    span = int(codes.max()) + 1
    codes += place * span
    if span * (int(place.max()) + 1) > _TABLE:
        pairs, runs = np.unique(codes, return_counts=True)
    else:
        counts = np.bincount(codes)
        pairs = np.flatnonzero(counts)
        runs = counts[pairs]
    numbers = pairs % span
    numbers = np.where(numbers == 0, ZERO_BUCKET, numbers + low)
    return pairs // span, numbers, np.full(len(pairs), np.nan), runs


def _bucket(values: NDArray[np.float64]) -> NDArray[np.intp]:
    buckets = np.ceil(ln(values) / math.log(GAMMA)).astype(np.intp)
    buckets[values <= 0] = ZERO_BUCKET
    return buckets


def _assemble(name: str, columns: Mapping[str, pa.Array]) -> pa.Table:
    import pyarrow as pa

    names = list(ROLLUPS[name])
    return pa.Table.from_arrays([columns[column] for column in names], names=names)
