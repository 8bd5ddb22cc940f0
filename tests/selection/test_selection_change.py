"""The change test: what it must notice, how soon, and how rarely it may be wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.selection.change import (
    QUALITY_TEST,
    SPEED_TEST,
    Change,
    Detector,
    WindowTest,
    window_test,
)

START = datetime(2027, 1, 15, 8, tzinfo=UTC)


def feed(detector: Detector, values: Iterable[float]) -> list[tuple[int, Change]]:
    """Feed one observation a minute; return the changes with their positions."""
    found = []
    for position, value in enumerate(values):
        change = detector.observe(START + timedelta(minutes=position), float(value))
        if change is not None:
            found.append((position, change))
    return found


def longhand(test: WindowTest, values: list[float]) -> float:
    """Return the largest log likelihood ratio over all windows, computed the long way."""

    def fit(part: list[float], mean: float) -> float:
        if test.variance is not None:
            return -sum((x - mean) ** 2 for x in part) / (2 * test.variance)
        mean = min(max(mean, 1e-12), 1 - 1e-12)
        return sum(x * math.log(mean) + (1 - x) * math.log(1 - mean) for x in part)

    def own(part: list[float]) -> float:
        return fit(part, sum(part) / len(part))

    ratios = [
        own(values[:-w]) + own(values[-w:]) - own(values)
        for w in range(test.shortest, test.longest + 1)
        if w < len(values)
    ]
    return max(ratios, default=0.0)


@pytest.mark.parametrize("test", [QUALITY_TEST, SPEED_TEST])
@given(st.data())
def test_the_statistic_is_the_likelihood_ratio(test: WindowTest, data: st.DataObject) -> None:
    """A change is reported exactly when the long way finds a ratio of the threshold or more."""
    value = st.sampled_from([0.0, 1.0]) if test.variance is None else st.floats(2, 5)
    values = data.draw(st.lists(value, max_size=60))
    found = feed(Detector(test), values)
    position = found[0][0] if found else len(values)
    for end in range(1, position + 1):
        assert longhand(test, values[:end]) < test.threshold + 1e-6
    if found:
        assert longhand(test, values[: position + 1]) > test.threshold - 1e-6


def test_three_times_slower_is_noticed_at_the_second_run_and_said_in_words() -> None:
    """Two runs at a third of the speed are enough, and the message names the factor and time."""
    values = [math.log(30)] * 20 + [math.log(10)] * 5
    ((position, change),) = feed(Detector(SPEED_TEST), values)
    assert position == 21
    assert change.at == START + timedelta(minutes=20)
    assert change.n == 2
    assert change.message("SmolLM2") == "SmolLM2 became 3.0× slower at 08:20; re-learning"


def test_a_faster_model_is_noticed_too() -> None:
    """A change for the better is a change."""
    ((_, change),) = feed(Detector(SPEED_TEST), [2.0] * 9 + [3.5] * 3)
    assert "faster" in change.message("m")


def test_a_fall_of_quality_is_noticed_within_a_dozen_answers() -> None:
    """Quality .9 that becomes .36 is noticed in 12 answers in the median of 200 streams."""
    rng = np.random.default_rng(0)
    delays = []
    for _ in range(200):
        values = [*(rng.random(100) < 0.9), *(rng.random(100) < 0.36)]
        after = [position for position, _ in feed(Detector(QUALITY_TEST), values)]
        delays.append(next((p - 99 for p in after if p >= 100), 101))
    assert np.median(delays) <= 12


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_steady_quality_rarely_raises_an_alarm(rate: float) -> None:
    """Fewer than one alarm in 10,000 steady answers, whatever their level."""
    rng = np.random.default_rng(1)
    alarms = sum(len(feed(Detector(QUALITY_TEST), rng.random(700) < rate)) for _ in range(30))
    assert alarms <= 2


def test_steady_speed_rarely_raises_an_alarm() -> None:
    """Fewer than one alarm in 5,000 runs whose ln speed has the expected noise."""
    rng = np.random.default_rng(2)
    noise = SPEED_TEST.variance
    assert noise is not None
    values = 3 + math.sqrt(noise) * rng.standard_normal(10_000)
    assert len(feed(Detector(SPEED_TEST), values)) < 2


def test_after_a_change_only_the_recent_window_counts_and_it_is_reported_once() -> None:
    """What was before an alarm is forgotten; more of the same raises none."""
    detector = Detector(QUALITY_TEST)
    values = [1.0] * 40 + [0.0] * 40
    ((position, change),) = feed(detector, values)
    assert position < 50
    assert change.before == 1
    assert change.after == 0
    assert len(detector.recent) <= QUALITY_TEST.longest
    assert {value for _, value in detector.recent} == {0.0}
    assert (
        change.message("Gemma") == "quality of Gemma fell from 1.00 to 0.00 at 08:40; re-learning"
    )


def test_items_per_second_are_no_change_of_the_model() -> None:
    """They depend on how many are given at once; tokens per second and qualities are watched."""
    slower = [5.0] * 20 + [1.0] * 20
    assert feed(Detector(window_test("speed", "embedding")), slower) == []
    assert len(feed(Detector(window_test("speed", "text_generation")), slower)) == 1
    worse = [1.0] * 20 + [0.0] * 20
    assert len(feed(Detector(window_test("quality", "embedding")), worse)) == 1
