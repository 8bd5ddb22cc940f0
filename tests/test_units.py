"""Sizes, durations, rates and counts as a person reads them."""

from __future__ import annotations

import doctest
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import units
from ravenxterm_lab.units import (
    format_bytes,
    format_count,
    format_number,
    format_rate,
    format_rates,
    format_seconds,
)

BYTES = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5}
SECONDS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}
COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def test_the_examples_run() -> None:
    """Every docstring example gives what it says."""
    result = doctest.testmod(units)
    assert result.attempted >= 4
    assert result.failed == 0


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_an_interval_of_rates_reads_as_its_ends(low: float, high: float) -> None:
    """Each end is written out as a rate by itself is, never as a power of ten."""
    ends = format_rates(low, high).split(" to ")
    assert ends == [format_rate(end, "").removesuffix(" /s") for end in (low, high)]
    assert "e" not in "".join(ends)


@given(st.integers(0, 2**60))
def test_bytes_can_be_read_back(count: int) -> None:
    """What is shown is within half of its last digit of what was given."""
    number, unit = format_bytes(count).split(" ")
    scale = 1024 ** BYTES[unit]
    half = 0.5 if unit == "B" else 0.05
    assert abs(float(number) - count / scale) <= half * (1 + 1e-9)


@given(st.integers(0, 2**58))
def test_bytes_are_shown_in_the_unit_that_fits(count: int) -> None:
    """No number reaches 1024 of its unit, and none but bytes is below 1."""
    number, unit = format_bytes(count).split(" ")
    assert float(number) < 1024
    assert unit == "B" or float(number) >= 1


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.7, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3 - 1, "1.0 GiB"),
        (-1536, "-1.5 KiB"),
        (2**50 * 5000, "5000.0 PiB"),
    ],
)
def test_bytes_at_the_edges(count: float, shown: str) -> None:
    """Rounding never shows 1024 of a unit."""
    assert format_bytes(count) == shown


@given(st.floats(1e-6, 1e7))
def test_seconds_can_be_read_back(seconds: float) -> None:
    """What is shown is within half of its last digit, or a minute above an hour."""
    shown = format_seconds(seconds)
    if match := re.fullmatch(r"([\d.]+) (µs|ms|s)", shown):
        scale, decimals = SECONDS[match[2]], len(match[1].partition(".")[2])
        half = 0.5 * 10**-decimals * scale
        assert abs(float(match[1]) * scale - seconds) <= half * (1 + 1e-6)
        assert float(match[1]) < 1000
    elif match := re.fullmatch(r"(\d+) min (\d+) s", shown):
        assert int(match[1]) < 60
        assert int(match[2]) < 60
        assert abs(int(match[1]) * 60 + int(match[2]) - seconds) <= 0.5
    else:
        match = re.fullmatch(r"(\d+) h (\d+) min", shown)
        assert match is not None
        assert int(match[2]) < 60
        assert abs(int(match[1]) * 3600 + int(match[2]) * 60 - seconds) <= 60.5


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 µs"),
        (9.996e-4, "1.0 ms"),
        (0.09996, "100 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (-2.5, "-2.50 s"),
    ],
)
def test_seconds_at_the_edges(seconds: float, shown: str) -> None:
    """Rounding never shows 60 seconds, or 1000 of a unit."""
    assert format_seconds(seconds) == shown


@given(st.integers(0, 10**15 - 10**12))
def test_counts_have_three_digits(count: int) -> None:
    """A count is within half a percent, and never in powers of ten."""
    match = re.fullmatch(r"([\d.]+)([KMBT]?)", format_count(count))
    assert match is not None
    assert len(match[1].replace(".", "")) <= 3 or count > 999.5e12
    assert math.isclose(float(match[1]) * COUNTS[match[2]], count, rel_tol=0.0051)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999"),
        (999_499, "999K"),
        (999_500, "1M"),
        (999_999_999, "1B"),
        (1.5e12, "1.5T"),
        (2e15, "2000T"),
        (-8_030_261_248, "-8.03B"),
    ],
)
def test_counts_at_the_edges(count: float, shown: str) -> None:
    """Rounding moves on to the next suffix."""
    assert format_count(count) == shown


@given(st.floats(0, 1e9))
def test_rates_can_be_read_back(rate: float) -> None:
    """A rate is within half of its last digit, with its unit behind."""
    number, unit = format_rate(rate, "items").split(" ")
    assert unit == "items/s"
    assert abs(float(number.replace(",", "")) - rate) <= (0.05 if rate < 10 else 0.5) * (1 + 1e-9)


@pytest.mark.parametrize("formatter", [format_bytes, format_seconds, format_rate, format_count])
@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_was_not_measured_is_said(formatter: object, nothing: float | None) -> None:
    """None, NaN and infinities are words, never numbers."""
    assert formatter(nothing) in {"not measured", "unknown"}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (3020, "3,020 rows")]
)
def test_a_number_of_things_is_singular_for_one(count: int, shown: str) -> None:
    """Everything but one takes an s."""
    assert format_number(count, "row") == shown
