"""Measuring what the models take: the stock on disk, joined with the uses in the store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import QueryError, StoreError
from ravenxterm_lab.models.space import Leftover, ModelCopy, ModelSpace, SpaceReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.trash import Holding, Stock

__all__ = ["read_space"]

_USES = """
WITH used AS (
    SELECT fingerprint, max(last_run) AS last, sum(runs)::BIGINT AS runs
    FROM execution_hours GROUP BY fingerprint
    UNION ALL
    SELECT fingerprint, max(ts), 0 FROM loads GROUP BY fingerprint
    UNION ALL
    SELECT fingerprint, NULL, 0 FROM models GROUP BY fingerprint
), known AS (
    SELECT fingerprint, min(ts) AS since FROM models GROUP BY fingerprint
)
SELECT used.fingerprint, max(last), sum(runs)::BIGINT, any_value(known.since)
FROM used LEFT JOIN known USING (fingerprint)
WHERE used.fingerprint IS NOT NULL
GROUP BY used.fingerprint
"""


def read_space(
    bench: Workbench,
    stock: Stock,
    models: Mapping[str, ModelMetadata],
    unused_days: float,
    trash_bytes: int,
) -> SpaceReport:
    """Measure what the models take, and what could be freed.

    Parameters
    ----------
    bench : Workbench
        For the recorded uses.
    stock : Stock
        What lies on disk now.
    models : mapping of str to ModelMetadata
        The registry's.
    unused_days : float
        For how long a model must not have been used to be called unused.
    trash_bytes : int
        What emptying the trash would free.
    """
    now = datetime.fromisoformat(bench.now())
    uses = _uses(bench)
    found: list[ModelSpace] = []
    unused: list[Holding] = []
    spare: list[Holding] = []
    for model in models.values():
        places = stock.of(model)
        if not places:
            continue  # removed since the last scan
        last, runs, since = (uses or {}).get(model.fingerprint, (None, 0, None))
        usage = "unknown"
        if uses is not None:
            usage = _usage(last, since, now - timedelta(days=unused_days))
        one = _measure(stock, model, places, last, runs, since, usage)
        found.append(one)
        if one.is_unused:
            unused.extend(places)
        else:
            spare.extend(places[1:])
    leftovers = [_leftover(stock, one) for one in stock.leftovers]
    unused_bytes = stock.plan(unused).freed_bytes
    leftover_bytes = sum(one.bytes for one in leftovers)
    all_freed = stock.plan([*unused, *spare]).freed_bytes
    return SpaceReport(
        models=tuple(sorted(found, key=lambda one: (-one.freed_bytes, one.model.name))),
        leftovers=tuple(sorted(leftovers, key=lambda one: (-one.bytes, str(one.path)))),
        bytes=sum((stock.inodes(stock.holdings) | stock.plan(stock.holdings).inodes).values()),
        unused_bytes=unused_bytes,
        duplicate_bytes=all_freed - unused_bytes,
        leftover_bytes=leftover_bytes,
        reclaimable_bytes=all_freed + leftover_bytes,
        trash_bytes=trash_bytes,
        unused_days=unused_days,
        time=now,
    )


def _measure(
    stock: Stock,
    model: ModelMetadata,
    places: Sequence[Holding],
    last: datetime | None,
    runs: int,
    since: datetime | None,
    usage: str,
) -> ModelSpace:
    kept = set(stock.inodes(places[:1]))
    groups: dict[frozenset[tuple[int, int]], list[Holding]] = {}
    for place in places[1:]:
        groups.setdefault(frozenset(stock.inodes([place])), []).append(place)
    copies = tuple(
        ModelCopy(
            model=model.name,
            path=same[0].path,
            names=tuple(place.path for place in same[1:]),
            source=same[0].source,
            is_link=bool(kept & inodes),
            freed_bytes=stock.plan(same).freed_bytes,
        )
        for inodes, same in groups.items()
    )
    plan = stock.plan(places)
    held = stock.inodes(places) | plan.inodes
    return ModelSpace(
        model=model,
        bytes=sum(held.values()),
        freed_bytes=plan.freed_bytes,
        duplicate_bytes=stock.plan(places[1:]).freed_bytes if copies else 0,
        copies=copies,
        last_used=last,
        known_since=since,
        runs=runs,
        usage=usage,
    )


def _uses(bench: Workbench) -> dict[str, tuple[datetime | None, int, datetime | None]] | None:
    """Return last use, executions and first record of each fingerprint; None without a store."""
    try:
        rows = bench.store.sql(_USES).fetchall()
    except (StoreError, QueryError) as error:
        bench.messages.add("warning", "store", f"What was used when cannot be read: {error}")
        return None
    return {mark: (last, runs, since) for mark, last, runs, since in rows}


def _usage(last: datetime | None, since: datetime | None, limit: datetime) -> str:
    if last is not None:
        return "used" if last > limit else "unused"
    return "never" if since is not None and since <= limit else "new"


def _leftover(stock: Stock, holding: Holding) -> Leftover:
    size = stock.plan([holding]).freed_bytes
    return Leftover(holding.path, holding.kind, holding.source, size)
