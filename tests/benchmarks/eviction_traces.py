"""Traces of model uses to replay: synthetic ones, and the order of real people's runs."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GIB = 2**30
#: Memory of the cards in the data whose owners went back and forth between models.
_CARDS = {
    "RTX 3060 (12 GB)": 12,
    "RTX 4070 Ti (12 GB)": 12,
    "RX 7900 XT (20 GB)": 20,
    "RTX 5090 (32 GB)": 32,
}
#: The share of a card that a desktop leaves free.
_FREE = 0.9
#: The data has no load times: this start, then the file read at this speed (bytes/s).
_START, _DISK = 1.0, 2e9


@dataclass(frozen=True)
class Item:
    """What a model takes (bytes), and what its load takes (s)."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Trace:
    """Uses in their order, what each model costs, the budget (bytes), and the hour of each use.

    Hours are counted from a midnight on; a trace without them tells nothing of time.
    """

    name: str
    items: Mapping[str, Item]
    uses: Sequence[str]
    budget: int
    hours: Sequence[int] = ()


def synthetic(items: Mapping[str, Item], budget: int, length: int, seed: int) -> list[Trace]:
    """Return one trace of each kind."""
    makers = {
        "zipf": _zipf, "sweep": _sweep, "pairs": _pairs, "working day": _day,
        "one big": _one_big, "pipelines": _pipelines,
    }  # fmt: skip
    return [
        Trace(name, items, make(items, length, random.Random(seed)), budget)
        for name, make in makers.items()
    ]


def _zipf(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    names = rng.sample(sorted(items), len(items))
    return rng.choices(names, [1 / rank for rank in range(1, len(names) + 1)], k=length)


def _sweep(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    names = rng.sample(sorted(items), len(items))
    return [names[index % len(names)] for index in range(length)]


def _pairs(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    uses: list[str] = []
    while len(uses) < length:
        uses += rng.sample(sorted(items), 2) * rng.randint(3, 10)
    return uses[:length]


def _day(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    """Phases of ten to thirty uses of two or three models, the same phases every day."""
    names = sorted(items)
    phases = [rng.sample(names, rng.randint(2, 3)) for _ in range(4)]
    uses: list[str] = []
    while len(uses) < length:
        for phase in phases:
            uses += [
                rng.choice(phase if rng.random() < 0.9 else names)
                for _ in range(rng.randint(10, 30))
            ]
    return uses[:length]


def _one_big(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    ordered = sorted(items, key=lambda name: items[name].bytes)
    small, big = ordered[: len(items) // 2], ordered[-1]
    return [big if rng.random() < 0.15 else rng.choice(small) for _ in range(length)]


def _pipelines(items: Mapping[str, Item], length: int, rng: random.Random) -> list[str]:
    """Fixed sequences, as of a classifier before an embedder before a generator."""
    names = sorted(items)
    pipelines = [rng.sample(names, rng.randint(2, 3)) for _ in range(4)]
    uses: list[str] = []
    while len(uses) < length:
        uses += rng.choices(pipelines, [4, 3, 2, 1])[0]
    return uses[:length]


def through_the_day(items: Mapping[str, Item], budget: int, days: int, seed: int) -> list[Trace]:
    """Return traces of sessions of one to twelve uses of two or three models, over some days.

    Each of the three sessions of a day falls out now and then, and has models of its own: at
    its own hour, give or take one (``"habits"``), or at any hour (``"no habit"``).
    """
    traces = []
    for name, kept in (("habits", True), ("no habit", False)):
        rng = random.Random(seed)
        names = sorted(items)
        sessions = [(hour, rng.sample(names, rng.randint(2, 3))) for hour in (8, 13, 20)]
        uses: list[str] = []
        hours: list[int] = []
        for day in range(days):
            today = [one for one in sessions if rng.random() < 0.7]
            if not kept:
                today = [(rng.randrange(24), rng.choice(sessions)[1]) for _ in today]
                today.sort(key=lambda one: one[0])
            for hour, models in today:
                count = rng.randint(1, 12)
                uses += [rng.choice(models if rng.random() < 0.9 else names) for _ in range(count)]
                hours += [24 * day + hour + rng.choice((-1, 0, 0, 1)) * kept] * count
        traces.append(Trace(name, items, uses, budget, hours))
    return traces


def recorded(path: Path) -> list[Trace]:
    """Return the runs of the cards in ``local_speed.parquet``, in the file's order.

    Bytes are parameters × the bits in the name of the quantization (16 without one).
    """
    import polars as pl

    rows = pl.read_parquet(path).select("hw", "model", "quant", "params").drop_nulls("params")
    traces = []
    for card, gigabytes in _CARDS.items():
        budget = int(gigabytes * GIB * _FREE)
        items: dict[str, Item] = {}
        uses = []
        for _, model, quant, billions in rows.filter(pl.col("hw") == card).iter_rows():
            found = re.search(r"\d+", quant or "")
            size = int(billions * 1e9 * (int(found[0]) if found else 16) / 8)
            if not 0 < size <= budget:
                continue  # split between card and CPU, or its parameters are not known
            name = f"{model} {quant}"
            items[name] = Item(size, _START + size / _DISK)
            uses.append(name)
        traces.append(Trace(card, items, uses, budget))
    return traces
