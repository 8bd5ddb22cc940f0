"""The views in real JupyterLab: live, zoomed, reopened, and open to everyone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

Make = Callable[..., str]
SETUP = """from ravenxterm_lab import ModelManager, plots
from ravenxterm_lab.widgets import Dashboard, HardwareMonitor, HistoryExplorer
manager = ModelManager(seed=0)"""
#: Real runs, and runs of the caller's own, one of which failed.
HISTORY = """for index in range(40):
    manager.record_execution_metrics(
        f"mine-{index % 3}",
        {"latency": 0.5 + index / 100, "throughput": 20.0 + index, "success": index != 7},
        task_type="text_generation",
    )
report = manager.run("embedding", ["a raven"])
report = manager.run("embedding", ["another raven"])
chosen = manager.optimize_model_selection("embedding")"""
#: Every view, each in a cell of its own.
VIEWS = [
    "plots.history(manager)",
    "plots.success(manager)",
    "plots.distributions(manager)",
    'plots.frontier(manager.get_model_recommendations("embedding"))',
    'plots.predictions(manager, quantity="peak_memory")',
    "plots.decisions(manager)",
    "plots.hardware(manager)",
    "plots.memory(manager)",
    "plots.disk(manager)",
    'plots.ranking(manager.get_model_recommendations("embedding"))',
]
FIGURE = ".js-plotly-plot .main-svg"
THEMES = ("JupyterLab Light", "JupyterLab Dark")


def points(lab: Any, key: str) -> int:
    """Return how many points a line of the figure in the panel has; 0 where there is none."""
    count: int = lab.page.evaluate(
        """key => document.querySelector('.raven-lab .js-plotly-plot')?.data
            ?.find(trace => trace.meta === key)?.x?.length ?? 0""",
        key,
    )
    return count


def drag(lab: Any, figure: str) -> None:
    """Drag over the first third of a figure's first axis, wherever that is by now."""
    area = lab.page.locator(f"{figure} .nsewdrag").first
    box = area.bounding_box()
    row = box["height"] / 2
    # Hovering waits until the figure stands still; pressed, plotly covers the page.
    area.hover(position={"x": 2, "y": row})
    lab.page.mouse.down()
    for share in (0.1, 0.2, 0.3):
        area.hover(position={"x": share * box["width"], "y": row}, force=True)
    lab.page.mouse.up()


