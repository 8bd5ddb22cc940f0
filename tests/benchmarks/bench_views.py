"""Views of a long history beside fetching all of it, and what the live monitor costs.

    python tests/benchmarks/bench_views.py [--rows 10000000] [--repeat 5] [--live 30]
        [--resampler-python PYTHON] [--directory PATH]

The rows of ``history_rows.py``, a made-up year, go into a store through its own schema. Then:

``view``
    From the call to the JSON that goes to the browser: queries, figure, table.
``all rows``
    What a person would write without this package: select the metric of every execution, and
    hand it to plotly (``Scattergl``, a trace a model), to JSON.
``plotly-resampler``
    The same rows, in memory already, in its ``FigureResampler`` with 1,000 points a trace, to
    JSON; with the Python of an environment that holds it (it needs plotly below 7).

Times are medians in wall time; the first call, which imports and opens, is told apart. What the
browser then takes to draw is not in them. ``--live`` is measured in a Jupyter kernel each: the
CPU time of the whole kernel for so long, after a pause in which it settles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from history_loading import StoreLoading
from history_rows import chunks

from ravenxterm_lab import plots
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench

YEAR = {"start": "2025-01-01", "end": "2026-01-01"}
WEEK = {"start": "2025-06-02", "end": "2025-06-09"}
HOUR = {"start": "2025-06-02 10:00", "end": "2025-06-02 11:00"}
CHUNK = 250_000
#: A kernel imports and settles before it is measured (s).
SETTLING = 8.0
ALL_ROWS = """SELECT model, ts, {metric}
FROM executions WHERE success AND ts BETWEEN '2025-01-01' AND '2026-01-01' ORDER BY ts"""
RESAMPLER = """
import sys, time
import pandas as pd, plotly.graph_objects as go
from plotly_resampler import FigureResampler
frame = pd.read_parquet(sys.argv[1])
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    figure = FigureResampler(go.Figure(), default_n_shown_samples=1000)
    for name, own in frame.groupby("model", observed=True):
        figure.add_trace(go.Scattergl(name=name), hf_x=own["ts"], hf_y=own[frame.columns[-1]])
    text = figure.to_json()
    print(time.perf_counter() - start)
if len(sys.argv) > 3:
    open(sys.argv[3], "w").write(text)
"""
LIVE = """
import tempfile, time
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import HardwareMonitor
manager = ModelManager(home=tempfile.mkdtemp(dir={directory!r}), models_dir=[])
manager.registry.hardware_profile
kind = {kind!r}
if kind == "monitor":
    monitor = manager.monitor(1.0)
if kind == "live view":
    panel = HardwareMonitor(manager)
    panel.start()
"""
MEASURE = """
time.sleep({settling})
start, cpu = time.perf_counter(), time.process_time()
time.sleep({seconds})
print((time.process_time() - cpu) / (time.perf_counter() - start))
"""


def fill(home: Path, rows: int) -> None:
    """Put so many executions into the store of a home."""
    home.mkdir()
    loading = StoreLoading(home / "store")
    for chunk in chunks(rows, seed=0, size=CHUNK):
        loading.take(chunk)
    loading.finish()


def seconds(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Return the time of the first call, and the median of the others."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[0], statistics.median(times[1:])


def view(draw: Callable[..., plots.View], manager: ModelManager, **options: Any) -> int:
    """Draw a view as a cell would; return the bytes of its JSON."""
    drawn = draw(manager, **options)
    return len(json.dumps(drawn._repr_mimebundle_())) + len(drawn._html())


def all_rows(manager: ModelManager, metric: str) -> int:
    """Fetch every execution and hand it to plotly; return the bytes of its JSON."""
    import plotly.graph_objects as go

    frame = manager.sql(ALL_ROWS.format(metric=metric)).pl()
    figure = go.Figure()
    for (name,), own in frame.partition_by("model", as_dict=True).items():
        x, y = own["ts"].to_numpy(), own[metric].to_numpy()
        figure.add_scattergl(x=x, y=y, name=name, mode="markers")
    return len(figure.to_json())


def resampled(manager: ModelManager, python: str, scratch: Path, repeat: int) -> float:
    """Return the median seconds of plotly-resampler on the same rows."""
    file = scratch / "rows.parquet"
    manager.sql(ALL_ROWS.format(metric="latency")).pl().write_parquet(file)
    done = subprocess.run(
        [python, "-c", RESAMPLER, file, str(repeat)], capture_output=True, text=True, check=True
    )
    file.unlink()
    return statistics.median(float(line) for line in done.stdout.split())


def live(kind: str, duration: float, scratch: Path) -> float:
    """Return the share of a core that a kernel takes while it does so."""
    import nbformat
    from nbclient import NotebookClient

    start = LIVE.format(kind=kind, directory=str(scratch))
    measure = MEASURE.format(settling=SETTLING, seconds=duration)
    cells = [nbformat.v4.new_code_cell(code) for code in (start, measure)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=600, store_widget_state=False).execute()
    return float(notebook.cells[1].outputs[0]["text"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--live", type=float, default=0.0, help="seconds; 0 leaves it out")
    parser.add_argument("--resampler-python", help="of an environment with plotly-resampler")
    parser.add_argument("--directory", type=Path, help="for the store, removed afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raven-views-", dir=options.directory) as name:
        scratch = Path(name)
        if options.rows:
            measure_views(scratch, options)
        if options.live:
            print(f"\nCPU of a kernel in {options.live:g} s (% of a core)")
            for kind in ("idle", "monitor", "live view"):
                print(f"{kind:<32}{100 * live(kind, options.live, scratch):8.2f}", flush=True)


def measure_views(scratch: Path, options: argparse.Namespace) -> None:
    """Measure each view and its peers, and print a line for each."""
    fill(scratch / "home", options.rows)
    profile = HardwareProfile.detect(measure_bandwidth=False)
    bench = Workbench(scratch / "home", hardware=profile)
    manager = ModelManager(scratch / "none", workbench=bench)
    asked: list[tuple[str, Callable[[], int]]] = []
    for metric in ("latency", "throughput", "time_to_first_token", "peak_memory"):
        call = partial(view, plots.history, manager, metric=metric, **YEAR)
        asked.append((f"history of {metric}, a year", call))
    asked += [
        ("history, zoomed to a week", partial(view, plots.history, manager, **WEEK)),
        ("history, zoomed to an hour", partial(view, plots.history, manager, **HOUR)),
        ("success, a year", partial(view, plots.success, manager, **YEAR)),
        ("distributions, a year", partial(view, plots.distributions, manager, **YEAR)),
    ]
    print(f"{options.rows:,} executions       first (s)  median (s)   MB to the browser")
    ours = None
    for label, call in asked:
        first, median = seconds(call, options.repeat)
        ours = ours or median
        print(f"{label:<32}{first:8.3f}{median:12.3f}{call() / 1e6:12.2f}", flush=True)
    first, median = seconds(lambda: all_rows(manager, "latency"), 1)
    size = all_rows(manager, "latency") / 1e6
    print(f"{'all rows, of latency':<32}{first:8.3f}{median:12.3f}{size:12.2f}")
    if ours:
        print(f"all rows / history of latency: {median / ours:.1f}")
    if options.resampler_python:
        peer = resampled(manager, options.resampler_python, scratch, options.repeat)
        print(f"{'plotly-resampler, of latency':<40}{peer:12.3f}")
        if ours:
            print(f"plotly-resampler / history of latency: {peer / ours:.1f}")


if __name__ == "__main__":
    main()
