"""Where the names of the marks of a frontier stand, so that none lies on another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["QUALITIES", "place_names", "size_of"]

#: What the axis of qualities shows.
QUALITIES = (-0.03, 1.08)
_SMALLEST, _LARGEST = 9, 34
#: The plot on a page of 800 pixels; where there is more room, what fits there fits as well.
_WIDTH, _HEIGHT = 520.0, 250.0
#: Of a letter of 13 pixels on average (capitals and digits are wider, and short names are made of
#: them), of a line, and between a mark and its name.
_LETTER, _CAPITALS, _LINE, _GAP = 8.6, 6.0, 17.0, 3.0
#: As many of the best ranked have a text; more would hide the marks.
_MOST_TEXTS = 12
#: A beginning of fewer letters is no family of models.
_LONG_PREFIX = 8
#: Position: in which direction from the mark, to the right and upwards.
_PLACES = {
    "top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0),
    "top right": (1, 1), "bottom right": (1, -1), "top left": (-1, 1), "bottom left": (-1, -1),
}  # fmt: skip


class _Box(NamedTuple):
    left: float
    right: float
    low: float
    high: float

    def meets(self, other: _Box) -> bool:
        wide = min(self.right, other.right) > max(self.left, other.left)
        return wide and min(self.high, other.high) > max(self.low, other.low)

    def nearest(self, others: Sequence[_Box]) -> _Box:
        return min(others, key=self._distance)

    def _distance(self, other: _Box) -> float:
        """Return how far the middles are apart (pixels)."""
        across = (self.left + self.right - other.left - other.right) / 2
        return math.hypot(across, (self.low + self.high - other.low - other.high) / 2)

    def is_inside(self) -> bool:
        return self.left >= 0 and self.right <= _WIDTH and self.low >= 0 and self.high <= _HEIGHT


def size_of(memory: int | None, largest: float) -> float:
    """Return the diameter of a mark, whose area stands for the memory (pixels).

    Parameters
    ----------
    memory : int or None
        What a candidate takes (bytes).
    largest : float
        The most that one takes (bytes).
    """
    return _SMALLEST + (_LARGEST - _SMALLEST) * math.sqrt((memory or 0) / largest)


def place_names(
    rows: Sequence[dict[str, Any]], low: float, high: float, largest: float
) -> dict[int, tuple[str, str]]:
    """Return text and position by rank.

    A name that finds no place of its own gives way to its rank (``#3``), and there is no text
    where that finds none either, or where twelve others rank above. What several names begin with
    alike is left out of them: hovering tells all of it.

    Parameters
    ----------
    rows : sequence of dict
        With ``rank``, ``model``, ``speed``, ``quality`` and ``memory``, and the ends of the bars
        of speed and quality, such as ``speed_low``; the first choose first.
    low, high : float
        The ends of the logarithmic axis of speeds.
    largest : float
        The most memory that one takes (bytes).
    """
    marks = [_mark(row, low, high, largest) for row in rows]
    bars = [bar for row in rows for bar in _bars(row, low, high)]
    taken, rows = list(marks), rows[:_MOST_TEXTS]
    names = _short([row["model"] for row in rows])
    found: dict[int, tuple[str, str]] = {}
    ranks = [f"#{row['rank']}" for row in rows]
    # A text that a bar strikes through is better than none.
    for texts, avoided in ((names, bars), (names, []), (ranks, bars), (ranks, [])):
        for row, mark, text in zip(rows, marks, texts, strict=False):
            if row["rank"] in found:
                continue
            for position, (right, up) in _PLACES.items():
                name = _beside(mark, _CAPITALS + len(text) * _LETTER, right, up)
                fits = name.is_inside() and not any(map(name.meets, [*taken, *avoided]))
                # Nearer to another mark it would be read as its name.
                if fits and name.nearest(marks) == mark:
                    taken.append(name)
                    found[row["rank"]] = (text, position)
                    break
    return found


def _short(names: list[str]) -> list[str]:
    """Leave out of each name what it begins with like another, up to a mark between words."""
    shown = []
    for name in names:
        common = max((_alike(name, other) for other in names if other != name), default=0)
        end = max((name.rfind(mark, 0, common) for mark in "-.:/ "), default=-1) + 1
        shown.append(f"…{name[end:]}" if end >= _LONG_PREFIX else name)
    return shown


def _alike(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _point(speed: float, quality: float, low: float, high: float) -> tuple[float, float]:
    bottom, top = QUALITIES
    x = _WIDTH * math.log(max(speed, low) / low) / math.log(high / low)
    return x, _HEIGHT * (quality - bottom) / (top - bottom)


def _mark(row: dict[str, Any], low: float, high: float, largest: float) -> _Box:
    x, y = _point(row["speed"], row["quality"], low, high)
    radius = size_of(row["memory"], largest) / 2
    return _Box(x - radius, x + radius, y - radius, y + radius)


def _bars(row: dict[str, Any], low: float, high: float) -> list[_Box]:
    """Return the bars of speed and quality as boxes, two pixels thin."""
    x, y = _point(row["speed"], row["quality"], low, high)
    left, bottom = _point(row["speed_low"], row["quality_low"], low, high)
    right, top = _point(row["speed_high"], row["quality_high"], low, high)
    return [_Box(left, right, y - 1, y + 1), _Box(x - 1, x + 1, bottom, top)]


def _beside(mark: _Box, width: float, right: int, up: int) -> _Box:
    x, y = (mark.left + mark.right) / 2, (mark.low + mark.high) / 2
    left = x - width / 2
    if right:
        left = mark.right + _GAP if right > 0 else mark.left - _GAP - width
    low = y - _LINE / 2
    if up:
        low = mark.high + _GAP if up > 0 else mark.low - _GAP - _LINE
    return _Box(left, left + width, low, low + _LINE)
