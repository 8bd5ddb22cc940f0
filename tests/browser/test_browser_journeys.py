"""Journeys through real JupyterLab, with real kernels and real models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"
SETUP = """from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard
manager = ModelManager(seed=0)
dashboard = Dashboard(manager)
dashboard"""
DASHBOARD = [SETUP, "manager"]
Make = Callable[..., str]
#: The name of the control that has the focus.
FOCUSED = """(() => {
    const one = document.activeElement;
    return (one.labels?.[0]?.innerText || one.ariaLabel || one.innerText || '').trim();
})()"""


NO_TABLE_IS = """before => ![...document.querySelectorAll('table.raven')].some(
    table => table.innerText === before)"""
#: Keeps the words of every bar that the page shows from now on.
WATCH_BARS = """() => {
    window.ravenBars = [];
    new MutationObserver(() => document.querySelectorAll('.raven-progress').forEach(
        one => window.ravenBars.push(`${one.ariaLabel}: ${one.ariaValueText}`)
    )).observe(document.querySelector('.raven-lab'), {childList: true, subtree: true});
}"""


def open_dashboard(lab: Any, path: str) -> Any:
    board = lab.run_notebook(path)
    board.locator("table.raven").first.wait_for()
    return board


def colour_of(locator: Any) -> str:
    return str(locator.evaluate("element => getComputedStyle(element).color"))


def test_the_quickstart_runs_with_real_models(lab: Any, make_notebook: Make) -> None:
    """Every cell of the quickstart runs without an error, and its figures are drawn."""
    lab.open(make_notebook(QUICKSTART))
    lab.run_all()
    cells = [cell for cell in lab.cells() if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["execution_count"], cell["source"]
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert errors == [], cell["source"]
    figures = sum(
        "application/vnd.plotly.v1+json" in output.get("data", {})
        for cell in cells
        for output in cell["outputs"]
    )
    assert figures >= 2
    lab.page.locator(".js-plotly-plot .main-svg .trace").first.wait_for(state="attached")
    assert lab.page.locator(".js-plotly-plot").count() == figures
    assert lab.uploads() == []


def test_preferences_run_and_history(lab: Any, make_notebook: Make) -> None:
    """Preferences change the ranking, Load and Run show how far they are, History has the runs."""
    board = open_dashboard(lab, make_notebook(DASHBOARD))
    ranking = board.locator("table.raven", has_text="score and its parts")
    before = ranking.inner_text()
    board.get_by_role("radio", name="memory").check()
    lab.says("1 edit, not applied yet")
    assert ranking.inner_text() == before
    board.get_by_label("memory share").fill("7")
    lab.says("less than or equal to 1")
    assert board.get_by_role("button", name="Apply").is_disabled()
    board.get_by_label("memory share").fill("0.6")
    lab.says("2 edits, not applied yet")
    board.get_by_role("button", name="Apply").click()
    lab.says("Applied and saved")
    lab.page.wait_for_function(NO_TABLE_IS, arg=before)
    assert ranking.inner_text() != before

    lab.page.evaluate(WATCH_BARS)
    before = ranking.inner_text()
    board.get_by_role("button", name=re.compile("Load")).click()  # not Unload
    said = lab.says(re.compile(r"is loaded: [\d.]+ MiB, .* m?s\.$"))
    lab.page.wait_for_function(NO_TABLE_IS, arg=before)  # its latency has no load in it
    bars = lab.page.evaluate("window.ravenBars")
    assert bars
    model = re.escape(said.partition(" is loaded")[0])
    assert re.fullmatch(rf"loading {model}: [\d.]+ s(?: of about|, longer than the) .*", bars[0])

    board.get_by_label("prompt").fill("Tell me a long story about a raven.")
    board.get_by_label("max tokens").fill("1500")
    board.get_by_role("button", name="Run").click()
    answer = board.get_by_role("region", name="answer")
    answer.wait_for()
    first = answer.inner_text()
    lab.page.wait_for_function(
        "length => document.querySelector('.raven-answer').innerText.length > length",
        arg=len(first),
    )
    assert board.get_by_role("button", name="Run").is_disabled()
    bar = board.get_by_role("progressbar", name="writing with")
    assert int(bar.get_attribute("aria-valuenow")) < 100
    assert bar.get_attribute("aria-valuemax") == "100"
    board.get_by_text(
        re.compile(r"writing with .*: about [\d,]+ of at most 1,500 tokens")
    ).wait_for()
    assert lab.barriers() == []
    board.get_by_role("button", name="Stop").click()
    lab.says("Stopped by you")
    assert bar.count() == 0

    board.get_by_label("max tokens").fill("16")
    board.get_by_role("button", name="Run").click()
    lab.says(re.compile(r"\d+ tokens .* tok/s"))
    assert answer.inner_text()
    board.get_by_role("button", name="Good answer").click()
    lab.says("Judged: quality 1")

    board.get_by_role("tab", name="History").click()
    lab.says(re.compile(r"^2 executions of .* 1 successful"))  # the stopped run is kept
    figure = board.locator(".js-plotly-plot .svg-container:visible")
    figure.locator(".main-svg").first.wait_for()
    board.get_by_role("tab", name="Models").click()
    # As many as the header says: the demo may have been fetched with Gemma or without.
    count = re.search(r"\d+ models", board.get_by_text("memory free").inner_text())
    assert count, "the header says how many models there are"
    board.get_by_text(count[0], exact=True).wait_for()
    board.get_by_role("tab", name="History").click()
    figure.wait_for()
    assert figure.bounding_box()["height"] > 400
    saved = json.dumps(lab.cells())
    assert len(saved) < 100_000


def tab_to(lab: Any, name: str) -> None:
    """Press Tab until the control of that name has the focus."""
    passed: list[str] = []
    while not passed or name != passed[-1]:
        # More stops than the page has, or one that lets nobody go.
        assert len(passed) < 250, passed[-60:]
        lab.page.keyboard.press("Tab")
        passed.append(lab.page.evaluate(FOCUSED))


def test_everything_by_keyboard(lab: Any, make_notebook: Make) -> None:
    """With keys alone: a preference, a run, a judgement, the history; none reaches the cells."""
    board = open_dashboard(lab, make_notebook(DASHBOARD))
    keyboard = lab.page.keyboard
    cells = len(lab.cells())
    tab_to(lab, "accuracy")
    keyboard.press("ArrowDown")
    lab.says("1 edit, not applied yet")
    assert board.get_by_label("accuracy").input_value() == "high"
    # In command mode each of these letters would work on the cell behind the control.
    for key in ("x", "b", "a"):
        keyboard.press(key)
    assert len(lab.cells()) == cells
    tab_to(lab, "Apply")
    keyboard.press("Enter")
    lab.says("Applied and saved")
    tab_to(lab, "Undo")
    keyboard.press("Space")
    lab.says("Undone and saved")
    assert board.get_by_label("accuracy").input_value() == "medium"
    tab_to(lab, "max tokens")
    keyboard.press("Control+a")
    keyboard.type("8")
    tab_to(lab, "Run")
    keyboard.press("Enter")
    lab.says(re.compile(r"8 tokens .* tok/s"))
    tab_to(lab, "Good answer")
    keyboard.press("Space")
    lab.says("Judged: quality 1")
    tab_to(lab, "Load")
    keyboard.press("Enter")
    lab.says("is loaded")
    tab_to(lab, "Unload")
    keyboard.press("Space")
    lab.says("is unloaded")
    tab_to(lab, "Select")
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    lab.says("1 execution of 1 model")
    tab_to(lab, "view")
    keyboard.press("ArrowDown")
    lab.says("100.0% succeeded")
    assert len(lab.cells()) == cells
    unnamed = board.locator("input, select, textarea, button").evaluate_all(
        """elements => elements.filter(element => !(
            element.labels?.length || element.title || element.ariaLabel ||
            element.innerText?.trim())).map(element => element.outerHTML)"""
    )
    assert unnamed == []


def test_a_dark_theme_is_followed(lab: Any, make_notebook: Make) -> None:
    """Switching to the dark theme and back changes the text of our cards and figures."""
    code = [
        *DASHBOARD,
        "from ravenxterm_lab import plots\nfigure = plots.hardware(manager).figure\nfigure",
    ]
    code.insert(1, "run = manager.run('embedding', ['a raven'])")
    board = open_dashboard(lab, make_notebook(code))
    card = lab.page.locator(".jp-RenderedHTMLCommon strong", has_text="RavenXTerm Lab").first
    heading = board.get_by_text("Preferences", exact=True)
    board.get_by_role("tab", name="History").click()
    axis = board.locator(".js-plotly-plot .svg-container:visible .xtick text").first
    axis.wait_for()
    fill = "element => getComputedStyle(element).fill"
    light = (colour_of(card), colour_of(heading), axis.evaluate(fill))
    lab.theme("JupyterLab Dark")
    dark = (colour_of(card), colour_of(heading), axis.evaluate(fill))
    assert all(one != other for one, other in zip(light, dark, strict=True)), (light, dark)
    lab.theme("JupyterLab Light")
    assert (colour_of(card), colour_of(heading), axis.evaluate(fill)) == light
    assert lab.uploads() == []
