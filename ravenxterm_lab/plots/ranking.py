"""A ranking: the parts of every candidate's score, stacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, COLOURS, Figure, layout, safe
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from ravenxterm_lab.selection import Recommendations

__all__ = ["no_candidate", "ranking"]

_PARTS = ("quality", "latency", "memory")
_PATTERNS = ("", "/", "x")


def ranking(recommendations: Recommendations) -> View:
    """Draw what quality, latency and memory add to each candidate's score.

    Parameters
    ----------
    recommendations : Recommendations
        As ``manager.get_model_recommendations`` returns them.
    """
    import polars as pl

    task = recommendations.task.replace("_", " ")
    rows: list[dict[str, Any]] = [
        {
            "rank": item.rank,
            "model": item.model.name,
            "score": item.score,
            **{name: item.part(name).contribution for name in _PARTS},
            "multiplier": item.reliability * item.person_weight,
            "probability_best": item.probability_best,
            "runs": item.runs,
        }
        for item in recommendations
    ]
    frame = pl.DataFrame(rows)
    if not rows:
        reason = no_candidate(recommendations)
        return empty_view("Ranking", reason, None, frame)
    figure = Figure()
    for index, part in enumerate(_PARTS):
        figure.add_bar(
            y=[safe(row["model"]) for row in rows],
            # The multipliers apply to the sum, so each part is drawn as it counts in the score.
            x=[row[part] * row["multiplier"] for row in rows],
            name=part,
            orientation="h",
            marker={
                "color": COLOURS[index],
                "pattern": {"shape": _PATTERNS[index], "fillmode": "overlay", "size": 6},
            },
        )
    first = recommendations[0]
    count = format_number(len(rows), "feasible candidate")
    subtitle = f"n = {count}{recommendations.origin}, {len(recommendations.rejected)} rejected"
    figure.update_layout(
        **layout(f"Scores for {task}", subtitle), barmode="stack", height=200 + 40 * len(rows)
    )
    figure.update_xaxes(title="score (no unit)", **AXIS)
    figure.update_yaxes(autorange="reversed", automargin=True, **AXIS)
    summary = (
        f"{first.model.name} leads for {task} with a score of {first.score:.3f} "
        f"among {count}{recommendations.origin}."
    )
    cells = [
        [str(row["rank"]), row["model"], f"{row['score']:.3f}", *(f"{row[p]:.3f}" for p in _PARTS),
         f"{row['probability_best']:.0%}", f"{row['runs']:,}"]
        for row in rows
    ]  # fmt: skip
    header = ["rank", "model", "score", *_PARTS, "P(best)", "runs"]
    return View(figure, summary, None, frame, rows=Rows("The same scores", header, cells))


def no_candidate(recommendations: Recommendations) -> str:
    """Say why a ranking is empty, and what to do."""
    if not recommendations.rejected:
        return recommendations.hint
    task = recommendations.task.replace("_", " ")
    return f"No candidate is feasible for {task}: see .rejected for the reasons"
