"""The evidence query against the same statistics computed by hand, on a real store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravenxterm_lab.selection import Evidence
from ravenxterm_lab.selection.evidence import INTERRUPTED
from ravenxterm_lab.store import Store

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


def test_peaks_hold_for_their_settings_and_loads_for_the_model(store: Store) -> None:
    """The largest peak for each setting, and the median load time."""
    for settings, peak in (("ctx=512", 10), ("ctx=512", 30), ("ctx=4096", 50)):
        store.record_execution(
            model="m", fingerprint="f", task="t", settings=settings, hardware="here",
            metrics={"peak_memory": peak},
        )  # fmt: skip
    for seconds in (1.0, 2.0, 9.0):
        store.record(
            "loads", model="m", fingerprint="f", hardware="here", success=True, seconds=seconds
        )
    store.record("loads", model="m", fingerprint="f", hardware="here", success=False, error="no")
    evidence = read(store)
    assert evidence.peaks == {("f", "ctx=512"): 30, ("f", "ctx=4096"): 50}
    assert evidence.load_seconds == {"f": 2.0}


def test_items_per_second_stand_in_for_tokens(store: Store) -> None:
    """Without a token count the work of a run is its latency times its throughput."""
    store.record_execution(model="m", task="t", metrics={"latency": 2.0, "throughput": 4.0})
    assert read(store).cell("m", "t").work_mean == pytest.approx(math.log(8))
