"""The smallest of the changes that do the same: no part that could be left out, or be less."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import PreferenceError, RequirementError
from ravenxterm_lab.selection.limits import DIGITS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["smallest"]


def smallest(change: dict[str, Any], works: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return a change that still works, of which no part can be left out or be a step less.

    Limits are derived from where a model was placed, and a change may place it elsewhere, or
    change what its neighbours tell of it: then less may be enough.

    Parameters
    ----------
    change : dict
        Requirements and preferences by name; it works.
    works : callable
        Says whether a change does.
    """
    for key in list(change):
        rest = {other: value for other, value in change.items() if other != key}
        if rest and works(rest):
            change = rest
    for key, value in change.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            change = {**change, key: _nearest(change, key, works)}
    return change


def _nearest(
    change: dict[str, Any], key: str, works: Callable[[dict[str, Any]], bool]
) -> int | float:
    """Return the number nearest to what is asked now that works; found by doubling steps."""
    value = change[key]
    unit, sign = _step(key, value), 1 if key.startswith("min_") else -1

    def moved(steps: int) -> int | float:
        found = value + sign * steps * unit
        return int(found) if isinstance(value, int) else float(f"{found:.6g}")

    def enough(steps: int) -> bool:
        less = moved(steps)
        try:
            return works({**change, key: less})
        except (PreferenceError, RequirementError):
            return False  # no value that may be asked for

    good, bad = 0, 1
    while enough(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        if enough(middle):
            good = middle
        else:
            bad = middle
    return moved(good) if good else value


def _step(key: str, value: float) -> int | float:
    """Return what the last digit of an offered limit is worth."""
    if isinstance(value, int):
        return 1
    if key == "max_memory_usage":
        return 0.001
    return 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1) if value else 1e-9
