"""The hours of the day: what is used at this hour is expected, and stays, others go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, ModelPool
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.eviction import Key, UsePattern
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.hours import HoursOfUse

MORNING, EVENING = 8, 20


def key(name: str) -> Key:
    return ("fake", name, LoadOptions(context_length=4096).settings)


def model(name: str) -> ModelMetadata:
    return ModelMetadata(name, ModelType.GGUF, Path(name), 100, fingerprint=name)


HABITS = HoursOfUse([(key("early"), MORNING, 20.0), (key("late"), EVENING, 20.0)])

days = st.lists(st.tuples(st.integers(0, 23), st.floats(0, 500)), max_size=30)


@given(days)
def test_the_odds_of_a_day_are_1_on_the_mean(counted: list[tuple[int, float]]) -> None:
    """Whatever was counted: more likely at one hour is less likely at others."""
    hours = HoursOfUse((key("a"), hour, count) for hour, count in [(0, 0.0), *counted])
    odds = [hours.odds(hour)[key("a")] for hour in range(24)]
    assert min(odds) > 0
    assert sum(odds) / 24 == pytest.approx(1)


def test_a_habit_takes_some_days_to_show() -> None:
    """One morning says little, a month of mornings much; so do the hours beside."""
    odds = [HoursOfUse([(key("a"), MORNING, n)]).odds(MORNING)[key("a")] for n in (0, 1, 5, 30)]
    assert odds[0] == 1
    assert odds == sorted(odds)
    assert odds[1] < 4 < odds[2] < 8 < odds[3]
    assert HABITS.odds(MORNING + 1)[key("early")] > 1 > HABITS.odds(MORNING + 2)[key("early")]
    assert HABITS.odds(MORNING) == HABITS.odds(24 * 400 + MORNING)


def test_midnight_lies_between_two_hours_that_are_beside_each_other() -> None:
    """What is used at 23 h is used more than usual at 0 h, too."""
    hours = HoursOfUse([(key("a"), 23, 20.0)])
    assert hours.odds(0)[key("a")] == hours.odds(22)[key("a")] > 1


@given(days, st.integers(0, 23))
def test_what_is_usual_adds_up_to_1(counted: list[tuple[int, float]], hour: int) -> None:
    """Or is empty, where nothing was ever used."""
    usual = HoursOfUse((key(str(h % 3)), h, count) for h, count in counted).usual(hour)
    assert not usual or sum(usual.values()) == pytest.approx(1)


def test_without_hours_the_order_alone_counts() -> None:
    """Nothing counted is the same as no hours at all."""
    pattern = UsePattern(key(name) for name in "abcabdabc")
    assert dict(pattern.expected(HoursOfUse(), MORNING)) == dict(pattern.expected())


def test_the_hour_decides_between_what_the_order_cannot_tell() -> None:
    """After something new, each is expected at its own hour."""
    pattern = UsePattern(key(name) for name in ("early", "late", "early", "late", "new"))
    morning, evening = (pattern.expected(HABITS, hour) for hour in (MORNING, EVENING))
    assert morning[key("early")] > morning[key("late")]
    assert evening[key("late")] > evening[key("early")]


def test_what_always_follows_is_expected_at_an_unusual_hour_too() -> None:
    """The order keeps its say: who begins the evening's work in the morning goes on with it."""
    pattern = UsePattern(key(name) for name in ("late", "other") * 6 + ("late",))
    hours = HoursOfUse([(key("early"), MORNING, 20.0), (key("other"), EVENING, 20.0)])
    assert pattern.expected(hours, MORNING)[key("other")] > 0.4


def evicted(hour: int, hours: HoursOfUse) -> list[str]:
    """Return what goes for a new model where one of each habit is loaded and idle."""
    runtime = FakeRuntime()
    pool = ModelPool(
        budget=lambda: {RAM: 200},
        estimate=lambda model, options: {RAM: 100},
        # The evening's work was the last, and much more often done.
        past=lambda: [key(name) for name in ("early", *["late", "other"] * 20)],
        hours=lambda: hours,
        hour=lambda: 24 * 700 + hour,
    )
    for name in ("early", "late", "new"):
        with pool.acquire(runtime, model(name)):
            pass
    gone = list(runtime.unloads)
    pool.close()
    return gone


def test_what_is_used_every_morning_stays_in_the_morning() -> None:
    """And what is used every evening in the evening, and where no hours are known."""
    assert evicted(MORNING, HABITS) == ["late"]
    assert evicted(EVENING, HABITS) == ["early"]
    assert evicted(MORNING, HoursOfUse()) == ["early"]


def test_the_hours_are_asked_for_once_an_hour_and_only_for_a_load() -> None:
    """A model that is loaded already needs no room."""
    asked: list[int] = []
    now = [10]
    pool = ModelPool(
        budget=lambda: {RAM: 1000},
        estimate=lambda model, options: {RAM: 100},
        hours=lambda: asked.append(now[0]) or HoursOfUse(),
        hour=lambda: now[0],
    )
    assert asked == []
    for hour, name in ((10, "a"), (10, "b"), (11, "a"), (12, "c"), (12, "d")):
        now[0] = hour
        with pool.acquire(FakeRuntime(), model(name)):
            pass
    assert asked == [10, 12]
    pool.close()
