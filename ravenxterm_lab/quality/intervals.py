"""Intervals of a share and of a median that hold for small numbers of observations."""

from __future__ import annotations

import math
from statistics import NormalDist, median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LEVEL", "Interval", "median_interval", "wilson"]

#: How sure the intervals are, where there are enough observations.
LEVEL = 0.9


class Interval(NamedTuple):
    """A value between two bounds, in the unit of what was observed.

    Attributes
    ----------
    value, low, high : float
        The estimate and its bounds.
    level : float
        The share of such intervals that hold the true value.
    n : int
        Observations.
    """

    value: float
    low: float
    high: float
    level: float
    n: int


def wilson(total: float, n: int, level: float = LEVEL) -> Interval | None:
    """Return a share with its score interval; None without observations.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927). For scores between 0 and 1 it is too wide rather than too narrow, since
    their variance is at most that of zeros and ones with the same mean.

    Parameters
    ----------
    total : float
        Sum of the scores, each 0–1.
    n : int
        How many.
    level : float
        Coverage, between 0 and 1.

    Examples
    --------
    >>> share = wilson(28, 30)
    >>> round(share.low, 3), round(share.high, 3)
    (0.82, 0.977)
    """
    if n <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = total / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), level, n)


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the median with an interval between two order statistics; None without values.

    It assumes nothing of the distribution: the k-th smallest and the k-th largest of n values
    enclose the median with probability 1 − 2·P(B < k), B binomial (n, ½) (W. J. Conover,
    "Practical Nonparametric Statistics", 3.2). Below 5 values no such pair reaches 90 %: then
    the bounds are the extremes, and ``level`` says how much less they promise.

    Parameters
    ----------
    values : sequence of float
        At least as many as shall be believed.
    level : float
        Coverage to reach.

    Examples
    --------
    >>> median_interval([3.0, 1.0, 2.0])
    Interval(value=2.0, low=1.0, high=3.0, level=0.75, n=3)
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        return None
    below = 2.0**-n  # P(B < 1)
    k = 1
    while k < n // 2:
        further = below + math.comb(n, k) * 2.0**-n
        if 1 - 2 * further < level:
            break
        below, k = further, k + 1
    return Interval(median(ordered), ordered[k - 1], ordered[n - k], max(0.0, 1 - 2 * below), n)
