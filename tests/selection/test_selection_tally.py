"""The tally against the store's query, on the same executions."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ravenxterm_lab.selection import CellEvidence, Evidence
from ravenxterm_lab.selection.tally import Tally
from ravenxterm_lab.store import Store

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
ANY = pytest.approx


class Clock:
    """Nanoseconds that a test sets."""

    now = 0

    def __call__(self) -> int:
        return self.now


def test_nothing_observed_is_no_evidence() -> None:
    """An empty tally says what an empty store says."""
    assert Tally().evidence(NOW) == Evidence.none()


def test_the_statistics_are_those_of_the_store(tmp_path: Path) -> None:
    """Forty steady runs of two models on two tasks: the same cells as the SQL query gives."""
    rng, clock, tally = random.Random(0), Clock(), Tally()
    with Store(tmp_path / "store", clock=clock, ingest=False) as store:
        for number in range(40):
            at = NOW - timedelta(days=40 - number)
            clock.now = int(at.timestamp()) * 10**9
            key, task = rng.choice("ab"), rng.choice(["x", "y"])
            quality = rng.choice([0.4, 0.5, None])
            rate, length = rng.uniform(40, 60), rng.randint(50, 80)
            tally.observe(
                key, task, at, quality=quality, ln_speed=math.log(rate),
                ln_work=math.log(length), first_token=0.2, succeeded=number % 7 > 0,
            )  # fmt: skip
            metrics: dict[str, object] = {
                "throughput": rate,
                "tokens_out": length,
                "time_to_first_token": 0.2,
            }
            if quality is not None:
                metrics["quality"] = quality
            if not number % 7:
                metrics["error"] = "boom"
            store.record_execution(
                model=key, fingerprint=key, task=task, hardware="here", metrics=metrics
            )  # fmt: skip
        asked = Evidence.from_store(store, hardware="here", now=f"{NOW:%Y-%m-%d %H:%M:%S}")
    counted = tally.evidence(NOW)
    assert counted.cells.keys() == asked.cells.keys()
    assert len(counted.cells) == 4
    for key, cell in counted.cells.items():
        for name in CellEvidence.__dataclass_fields__:
            # The query weighs an hour as a whole, half an hour off at most.
            near = 8e-3 if name.startswith("recent_") else 2e-3
            assert getattr(cell, name) == ANY(getattr(asked.cells[key], name), rel=near), name


def test_after_a_change_of_quality_only_what_is_new_counts() -> None:
    """The mean follows the new level at once; speed and output length are untouched."""
    tally = Tally()
    changes = []
    for number in range(60):
        changes += tally.observe(
            "m", "t", NOW + timedelta(minutes=number),
            quality=float(number < 40), ln_speed=3.0, ln_work=5.0
        )  # fmt: skip
    assert [change.metric for change in changes] == ["quality"]
    cell = tally.evidence(NOW + timedelta(hours=1)).cell("m", "t")
    assert cell.quality_mean == 0
    assert cell.quality_n == 20
    assert cell.speed_n == ANY(60, rel=0.01)
    assert cell.work_n == 60


def test_after_a_change_of_speed_the_time_to_first_token_starts_again_too() -> None:
    """A machine that became three times slower has a new speed and a new first token."""
    tally = Tally()
    changes = []
    for number in range(30):
        slow = 3 if number >= 20 else 1
        changes += tally.observe(
            "m", "t", NOW + timedelta(minutes=number),
            ln_speed=math.log(30 / slow), first_token=0.3 * slow, quality=1.0
        )  # fmt: skip
    assert [change.metric for change in changes] == ["speed"]
    cell = tally.evidence(NOW + timedelta(minutes=30)).cell("m", "t")
    assert cell.speed_mean == ANY(math.log(10))
    assert cell.speed_n == ANY(10, rel=0.01)
    assert cell.first_token_mean == ANY(0.9)
    assert cell.quality_n == 30


def test_of_a_failure_only_a_grade_counts() -> None:
    """Whatever speed it reported, a failure measures none; an unlabelled run is a run."""
    tally = Tally()
    assert tally.observe("m", "t", NOW, quality=0.0, ln_speed=9.0, succeeded=False) == []
    assert tally.observe("m", "t", NOW) == []
    assert tally.evidence(NOW).cell("m", "t") == CellEvidence(
        runs=2, succeeded=1, failed=1, recent_runs=2.0, recent_succeeded=1.0,
        quality_n=1, quality_mean=0.0,
    )  # fmt: skip


def test_late_judgements_and_other_machines_count_as_in_the_store(tmp_path: Path) -> None:
    """A judgement adds or replaces; of a run elsewhere only quality and length count."""
    clock, tally = Clock(), Tally()
    with Store(tmp_path / "store", clock=clock, ingest=False) as store:
        for number in range(12):
            at = NOW - timedelta(days=12 - number)
            clock.now = int(at.timestamp()) * 10**9
            here = number % 3 > 0
            measured = 0.5 if number % 2 else None
            tally.observe(
                "m", "t", at, quality=measured, ln_speed=math.log(50 + number),
                ln_work=math.log(60), first_token=0.1 * number, here=here,
            )  # fmt: skip
            metrics: dict[str, object] = {
                "throughput": 50.0 + number, "tokens_out": 60, "time_to_first_token": 0.1 * number,
            }  # fmt: skip
            if measured is not None:
                metrics["quality"] = measured
            execution = store.record_execution(
                model="m", fingerprint="m", task="t", hardware="here" if here else "there",
                metrics=metrics,
            )  # fmt: skip
            if number > 8:
                store.record("feedback", execution=str(execution), quality=0.25)
                assert tally.judge("m", "t", at, 0.25, replaced=measured) == []
        asked = Evidence.from_store(store, hardware="here", now=f"{NOW:%Y-%m-%d %H:%M:%S}")
    counted, expected = tally.evidence(NOW).cell("m", "t"), asked.cell("m", "t")
    assert counted.runs == expected.runs == 8
    assert expected.quality_n == 7
    for name in CellEvidence.__dataclass_fields__:
        # The store knows the hour: half an hour is 0.7% of a half-life of two days.
        rel = 8e-3 if name.startswith("recent") else 2e-3
        assert getattr(counted, name) == ANY(getattr(expected, name), rel=rel), name


def test_a_judgement_of_what_no_longer_counts_keeps_the_mean_a_quality() -> None:
    """Replacing a grade from before a change cannot push the mean below 0 or above 1."""
    tally = Tally()
    for _ in range(3):
        tally.observe("m", "t", NOW, quality=0.0)
    tally.judge("m", "t", NOW, 0.0, replaced=1.0)
    assert tally.evidence(NOW).cell("m", "t").quality_mean == 0.0
