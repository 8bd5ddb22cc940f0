"""What has to happen around ``os.fork()``, for every object that asks for it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["ForkAware", "watch_forks"]


class ForkAware(Protocol):
    """An object with locks or descriptors that must not be shared with a child."""

    def before_fork(self) -> None:
        """Come to rest; called in the thread that forks."""

    def after_fork_in_parent(self) -> None:
        """Go on as before."""

    def after_fork_in_child(self) -> None:
        """Let go of everything that is the parent's."""


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_lock = threading.Lock()
_resting: list[ForkAware] = []


def watch_forks(thing: ForkAware) -> None:
    """Call the three methods of ``thing`` around each fork, for as long as it lives."""
    _watched.add(thing)


def _snapshot() -> list[ForkAware]:
    while True:
        # Another thread may add one meanwhile. A lock would be no remedy: whoever adds may
        # hold what `before_fork` waits for.
        try:
            return list(_watched)
        except RuntimeError:
            continue


def _before() -> None:
    _lock.acquire()
    for thing in _snapshot():
        thing.before_fork()
        _resting.append(thing)


def _in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()
    _lock.release()


def _in_child() -> None:
    while _resting:
        _resting.pop().after_fork_in_child()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