def test_views_are_open_to_everyone_and_outlive_their_kernel(
    lab: Any, make_notebook: Make, server: Any
) -> None:
    """axe-core finds nothing serious, light and dark; saved and reopened, every figure is there."""
    path = make_notebook([SETUP, HISTORY, *VIEWS])
    lab.run_notebook(path)
    page = lab.page
    page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot').length === {len(VIEWS)}")
    page.locator("details > summary").evaluate_all("all => all.forEach(one => one.click())")
    for theme in THEMES:
        lab.theme(theme)
        assert lab.barriers() == [], theme
    assert lab.uploads() == []
    # Were there one, it would be found.
    page.locator(".raven-view").first.evaluate("node => node.append(new Image())")
    assert any("image-alt" in found for found in lab.barriers())

    lab.save()
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    notebook = json.loads((server.root / path).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell["outputs"]:
            # Plotly's extension adds a picture of each figure that a browser has drawn.
            output.get("data", {}).pop("image/png", None)
    assert len(json.dumps(notebook)) < 100_000
    lab.open(path)
    lab.end_kernel()
    page.wait_for_function(
        """count => Array.from(document.querySelectorAll('.jp-RenderedPlotly')).filter(
            figure => figure.querySelector('.main-svg') || figure.querySelector('img')?.naturalWidth
        ).length === count""",
        arg=len(VIEWS),
    )
    assert page.locator(".raven-view details").count() == len(VIEWS)
    assert lab.barriers() == []
    # Under the mouse a picture becomes the figure itself, which asks nothing of a kernel.
    page.locator(".jp-RenderedPlotly").first.hover()
    page.locator(FIGURE).first.wait_for()


def test_no_barrier_in_any_panel(lab: Any, make_notebook: Make) -> None:
    """axe-core finds nothing serious on any tab of the dashboard, light and dark."""
    board = lab.run_notebook(make_notebook([SETUP, HISTORY, "Dashboard(manager)"]))
    board.locator("table.raven").first.wait_for()
    for theme in THEMES:
        lab.theme(theme)
        for tab in ("Select", "History", "Hardware", "Models", "Messages"):
            board.get_by_role("tab", name=tab).click()
            if tab in {"History", "Hardware"}:
                board.locator(f"{FIGURE}:visible").first.wait_for()
            assert lab.barriers() == [], (theme, tab)


def test_the_hardware_is_live_until_it_is_stopped(lab: Any, make_notebook: Make) -> None:
    """A press starts it, a point comes each second, a run shows up, another press ends it."""
    run = "manager.run('embedding', ['a raven'])"
    board = lab.run_notebook(make_notebook([SETUP, "HardwareMonitor(manager)"]))
    lab.says("No hardware samples")
    board.get_by_role("button", name="Live").focus()
    lab.page.keyboard.press("Enter")
    lab.says("Live: a sample a second")
    lab.page.wait_for_function(
        """() => document.querySelector('.raven-lab .js-plotly-plot')?.data
            ?.find(trace => trace.meta === 'memory_used')?.x?.length >= 3"""
    )
    first = points(lab, "memory_used")
    lab.page.wait_for_function(
        """first => document.querySelector('.raven-lab .js-plotly-plot')?.data
            ?.find(trace => trace.meta === 'memory_used')?.x?.length >= first + 2""",
        arg=first,
    )
    assert lab.uploads() == []
    done = lab.execute(run + "; print('ran')")
    assert "ran" in done
    board.get_by_role("button", name="Refresh").click()
    lab.page.wait_for_function(
        """() => document.querySelector('.raven-lab .js-plotly-plot')?.data
            ?.some(trace => String(trace.meta).startsWith('run of'))"""
    )
    board.get_by_role("button", name="Stop").click()
    lab.says(re.compile(r"\d+ samples in the last 10 minutes"))
    board.get_by_role("button", name="Live").wait_for()
    assert "raven-live-view" not in lab.execute(
        "import threading; print([thread.name for thread in threading.enumerate()])"
    )


def test_zooming_reads_the_store_again(lab: Any, make_notebook: Make) -> None:
    """A drag fills the panel's box and draws what lies within; a live figure asks for itself."""
    live = "live = plots.history(manager, metric='latency').live()\nlive"
    board = lab.run_notebook(make_notebook([SETUP, HISTORY, "HistoryExplorer(manager)", live]))
    lab.says("42 executions")
    board.locator(f"{FIGURE}:visible").first.wait_for()
    drag(lab, ".raven-lab .js-plotly-plot")
    lab.says(re.compile(r"^\d+ executions? of .* from 20"))
    box = board.get_by_label("zoom (UTC)")
    assert re.fullmatch(r"\S+ \S+ to \S+ \S+", box.input_value())
    box.fill("2020-01-01 to 2020-01-02")
    lab.page.keyboard.press("Enter")
    lab.says("No executions from 2020-01-01")
    box.fill("")
    lab.page.keyboard.press("Enter")
    lab.says("42 executions")

    own = ".jp-OutputArea-output .js-plotly-plot:not(.raven-lab *)"
    subtitle = f"document.querySelector('{own}').layout.title.subtitle.text"
    lab.page.locator(f"{own} .main-svg").first.wait_for()
    assert lab.page.evaluate(subtitle).startswith("n = 42 executions, last 30 days")
    drag(lab, own)
    lab.page.wait_for_function(f"!{subtitle}.includes('last 30 days')")
    assert re.match(r"n = \d+ executions?, 20", lab.page.evaluate(subtitle))
    assert lab.uploads() == []
