"""Loads that failed, and for how long that speaks against another try in the same way.

A wait is of a fixed length, counted from the latest failure: it neither grows nor goes on for
ever, and one more try follows it. Another file, other settings, another device or another
version of the engine is another way, which earlier failures say nothing of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.selection.constraints import Violation
from ravenxterm_lab.units import format_number, format_seconds

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["LONGEST_WAIT", "FailedLoads", "failures_against"]

#: What does not go away by itself: the file or the engine must change. Then, how many failures
#: in a row it takes, and how long is waited.
_LASTING = frozenset({FailureKind.CORRUPT, FailureKind.UNSUPPORTED})
_LASTING_RUN, LONGEST_WAIT = 2, timedelta(days=1)
#: What may be gone in a while: memory that others took, a crash, a machine too busy to answer.
_PASSING_RUN, _PASSING_WAIT = 3, timedelta(minutes=10)
_LONGEST_ERROR = 160


@dataclass(frozen=True, slots=True)
class FailedLoads:
    """Loads of one model in one way that failed, with none that worked since.

    Attributes
    ----------
    count : int
        How many in a row.
    kind : str
        How the latest failed (see `FailureKind`).
    error : str
        What it said.
    last : datetime
        When it was recorded (UTC, without a zone).
    otherwise : bool
        Whether the model was loaded in another way within the same time, such as with a smaller
        context: a lack of memory is then overcome at each run, and speaks not against it.
    """

    count: int
    kind: str
    error: str
    last: datetime
    otherwise: bool = False

    @property
    def until(self) -> datetime | None:
        """Until when it is not tried again in this way; None when it may be."""
        if self.otherwise and self.kind == FailureKind.OUT_OF_MEMORY:
            return None
        lasting = self.kind in _LASTING
        if self.count < (_LASTING_RUN if lasting else _PASSING_RUN):
            return None
        return self.last + (LONGEST_WAIT if lasting else _PASSING_WAIT)


def failures_against(
    failed: FailedLoads | None, now: datetime, changed: datetime | None = None
) -> Violation | None:
    """Return what earlier failures say against loading a model in the same way again, or None.

    Parameters
    ----------
    failed : FailedLoads or None
        Loads in this way.
    now : datetime
        The moment (UTC, without a zone).
    changed : datetime, optional
        When its files were last written; what failed before that says nothing of them.
    """
    until = failed.until if failed is not None else None
    if failed is None or until is None or now >= until:
        return None
    if changed is not None and changed > failed.last:
        return None
    error = failed.error.strip().partition("\n")[0]
    if len(error) > _LONGEST_ERROR:
        error = f"{error[: _LONGEST_ERROR - 1]}…"
    kind = failed.kind.replace("_", " ")
    reason = f"its last {format_number(failed.count, 'load')} in this way failed ({kind}): {error}"
    wait = format_seconds((until - now).total_seconds())
    help_ = "replace its file or update its runtime" if failed.kind in _LASTING else "free memory"
    remedy = f"{help_}; it is tried again in {wait}, and at once in another way"
    return Violation("failed_loads", reason, {}, remedy)
