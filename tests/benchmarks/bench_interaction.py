"""From a person's action to the change on the screen, in real JupyterLab and Chromium.

    python tests/benchmarks/bench_interaction.py [--models 100] [--executions 0 10000]
        [--repeat 40] [--live 0] [--directory PATH]

``preferences``
    The dashboard of so many models that can all do the task, small files that were made for this,
    in a home with so many executions. Another mode is chosen, then *Apply* is pressed: the
    time runs from the click to the frame in which the new ranking is drawn. Where it goes: to the
    kernel; in it, step by step; from the moment the ranking was made to the change of the page;
    from there to the drawn frame.
``floor``
    The least that any panel could take: a button whose handler puts one of two texts that were
    made before, as long as the ranking's HTML, into an ``ipywidgets.HTML``.
``live``
    The live hardware monitor for so many seconds: memory of the page (JavaScript heap after a
    collection, nodes), memory and CPU share of the kernel, minute by minute.

The page tells the time by its own clock, the kernel by that of the same machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from bench_selection_speed import fill, manager_on, write_models
from jupyter_pages import CHROMIUM, JupyterServer, LabPage, chromium

#: Candidates with a history, each with several of the tasks.
USED = 20
DASHBOARD = """import json, time
import ipywidgets
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard, selection
manager = ModelManager(seed=0)
dashboard = Dashboard(manager)
spans = []
def timed(owner, name, label):
    inner = getattr(owner, name)
    def call(*arguments, **named):
        start = time.time()
        try:
            return inner(*arguments, **named)
        finally:
            spans.append((label, start, time.time()))
    setattr(owner, name, call)
timed(dashboard.preferences, "apply", "handler")
timed(manager, "update_preferences", "check, save, record")
timed(manager, "get_model_recommendations", "rank")
timed(selection, "ranking_html", "HTML")
timed(dashboard.selection, "_explain", "why not")
dashboard"""
FLOOR = """texts = [dashboard.selection._table.value, dashboard.selection._table.value + " "]
shown, button = ipywidgets.HTML(texts[0]), ipywidgets.Button(description="Press")
def press(_):
    shown.value = texts[shown.value == texts[0]]
