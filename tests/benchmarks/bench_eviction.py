"""Seconds of reloading that the pool's choice of victims costs, beside other policies.

Run: ``python tests/benchmarks/bench_eviction.py`` (about a minute). The demo models are loaded
once, in worker processes, for what they take and how long their loads last; traces of their uses
are then replayed through the real `ModelPool` with a runtime that only reports these figures. The
offline optimum is exact (dynamic programming) on every trace. The second table is a restart: the
second half of each trace, with the first half known from the store, and without. The third is of
weeks of sessions, with and without the hours of the day.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from eviction_peers import PEERS, optimum, replay
from eviction_traces import Item, Trace, recorded, synthetic, through_the_day

from ravenxterm_lab.config import paths
from ravenxterm_lab.demo import build_ladder
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, ModelPool, Runtime
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.hours import HoursOfUse
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ravenxterm_lab.runtimes.eviction import Key

MIB = 2**20
#: Two or three of the text models fit.
BUDGET = 600 * MIB
LENGTH, SEEDS = 600, (101, 102, 103)
DAYS = 42
SMOLLM2 = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
LADDER = ("Q4_0", "Q8_0", "F16")
OTHERS = {
    "gemma-3-270m/gemma-3-270m.Q4_K_M.gguf": "text_generation",
    "all-minilm-l6-v2-int8/model.onnx": "embedding",
    "magika-standard-v3.3/model.onnx": "file_type",
    "silero-vad/silero_vad.onnx": "voice_activity_detection",
}


def measure(demo: Path, scratch: Path) -> dict[str, Item]:
    """Load each demo model once; return what it took, its worker process included."""
    source = scratch / Path(SMOLLM2).name
    source.symlink_to(demo / SMOLLM2)
    files = [(source, "text_generation")]
    files += [(path, "text_generation") for path in build_ladder(source, LADDER, progress=False)]
    files += [(demo / name, task) for name, task in OTHERS.items() if (demo / name).is_file()]
    items = {}
    for path, task in files:
        text = path.suffix == ".gguf"
        runtime: Runtime = LlamaCppRuntime() if text else OnnxRuntime()
        tokenizer = path.parent / "tokenizer.json"
        model = ModelMetadata(
            path.name if text else path.parent.name,
            ModelType.GGUF if text else ModelType.ONNX,
            path,
            path.stat().st_size,
            task_types=(task,),
            companions=(tokenizer,) if tokenizer.is_file() else (),
        )
        with runtime.load(model, LoadOptions(context_length=2048, threads=1)) as loaded:
            if text:
                loaded.run(task, "Once", parameters={"max_tokens": 8, "raw": True})
            items[model.name] = Item(loaded.memory().total, loaded.report.seconds)
    return items


def product(trace: Trace, past: Sequence[str] = (), *, timed: bool = False) -> float:
    """Return the seconds of loading that the pool causes on a trace; ``timed``: by its hours."""
    fakes = {
        name: FakeRuntime(name, load_seconds=item.seconds) for name, item in trace.items.items()
    }
    models = {
        name: ModelMetadata(name, ModelType.GGUF, Path(name), item.bytes, fingerprint=name)
        for name, item in trace.items.items()
    }
    settings = LoadOptions(context_length=4096).settings
    known: Iterable[Key] = [(name, name, settings) for name in past]
    ticks = iter(range(10**9))
    hour = 0

    def hours() -> HoursOfUse:
        """Return what the store would tell: the hours of use of the days before this one."""
        before = {
            (name, at)
            for name, at in zip(trace.uses, trace.hours, strict=True)
            if at // 24 < hour // 24
        }
        days = Counter((name, at % 24) for name, at in before)
        return HoursOfUse(((name, name, settings), at, n) for (name, at), n in days.items())

    pool = ModelPool(
        budget=lambda: {RAM: trace.budget},
        estimate=lambda model, options: {RAM: model.size_bytes},
        past=lambda: known,
        hours=hours if timed else HoursOfUse,
        hour=lambda: hour,
        clock=lambda: float(next(ticks)),
    )
    seconds = 0.0
    for number, name in enumerate(trace.uses):
        hour = trace.hours[number] if timed else 0
        with pool.acquire(fakes[name], models[name]) as (_, cold):
            seconds += trace.items[name].seconds if cold else 0.0
    pool.close()
    return seconds


def halves(trace: Trace) -> tuple[Trace, Trace]:
    """Return a trace before and after a restart."""
    middle = len(trace.uses) // 2
    first, second = trace.uses[:middle], trace.uses[middle:]
    return (
        Trace(trace.name, trace.items, first, trace.budget),
        Trace(trace.name, trace.items, second, trace.budget),
    )


def grouped(traces: list[Trace]) -> dict[str, list[Trace]]:
    """Return the traces by name: those that differ only in the seed are summed."""
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.name, []).append(trace)
    return groups


def table(title: str, header: list[str], rows: list[tuple[str, list[float]]]) -> None:
    """Print seconds, the ratio to the first column, and the geometric mean of the ratios."""
    print(f"\n{title}\n{'trace':22}" + "".join(f"{name:>18}" for name in header))
    for name, values in rows:
        cells = [f"{values[0]:10.1f} s       "]
        cells += [f"{value:8.1f} s ×{value / values[0]:5.3f}" for value in values[1:]]
        print(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))
    means = [
        math.exp(sum(math.log(values[column] / values[0]) for _, values in rows) / len(rows))
        for column in range(1, len(header))
    ]
    cells = [f"×{mean:5.3f}" for mean in means]
    print(f"{'geometric mean':22}{'':18}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    """Measure, replay, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=paths().models / "demo")
    parser.add_argument("--data", type=Path, help="local_speed.parquet, for traces of real runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        items = measure(options.models, Path(scratch))
    for name, item in items.items():
        print(f"{name:40} {item.bytes / MIB:7.1f} MiB {item.seconds:6.2f} s")
    traces = [trace for seed in SEEDS for trace in synthetic(items, BUDGET, LENGTH, seed)]
    if options.data:
        traces += recorded(options.data)
    groups = grouped(traces)
    rows, restarted = [], []
    for name, group in groups.items():
        values = [sum(map(optimum, group))]
        values += [sum(replay(trace, make) for trace in group) for make in PEERS.values()]
        values.append(sum(map(product, group)))
        rows.append((name, values))
        pairs = [halves(trace) for trace in group]
        after = [sum(optimum(second) for _, second in pairs)]
        after.append(sum(replay(second, PEERS["LRU"]) for _, second in pairs))
        after.append(sum(product(second) for _, second in pairs))
        after.append(sum(product(second, first.uses) for first, second in pairs))
        restarted.append((name, after))
    table("seconds of loading", ["optimum", *PEERS, "the pool"], rows)
    table(
        "after a restart (second half)",
        ["optimum", "LRU", "nothing known", "history known"],
        restarted,
    )
    weeks = [t for seed in range(10) for t in through_the_day(items, BUDGET, DAYS, seed)]
    days = [
        (
            name,
            [
                sum(map(optimum, group)),
                sum(replay(trace, PEERS["LRU"]) for trace in group),
                sum(map(product, group)),
                sum(product(trace, timed=True) for trace in group),
            ],
        )
        for name, group in grouped(weeks).items()
    ]
    table("through the day", ["optimum", "LRU", "order alone", "hours too"], days)


if __name__ == "__main__":
    main()
