"""The evidence query against the same statistics computed by hand, on a real store."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ravenxterm_lab.selection import Engine, Evidence
from ravenxterm_lab.selection.reading import read_whole
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.schema import INTERRUPTED

DAY = 86_400_000_000_000
NOW = 1_800_000_000 * 1_000_000_000
NOW_TEXT = "2027-01-15 08:00:00"


class Clock:
    """Nanoseconds that a test sets."""

    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(tmp_path / "store", clock=clock, ingest=False) as made:
        yield made


def read(store: Store) -> Evidence:
    return Evidence.from_store(store, hardware="here", now=NOW_TEXT)


def test_an_empty_store_is_no_evidence(store: Store) -> None:
    """Nothing recorded, nothing known."""
    assert read(store) == Evidence.none()


def test_speed_is_weighted_by_age_and_bound_to_the_hardware(store: Store, clock: Clock) -> None:
    """A run of 14 days ago counts half; one on another machine not at all; unknown ones do."""
    for days, rate, hardware in ((0, 100.0, "here"), (14, 50.0, "here"), (0, 7.0, "there")):
        clock.now = NOW - days * DAY
        store.record_execution(
            model="m", fingerprint="f", task="t", hardware=hardware,
            metrics={"throughput": rate, "tokens_out": 10, "time_to_first_token": 0.2},
        )  # fmt: skip
    cell = read(store).cell("f", "t")
    assert cell.runs == cell.succeeded == 2
    assert cell.speed_n == pytest.approx(1.5, abs=0.01)
    weighted = (math.log(100) + 0.5 * math.log(50)) / 1.5
    assert cell.speed_mean == pytest.approx(weighted, abs=0.01)
    assert cell.work_mean == pytest.approx(math.log(10))
    assert cell.first_token_mean == pytest.approx(0.2)


def test_the_latest_judgement_replaces_the_recorded_quality(store: Store, clock: Clock) -> None:
    """Feedback joins by execution, however late; quality of another machine counts too."""
    first = store.record_execution(
        model="m", fingerprint="f", task="t", hardware="there", metrics={"quality": 0.1}
    )
    store.record_execution(model="m", fingerprint="f", task="t", metrics={"quality": 0.5})
    for later, quality in ((1, 0.3), (2, 0.9)):
        clock.now = NOW + later
        store.record("feedback", execution=str(first), quality=quality)
        clock.now = NOW + later * 1_000_000
        store.record("feedback", execution=str(first), quality=quality)
    cell = read(store).cell("f", "t")
    assert (cell.quality_n, cell.quality_mean) == (2, pytest.approx(0.7))


def test_failures_count_and_stopped_runs_do_not(store: Store) -> None:
    """A failure is counted and measures nothing; a run that the person stopped is no evidence."""
    store.record_execution(model="m", task="t", metrics={"throughput": 5.0})
    store.record_execution(model="m", task="t", metrics={"error": "boom", "throughput": 99.0})
    store.record_execution(
        model="m", task="t", metrics={"success": False, "failure": INTERRUPTED, "latency": 1.0}
    )
    cell = read(store).cell("m", "t")
    assert (cell.runs, cell.succeeded, cell.failed) == (2, 1, 1)
    assert cell.speed_mean == pytest.approx(math.log(5))


def test_items_per_second_stand_in_for_tokens(store: Store) -> None:
    """Without a token count the work of a run is its latency times its throughput."""
    store.record_execution(model="m", task="t", metrics={"latency": 2.0, "throughput": 4.0})
    assert read(store).cell("m", "t").work_mean == pytest.approx(math.log(8))


def by_hand(
    runs: list[tuple[int, dict[str, object], dict[str, object]]], judged: dict[int, float]
) -> dict[tuple[str, str], dict[str, float | None]]:
    """Compute the cells from the runs themselves: (seconds ago, context, metrics)."""
    cells: dict[tuple[str, str], dict[str, float | None]] = {}
    lists: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for i, (ago, context, metrics) in enumerate(runs):
        if metrics.get("failure") == INTERRUPTED:
            continue
        key = str(context["fingerprint"] or context["model"])
        here = context["hardware"] in (None, "here")
        good = bool(metrics["success"])
        if context["task"] is None:
            continue
        cell = cells.setdefault(
            (key, str(context["task"])), {"runs": 0, "succeeded": 0, "failed": 0}
        )
        values = lists.setdefault((key, str(context["task"])), {})
        if here:
            cell["runs"] = (cell["runs"] or 0) + 1
            outcome = "succeeded" if good else "failed"
            cell[outcome] = (cell[outcome] or 0) + 1
        quality = judged.get(i, metrics["quality"])
        rate, seconds = metrics["throughput"], metrics["latency"]
        assert isinstance(rate, float)
        assert isinstance(seconds, float)
        tokens = metrics["tokens_out"]
        work = seconds * rate if tokens is None else tokens
        assert isinstance(work, float | int)
        weight = 2 ** (-ago / (14 * 86400))
        for name, value, wanted, by in (
            ("quality", quality, True, 1.0),
            ("speed", rate and math.log(rate), here and good and rate > 0, weight),
            ("work", work and math.log(work), good and work > 0, 1.0),
            ("first_token", metrics["time_to_first_token"], here and good, 1.0),
        ):
            if wanted and value is not None:
                assert isinstance(value, float | int)
                values.setdefault(name, []).append((by, value))
    for place, cell in cells.items():
        for name in ("quality", "speed", "work", "first_token"):
            pairs = lists[place].get(name, [])
            total = sum(by for by, _ in pairs)
            if name != "first_token":
                cell[f"{name}_n"] = total
            cell[f"{name}_mean"] = sum(by * x for by, x in pairs) / total if pairs else None
    return cells


@pytest.mark.parametrize("seed", range(5))
def test_the_hourly_sums_say_what_the_runs_say(store: Store, clock: Clock, seed: int) -> None:
    """Evidence of a random history equals the same computed run by run.

    Counts and plain means are exact; an hour counts with the age of its middle, so that
    a weight, and a weighted count, is less than 0.11 % off. Part of the runs is ingested.
    """
    rng = random.Random(seed)
    runs: list[tuple[int, dict[str, object], dict[str, object]]] = []
    judged: dict[int, float] = {}
    for i in range(rng.choice([3, 60, 400])):
        ago = rng.randrange(60 * 86400) if i % 3 else rng.randrange(3600)
        context: dict[str, object] = {
            "model": rng.choice(["a", "b"]),
            "fingerprint": rng.choice([None, "f"]),
            "task": rng.choice([None, "t", "u"]),
            "hardware": rng.choice([None, "here", "there"]),
            "settings": rng.choice([None, "ctx=512", "ctx=4096"]),
        }
        metrics: dict[str, object] = {
            "success": rng.random() < 0.8,
            "latency": rng.random(),
            "throughput": rng.choice([0.0, rng.lognormvariate(3, 1)]),
            "tokens_out": rng.choice([None, rng.randrange(50)]),
            "time_to_first_token": rng.choice([None, rng.random()]),
            "quality": rng.choice([None, rng.random()]),
        }
        if rng.random() < 0.1:
            metrics["failure"] = INTERRUPTED
        runs.append((ago, context, metrics))
        clock.now = NOW - ago * 1_000_000_000
        names: dict[str, str | None] = {
            k: None if v is None else str(v) for k, v in context.items()
        }
        run = store.record_execution(
            model=str(names["model"]), fingerprint=names["fingerprint"], task=names["task"],
            hardware=names["hardware"], settings=names["settings"], metrics=metrics,
        )  # fmt: skip
        if rng.random() < 0.2:
            judged[i] = rng.random()
            store.record("feedback", execution=str(run), quality=judged[i])
        if i in (20, 200):
            store.ingest_now()
    evidence = read(store)
    cells = by_hand(runs, judged)
    assert evidence.cells.keys() == cells.keys()
    # A mean moves by no more than its weights, times how far its values lie apart.
    bound = {"speed_n": {"rel": 0.0011}, "speed_mean": {"abs": 0.0022 * 10}}
    for place, cell in cells.items():
        for name, expected in cell.items():
            tolerance = bound.get(name, {"rel": 1e-9})
            found = getattr(evidence.cells[place], name)
            if expected is None:
                assert found is None
            else:
                assert found == pytest.approx(expected, **tolerance), (place, name)


@pytest.mark.parametrize("days", [0, 6, 8, 300, 400])
def test_the_latest_runs_are_read_one_by_one_however_old(
    store: Store, clock: Clock, days: int
) -> None:
    """A change shows in runs of any age, a few newer ones or none behind them."""
    marks = []
    for minutes in range(30):
        clock.now = NOW - days * DAY + (minutes - 40) * 60 * 10**9
        marks.append(store.record_execution(model="m", task="t", metrics={"throughput": 9.0}))
    for _ in range(3):
        clock.now = NOW - 10**9
        marks.append(store.record_execution(model="m", task="t", metrics={"throughput": 9.0}))
    store.ingest_now()
    with store.snapshot() as reader:
        whole = read_whole(
            reader, hardware="here", now=datetime.fromisoformat(NOW_TEXT), half_life_days=14.0
        )
    assert [run.mark.execution for run in whole.runs] == [str(mark) for mark in marks]


def test_speed_belongs_to_the_engine_and_quality_to_the_cache(store: Store) -> None:
    """Of a model that would run on the CPU with an f16 cache, just what ran so is its speed.

    How much context there was room for does not matter, and a run that does not say how it ran
    counts for every engine; outcomes and lengths of output count whatever ran them.
    """
    for runtime, device, text, rate, quality in (
        ("llama_cpp", "cpu", "ctx=512 kv=f16", 10.0, 0.5),
        ("llama_cpp", "cpu", "ctx=4096 kv=f16 seed=3", 20.0, 0.7),
        ("llama_cpp", "cpu", "ctx=512 kv=q8_0", 40.0, 0.1),
        ("llama_cpp", "cuda", "ctx=512 kv=f16 device=cuda", 500.0, 0.9),
        ("onnx", "cpu", "ctx=512 kv=f16", 700.0, None),
        (None, None, None, 30.0, 0.3),
    ):
        metrics = {"throughput": rate, "tokens_out": 10, "time_to_first_token": 1 / rate}
        if quality is not None:
            metrics["quality"] = quality
        store.record_execution(
            model="m", fingerprint="f", task="t", runtime=runtime, device=device, settings=text,
            hardware="here", metrics=metrics,
        )  # fmt: skip
    evidence = read(store)
    whole = evidence.cell("f", "t")
    assert (whole.runs, whole.quality_n, round(whole.speed_n)) == (6, 5, 6)
    engine = Engine.of("llama_cpp", "cpu", "ctx=8192 kv=f16")
    cell = evidence.under({"f": engine}).cell("f", "t")
    assert cell.speed_mean == pytest.approx(sum(math.log(x) for x in (10, 20, 30)) / 3)
    assert cell.first_token_mean == pytest.approx((1 / 10 + 1 / 20 + 1 / 30) / 3)
    assert cell.quality_n == 4
    assert cell.quality_mean == pytest.approx((0.5 + 0.7 + 0.9 + 0.3) / 4)
    assert (cell.runs, cell.succeeded, cell.work_n) == (6, 6, 6)
    quantised = evidence.under({"f": Engine.of("llama_cpp", "cpu", "kv=q8_0")}).cell("f", "t")
    assert quantised.quality_mean == pytest.approx((0.1 + 0.3) / 2)
    assert evidence.under({"other": engine}).cell("f", "t") == whole


def test_only_what_came_since_a_change_counts(store: Store, clock: Clock) -> None:
    """Of the change's own hour the runs themselves count, of later hours the sums; others stay."""
    runs = []
    for minutes, rate, quality, text in (
        (130, 80.0, 0.9, "ctx=512"), (50, 81.0, 0.9, "ctx=4096"), (49, 20.0, 0.8, "ctx=512"),
        (48, 20.0, 0.8, "ctx=4096"), (1, 25.0, 0.7, "ctx=512"), (1, 400.0, 0.6, "device=cuda"),
    ):  # fmt: skip
        clock.now = NOW - minutes * 60 * 10**9
        metrics = {"throughput": rate, "time_to_first_token": 1 / rate, "quality": quality}
        runs.append(
            store.record_execution(
                model="m", fingerprint="f", task="t", hardware="here", settings=text,
                metrics=metrics,
            )
        )  # fmt: skip
        if len(runs) == 3:
            store.ingest_now()
    clock.now = NOW
    for metric, text, hardware, first in (
        ("speed", "", "here", 2), ("speed", "", "there", 4), ("quality", None, None, 4),
    ):  # fmt: skip
        at = NOW - {2: 49, 4: 1}[first] * 60 * 10**9
        store.record(
            "changes", metric=metric, model="m", fingerprint="f", task="t", settings=text,
            hardware=hardware, since=at // 1000, first_execution=str(runs[first]),
            noticed=at // 1000, noticed_execution=str(runs[first]),
        )  # fmt: skip
    store.record("feedback", execution=str(runs[0]), quality=0.0)
    store.record("feedback", execution=str(runs[4]), quality=0.1)
    cell = read(store).cell("f", "t")
    rates = (20, 20, 25, 400)
    assert cell.speed_mean == pytest.approx(sum(map(math.log, rates)) / 4, abs=0.01)
    assert cell.first_token_mean == pytest.approx(sum(1 / rate for rate in rates) / 4)
    assert (cell.quality_n, cell.quality_mean) == (2, pytest.approx((0.1 + 0.6) / 2))
    assert cell.runs == 6
    store.ingest_now()
    again = read(store).cell("f", "t")
    assert again.quality_mean == pytest.approx(cell.quality_mean)
    assert again.speed_mean == pytest.approx(cell.speed_mean)
