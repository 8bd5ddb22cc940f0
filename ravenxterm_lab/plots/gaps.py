"""Lines over time that break where nothing was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["with_gaps"]


def with_gaps(
    times: NDArray[np.float64], values: NDArray[np.float32], *, of_column: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Break a line where nothing was measured for much longer than usual.

    Parameters
    ----------
    times : array (n,)
        Milliseconds, ascending.
    values : array (n,)
        At these times.
    of_column : int
        How many of them a column of pixels holds: these stand nearer to each other than columns.
    """
    if len(times) < 3:
        return times, values
    steps = np.diff(times)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    gaps = np.flatnonzero(steps > max(6 * of_column * usual, 15_000.0)) + 1
    return np.insert(times, gaps, times[gaps - 1] + 1), np.insert(values, gaps, np.nan)
