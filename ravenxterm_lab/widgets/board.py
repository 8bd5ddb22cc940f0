"""The notice board of a manager: how its open panels learn that something changed.

Whoever changed something tells the board; a change that a cell made by calling the manager is
found when that cell has ended, in an IPython kernel. Listeners are called in the thread that
tells, and are held weakly: a panel that is gone hears nothing.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from IPython import get_ipython

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.models import ModelManager

__all__ = ["Board", "Topic"]

Topic: TypeAlias = Literal["preferences", "executions", "models", "loads"]

_BOARDS: weakref.WeakKeyDictionary[ModelManager, Board] = weakref.WeakKeyDictionary()
_hooked: weakref.WeakSet[Any] = weakref.WeakSet()


class Board:
    """One for each manager; get it with `Board.of`."""

    def __init__(self, manager: ModelManager) -> None:
        self._seen = manager.preferences
        self._scan = manager.registry.last_scan
        self._listeners: list[tuple[Topic, weakref.WeakMethod[Callable[[], None]]]] = []

    @classmethod
    def of(cls, manager: ModelManager) -> Board:
        """Return the board of a manager."""
        _hook()
        return _BOARDS.setdefault(manager, cls(manager))

    def listen(self, topic: Topic, listener: Callable[[], None]) -> None:
        """Call a bound method whenever a topic is told, until its object is gone."""
        self._listeners.append((topic, weakref.WeakMethod(listener)))

    def leave(self, listener: Callable[[], None]) -> None:
        """Call that method no more."""
        gone = weakref.WeakMethod(listener)
        self._listeners = [item for item in self._listeners if item[1] != gone]

    def tell(self, topic: Topic) -> None:
        """Call everyone who listens to a topic."""
        for wanted, reference in tuple(self._listeners):
            listener = reference()
            if wanted == topic and listener is not None:
                listener()
        self._listeners = [item for item in self._listeners if item[1]() is not None]

    def look(self, manager: ModelManager) -> None:
        """Tell of preferences that somebody changed, and of a scan, without telling."""
        if manager.preferences is not self._seen:
            self._seen = manager.preferences
            self.tell("preferences")
        if manager.registry.last_scan is not self._scan:
            self._scan = manager.registry.last_scan
            self.tell("models")


def _hook() -> None:
    shell = get_ipython()
    if shell is not None and shell not in _hooked:
        shell.events.register("post_run_cell", _after_cell)
        _hooked.add(shell)


def _after_cell(_result: object) -> None:
    for manager, board in list(_BOARDS.items()):
        board.look(manager)
