"""The map of the memory: what is loaded, what the budget leaves, and what others use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, COLOURS, OTHERS, Figure, layout, safe
from ravenxterm_lab.plots.view import Rows, View
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager

__all__ = ["memory"]

_GIB = 2**30
_HEADER = ["of", "what", "kind", "memory", "note"]
#: Colours of what is no model, by kind; free memory is hardly drawn.
_PLAIN = {
    "headroom": "rgba(128,128,128,0.15)",
    "free": "rgba(128,128,128,0.15)",
    "taken": OTHERS,
    "models": OTHERS,
}
_PATTERNS = {"mapped": "/", "taken": "x", "headroom": "."}
_POOL, _MACHINE = "pool", "machine"


def memory(manager: ModelManager) -> View:
    """Draw what each loaded model really holds, the budget, the headroom, and the whole machine.

    A model's own memory and what it maps from its file are drawn apart: the system may drop
    mapped pages and read them again. The headroom is what another load may take now, the smaller
    of what the budget leaves and what is free.

    Parameters
    ----------
    manager : ModelManager
        Whose pool is looked at, now.
    """
    import polars as pl

    usage = manager.get_resource_usage()
    sample = usage.sample
    rows: list[dict[str, Any]] = []
    for item in usage.loaded:
        state = "in use" if item.in_use else f"idle for {format_seconds(item.idle_seconds)}"
        parts = (("own memory", item.memory.anonymous_bytes), ("mapped", item.memory.file_bytes))
        for kind, held in parts:
            rows.append(_row(_POOL, item.model.name, kind, held, f"{item.runtime}, {state}"))
    models = usage.memory_used_by_models
    taken = max(usage.memory_budget - models - usage.memory_headroom, 0)
    rows.append(_row(_POOL, "headroom", "headroom", usage.memory_headroom, "for another load"))
    if taken:
        why = "within the budget, but not free on this machine"
        rows.append(_row(_POOL, "used by others", "taken", taken, why))
    others = max(sample.memory_used - models, 0)
    rows += [
        _row(_MACHINE, "loaded models", "models", models, ""),
        _row(_MACHINE, "other programs", "taken", others, "and this process"),
        _row(_MACHINE, "free", "free", sample.memory_available, "what this process may use"),
    ]
    frame = pl.DataFrame(rows)
    summary = (
        f"{format_number(len(usage.loaded), 'loaded model')} hold{'s' * (len(usage.loaded) == 1)} "
        f"{format_bytes(models)} of a budget of {format_bytes(usage.memory_budget)}; headroom "
        f"{format_bytes(usage.memory_headroom)}, {format_bytes(sample.memory_available)} free."
    )
    if not usage.loaded:
        summary = (
            f"No model is loaded: {manager.registry.next_step}. The budget is "
            f"{format_bytes(usage.memory_budget)}, the headroom "
            f"{format_bytes(usage.memory_headroom)}."
        )
    figure = _draw(rows, usage.memory_budget, len(usage.loaded))
    cells = [
        [row["row"], row["name"], row["kind"], format_bytes(row["bytes"]), row["note"]]
        for row in rows
    ]
    table = Rows("The same memory, by what holds it", _HEADER, cells)
    return View(figure, summary, None, frame, rows=table)


def _row(row: str, name: str, kind: str, held: int, note: str) -> dict[str, Any]:
    return {"row": row, "name": name, "kind": kind, "bytes": int(held), "note": note}


def _draw(rows: list[dict[str, Any]], budget: int, loaded: int) -> Figure:
    figure = Figure()
    colours: dict[str, str] = {}
    shown = set()
    for row in rows:
        kind, name = row["kind"], row["name"]
        label, colour = name, _PLAIN.get(kind)
        if colour is None:
            colour = colours.setdefault(name, COLOURS[len(colours) % len(COLOURS)])
        elif kind == "taken":
            label = "used by others"
        if not row["bytes"]:
            continue
        figure.add_bar(
            y=[row["row"]],
            x=[row["bytes"] / _GIB],
            orientation="h",
            name=safe(label),
            legendgroup=label,
            showlegend=label not in shown,
            width=0.7,
            marker={
                "color": colour,
                "pattern": {
                    "shape": _PATTERNS.get(kind, ""),
                    "fillmode": "overlay",
                    "size": 6,
                    "fgcolor": OTHERS if kind == "headroom" else None,
                },
                "line": {"color": OTHERS, "width": 1},
            },
            hovertemplate=(
                f"{safe(name)}, {safe(kind)}: {safe(format_bytes(row['bytes']))}"
                f"<br>{safe(row['note'])}<extra></extra>"
            ),
        )
        shown.add(label)
    figure.add_shape(
        type="line",
        x0=budget / _GIB,
        x1=budget / _GIB,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": COLOURS[2], "dash": "dash", "width": 2},
        name=f"budget ({format_bytes(budget)})",
        showlegend=True,
    )
    subtitle = (
        f"n = {format_number(loaded, 'loaded model')}, measured now; striped: mapped from files"
    )
    figure.update_layout(
        **layout("Memory map", subtitle),
        barmode="stack",
        height=300 + 12 * len(shown),
        xaxis={
            "title": {"text": "memory (GiB)"},
            "rangemode": "tozero",
            "automargin": True,
            **AXIS,
        },
        yaxis={
            "categoryorder": "array",
            "categoryarray": [_MACHINE, _POOL],
            "automargin": True,
            **AXIS,
        },
    )
    return figure
