"""What the models take on disk, and what of it is there twice, unused or left over."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import COLOURS, OTHERS, Figure, layout, safe, text_on
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.units import format_bytes, format_number

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager, SpaceReport

__all__ = ["disk"]

#: Of what holds tiles; white text reads on it in both themes.
_BAND = "#666666"
#: State: (colour, pattern, in words).
_STATES = {
    "in use": (COLOURS[0], "", "used, or new"),
    "unused": (COLOURS[3], "/", "not used for long"),
    "copy": (COLOURS[2], "x", "a copy"),
    "leftover": (COLOURS[1], "-", "left over"),
}
_ROOT = "all models"
#: In a line of a tile.
_LETTERS = 18


def disk(manager: ModelManager, *, unused_days: float = 30.0) -> View:
    """Draw the models on disk as tiles by store: area is size, copies and leftovers stand out.

    Sizes count each file once: links take nothing. Nothing is changed.

    Parameters
    ----------
    manager : ModelManager
        Whose registry is measured.
    unused_days : float
        For how long a model must not have been used to be called unused.

    Raises
    ------
    TrashError
        If ``unused_days`` is negative.
    """
    import polars as pl

    space = manager.registry.space(unused_days)
    rows = _tiles(space)
    frame = pl.DataFrame(rows, schema=_SCHEMA)
    title = "Models on disk"
    if not rows:
        reason = f"No models yet: {manager.registry.next_step}"
        return empty_view(title, reason, None, frame)
    summary = (
        f"{format_number(len(space.models), 'model')} take{'s' * (len(space.models) == 1)} "
        f"{format_bytes(space.bytes)} on disk; {format_bytes(space.duplicate_bytes)} are copies, "
        f"{format_bytes(space.unused_bytes)} unused for {unused_days:g} days, and "
        f"{format_bytes(space.leftover_bytes)} left over."
    )
    cells = [[row["name"], row["store"], row["state"], format_bytes(row["bytes"])] for row in rows]
    table = Rows("The same files", ["what", "store", "state", "on disk"], cells)
    return View(_draw(rows, title, unused_days), summary, None, frame, rows=table)


_SCHEMA = {"store": str, "name": str, "state": str, "bytes": int, "path": str}


def _tiles(space: SpaceReport) -> list[dict[str, Any]]:
    rows = []
    for one in space.models:
        state = "unused" if one.is_unused else "in use"
        name, source = one.model.name, one.model.source or "directory"
        rows.append(_tile(source, name, state, one.bytes - one.duplicate_bytes, one.model.path))
        rows += [
            _tile(copy.source, f"{name} (copy)", "copy", copy.freed_bytes, copy.path)
            for copy in one.copies
            if copy.freed_bytes
        ]
    for left in space.leftovers:
        kind = "unfinished download" if left.kind == "incomplete" else "orphaned blob"
        label = f"{kind} {left.path.name}"
        rows.append(_tile(left.source, label, "leftover", left.bytes, left.path))
    return sorted(rows, key=lambda row: (row["store"], -row["bytes"], row["path"]))


def _tile(store: str, name: str, state: str, held: int, path: object) -> dict[str, Any]:
    # A file name that is not UTF-8 holds lone surrogates, which JSON refuses.
    text = str(path).encode("utf-8", "replace").decode("utf-8")
    return {"store": store, "name": name, "state": state, "bytes": max(int(held), 0), "path": text}


def _in_lines(name: str) -> str:
    # Nothing wraps inside a tile by itself, and a name that is too wide for it is not shown.
    return "<br>".join(map(safe, textwrap.wrap(name, _LETTERS) or [""]))


def _draw(rows: list[dict[str, Any]], title: str, unused_days: float) -> Figure:
    stores: dict[str, int] = {}
    for row in rows:
        stores[row["store"]] = stores.get(row["store"], 0) + row["bytes"]
    total = sum(stores.values())
    # Tiles of the root and of the stores come first, then those of the files.
    above = 1 + len(stores)
    sizes = [total, *stores.values(), *(row["bytes"] for row in rows)]
    words = [""] * above + [f"<br>{_STATES[row['state']][2]}" for row in rows]
    tiles = [_STATES[row["state"]][0] for row in rows]
    figure = Figure()
    figure.add_treemap(
        ids=[_ROOT, *stores, *(f"{at} {row['path']}" for at, row in enumerate(rows))],
        labels=[_ROOT, *map(safe, stores), *(_in_lines(row["name"]) for row in rows)],
        parents=["", *[_ROOT] * len(stores), *(row["store"] for row in rows)],
        values=sizes,
        branchvalues="total",
        text=[format_bytes(size) + word for size, word in zip(sizes, words, strict=True)],
        customdata=[""] * above + [safe(row["path"]) for row in rows],
        textinfo="label+text",
        hovertemplate="%{label}<br>%{text}<br>%{customdata}<extra></extra>",
        textfont={"color": ["#ffffff"] * above + [text_on(tile) for tile in tiles], "size": 13},
        marker={
            "colors": [_BAND] * above + tiles,
            "pattern": {
                "shape": [""] * above + [_STATES[row["state"]][1] for row in rows],
                "fillmode": "overlay",
                "fgopacity": 0.35,
                "size": 8,
            },
            "line": {"width": 1, "color": OTHERS},
        },
        tiling={"pad": 3},
        root={"color": "rgba(0,0,0,0)"},
    )
    files = format_number(len(rows), "tile")
    subtitle = (
        f"n = {files}, {format_bytes(total)}, now; area: bytes on disk; "
        f"unused: for {unused_days:g} days"
    )
    base = layout(title, subtitle)
    base["margin"] = {"l": 10, "r": 10, "t": 80, "b": 10}
    # A name in letters too small to read would only look broken; the table below has them all.
    figure.update_layout(**base, height=460, uniformtext={"minsize": 9, "mode": "hide"})
    return figure
