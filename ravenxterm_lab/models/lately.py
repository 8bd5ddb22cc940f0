"""How often a task was asked for lately: so many executions will share the next load."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

__all__ = ["Lately"]

#: More earlier decisions than this change nothing: a load shared by so many is next to free.
_MOST = 500


class Lately:
    """The moments at which a model was chosen for an execution, by task, in this process.

    A model that is loaded now serves this process, until nobody has used it for the keep-alive.
    What was asked for within the last keep-alive is the best guess of what will be within the
    next: the executions that the load serves beside the first one.

    Examples
    --------
    >>> lately = Lately()
    >>> for minute in (0, 1, 9):
    ...     lately.add("embedding", f"2026-11-01 10:0{minute}:00")
    >>> lately.count("embedding", "2026-11-01 10:10:00", seconds=300)
    1
    """

    def __init__(self) -> None:
        self._moments: dict[str, deque[datetime]] = {}

    def add(self, task: str, now: str) -> None:
        """Take note that an execution follows.

        Parameters
        ----------
        task : str
            Normalised name.
        now : str
            The moment, ISO 8601.
        """
        moments = self._moments.setdefault(task, deque(maxlen=_MOST))
        moments.append(datetime.fromisoformat(now))

    def count(self, task: str, now: str, seconds: float) -> int:
        """Return how many executions of a task were chosen for within the last seconds.

        Parameters
        ----------
        task : str
            Normalised name.
        now : str
            The moment, ISO 8601.
        seconds : float
            How far back.
        """
        if not seconds or task not in self._moments:
            return 0
        age, moment = timedelta(seconds=min(seconds, 1e9)), datetime.fromisoformat(now)
        # A copy: another thread may add to it meanwhile.
        return sum(moment - age <= one <= moment for one in tuple(self._moments[task]))
