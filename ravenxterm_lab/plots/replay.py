"""Past decisions, then and now: which models change places when, and what that adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.plots.theme import (
    AXIS,
    Figure,
    layout,
    milliseconds,
    safe,
    see_through,
    style,
    time_axis,
)
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    import polars as pl

    from ravenxterm_lab.models.replay_report import Replay

__all__ = ["replay"]

_NONE = "none was feasible"


def replay(result: Replay) -> View:
    """Draw the models of then and now over time, and the gain in utility as it adds up.

    Parameters
    ----------
    result : Replay
        As ``manager.replay(…)`` returns it.

    Examples
    --------
    >>> import tempfile
    >>> from ravenxterm_lab.models import ModelManager
    >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
    >>> replay(manager.replay()).summary.partition(" since ")[0]
    'No decision'
    """
    frame = result.data()
    title = f"Replay · {result.policy}" + (f" · {result.setting}" if result.setting else "")
    parameters = {"since": str(result.since), "task": None}
    if frame.is_empty():
        return empty_view(safe(title), result.summary, result.sql, frame, parameters)
    return View(
        _draw(result, frame, title), result.summary, result.sql, frame, parameters, _rows(result)
    )


def _draw(result: Replay, frame: pl.DataFrame, title: str) -> Figure:
    import polars as pl

    figure = Figure()
    moved = frame.filter("changed")
    kept = frame.filter(~pl.col("changed"))
    for part, column, name, index, symbol in (
        (kept, "then", "the same", 0, "circle"),
        (moved, "then", "then", 2, "x-thin-open"),
        (moved, "now", "now", 1, "diamond"),
    ):
        marker = style(index)["marker"]
        figure.add_scatter(
            meta=name,
            x=milliseconds(part["at"]),
            y=[safe(model or _NONE) for model in part[column]],
            name=f"{name} (n = {len(part):,})",
            mode="markers",
            marker={
                **see_through(marker),
                "symbol": symbol,
                **({"color": marker["color"]} if symbol.endswith("-open") else {}),
            },
            text=[_hover(row) for row in part.iter_rows(named=True)],
            hovertemplate="%{x|%Y-%m-%d %H:%M:%S} %{y}<br>%{text}<extra>" + name + "</extra>",
        )
    gain = (frame["utility_now"] - frame["utility_then"]).fill_null(0.0)
    figure.add_scatter(
        meta="gain",
        x=milliseconds(frame["at"]),
        y=np.cumsum(gain.to_numpy()),
        name="gain, added up",
        mode="lines",
        line={**style(3)["line"], "shape": "hv"},
        yaxis="y2",
        hovertemplate="%{x|%Y-%m-%d %H:%M:%S}: %{y:+.2f}<extra>gain, added up</extra>",
    )
    models = _by_count(frame)
    figure.update_layout(
        **layout(safe(title), _subtitle(result)),
        height=360 + 30 * len(models),
        xaxis=time_axis(anchor="y2"),
        yaxis={
            "title": {"text": "chosen model"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [safe(model) for model in reversed(models)],
            "automargin": True,
            "domain": [0.45, 1.0],
            **AXIS,
        },
        yaxis2={
            "title": {"text": "utility gained,<br>added up"},
            "domain": [0.0, 0.35],
            "automargin": True,
            **AXIS,
        },
    )
    return figure


def _by_count(frame: pl.DataFrame) -> list[str]:
    counts: dict[str, int] = {}
    for column in ("then", "now"):
        for model in frame[column]:
            counts[model or _NONE] = counts.get(model or _NONE, 0) + 1
    return sorted(counts, key=lambda model: (-counts[model], model))


def _subtitle(result: Replay) -> str:
    count = format_number(len(result), "decision")
    text = f"n = {count}, {result.changed:,} on another model, times in UTC"
    if result.gain is None:
        return text
    gain = result.gain
    return f"{text}<br>mean gain {gain.value:+.3f} (95%: {gain.low:+.3f} to {gain.high:+.3f})"


def _hover(row: dict[str, object]) -> str:
    task = str(row["task"] or "task not told").replace("_", " ")
    if not row["changed"]:
        return safe(f"{task}: the same model")
    why = "<br>".join(safe(part) for part in str(row["why"]).split("; "))
    then, now = row["then"] or _NONE, row["now"] or _NONE
    return f"{safe(f'{task}: {then} → {now}')}<br>{why}"


def _rows(result: Replay) -> Rows:
    then: dict[str, int] = {}
    now: dict[str, int] = {}
    for row in result.rows:
        then[row.then or _NONE] = then.get(row.then or _NONE, 0) + 1
        now[row.now or _NONE] = now.get(row.now or _NONE, 0) + 1
    cells = [
        [model, f"{then.get(model, 0):,}", f"{now.get(model, 0):,}"]
        for model in _by_count(result.data())
    ]
    return Rows("The same decisions, by model", ["model", "chosen then", "chosen now"], cells)
