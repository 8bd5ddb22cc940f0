"""Choose the policy's documented constants on one dataset, and judge them on the other.

One constant at a time, each at what loses least given those before it. The loss is the mean,
over the columns of the table, of regret relative to what the documented constants have there,
so that late pulls count as much as early ones. How the spread of quality divides into what a
model has on all tasks and what it has on one of them makes no difference to a single task; only
its size is fitted.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from selection_environment import DATASETS, MODES, World, worlds
from selection_policies import Product, play

from ravenxterm_lab.selection import policy as constants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ravenxterm_lab.selection import Decision

CANDIDATES: dict[str, list[object]] = {
    "QUALITY": [
        replace(
            constants.QUALITY,
            model=round(factor * constants.QUALITY.model, 3),
            cell=round(factor * constants.QUALITY.cell, 3),
            slope=slope,
        )
        for factor in (0.7, 1.0, 1.3)
        for slope in (0.02, 0.05)
    ],
    "HORIZON": [15.0, 30.0, 60.0],
    "HORIZON_GROWTH": [0.25, 0.5, 1.0],
    "THOMPSON": [0.05, 0.1, 0.2],
}

#: What ``--fit --seeds 3 --pulls 300`` chose on each dataset, where it differs from what is
#: documented.
CHOSEN_ON: dict[str, dict[str, object]] = {
    "zeroeval": {"QUALITY": replace(constants.QUALITY, model=0.234, cell=0.169)},
    "llmrouter": {"QUALITY": replace(constants.QUALITY, slope=0.02)},
}


@contextmanager
def in_force(values: dict[str, object]) -> Iterator[None]:
    """Let the policy decide with other constants for a while."""
    before = {name: getattr(constants, name) for name in values}
    try:
        for name, value in values.items():
            setattr(constants, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)


class Crossed(Product):
    """The product's policy with the constants that were chosen on the other dataset."""

    def decide(self, world: World, *arguments: Any, **options: Any) -> Decision:
        """Decide as the product does."""
        other = next(name for name in DATASETS if name != world.dataset)
        with in_force(CHOSEN_ON[other]):
            return super().decide(world, *arguments, **options)


def regret(
    values: dict[str, object], played: Sequence[tuple[int, World]], columns: Sequence[int]
) -> np.ndarray:
    """Return the table's figure for each number of pulls, with these constants in force."""
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    with in_force(values):
        for seed, world in played:
            for mode, preferences in MODES.items():
                regrets, of_random = play(world, Product(seed), preferences, range(max(columns)))
                sums = [(regrets[:n].sum(), n * of_random) for n in columns]
                cells.setdefault((world.task, mode), []).append(np.array(sums))
    totals = [np.sum(runs, axis=0) for runs in cells.values()]
    return np.mean([total[:, 0] / total[:, 1] for total in totals], axis=0)


def fit(seeds: Sequence[int], columns: Sequence[int]) -> None:
    """Print the losses of every candidate, what is chosen, and how it does on the other dataset."""
    documented = {name: getattr(constants, name) for name in CANDIDATES}
    played = {
        dataset: [(seed, world) for seed in seeds for world in worlds(dataset, seed, max(columns))]
        for dataset in DATASETS
    }
    usual = {dataset: regret(documented, played[dataset], columns) for dataset in DATASETS}
    for dataset, other in zip(DATASETS, reversed(DATASETS), strict=True):
        chosen = dict(documented)
        for name, values in CANDIDATES.items():
            losses = [
                float(np.mean(regret({**chosen, name: value}, played[dataset], columns)
                              / usual[dataset]))
                for value in values
            ]  # fmt: skip
            chosen[name] = values[int(np.argmin(losses))]
            for value, loss in zip(values, losses, strict=True):
                mark = "  <- chosen" if value == chosen[name] else ""
                print(f"{dataset}: {name} = {value}: {loss:.3f}{mark}", flush=True)
        pulls = ", ".join(str(n) for n in columns)
        for where in (dataset, other):
            fitted = regret(chosen, played[where], columns)
            print(
                f"fitted on {dataset}, on {where} at {pulls} pulls: {fitted.round(3)}; "
                f"as documented {usual[where].round(3)}",
                flush=True,
            )
