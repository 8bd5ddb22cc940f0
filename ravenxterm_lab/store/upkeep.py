"""Upkeep: what the ingest does beside moving rows, now and then and a little at a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.access import utc
from ravenxterm_lab.store.database import DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Upkeep"]

_HOUR = 3_600_000_000_000
_DAY = 24 * _HOUR
_PATIENCE = 0.25  # for readers, in the midst of an ingest (s)
_SWAP_PATIENCE = 4.0  # for readers, to put the compacted file in its place (s)


class Upkeep:
    """Retention and compaction of one store, in time; whoever calls holds ``ingest.lock``.

    Parameters
    ----------
    directory : Path
        The store.
    note : callable
        Receives a sentence for each problem met; none of them stops the ingest.
    clock : callable
        Nanoseconds since 1970 (UTC); it may jump.
    """

    def __init__(
        self, directory: Path, note: Callable[[str], None], clock: Callable[[], int]
    ) -> None:
        self._directory = directory
        self._note = note
        self._clock = clock
        self._trimmed: int | None = None
        self._compacted: int | None = None

    def after_pass(self, stop: Callable[[], bool] | None) -> None:
        """Remove what a dead compaction left, and once an hour what is old or replaced."""
        from ravenxterm_lab.store.compaction import remove_leftovers

        with contextlib.suppress(OSError):
            remove_leftovers(self._directory)
        now = self._clock()
        if not _passed(self._trimmed, now, _HOUR):
            return
        from ravenxterm_lab.store.retention import trim_samples
        from ravenxterm_lab.store.scans import trim_scans

        self._trimmed = now
        for trim in (trim_samples, trim_scans):
            try:
                done = trim(self._directory, utc(now), patience=_PATIENCE, stop=stop)
            except StoreError as error:
                self._note(str(error))
                continue
            if done.more:
                self._trimmed = None

    def may_compact(self) -> bool:
        """Say, by what costs next to nothing to ask, whether to look for a compaction."""
        from ravenxterm_lab.store.compaction import LEAST_BYTES

        if not _passed(self._compacted, self._clock(), _DAY):
            return False
        try:
            return (self._directory / DATABASE).stat().st_size >= LEAST_BYTES
        except OSError:
            return False

    def compact(self, stop: Callable[[], bool]) -> None:
        """Compact, if that is worth its while; one that was given up comes again in an hour."""
        from ravenxterm_lab.store.compaction import Interrupted, compact, worthwhile

        self._compacted = now = self._clock()
        try:
            if worthwhile(self._directory, utc(now)):
                # One thread: nobody asked for it, and a person may be at work.
                compact(
                    self._directory,
                    clock=self._clock,
                    patience=_SWAP_PATIENCE,
                    stop=stop,
                    threads=1,
                )
        except Interrupted:
            self._compacted = now - _DAY + _HOUR
        except StoreError as error:
            self._note(str(error))


def _passed(last: int | None, now: int, span: int) -> bool:
    # A clock that jumped back shall not put it off for ever.
    return last is None or abs(now - last) >= span
