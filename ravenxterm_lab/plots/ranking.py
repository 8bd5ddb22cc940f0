"""A ranking: the parts of every candidate's score, stacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, COLOURS, Figure, layout
from ravenxterm_lab.plots.view import View, empty_figure

if TYPE_CHECKING:
    from ravenxterm_lab.selection import Recommendations

__all__ = ["ranking"]

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
        reason = f"No candidate is feasible for {task}: see .rejected for the reasons"
        return View(empty_figure("Ranking", reason), reason, None, frame)
    figure = Figure()
    for index, part in enumerate(_PARTS):
        figure.add_bar(
            y=[row["model"] for row in rows],
            # The multipliers apply to the sum, so each part is drawn as it counts in the score.
            x=[row[part] * row["multiplier"] for row in rows],
            name=part,
            orientation="h",
            marker={"color": COLOURS[index], "pattern": {"shape": _PATTERNS[index]}},
        )
    first = recommendations[0]
    subtitle = f"{len(rows)} feasible candidates, {len(recommendations.rejected)} rejected"
    figure.update_layout(
        **layout(f"Scores for {task}", subtitle), barmode="stack", height=200 + 40 * len(rows)
    )
    figure.update_xaxes(title="score (no unit)", **AXIS)
    figure.update_yaxes(autorange="reversed", automargin=True, **AXIS)
    summary = (
        f"{first.model.name} leads for {task} with a score of {first.score:.3f} "
        f"among {len(rows)} feasible candidates."
    )
    return View(figure, summary, None, frame)
