"""What every panel has in common: style, summary, plain text, and an end."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.widgets.board import Board
from ravenxterm_lab.widgets.look import STYLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.widgets.board import Topic

__all__ = ["Panel"]


class Panel(widgets.VBox):  # type: ignore[misc]  # ipywidgets ships no annotations
    """A box that shows itself at the end of a cell and can be closed.

    Parameters
    ----------
    manager : ModelManager
        Whose state it shows.
    children : sequence of Widget
        What it holds, from top to bottom.
    """

    children: tuple[widgets.Widget, ...]

    def __init__(self, manager: ModelManager, children: Sequence[widgets.Widget]) -> None:
        self.manager = manager
        self._board = Board.of(manager)
        self._heard: list[Callable[[], None]] = []
        self._closed = False
        self._style = widgets.HTML(STYLE, layout={"display": "none"})
        super().__init__([self._style, *children])
        self.add_class("raven-lab")
        for inner in _panels(children):
            inner._leave_style_to_outer()

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it shows, in one sentence."""

    def _listen(self, topic: Topic, listener: Callable[[], None]) -> None:
        self._board.listen(topic, listener)
        self._heard.append(listener)

    def close(self) -> None:
        """End it: it follows nothing any more, and its widgets are gone. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for listener in self._heard:
            self._board.leave(listener)
        for widget in [*_below(self), self]:
            widget.unobserve_all()
            for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
                if part is not None:
                    part.close()
        for widget in _below(self):
            widget.close()
        super().close()

    def _leave_style_to_outer(self) -> None:
        """Drop the style sheet: one for a page is enough, and a saved notebook holds each."""
        if self.children[0] is self._style:
            self.children = self.children[1:]
            self._style.layout.close()
            self._style.style.close()
            self._style.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return {**bundle, "text/plain": self.summary}


def _below(widget: widgets.Widget) -> list[widgets.Widget]:
    found: list[widgets.Widget] = []
    for child in getattr(widget, "children", ()):
        if isinstance(child, Panel):
            child.close()
        else:
            found += [*_below(child), child]
    return found


def _panels(children: Sequence[widgets.Widget]) -> list[Panel]:
    found: list[Panel] = []
    for child in children:
        if isinstance(child, Panel):
            found.append(child)
        found += _panels(getattr(child, "children", ()))
    return found
