"""A ranking as HTML: each score with its parts, each rejection with its reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ravenxterm_lab.units import (
    NOT_MEASURED,
    format_bytes,
    format_rate,
    format_rates,
    format_seconds,
)
from ravenxterm_lab.widgets.look import PART_COLOURS, escape, note, table

if TYPE_CHECKING:
    from ravenxterm_lab.selection import Recommendation, Recommendations

__all__ = ["ranking_html", "ranking_summary"]

#: The space between a number and its unit, or its name.
_WITHIN = re.compile(r"(?<=\d) (?=\w+/s|[KMGT]iB|B\b|[mµ]?s\b|min\b|h\b)|(?<=\bn) | (?=\d+$)")
_HEADER = ["", "model and evidence", "score and its parts", "fits", "speed", "quality", "P(best)"]


def ranking_summary(ranked: Recommendations) -> str:
    """Return one sentence that says who leads, and how many fell out."""
    task = ranked.task.replace("_", " ")
    if not ranked:
        if not ranked.rejected:
            return ranked.hint
        return f"No candidate is feasible for {task}; {len(ranked.rejected)} rejected, see why."
    first = ranked[0]
    return (
        f"{first.model.name} leads for {task} with a score of {first.score:.3f}; "
        f"{len(ranked)} feasible, {len(ranked.rejected)} rejected."
    )


def ranking_html(ranked: Recommendations) -> str:
    """Return the candidates, best first, and the rejected ones with their reasons."""
    blocks = []
    if ranked:
        # Bars are drawn against the best possible score, so that they compare across tables.
        blocks.append(
            table("Candidates, best first", _HEADER, [_row(item, ranked.task) for item in ranked])
        )
        key = "".join(
            f'<i style="background:{colour}"></i>{name}' for name, colour in PART_COLOURS.items()
        )
        blocks.append(
            f'<div class="raven-key raven-dim">Parts of a score:{key}. Intervals hold 90%.</div>'
        )
    if ranked.rejected:
        rows = [[escape(item.model.name), escape(item)] for item in ranked.rejected]
        blocks.append(table("Rejected, and why", ["model", "why"], rows))
    return "".join(blocks) or note(ranking_summary(ranked))


def _row(item: Recommendation, task: str) -> list[str]:
    return [
        str(item.rank),
        f"<strong>{escape(item.model.name)}</strong>{_below(_evidence(item))}",
        _score(item),
        _fit(item),
        _speed(item, task),
        _quality(item),
        f"{item.probability_best:.0%}",
    ]


def _below(text: str) -> str:
    return f'<br><span class="raven-dim">{_whole(escape(text))}</span>'


def _whole(text: str) -> str:
    """Keep a number and its unit on one line: a cell is broken elsewhere."""
    return _WITHIN.sub("\N{NO-BREAK SPACE}", text)


def _evidence(item: Recommendation) -> str:
    parts = [item.evidence, f"reliability {item.reliability:.2f}"]
    if item.person_weight != 1:
        parts.append(f"your weight {item.person_weight:g}")
    return "; ".join(parts)


def _score(item: Recommendation) -> str:
    # The multipliers apply to the sum, so each part is shown as it counts in the score.
    factor = item.reliability * item.person_weight
    bars, words = [], []
    for part in item.parts:
        share = max(part.contribution * factor, 0.0)
        words.append(f"{part.name} {share:.2f}")
        bars.append(
            f'<i style="width:{min(share, 1.0):.1%};background:{PART_COLOURS[part.name]}"></i>'
        )
    return (
        f'{item.score:.3f}<div class="raven-bar" aria-hidden="true">{"".join(bars)}</div>'
        f'<span class="raven-dim">{", ".join(words)}</span>'
    )


def _fit(item: Recommendation) -> str:
    memory = item.memory
    if memory.total_bytes is None:
        return escape(memory.describe())
    said = f"{memory.verdict.value}: {format_bytes(memory.total_bytes)}"
    how = "measured" if memory.measured else "estimated"
    context = f" at {memory.context_length:,} tokens" if memory.context_length else ""
    return f"{_whole(escape(said))}{_below(how + context)}"


def _speed(item: Recommendation, task: str) -> str:
    unit = "tok" if task == "text_generation" else "items"
    run = format_seconds(item.part("latency").value)
    interval = f"{format_rates(item.decode_low, item.decode_high)}; a run {run}"
    return f"{_whole(format_rate(item.decode_rate, unit))}{_below(interval)}"


def _quality(item: Recommendation) -> str:
    part = item.part("quality")
    if not part.n:
        return f"{NOT_MEASURED}{_below(f'prior {part.value:.2f}')}"
    interval = f"{part.low:.2f} to {part.high:.2f}, n = {part.n:.0f}"
    return f"{part.value:.2f}{_below(interval)}"
