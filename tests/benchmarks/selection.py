"""Which model to run next: the product's policy beside bandits, on measured answers.

Run: ``python tests/benchmarks/selection.py`` (20 seeds; ``--seeds 4`` is a fifth of that, and
``--minutes`` begins no further seed after that time). ``--mabwiser`` adds the players of MABWiser,
which needs an environment with it (``pip install mabwiser``). ``--fit`` fits the documented
constants on each dataset and judges them on the other, with other seeds than the table's;
``--crossed`` adds the policy with the constants that were fitted on the other dataset.

Regret is on the model's mean utility and normalised: 0 is the best fixed model, 1 a random one.
Each figure is the mean, over tasks and three preferences, of regret over that of a random choice,
both summed over the seeds. Every policy meets the same questions and the same noise, and chooses
among the models that fit into memory. What changes, changes after 300 pulls.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from selection_environment import DATASETS, MODES, World, worlds
from selection_fit import Crossed, fit
from selection_intervals import Coverage, cover, print_coverage
from selection_policies import BASELINES, Policy, Product, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ravenxterm_lab.preferences import UserPreferences

PULLS = (30, 100, 300, 1000)
CHANGE_AT, AFTER_CHANGE, AFTER_SWITCH, A_TASK = 300, 100, 50, 10
NEXT_MODE = {"speed": "balanced", "balanced": "quality-first", "quality-first": "speed"}
PRODUCT = "this policy"
CROSSED = f"{PRODUCT}, crossed"
#: Seeds from here on are for fitting; the table's begin at 0.
FIT_FROM = 100
#: From the design page on selection.
GOALS = {
    "30": 0.30, "100": 0.20, "300": 0.12, "1000": 0.08, "20% labelled": 0.30,
    "quality-first 100": 0.30, "interleaved": 0.30, "interleaved as one": 0.30,
    "quality * .4": 0.20, "pulls to 95% (quality)": 40.0, "latency * 3": 0.12,
    "pulls to 95% (latency)": 40.0,
}  # fmt: skip


class Score(NamedTuple):
    """One figure of one run: regret and that of a random choice, or a number of pulls over 1."""

    policy: str
    figure: str
    dataset: str
    task: str
    mode: str
    regret: float
    of_random: float


def pulls_to_95(regrets: np.ndarray, best: float) -> int:
    """Return after how many pulls ten in a row reach 95% of the best utility in their mean."""
    means = np.convolve(best - regrets, np.ones(10) / 10, "valid")
    found = np.flatnonzero(means >= 0.95 * best)
    return int(found[0]) if len(found) else len(regrets)


def trial(
    name: str, make: Callable[[int], Policy], dataset: str, seed: int, most: int
) -> tuple[list[Score], list[Coverage]]:
    """Play everything on one machine with one policy."""
    scores: list[Score] = []
    covered: list[Coverage] = []
    tasks = worlds(dataset, seed, max(most, CHANGE_AT + AFTER_CHANGE))

    def note(figure: str, task: str, mode: str, regret: float, of_random: float) -> None:
        scores.append(Score(name, figure, dataset, task, mode, regret, of_random))

    for mode, preferences in MODES.items():
        for world in tasks:
            where = (world.task, mode)
            policy, regrets, done = make(seed), np.zeros(0), 0
            for pulls in [n for n in PULLS if n <= most]:
                more, of_random = play(world, policy, preferences, range(done, pulls))
                regrets, done = np.append(regrets, more), pulls
                note(str(pulls), *where, regrets.sum(), pulls * of_random)
                if pulls == 100 and mode == "quality-first":
                    note("quality-first 100", *where, regrets.sum(), pulls * of_random)
                if name == PRODUCT and isinstance(policy, Product):
                    covered += cover(policy, world, preferences, pulls)
                if pulls != CHANGE_AT:
                    continue
                best = int(np.argmax(world.mean_utility(preferences)))
                for figure, pulls_figure, changed in (
                    ("quality * .4", "pulls to 95% (quality)", world.with_quality(best, 0.4)),
                    ("latency * 3", "pulls to 95% (latency)", world.with_latency(best, 3.0)),
                ):
                    after, of_random = play(
                        changed, copy.deepcopy(policy), preferences,
                        range(CHANGE_AT, CHANGE_AT + AFTER_CHANGE),
                    )  # fmt: skip
                    note(figure, *where, after.sum(), AFTER_CHANGE * of_random)
                    top = changed.mean_utility(preferences).max()
                    note(pulls_figure, *where, pulls_to_95(after, top), 1)
                after, of_random = play(
                    world, copy.deepcopy(policy), MODES[NEXT_MODE[mode]],
                    range(CHANGE_AT, CHANGE_AT + AFTER_SWITCH),
                )  # fmt: skip
                note("preference switch", *where, after.sum(), AFTER_SWITCH * of_random)
            labels = np.random.default_rng([seed, 6]).random(100) < 0.2
            rare, of_random = play(world, make(seed), preferences, range(100), labels)
            note("20% labelled", *where, rare.sum(), 100 * of_random)
        for figure, regret, of_random, task in interleave(make, tasks, preferences, seed):
            note(figure, task, mode, regret, of_random)
    return scores, covered


def interleave(
    make: Callable[[int], Policy], tasks: list[World], preferences: UserPreferences, seed: int
) -> Iterator[tuple[str, float, float, str]]:
    """Play ten pulls of each task, in random order, among the models that all tasks have.

    Who cannot share between tasks is played twice: each task apart, and all as if they were one.
    The product, which shares, is the same in both.
    """
    names = frozenset.intersection(
        *(frozenset(arm.model.name for arm in world.arms) for world in tasks)
    )
    order = np.random.default_rng([seed, 7]).permutation(np.repeat(np.arange(len(tasks)), A_TASK))
    for figure, one_task in (("interleaved", None), ("interleaved as one", "all")):
        policy, asked = make(seed), np.zeros(len(tasks), dtype=int)
        apart = isinstance(policy, Product) or one_task is None
        for number in order:
            world = tasks[number].among(names, None if apart else one_task)
            regret, of_random = play(world, policy, preferences, [int(asked[number])])
            asked[number] += 1
            yield figure, float(regret.sum()), of_random, tasks[number].task


def normalised(scores: list[Score], policy: str, figure: str, datasets: Iterable[str]) -> float:
    """Return the mean over tasks and preferences of regret over that of a random choice."""
    sums: dict[tuple[str, str, str], np.ndarray] = {}
    for one in scores:
        if one.policy == policy and one.figure == figure and one.dataset in datasets:
            key = (one.dataset, one.task, one.mode)
            sums[key] = sums.get(key, np.zeros(2)) + np.array([one.regret, one.of_random])
    return float(np.mean([a / b for a, b in sums.values()])) if sums else float("nan")


def print_tables(scores: list[Score]) -> None:
    """Print one table for each dataset and one for both together."""
    names = list(dict.fromkeys(one.policy for one in scores))
    figures = list(dict.fromkeys(one.figure for one in scores))
    main = [str(n) for n in PULLS if str(n) in figures]
    width = max(len(name) for name in names) + 2
    seen = list(dict.fromkeys(one.dataset for one in scores))
    for title, datasets in [*((name, [name]) for name in seen), (" + ".join(seen), seen)]:
        for columns in (main, [one for one in figures if one not in main]):
            if not columns:
                continue
            print(f"\n{title}\n{'':<{width}}" + "".join(f"{one:>24}" for one in columns))
            for name in names:
                row = [normalised(scores, name, figure, datasets) for figure in columns]
                print(
                    f"{name:<{width}}"
                    + "".join(
                        f"{value:>24.1f}" if "pulls to" in figure else f"{value:>24.3f}"
                        for figure, value in zip(columns, row, strict=True)
                    )
                )
            goals = [GOALS.get(figure, float("nan")) for figure in columns]
            print(f"{'goal':<{width}}" + "".join(f"{goal:>24.2f}" for goal in goals))


def measure(
    players: dict[str, Callable[[int], Policy]],
    seeds: Iterable[int],
    most: int,
    jobs: int,
    minutes: float,
) -> tuple[list[Score], list[Coverage], int]:
    """Play every policy on every dataset, seed by seed until time is up; count the seeds."""
    scores, covered, played = [], [], 0
    start = time.perf_counter()
    with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as pool:
        for seed in seeds:
            if time.perf_counter() - start > 60 * minutes:
                break
            todo = [
                (name, make, dataset, seed, most)
                for dataset in DATASETS
                for name, make in players.items()
            ]
            columns = zip(*todo, strict=True)
            for found, inside in pool.map(trial, *columns) if pool else map(trial, *columns):
                scores += found
                covered += inside
            played += 1
    return scores, covered, played


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pulls", type=int, default=PULLS[-1])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no further seed after that"
    )
    parser.add_argument("--only", nargs="*", help="names of policies")
    parser.add_argument("--mabwiser", action="store_true", help="with MABWiser's players")
    parser.add_argument("--crossed", action="store_true")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    if arguments.fit:
        fit(range(FIT_FROM, FIT_FROM + arguments.seeds), [n for n in PULLS if n <= arguments.pulls])
        return
    players: dict[str, Callable[[int], Policy]] = {**BASELINES}
    if arguments.mabwiser:
        from selection_mabwiser import MABWISER

        players |= MABWISER
    players[PRODUCT] = Product
    if arguments.crossed:
        players[CROSSED] = Crossed
    if arguments.only:
        players = {name: make for name, make in players.items() if name in arguments.only}
    start = time.perf_counter()
    scores, covered, played = measure(
        players, range(arguments.seeds), arguments.pulls, arguments.jobs, arguments.minutes
    )
    print_tables(scores)
    print_coverage(covered)
    print(f"\n{played} seeds, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
