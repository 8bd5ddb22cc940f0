"""The hours at which models were used, as the pool learns them from the store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import Workbench
from ravenxterm_lab.models.loading import hours_of_use
from ravenxterm_lab.store import Store

TODAY = datetime(2026, 11, 1, tzinfo=UTC)


class Diary:
    """A workbench whose clock a test sets."""

    def __init__(self, home: Path, profile: HardwareProfile) -> None:
        self.now = TODAY
        self.bench = Workbench(home, hardware=profile, runtimes=[])
        self.bench.store.close()
        self.bench.store = Store(self.bench.paths.store, clock=self._nanoseconds, ingest=False)
        self.bench.now = lambda: str(self.now.replace(tzinfo=None))  # type: ignore[method-assign]

    def _nanoseconds(self) -> int:
        return int(self.now.timestamp()) * 10**9

    def used(self, name: str, at: datetime, runs: int = 1, hardware: str | None = None) -> None:
        for second in range(runs):
            self.now = at + timedelta(seconds=second)
            self.bench.record_execution(
                model=name, fingerprint=name, task="text_generation", runtime="fake",
                device="cpu", settings="ctx=4096", metrics={"latency": 1.0},
                hardware=hardware or self.bench.hardware.fingerprint,
            )  # fmt: skip

    def odds(self, hour: int) -> dict[str, float]:
        self.now = TODAY + timedelta(hours=9)
        return {key[1]: odds for key, odds in hours_of_use(self.bench).odds(hour).items()}


@pytest.fixture
def diary(tmp_path: Path, profile: HardwareProfile) -> Iterator[Diary]:
    made = Diary(tmp_path, profile)
    yield made
    made.bench.store.close()


def test_each_model_has_its_hours(diary: Diary) -> None:
    """Used at 8 h every day it is likely at 8 h, used at 20 h it is not."""
    for day in range(20, 0, -1):
        diary.used("early", TODAY - timedelta(days=day) + timedelta(hours=8, minutes=10))
        diary.used("late", TODAY - timedelta(days=day) + timedelta(hours=20, minutes=50))
    assert diary.odds(8)["early"] > 6
    assert diary.odds(8)["late"] < 0.5
    assert diary.odds(20)["late"] > 6


def test_days_count_and_not_runs(diary: Diary) -> None:
    """A hundred runs within an hour are one day of use, with two settings of a model or one."""
    yesterday = TODAY - timedelta(days=1) + timedelta(hours=8)
    diary.used("often", yesterday, runs=100)
    diary.used("once", yesterday + timedelta(minutes=30))
    odds = diary.odds(8)
    assert odds["often"] == pytest.approx(odds["once"])


def test_what_was_long_ago_counts_less(diary: Diary) -> None:
    """Of two habits of the same length the older one says less."""
    for day in range(5, 0, -1):
        diary.used("lately", TODAY - timedelta(days=day) + timedelta(hours=8))
        diary.used("formerly", TODAY - timedelta(days=day + 120) + timedelta(hours=8))
    odds = diary.odds(8)
    assert odds["lately"] > 2 * odds["formerly"] > 2


def test_neither_today_nor_another_machine_counts(diary: Diary) -> None:
    """What is used today says itself what follows; what runs elsewhere is loaded elsewhere."""
    diary.used("elsewhere", TODAY - timedelta(hours=16), hardware="another machine")
    diary.used("now", TODAY + timedelta(hours=8))
    assert diary.odds(8) == {}


def test_the_pool_of_a_workbench_asks_the_store(diary: Diary) -> None:
    """What was recorded reaches the pool that loads."""
    for day in range(20, 0, -1):
        diary.used("early", TODAY - timedelta(days=day) + timedelta(hours=8))
    diary.now = TODAY
    pool = diary.bench.pool
    pool._look_at_the_clock()
    assert pool._hours is not None
    assert [key[1] for key in pool._hours[1].odds(8)] == ["early"]
    pool.close()


def test_a_store_that_cannot_be_read_costs_no_load(diary: Diary) -> None:
    """A message says that the hours are not known, and nothing is taken to be likely."""
    diary.used("early", TODAY - timedelta(days=1))
    diary.bench.store.ingest_now()
    diary.bench.store.close()
    diary.bench.store.database.write_bytes(b"no database" * 1000)
    diary.bench.store = Store(diary.bench.paths.store, ingest=False)
    assert diary.odds(8) == {}
    assert any("at this hour" in message.text for message in diary.bench.messages)
