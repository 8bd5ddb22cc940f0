"""Take a picture of every view in real JupyterLab: empty, small and large; light and dark.

Run it from the checkout, once `raven-lab demo --fetch-only` has fetched the models::

    PYTHONPATH=tests/benchmarks python tests/browser/take_view_pictures.py --out pictures

The small history is recorded by real models while it runs; the large one is the made-up year of
the benchmarks. Each picture is of one cell's output: ``STATE-VIEW-THEME-WIDTH.png``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from history_loading import StoreLoading
from history_rows import chunks
from jupyter_pages import CHROMIUM, JupyterServer, LabPage, chromium

from ravenxterm_lab.config import paths

_SETUP = """from ravenxterm_lab import ModelManager, plots
from ravenxterm_lab.widgets import HardwareMonitor, HistoryExplorer
manager = ModelManager(seed=7)
window = {window}"""
_RUNS = """monitor = manager.monitor(0.2)
for index in range(8):
    for quantization in ("Q4_0", "Q4_1", "Q8_0"):
        run = manager.run("text_generation", "Name a colour.", {"quantizations": [quantization]},
                          parameters={"max_tokens": 8})
        manager.feedback(run, index % 2)
for _ in range(3):
    run = manager.run("embedding", ["one", "two"])
manager.record_execution_metrics(run.model.name, {"success": False, "error": "out of memory"})
monitor.stop()"""
_RANKED = 'manager.get_model_recommendations("text_generation")'
_VIEWS = {
    "history-latency": 'plots.history(manager, metric="latency", **window)',
    "history-memory": 'plots.history(manager, metric="peak_memory", **window)',
    "success": "plots.success(manager, **window)",
    "distributions": 'plots.distributions(manager, metric="throughput", **window)',
    "predictions": "plots.predictions(manager, **window)",
    "decisions": "plots.decisions(manager, **window)",
    "hardware": "plots.hardware(manager)",
    "memory": "plots.memory(manager)",
    "disk": "plots.disk(manager)",
    "frontier": f"plots.frontier({_RANKED})",
    "ranking": f"plots.ranking({_RANKED})",
    "explorer": "HistoryExplorer(manager)",
    "monitor": "HardwareMonitor(manager)",
}
_YEAR = '{"start": "2025-01-01", "end": "2026-01-01"}'
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def main() -> int:
    """Take the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the pictures")
    parser.add_argument("--models", type=Path, help="directory of the demo models")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the large history")
    parser.add_argument("--widths", type=int, nargs="+", default=[800, 1600])
    parser.add_argument("--states", nargs="+", default=["empty", "small", "large"])
    options = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} is not there: install Debian's chromium.", file=sys.stderr)
        return 1
    models = options.models or Path(
        os.environ.get("RAVENXTERM_TEST_MODELS") or paths().models / "demo"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="raven-pictures-") as scratch,
        JupyterServer(Path(scratch) / "lab") as server,
        chromium(Path(scratch)) as browser,
    ):
        for state in options.states:
            setup = [_SETUP.format(window=_YEAR if state == "large" else "{}")]
            setup += [_RUNS] if state == "small" else []
            path = server.notebook(
                state, [*setup, *_VIEWS.values()], None if state == "empty" else models
            )
            if state == "large":
                _fill(server.root / state / "home", options.rows)
            for width in options.widths:
                lab = LabPage(browser, server, width=width, height=1000)
                _take(lab, path, options.out, state, width, len(setup))
                problems = [*lab.outside, *lab.errors]
                lab.close()
                if problems:
                    raise RuntimeError(f"Requests to other machines, or errors: {problems}")
    return 0


def _fill(home: Path, rows: int) -> None:
    loading = StoreLoading(home / "store")
    for chunk in chunks(rows, seed=0, size=250_000):
        loading.take(chunk)
    loading.finish()


def _take(lab: LabPage, path: str, out: Path, state: str, width: int, before: int) -> None:
    lab.open(path)
    page = lab.page
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    lab.run_all(timeout=600)
    for name, theme in _THEMES.items():
        lab.theme(theme)
        page.wait_for_timeout(1500)
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        for index, view in enumerate(_VIEWS):
            output = cells.nth(before + index).locator(".jp-OutputArea").first
            output.scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            output.screenshot(path=out / f"{state}-{view}-{name}-{width}.png")


if __name__ == "__main__":
    raise SystemExit(main())