button.on_click(press)
ipywidgets.VBox([button, shown]).add_class("floor")"""
TELL = "print(json.dumps(spans)); spans.clear()"
#: Milliseconds since the epoch of a click, of the new content, and of the frame that shows it.
CLICK = """([button, content]) => new Promise(resolve => {
    const now = () => performance.timeOrigin + performance.now();
    const before = document.querySelector(content);
    const times = {};
    new MutationObserver((_, observer) => {
        const after = document.querySelector(content);
        if (!after || after === before) return;
        observer.disconnect();
        times.changed = now();
        times.different = after.textContent !== before.textContent;
        const channel = new MessageChannel();
        channel.port1.onmessage = () => { times.drawn = now(); resolve(times); };
        requestAnimationFrame(() => channel.port2.postMessage(0));
    }).observe(document.body, {childList: true, subtree: true});
    times.click = now();
    document.evaluate(button, document, null, 9).singleNodeValue.click();
})"""
APPLY = "//button[contains(@class,'jupyter-button')][contains(.,'Apply')]"
PRESS = "//button[contains(@class,'jupyter-button')][contains(.,'Press')]"
RANKING = "[aria-label='Candidates, best first']"
MODES = ("speed", "memory", "balanced")
LIVE = """import os, psutil, time
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import HardwareMonitor
manager = ModelManager(seed=0)
panel = HardwareMonitor(manager)
panel.start()
panel"""
KERNEL = (
    "print(psutil.Process().memory_info().rss, time.process_time(),"
    " len(manager._bench.monitoring.running.samples))"
)


def show(label: str, milliseconds: list[float]) -> None:
    """Print one line."""
    middle, late = statistics.median(milliseconds), np.percentile(milliseconds, 95)
    print(f"{label:<48}{middle:10.1f}{late:10.1f}", flush=True)


def pressed(lab: LabPage, button: str, content: str) -> dict[str, float]:
    """Click, and return the moments (ms since the epoch)."""
    times: dict[str, float] = lab.page.evaluate(CLICK, [button, content])
    return times


def preferences(lab: LabPage, path: str, repeat: int) -> None:
    """Print what an edit of the preferences takes, and the floor."""
    panel = lab.run_notebook(path)
    panel.locator(RANKING).wait_for()
    lab.execute(TELL)
    steps: dict[str, list[float]] = {}
    sizes = set()
    for number in range(-2, repeat):  # the first two warm everything up
        panel.get_by_role("radio", name=MODES[number % len(MODES)]).check()
        lab.says("1 edit, not applied yet")
        times = pressed(lab, APPLY, RANKING)
        assert times["different"]
        lab.says("Applied and saved")
        spans = json.loads(lab.execute(TELL))
        took: dict[str, float] = {}
        for name, begun, ended in spans:
            took[name] = took.get(name, 0.0) + 1e3 * (ended - begun)
        begun = 1e3 * next(start for name, start, _ in spans if name == "handler")
        sent = 1e3 * next(end for name, _, end in spans if name == "HTML")
        took = {
            "click → drawn": times["drawn"] - times["click"],
            "  click → handler in the kernel": begun - times["click"],
            "  handler until the HTML is made": sent - begun,
            "    check, save, record the preferences": took["check, save, record"],
            "    rank": took["rank"],
            "    HTML of the ranking": took["HTML"],
            "  HTML made → page changed": times["changed"] - sent,
            "  page changed → drawn": times["drawn"] - times["changed"],
            "handler in all, which keeps the kernel busy": took["handler"],
            "  why not, of it": took["why not"],
        }
        if number >= 0:
            for label, value in took.items():
                steps.setdefault(label, []).append(value)
            sizes.add(len(panel.locator(RANKING).inner_html()))
    for label, values in steps.items():
        show(label, values)
    floor = [
        one["drawn"] - one["click"]
        for one in (pressed(lab, PRESS, f".floor {RANKING}") for _ in range(repeat + 2))
    ][2:]
    show(f"floor: {max(sizes) / 1e3:.0f} kB of HTML from a button", floor)
    ratio = statistics.median(steps["click → drawn"]) / statistics.median(floor)
    print(f"click → drawn / floor: {ratio:.1f}")


def home_of(server: JupyterServer, name: str, models: int, executions: int) -> None:
    """Make a home with so many models, and with a history."""
    home = server.root / name / "home"
    write_models(home / "models", models)
    if executions:
        manager = manager_on(home, home / "models")
        manager.store.close()
        shutil.rmtree(manager.store.path, ignore_errors=True)
        found = [m.fingerprint for m in manager.registry.available_models.values()]
        hardware = manager._bench.hardware.fingerprint
        fill(manager.store.path, executions, [f for f in found if f][:USED], hardware)


def live(lab: LabPage, path: str, seconds: float) -> None:
    """Print how the memory of the page and of the kernel goes on while it is live."""
    lab.run_notebook(path)
    devtools = lab.page.context.new_cdp_session(lab.page)
    devtools.send("Performance.enable")
    end = time.monotonic() + seconds
    then = cpu = 0.0
    header = ("heap MB", "nodes", "kernel MB", "% of a core", "samples")
    print(f"\n{'live':<10}" + "".join(f"{name:>12}" for name in header))
    while True:
        devtools.send("HeapProfiler.collectGarbage")
        measured = devtools.send("Performance.getMetrics")["metrics"]
        page = {one["name"]: one["value"] for one in measured}
        resident, spent, samples = lab.execute(KERNEL).split()
        share = f"{100 * (float(spent) - cpu) / (time.monotonic() - then):.2f}" if then else ""
        then, cpu = time.monotonic(), float(spent)
        print(
            f"{seconds - (end - then):>8.0f} s{page['JSHeapUsedSize'] / 1e6:12.1f}"
            f"{page['Nodes']:12.0f}{int(resident) / 1e6:12.1f}{share:>12}{samples:>12}",
            flush=True,
        )
        if then >= end:
            return
        lab.page.wait_for_timeout(1e3 * min(60.0, end - then))


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--executions", type=int, nargs="*", default=[0, 10_000])
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--live", type=float, default=0.0, help="seconds; 0 leaves it out")
    parser.add_argument("--directory", type=Path, help="where the homes are made and removed")
    options = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} is absent: install Debian's chromium", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as name,
        JupyterServer(Path(name) / "jupyter") as server,
        chromium(Path(name)) as browser,
    ):
        for executions in options.executions:
            home = f"after {executions} executions"
            home_of(server, home, options.models, executions)
            print(f"\n{options.models} models, {executions:,} executions, {options.repeat} edits")
            print(f"{'ms':<48}{'median':>10}{'p95':>10}")
            lab = LabPage(browser, server)
            preferences(lab, server.notebook(home, [DASHBOARD, FLOOR]), options.repeat)
            lab.close()
            server.end_kernels()
        if options.live:
            lab = LabPage(browser, server)
            live(lab, server.notebook("live", [LIVE]), options.live)
            lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
