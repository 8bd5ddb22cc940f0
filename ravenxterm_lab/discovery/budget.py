"""What one scan may take in all: entries looked at, and time."""

from __future__ import annotations

import time

__all__ = ["Budget"]


class Budget:
    """The entries and the time that are left to a scan.

    A scan that is over its budget ends with a reason; the next one goes further, since it does
    not read again what this one read.

    Parameters
    ----------
    entries : int
        Directory entries, over all sources.
    seconds : float
        Wall time.

    Attributes
    ----------
    entries_left : int
    reason : str
        Why the scan ended early; empty while it did not.

    Examples
    --------
    >>> budget = Budget(entries=10)
    >>> budget.begin()
    >>> budget.spend(3), budget.spend(8), budget.reason
    (False, True, 'more than 10 entries in all; the rest was not scanned. Give a directory below.')
    """

    __slots__ = ("_deadline", "_entries", "_seconds", "entries_left", "reason")

    def __init__(self, entries: int = 5_000_000, seconds: float = 900.0) -> None:
        self._entries = entries
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Start a scan."""
        self.entries_left = self._entries
        self._deadline = time.monotonic() + self._seconds
        self.reason = ""

    def spend(self, entries: int) -> bool:
        """Count entries that were looked at; True from when there were too many."""
        self.entries_left = max(self.entries_left - entries, -1)
        if self.entries_left < 0 and not self.reason:
            self.reason = (
                f"more than {self._entries:,} entries in all; the rest was not scanned. "
                "Give a directory below."
            )
        return bool(self.reason)

    def spent(self) -> bool:
        """Say whether the scan has to end."""
        if not self.reason and time.monotonic() > self._deadline:
            self.reason = (
                f"the scan took more than {self._seconds:.0f} s; the rest was not scanned. "
                "Scan again: what was read is remembered."
            )
        return bool(self.reason)
