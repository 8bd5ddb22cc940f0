"""The smallest of the changes that do the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.selection.smallest import smallest


def test_what_can_be_left_out_is_left_out() -> None:
    change = {"max_memory_bytes": 500, "max_latency": 0.7113}
    assert smallest(change, lambda one: one.get("max_memory_bytes", 0) >= 500) == {
        "max_memory_bytes": 500
    }


@given(st.integers(1, 10**12), st.integers(0, 10**12))
def test_a_limit_comes_down_to_the_last_byte(least: int, more: int) -> None:
    found = smallest(
        {"max_memory_bytes": least + more}, lambda one: one["max_memory_bytes"] >= least
    )
    assert found == {"max_memory_bytes": least}


@given(st.floats(0.011, 0.95))
def test_a_lower_limit_goes_up_as_far_as_it_may(most: float) -> None:
    def works(change: dict[str, Any]) -> bool:
        if change["min_quality"] > 1:
            raise RequirementError("at most 1")
        return float(change["min_quality"]) <= most

    found = smallest({"min_quality": 0.01}, works)["min_quality"]
    assert found <= most < found + 1.1e-5


@pytest.mark.parametrize("change", [{"license": None}, {"preferred_devices": ["cpu"]}])
def test_what_is_no_number_stays(change: dict[str, Any]) -> None:
    assert smallest(change, lambda one: one == change) == change
