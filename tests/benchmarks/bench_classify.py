"""Language identification: the bare library, our worker and the manager, side by side.

Run by hand: ``python tests/benchmarks/bench_classify.py``. The same texts go, in random order of
the ways, through ``fasttext`` in this process, one after the other; through a loaded model of
`FastTextRuntime`, which is a process of its own; and through ``ModelManager.run``, which selects
and records as well. Printed are the median time of a call and its multiple of the bare library's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.config import paths
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.quality import CHECKS
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.fasttext import FastTextRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

TASK = "language_identification"
WAYS = ("fasttext", "worker", "manager")


def measure(ways: dict[str, Callable[[], Any]], rounds: int, seed: int) -> dict[str, float]:
    """Return the median seconds of a call, by way; one call of each comes before, uncounted."""
    draw = random.Random(seed)
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            start = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print a line for each number of texts and each way."""
    default = paths().models / "demo" / "lid-176"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=default, help="a directory with one model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 31, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where to put the store")
    given = parser.parse_args()
    import fasttext

    sentences = CHECKS[TASK].samples()[1]
    with tempfile.TemporaryDirectory(dir=given.directory) as home:
        manager = ModelManager(given.model, home=Path(home))
        (model,) = manager.registry.available_models.values()
        bare = fasttext.load_model(str(model.path)).f
        print(f"{model.describe()}, {given.rounds} rounds, medians")
        with FastTextRuntime().load(model, LoadOptions(threads=1)) as loaded:
            for size in given.sizes:
                texts = [sentences[number % len(sentences)] for number in range(size)]

                def by_hand(texts: list[str] = texts) -> list[Any]:
                    return [bare.predict(f"{text}\n", 1, 0.0, "strict") for text in texts]

                found = measure(
                    {
                        "fasttext": by_hand,
                        "worker": lambda texts=texts: loaded.run(TASK, texts),
                        "manager": lambda texts=texts: manager.run(TASK, texts),
                    },
                    given.rounds,
                    given.seed,
                )
                for name in WAYS:
                    rate, ratio = size / found[name], found[name] / found["fasttext"]
                    print(
                        f"{size:>7,} texts  {name:<9} {1e3 * found[name]:>9.3f} ms  "
                        f"{rate:>10,.0f} texts/s  {ratio:>7.2f} ×"
                    )
        manager.pool.close()
        manager.store.close()


if __name__ == "__main__":
    sys.exit(main())
