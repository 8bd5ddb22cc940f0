"""A bar of what goes on in another thread: a load against its prediction, then the tokens."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ravenxterm_lab.models.fallback import AS_ASKED
from ravenxterm_lab.units import format_elapsed
from ravenxterm_lab.widgets.feed import Ticker
from ravenxterm_lab.widgets.look import bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.models import Progress

__all__ = ["ProgressBar"]

_TICK_SECONDS = 0.1
#: What takes less, such as a model that is resident, shows no bar.
_FIRST_SECONDS = 0.1
#: A bar that is full says "done", and a prediction is no proof of that.
_MOST_SHARE = 0.99

#: From the seconds so far: the share that is done, if anyone knows, and the figures in words.
_Drawn = tuple[float | None, str]


class ProgressBar(widgets.HTML):  # type: ignore[misc]  # ipywidgets ships no annotations
    """Draws itself ten times a second while something goes on, and is empty otherwise.

    May be used from any thread.

    Attributes
    ----------
    tokens : int
        Pieces of text so far; whoever gets them counts them here.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._guard = threading.Lock()
        self._name = ""
        self._since = 0.0
        self._draw: Callable[[float], _Drawn] | None = None
        self._ticker: Ticker | None = None
        super().__init__()

    def load(self, progress: Progress) -> None:
        """Show a load that begins now beside what was predicted for it."""
        predicted = progress.load_seconds
        step = "" if progress.step == AS_ASKED else f" ({progress.step})"
        self._begin(
            f"loading {progress.model}{step}", lambda seconds: _of_prediction(seconds, predicted)
        )

    def write(self, model: str, most: float) -> None:
        """Show the tokens of a generation that begins now.

        Parameters
        ----------
        model : str
            Its name.
        most : float
            Tokens after which it ends.
        """
        self.tokens = 0
        self._begin(f"writing with {model}", lambda seconds: _of_tokens(seconds, self.tokens, most))

    def work(self, model: str) -> None:
        """Show an execution that begins now and tells nothing before its end."""
        self._begin(f"running {model}", lambda seconds: (None, f"{format_elapsed(seconds)} so far"))

    def clear(self) -> None:
        """End it: nothing is shown any more, and no thread is left."""
        with self._guard:
            ticker, self._ticker, self._draw = self._ticker, None, None
            self.value = ""
        # Not within the lock, which the thread may wait for.
        if ticker is not None:
            ticker.end()

    def close(self) -> None:
        """End it, and the widget."""
        self.clear()
        super().close()

    def _begin(self, name: str, draw: Callable[[float], _Drawn]) -> None:
        with self._guard:
            self._name, self._draw, self._since = name, draw, time.monotonic()
            if self._ticker is None:
                self._ticker = Ticker(self._tick, _TICK_SECONDS)

    def _tick(self) -> None:
        with self._guard:
            seconds = time.monotonic() - self._since
            if self._draw is not None and seconds >= _FIRST_SECONDS:
                self.value = bar(self._name, *self._draw(seconds))


def _of_prediction(seconds: float, predicted: float | None) -> _Drawn:
    if predicted is None:
        return None, f"{format_elapsed(seconds)} so far; how long it takes is not known yet"
    share = min(seconds / predicted, _MOST_SHARE)
    if seconds <= predicted:
        return share, f"{format_elapsed(seconds)} of about {format_elapsed(predicted)}"
    about = format_elapsed(predicted)
    return share, f"{format_elapsed(seconds)}, longer than the {about} that were predicted"


def _of_tokens(seconds: float, tokens: int, most: float) -> _Drawn:
    if not tokens:
        return 0.0, f"waiting for the first token, {format_elapsed(seconds)}"
    # A piece is a token, but for a character that several make up.
    share = min(tokens / most, 1.0) if most > 0 else None
    return share, f"about {tokens:,} of at most {most:,} tokens"
