"""Speed against quality and memory, with the front that nothing beats and the preferred point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.frontier_names import QUALITIES, place_names, size_of
from ravenxterm_lab.plots.ranking import no_candidate
from ravenxterm_lab.plots.theme import (
    AXIS,
    COLOURS,
    OTHERS,
    Figure,
    layout,
    log_axis,
    safe,
    see_through,
)
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.units import format_bytes, format_number, format_rate, format_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.selection import Recommendations

__all__ = ["frontier"]


def frontier(recommendations: Recommendations) -> View:
    """Draw the speed, quality and memory of each candidate, and which of them nothing beats.

    A candidate is on the front when no other is at least as fast, as good and as small, and
    better in one of these. Hollow marks are qualities that were not measured: there the prior is
    drawn. Bars are 90% intervals.

    Parameters
    ----------
    recommendations : Recommendations
        As ``manager.get_model_recommendations`` returns them.
    """
    import polars as pl

    task = recommendations.task.replace("_", " ")
    title = f"Speed, quality and memory for {task}"
    rows: list[dict[str, Any]] = []
    for item in recommendations:
        quality = item.part("quality")
        rows.append(
            {
                "rank": item.rank,
                "model": item.model.name,
                "speed": item.decode_rate,
                "speed_low": item.decode_low,
                "speed_high": item.decode_high,
                "runs": item.runs,
                "quality": quality.value,
                "quality_low": quality.low,
                "quality_high": quality.high,
                "quality_n": quality.n,
                "memory": item.memory.total_bytes,
                "memory_measured": item.memory.measured,
            }
        )
    for row in rows:
        row["on_front"] = not any(_beats(other, row) for other in rows)
    frame = pl.DataFrame(rows)
    if not rows:
        reason = no_candidate(recommendations)
        return empty_view(title, reason, None, frame)
    unit = "tok" if recommendations.task == "text_generation" else "items"
    figure = _draw(rows, title, unit, recommendations.origin)
    front = sum(row["on_front"] for row in rows)
    summary = (
        f"{rows[0]['model']} is preferred for {task}: {format_rate(rows[0]['speed'], unit)}, "
        f"{_quality(rows[0])}, {format_bytes(rows[0]['memory'])}; "
        f"{front} of {format_number(len(rows), 'feasible candidate')}{recommendations.origin} "
        f"{'is' if front == 1 else 'are'} on the front."
    )
    return View(figure, summary, None, frame, rows=_rows(rows, unit))


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = [
        (one["speed"], other["speed"]),
        (one["quality"], other["quality"]),
        # What is not known is no advantage.
        (-(one["memory"] or math.inf), -(other["memory"] or math.inf)),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _quality(row: dict[str, Any]) -> str:
    if not row["quality_n"]:
        return f"quality not measured (prior {row['quality']:.2f})"
    return f"quality {row['quality']:.2f} (n = {row['quality_n']:.0f})"


def _draw(rows: list[dict[str, Any]], title: str, unit: str, origin: str) -> Figure:
    figure = Figure()
    largest = max((row["memory"] or 0 for row in rows), default=0) or 1
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["speed"])
    # The two-dimensional front: the best quality at each speed or above.
    edge = [row for row in front if all(
        other["quality"] <= row["quality"] for other in rows if other["speed"] > row["speed"]
    )]  # fmt: skip
    figure.add_scatter(
        x=[row["speed"] for row in edge],
        y=[row["quality"] for row in edge],
        mode="lines",
        line={"color": OTHERS, "dash": "dot", "width": 1.5, "shape": "vh"},
        name="best quality at a speed",
        showlegend=len(edge) > 1,
        hoverinfo="skip",
    )
    kinds = (
        ("preferred", rows[:1], COLOURS[2], "star"),
        ("on the front", [row for row in rows[1:] if row["on_front"]], COLOURS[0], "circle"),
        ("beaten by another", [row for row in rows[1:] if not row["on_front"]], OTHERS, "square"),
    )
    placed = place_names(rows, *_ends(rows), largest)
    for row in rows:
        row["text"], row["text_at"] = placed.get(row["rank"], ("", "middle right"))
    # The better lies on top.
    for place, (name, chosen, colour, symbol) in reversed(list(enumerate(kinds))):
        if chosen:
            marks = _marks(chosen, colour, symbol, largest, unit)
            figure.add_scatter(name=f"{name} (n = {len(chosen)})", legendrank=1001 + place, **marks)
    ranked = any(text.startswith("#") for text, _ in placed.values())
    by_rank = "; #: rank, as in the table" if ranked else ""
    subtitle = (
        f"n = {format_number(len(rows), 'feasible candidate')}{origin}; area of a mark: memory, "
        f"the largest {format_bytes(largest)}<br>hollow: quality not measured (prior){by_rank}"
    )
    figure.update_layout(
        **layout(title, subtitle),
        height=460,
        xaxis=log_axis(f"speed ({unit}/s)", *_ends(rows)),
        yaxis={
            "title": {"text": "quality (0–1)"},
            "range": list(QUALITIES),
            "automargin": True,
            **AXIS,
        },
    )
    return figure


def _ends(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the ends of the axis of speeds, with room for the names."""
    low, high = min(row["speed_low"] for row in rows), max(row["speed_high"] for row in rows)
    return max(low, 1e-3) / 1.3, max(high, 1e-3) * 1.3


def _marks(
    rows: Sequence[dict[str, Any]],
    colour: str,
    symbol: str,
    largest: float,
    unit: str,
) -> dict[str, Any]:
    hover = [
        safe(
            f"{row['model']} (rank {row['rank']}): {format_rate(row['speed'], unit)} "
            f"({format_rates(row['speed_low'], row['speed_high'])}), {_quality(row)}, "
            f"{format_bytes(row['memory'])} {'measured' if row['memory_measured'] else 'estimated'}"
        )
        for row in rows
    ]
    fill = see_through({"color": colour})["color"]
    bar = {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour}
    return {
        "x": [row["speed"] for row in rows],
        "y": [row["quality"] for row in rows],
        "error_x": {
            **bar,
            "array": [row["speed_high"] - row["speed"] for row in rows],
            "arrayminus": [row["speed"] - row["speed_low"] for row in rows],
        },
        "error_y": {
            **bar,
            "array": [row["quality_high"] - row["quality"] for row in rows],
            "arrayminus": [row["quality"] - row["quality_low"] for row in rows],
        },
        "mode": "markers+text",
        "text": [safe(row["text"]) for row in rows],
        "textposition": [row["text_at"] for row in rows],
        "hovertext": hover,
        "hoverinfo": "text",
        "marker": {
            "color": [fill if row["quality_n"] else colour for row in rows],
            "size": [size_of(row["memory"], largest) for row in rows],
            "symbol": [symbol if row["quality_n"] else f"{symbol}-open" for row in rows],
            "opacity": 1,
            "line": {"width": 2, "color": colour},
        },
    }


def _rows(rows: Sequence[dict[str, Any]], unit: str) -> Rows:
    cells = [
        [
            str(row["rank"]),
            row["model"],
            format_rate(row["speed"], unit),
            f"{row['quality']:.2f}" if row["quality_n"] else "not measured",
            format_bytes(row["memory"]),
            "yes" if row["on_front"] else "no",
        ]
        for row in rows
    ]
    header = ["rank", "model", "speed", "quality (0–1)", "memory", "on the front"]
    return Rows("The same candidates", header, cells)
