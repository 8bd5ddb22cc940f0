"""Predicted against measured speed: published runs, community runs, and real runs here.

Run by hand: ``python tests/benchmarks/bench_speed.py``. Without options it fits the roofline of
GPUs on `llama3_decode_speed.csv` with one device left out at a time and prints the errors beside
those of other structures and of ``0.55 × bandwidth / bytes``; ``--judge CSV`` takes the product
as it is to rows of the same columns that no fit has seen. ``--replay`` predicts the community
runs of `local_speed.parquet` one after the other, each from those before it, and prints the
errors and how often the 80% intervals held, by tier; ``--history`` does the same with what a
``RAVENXTERM_HOME`` recorded on this machine. ``--live`` runs the demo models here through
a `ModelManager` and compares the runs after the third with what was predicted for them; it needs
a quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from speed_rows import Replayed, fitting_row, published_rows, replay, replay_recorded

from ravenxterm_lab.estimation.roofline import Place, effective_bandwidth, fit_gpu
from ravenxterm_lab.estimation.speed import estimate_speed
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.store import Store
from ravenxterm_lab.tables import Table

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Row = tuple[float, float, int, float]
Model = Callable[[Row], float]
Fit = Callable[[Sequence[Row]], Model]


def product(rows: Sequence[Row]) -> Model:
    """Fit the structure of the product; it returns seconds a token."""
    known = fit_gpu(rows)

    def seconds(row: Row) -> float:
        moved, bandwidth, layers, _ = row
        place = Place(HardwareType.CUDA, bandwidth)
        return known.layer_seconds * layers + moved / effective_bandwidth(place, known)

    return seconds


def linear(*features: Callable[[Row], float]) -> Fit:
    """Return a fit of a sum of features by relative least squares, no coefficient below 0."""

    def fit(rows: Sequence[Row]) -> Model:
        design = np.array([[feature(row) / row[3] for feature in features] for row in rows])
        keep = list(range(len(features)))
        while True:
            solved = np.linalg.lstsq(design[:, keep], np.ones(len(rows)), rcond=None)[0]
            if (solved > 0).all():
                break
            keep = [index for index, value in zip(keep, solved, strict=True) if value > 0]
        known = dict(zip(keep, solved, strict=True))
        return lambda row: sum(known.get(i, 0.0) * f(row) for i, f in enumerate(features))

    return fit


def power(rows: Sequence[Row]) -> Model:
    """Fit ln t = c + p · ln(bytes / bandwidth)."""
    slope, intercept = np.polyfit(
        [math.log(moved / wide) for moved, wide, _, _ in rows],
        [math.log(seconds) for *_, seconds in rows],
        1,
    )
    return lambda row: math.exp(intercept + slope * math.log(row[0] / row[1]))


STRUCTURES: dict[str, Fit] = {
    "0.55 × bandwidth / bytes": lambda _: lambda row: row[0] / row[1] / 0.55,
    "c · (bytes / bandwidth)^p": power,
    "a + b · bytes / bandwidth": linear(lambda _: 1.0, lambda r: r[0] / r[1]),
    "a · layers + b · bytes / bandwidth": linear(lambda r: r[2], lambda r: r[0] / r[1]),
    "… + c · bytes": linear(lambda r: r[2], lambda r: r[0] / r[1], lambda r: r[0]),
    "a · layers + bytes / min6(bandwidth, ceiling)": product,
}


def left_out(rows: Sequence[Row], groups: Sequence[str], fit: Fit) -> list[float]:
    """Return the relative error of each predicted speed, its group left out of the fit."""
    errors = []
    for row, group in zip(rows, groups, strict=True):
        others = [r for r, g in zip(rows, groups, strict=True) if g != group]
        errors.append(abs(row[3] / fit(others)(row) - 1))
    return errors


def published(data: Path) -> None:
    """Print the errors on the published runs, one device left out at a time."""
    table = published_rows(data)
    rows, devices = [fitting_row(row) for row in table], [row["device"] for row in table]
    chips = ["A100" if "A100" in device else device for device in devices]
    lines = []
    for name, fit in STRUCTURES.items():
        cells = [name]
        for groups in (devices, chips):
            errors = left_out(rows, groups, fit)
            within = sum(error <= 0.3 for error in errors) / len(errors)
            cells += [f"{statistics.mean(errors):.1%}", f"{within:.0%}", f"{max(errors):.0%}"]
        lines.append(cells)
    header = ["decode speed, left out:", "device: mean error", "within 30%", "worst"]
    header += ["both A100: mean error", "within 30%", "worst"]
    print(Table(header, lines).text())
    seconds = product(rows)

    def unseen(device: str) -> Model:
        return product([row for row, other in zip(rows, devices, strict=True) if other != device])

    per_run = [
        [
            row["device"], row["model"], row["quantization"], row["decode_tokens_s"],
            f"{1 / unseen(row['device'])(fitted):.1f}",
            f"{0.55 * fitted[1] / fitted[0]:.1f}",
        ]
        for row, fitted in zip(table, rows, strict=True)
    ]  # fmt: skip
    header = ["device", "model", "file", "measured tok/s", "predicted", "0.55 × bw / bytes"]
    print(f"\n{Table(header, per_run).text()}")
    print(f"\nFitted on all rows: {fit_gpu(rows)}; in sample: ", end="")
    print(f"{statistics.mean(abs(row[3] / seconds(row) - 1) for row in rows):.1%}")


def judge(file: Path) -> None:
    """Print the errors of the product as it is on published runs that no fit has seen."""
    with file.open(encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    lines, errors, held = [], [], 0
    for row in rows:
        apple = re.match(r"(Apple )?M\d", row["device"])
        model = ModelMetadata(
            row["model"], ModelType.GGUF, Path("m.gguf"), int(float(row["file_bytes"])),
            parameter_count=int(float(row["parameters_b"]) * 1e9),
        )  # fmt: skip
        found = estimate_speed(
            model,
            memory_bandwidth=float(row["memory_bandwidth_gb_s"]) * 1e9,
            device=HardwareType.METAL if apple else HardwareType.CUDA,
        ).decode
        actual = float(row["decode_tokens_s"])
        errors.append(abs(found.value / actual - 1))
        held += found.low <= actual <= found.high
        rule = 0.55 * float(row["memory_bandwidth_gb_s"]) * 1e9 / float(row["file_bytes"])
        lines.append([
            row["device"], row["model"], row["quantization"], row["decode_tokens_s"],
            f"{found.value:.1f}", f"{found.low:.0f} to {found.high:.0f}", f"{rule:.1f}",
        ])  # fmt: skip
    header = ["device", "model", "file", "measured tok/s", "predicted", "80% interval"]
    print(Table([*header, "0.55 × bw / bytes"], lines).text())
    within = sum(error <= 0.3 for error in errors) / len(errors)
    print(
        f"mean error {statistics.mean(errors):.1%}, {within:.0%} within 30%, "
        f"interval held {held} of {len(rows)}"
    )


def community(data: Path) -> None:
    """Print errors and coverage of the community runs, in order, by tier."""
    import polars as pl

    by_tier(list(replay(pl.read_parquet(data / "local_speed.parquet").to_dicts())))


def recorded(store: Store, hardware: str) -> None:
    """Print the same of what this machine recorded, for each quantity."""
    done = list(replay_recorded(store, hardware))
    for quantity in dict.fromkeys(quantity for quantity, _ in done):
        print(f"\n{quantity}, replayed:")
        by_tier([run for one, run in done if one == quantity])


def by_tier(done: Sequence[Replayed]) -> None:
    """Print errors and coverage by tier."""
    lines = []
    for tier in ("measured", "scaled", "device", "roofline", "all"):
        runs = [run for run in done if tier in (run.tier, "all")]
        if not runs:
            continue
        errors = [abs(math.log(run.actual / run.predicted)) for run in runs]
        lines.append([
            tier, str(len(runs)), f"{math.expm1(statistics.median(errors)):.1%}",
            f"{sum(run.held for run in runs) / len(runs):.1%}",
            f"× {statistics.median(run.high / run.low for run in runs):.2f}",
        ])  # fmt: skip
    header = ["tier", "runs", "median error", "80% interval held", "width"]
    print(Table(header, lines).text())


def live(models: Path, runs: int, tokens: int) -> None:
    """Run each demo model several times here, and compare predicted with measured."""
    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.models.running import Request, run_selection
    from ravenxterm_lab.requirements import TaskRequirements

    prompts = [
        "Why is the sky blue?", "Name three rivers in Europe and say where each begins.",
        "Write a short letter to a friend about the garden.", "What is a prime number?",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        manager = ModelManager(models, home=home, seed=0)
        for model in manager.registry.available_models.values():
            if "text_generation" not in model.task_types or not model.runtimes:
                continue
            for turn in range(runs):
                # Loaded anew for every second run, so that loads have a history too.
                if turn % 2 == 0:
                    manager.pool.unload_idle()
                run_selection(
                    manager._bench,
                    manager.pool,
                    manager.selector.select([model], "text_generation"),
                    TaskRequirements(),
                    Request(
                        prompts[turn % len(prompts)], {"max_tokens": tokens, "temperature": 0.0}
                    ),
                )
        print(
            manager.sql(
                """
                WITH numbered AS (
                    SELECT *, row_number() OVER (PARTITION BY model, quantity ORDER BY ts) AS run
                    FROM predictions WHERE actual IS NOT NULL
                )
                SELECT
                    coalesce(model, 'all of them') AS model, quantity,
                    round(100 * median(abs(actual / predicted - 1)) FILTER (run = 1), 1)
                        AS "first run, error %",
                    round(100 * median(abs(actual / predicted - 1)) FILTER (run BETWEEN 2 AND 3), 1)
                        AS "runs 2 and 3",
                    round(100 * median(abs(actual / predicted - 1)) FILTER (run > 3), 1)
                        AS "after three",
                    count(*) FILTER (run > 3) AS n,
                    round(100 * avg((actual BETWEEN low AND high)::INTEGER)) AS "interval held %",
                    round(median(actual), 3) AS "median measured"
                FROM numbered
                GROUP BY GROUPING SETS ((model, quantity), (quantity))
                ORDER BY quantity, numbered.model NULLS LAST
                """
            )
        )
        print(manager.calibration())
        here = manager.registry.hardware_profile
        recorded(manager.store, here.fingerprint)
        wide, fast = here.memory_bandwidth, here.matrix_speed
        print(f"\nThis machine: {wide or 0:.3g} bytes/s, {fast or 0:.3g} FLOP/s, measured.")
        refit(manager.store)
        manager.close()


def refit(store: Store) -> None:
    """Print by what the prior of each part would have to be multiplied to suit the runs here."""
    for quantity in ("throughput", "time_to_first_token", "load_seconds"):
        rows = store.sql(
            "SELECT basis->'parts', actual FROM predictions WHERE quantity = ? AND actual > 0",
            [quantity],
        ).fetchall()
        parts = [json.loads(text) for text, _ in rows]
        names = sorted({name for one in parts for name in one})
        seconds = [1 / value if quantity == "throughput" else value for _, value in rows]
        # Relative least squares around 1, so that what the runs cannot tell apart stays there.
        design = [
            [one.get(n, 0.0) / s for n in names] for one, s in zip(parts, seconds, strict=True)
        ]
        ridge = 0.3 * np.eye(len(names))
        solved = np.linalg.lstsq(
            np.vstack([design, ridge]),
            np.append(np.ones(len(rows)), np.full(len(names), 0.3)),
            rcond=None,
        )[0]
        said = ", ".join(f"{n} × {factor:.2f}" for n, factor in zip(names, solved, strict=True))
        print(f"prior of {quantity}: {said}")


def main() -> None:
    """Parse the command line and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the measured data")
    parser.add_argument("--judge", type=Path, metavar="CSV", help="judge the product on other rows")
    parser.add_argument("--replay", action="store_true", help="replay the community runs")
    parser.add_argument("--history", type=Path, metavar="HOME", help="replay what a home recorded")
    parser.add_argument("--live", action="store_true", help="run real models here")
    parser.add_argument("--models", type=Path, help="directory of models for --live")
    parser.add_argument("--runs", type=int, default=8, help="runs of each model for --live")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each run for --live")
    options = parser.parse_args()
    if options.live:
        from ravenxterm_lab.config import paths

        live(options.models or paths().models / "demo", options.runs, options.tokens)
    elif options.judge:
        judge(options.judge)
    elif options.history:
        from ravenxterm_lab.models import Workbench

        bench = Workbench(options.history)
        recorded(bench.store, bench.hardware.fingerprint)
    elif options.replay:
        community(options.data)
    else:
        published(options.data)


if __name__ == "__main__":
    main()
