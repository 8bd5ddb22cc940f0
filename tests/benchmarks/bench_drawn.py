"""From a click to the figure on the screen, over a long history, in real JupyterLab.

    PYTHONPATH=tests/browser python tests/benchmarks/bench_drawn.py [--rows 10000000] [--repeat 7]
        [--year STORE] [--resampler-python PYTHON] [--peer-rows 1000000]

``HistoryExplorer`` shows the made-up year of ``history_rows.py``. Timed in the page, from the event
to the second frame after plotly has drawn:

``click``
    Another metric of the whole year is chosen in the box.
``zoom``
    Another week of it is typed into the box, as a drag does.

Beside them, what a person would write without this package: fetch the rows of one metric and hand
them to plotly, and plotly-resampler on rows that are in memory already (an environment of its own:
it needs plotly below 7), both from the call to the second frame after the same browser has drawn
their JSON; a browser takes only so many points, so ``--peer-rows`` of them. Medians of wall time.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_views import ALL_ROWS, RESAMPLER, fill
from jupyter_pages import JupyterServer, LabPage, chromium

from ravenxterm_lab.models import ModelManager

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CELLS = [
    """from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import HistoryExplorer
manager = ModelManager(seed=0, models_dir=[])""",
    """explorer = HistoryExplorer(manager)
explorer.zoom.value = "2025-01-01 to 2026-01-01"
explorer""",
]
METRICS = ("latency", "time_to_first_token", "peak_memory", "throughput")
#: Changes a control of the panel, and returns the milliseconds until another figure is drawn.
CHANGE = """async ([label, value, limit]) => {
    const panel = document.querySelector('.jp-OutputArea-output .raven-lab');
    const box = [...panel.querySelectorAll('.widget-inline-hbox')].find(one =>
        one.querySelector('label')?.textContent.trim() === label).querySelector('select, input');
    const before = panel.querySelector('.js-plotly-plot');
    const frame = () => new Promise(requestAnimationFrame);
    const start = performance.now();
    box.value = value;
    for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true}));
    for (;;) {
        await frame();
        const now = panel.querySelector('.js-plotly-plot');
        if (now && now !== before && now.calcdata && now.querySelector('.main-svg .xtick')) break;
        if (performance.now() - start > limit) throw new Error('not drawn: ' + value);
    }
    await frame();
    await frame();
    return performance.now() - start;
}"""
DRAW = """async url => {
    const figure = await (await fetch(url)).json();
    const place = document.body.appendChild(document.createElement('div'));
    const frame = () => new Promise(requestAnimationFrame);
    const start = performance.now();
    await Plotly.newPlot(place, figure.data, figure.layout);
    await frame();
    await frame();
    const taken = performance.now() - start;
    Plotly.purge(place);
    place.remove();
    return taken;
}"""


def clicks(lab: LabPage, repeat: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each click on a metric, and of each zoom."""
    taken: tuple[list[float], list[float]] = [], []
    for number in range(repeat + 1):
        metric = METRICS[number % len(METRICS)].replace("_", " ")
        taken[0].append(change(lab, "metric", metric))
    for number in range(repeat + 1):
        week = f"2025-{1 + number % 12:02}-02 to 2025-{1 + number % 12:02}-09"
        taken[1].append(change(lab, "zoom (UTC)", week))
    # The first of each loads what the others find loaded.
    return taken[0][1:], taken[1][1:]


def change(lab: LabPage, label: str, value: str) -> float:
    """Change a control; return the seconds until the figure is drawn."""
    milliseconds: float = lab.page.evaluate(CHANGE, [label, value, 120_000])
    return milliseconds / 1000


def drawn(browser: Browser, server: JupyterServer, name: str, text: str) -> float:
    """Return the seconds in which the browser draws a figure's JSON."""
    (server.root / name).write_text(text, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, bypass_csp=True)
    page.set_default_timeout(300_000)
    page.goto(f"{server.url}api/status?token={server.token}")
    page.add_script_tag(path=str(files("plotly") / "package_data" / "plotly.min.js"))
    milliseconds: float = page.evaluate(DRAW, f"{server.url}files/{name}?token={server.token}")
    page.close()
    (server.root / name).unlink()
    return milliseconds / 1000


def peers(
    manager: ModelManager, browser: Browser, server: JupyterServer, options: argparse.Namespace
) -> None:
    """Print what the same rows take without this package."""
    import plotly.graph_objects as go

    sql = f"{ALL_ROWS.format(metric='latency')} LIMIT {options.peer_rows}"
    start = time.perf_counter()
    frame = manager.sql(sql).pl()
    figure = go.Figure()
    for (name,), own in frame.partition_by("model", as_dict=True).items():
        x, y = own["ts"].to_numpy(), own["latency"].to_numpy()
        figure.add_scattergl(x=x, y=y, name=name, mode="markers")
    text = figure.to_json()
    say("all rows", [time.perf_counter() - start], drawn(browser, server, "all.json", text), frame)
    if not options.resampler_python:
        return
    rows, shown = server.root / "rows.parquet", server.root / "resampled.json"
    frame.write_parquet(rows)
    done = subprocess.run(
        [options.resampler_python, "-c", RESAMPLER, rows, str(options.repeat), shown],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = [float(line) for line in done.stdout.split()]
    say("plotly-resampler", made, drawn(browser, server, "r.json", shown.read_text()), frame)


def say(name: str, made: list[float], draw: float, frame: Any) -> None:
    """Print the time of a peer."""
    median = statistics.median(made)
    print(
        f"{name:<24}{median + draw:8.2f} s   ({median:.2f} s to its JSON, {draw:.2f} s to draw;"
        f" {len(frame):,} rows)",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--year", type=Path, help="a store of that year, to copy instead")
    parser.add_argument("--peer-rows", type=int, default=1_000_000)
    parser.add_argument("--resampler-python", help="of an environment with plotly-resampler")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="raven-drawn-") as scratch,
        JupyterServer(Path(scratch) / "lab") as server,
        chromium(Path(scratch)) as browser,
    ):
        path = server.notebook("drawn", CELLS)
        home = server.root / "drawn" / "home"
        if options.year:
            home.mkdir()
            shutil.copytree(options.year, home / "store")
        else:
            fill(home, options.rows)
        lab = LabPage(browser, server)
        lab.open(path)
        lab.run_all(timeout=600)
        lab.page.locator(".raven-lab .js-plotly-plot .main-svg .xtick").first.wait_for()
        for name, taken in zip(("click", "zoom"), clicks(lab, options.repeat), strict=True):
            print(f"{name:<24}{statistics.median(taken):8.2f} s   (at most {max(taken):.2f} s)")
        problems = [*lab.outside, *lab.errors]
        lab.close()
        server.end_kernels()
        if problems:
            raise RuntimeError(f"Requests to other machines, or errors: {problems}")
        manager = ModelManager(home=home, models_dir=[])
        peers(manager, browser, server, options)


if __name__ == "__main__":
    main()
