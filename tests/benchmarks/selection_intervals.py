"""Do 90% intervals hold the truth in 90% of cases? As a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from selection_environment import BUDGET, World

from ravenxterm_lab.estimation import MemoryEstimate, Verdict
from ravenxterm_lab.selection import recommend

if TYPE_CHECKING:
    from selection_policies import Product

    from ravenxterm_lab.preferences import UserPreferences


class Coverage(NamedTuple):
    """Whether one shown interval holds the true value, and what is known of it."""

    part: str
    was_run: bool
    pulls: int
    dataset: str
    inside: bool


def cover(
    product: Product, world: World, preferences: UserPreferences, pulls: int
) -> list[Coverage]:
    """Return, for each model of a world, whether its intervals hold the truth."""
    decision = product.decide(world, preferences, explore=False)
    # What is shown is the latency of a typical answer: half of them are longer.
    typical = 0.3 + np.exp(np.log(world.tokens).mean(1)) / world.rate
    found = []
    position = {arm.model.name: index for index, arm in enumerate(world.arms)}
    memory = [_known(arm.memory_bytes) for arm in world.arms]
    for item in recommend(decision, memory, BUDGET):
        arm = position[item.model.name]
        quality, latency = item.part("quality"), item.part("latency")
        was_run = decision.cells[arm].runs > 0
        for part, low, value, high in (
            ("quality", quality.low, world.scores[arm].mean(), quality.high),
            ("tokens/s", item.decode_low, world.rate[arm], item.decode_high),
            ("latency", latency.low, typical[arm], latency.high),
        ):
            inside = bool(low <= value <= high)
            found.append(Coverage(part, was_run, pulls, world.dataset, inside))
    return found


def print_coverage(covered: list[Coverage]) -> None:
    """Print the share of intervals that hold the truth, of models run and never run."""
    if not covered:
        return
    pulls = sorted({one.pulls for one in covered})
    print("\n90% intervals that hold the truth" + "".join(f"{n:>12} pulls" for n in pulls))
    for dataset in dict.fromkeys(one.dataset for one in covered):
        for part in ("quality", "tokens/s", "latency"):
            for was_run in (True, False):
                row = ""
                for n in pulls:
                    inside = [
                        one.inside
                        for one in covered
                        if (one.dataset, one.part, one.was_run, one.pulls)
                        == (dataset, part, was_run, n)
                    ]
                    share = f"{sum(inside) / len(inside):.1%}" if inside else "none"
                    row += f"{share:>18}"
                print(f"{dataset} {part:<9} {'run' if was_run else 'never run':<10}" + row)


def _known(memory_bytes: int) -> MemoryEstimate:
    return MemoryEstimate(
        engine="", context_length=None, weights_bytes=memory_bytes, repack_bytes=0,
        kv_cache_bytes=0, compute_bytes=0, overhead_bytes=0, total_bytes=memory_bytes,
        low_bytes=memory_bytes, high_bytes=memory_bytes, budget_bytes=BUDGET,
        verdict=Verdict.FITS, measured=True, source="the environment",
    )  # fmt: skip
