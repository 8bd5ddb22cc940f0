"""Take a picture of every view, panel and card in real JupyterLab: empty, small and large.

Run it from the checkout, once `raven-lab demo --fetch-only` has fetched the models::

    PYTHONPATH=tests/benchmarks python tests/browser/take_view_pictures.py --out pictures

The small history is recorded by real models while it runs; the large one is the made-up year of
the benchmarks. Each picture is of one cell's output: ``STATE-VIEW-THEME-WIDTH.png``. What a page
shows of a text that is cut off, lies on another or makes its cell scroll sideways is printed, and
makes the exit status 1: the pictures are still for looking at one by one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from jupyter_pages import CHROMIUM, JupyterServer, LabPage, chromium
from picture_history import YEAR, fill
from picture_misfits import misfits

from ravenxterm_lab.config import paths

_SETUP = """from ravenxterm_lab import ModelManager, plots
from ravenxterm_lab.widgets import (
    Dashboard, HardwareMonitor, HistoryExplorer, PreferencesPanel, SelectionPanel)
manager = ModelManager(seed=7)
window = {window}
ranked = manager.get_model_recommendations("text_generation")
def shown_at(panel, place):
    panel.tabs.selected_index = place
    return panel
def far_back(panel):
    panel.window.value = 36_500.0
    return panel"""
_RUNS = """monitor = manager.monitor(0.2)
for index in range(8):
    for quantization in ("Q4_0", "Q4_1", "Q8_0"):
        run = manager.run("text_generation", "Name a colour.", {"quantizations": [quantization]},
                          parameters={"max_tokens": 8})
        manager.feedback(run, index % 2)
for _ in range(3):
    manager.run("embedding", ["one", "two"])
manager.record_execution_metrics(run.model.name, {"success": False, "error": "out of memory"})
monitor.stop()
ranked = manager.get_model_recommendations("text_generation")"""
_VIEWS = {
    "history-latency": 'plots.history(manager, metric="latency", **window)',
    "history-throughput": 'plots.history(manager, metric="throughput", **window)',
    "history-first": 'plots.history(manager, metric="time_to_first_token", **window)',
    "history-memory": 'plots.history(manager, metric="peak_memory", **window)',
    "success": "plots.success(manager, **window)",
    "distributions": 'plots.distributions(manager, metric="throughput", **window)',
    "predictions": "plots.predictions(manager, **window)",
    "decisions": "plots.decisions(manager, **window)",
    "replay": "plots.replay(manager.replay(progress=False))",
    "hardware": "plots.hardware(manager, **window)",
    "memory": "plots.memory(manager)",
    "disk": "plots.disk(manager)",
    "frontier": "plots.frontier(ranked)",
    "ranking": "plots.ranking(ranked)",
}
_PANELS = {
    "explorer": "far_back(HistoryExplorer(manager))",
    "monitor": "HardwareMonitor(manager)",
    "preferences": "PreferencesPanel(manager)",
    "selection": "SelectionPanel(manager)",
    **{
        f"dashboard-{name}": f"shown_at(Dashboard(manager), {place})"
        for place, name in enumerate(("select", "history", "hardware", "models", "messages"))
    },
}
_CARDS = {
    "card-manager": "manager",
    "card-registry": "manager.registry",
    "card-preferences": "manager.preferences",
    "card-hardware": "manager.registry.hardware_profile",
    "card-resources": "manager.get_resource_usage()",
    "card-ranking": "ranked",
    "card-estimates": "manager.estimates()",
    "card-space": "manager.registry.space()",
    "card-store": "manager.store.info()",
    "card-messages": "manager.messages",
}
#: What there is with a model only.
_MODEL_CARDS = {
    "card-model": "ranked[0].model",
    "card-recommendation": "ranked[0]",
    "card-why-not": "ranked.why_not(ranked[-1].model.name)",
    "card-estimate": "manager.estimate(ranked[0].model)",
    "card-elsewhere": 'manager.estimate(ranked[0].model, hardware="RTX 4090 24GB, 64 GiB RAM")',
    "card-history": "manager.get_model_performance_history(ranked[0].model)",
}
#: Of the page; an output that is taller would show JupyterLab's own bars in its picture.
_HEIGHT = 2600
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def main() -> int:
    """Take the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the pictures")
    parser.add_argument("--models", type=Path, help="directory of the demo models")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the large history")
    parser.add_argument("--year", type=Path, help="a store of that year, to copy instead")
    parser.add_argument("--widths", type=int, nargs="+", default=[800, 1600])
    parser.add_argument("--states", nargs="+", default=["empty", "small", "large"])
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of names of views")
    options = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} is not there: install Debian's chromium.", file=sys.stderr)
        return 1
    models = options.models or Path(
        os.environ.get("RAVENXTERM_TEST_MODELS") or paths().models / "demo"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="raven-pictures-") as scratch,
        JupyterServer(Path(scratch) / "lab") as server,
        chromium(Path(scratch)) as browser,
    ):
        for state in options.states:
            setup, views = cells_of(state)
            views = {
                name: code for name, code in views.items() if name.startswith(tuple(options.only))
            }
            path = server.notebook(
                state, [*setup, *views.values()], None if state == "empty" else models
            )
            if state == "large":
                fill(server.root / state / "home", options.rows, options.year)
            for width in options.widths:
                lab = LabPage(browser, server, width=width, height=_HEIGHT)
                found += _take(lab, path, options.out, f"{state}-{{}}-{width}", list(views))
                problems = [*lab.outside, *lab.errors]
                lab.close()
                if problems:
                    raise RuntimeError(f"Requests to other machines, or errors: {problems}")
    print("\n".join(found) or "No text is cut off or lies on another.")
    return 1 if found else 0


def cells_of(state: str) -> tuple[list[str], dict[str, str]]:
    """Return the code of the cells that come first, and that of each view by its name.

    Parameters
    ----------
    state : str
        ``"empty"``, ``"small"`` or ``"large"``.
    """
    setup = [_SETUP.format(window=YEAR if state == "large" else "{}")]
    setup += [_RUNS] if state == "small" else []
    views = {**_VIEWS, **_PANELS, **_CARDS}
    if state != "empty":
        views |= _MODEL_CARDS
    if state == "large":
        # Half a million decisions are not decided again for a picture.
        del views["replay"]
    return setup, views


def _take(lab: LabPage, path: str, out: Path, name: str, views: list[str]) -> list[str]:
    """Take a picture of each of the last cells; return what does not fit."""
    lab.open(path)
    page = lab.page
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    lab.run_all(timeout=900)
    for cell in lab.cells():
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise RuntimeError(f"{cell['source']}: {output['ename']}: {output['evalue']}")
    found: list[str] = []
    for short, theme in _THEMES.items():
        lab.theme(theme)
        page.wait_for_timeout(1500)
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        before = cells.count() - len(views)
        for index, view in enumerate(views):
            output = cells.nth(before + index).locator(".jp-OutputArea").first
            output.scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            label = name.format(f"{view}-{short}")
            output.screenshot(path=out / f"{label}.png")
            found += [f"{label}: {misfit}" for misfit in misfits(output)]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
