"""One store that outlives kernels and is shared by notebooks that are open at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

Make = Callable[..., str]
SETUP = """from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard, HistoryExplorer
manager = ModelManager(seed=0)"""
FIGURE = ".js-plotly-plot .main-svg"
#: What both notebooks do at the same time: a real run, and what somebody else's code measured.
WORK = """manager.run("embedding", ["a raven"])
for number in range(50):
    manager.record_execution_metrics({name!r}, {{"latency": 0.1 + number / 100}})
print("done")"""


def choose(board: Any, label: str, text: str) -> None:
    """Choose the option that holds a text."""
    box = board.get_by_label(label, exact=True).first
    box.select_option(label=box.locator("option", has_text=text).first.inner_text())


def embed(lab: Any, board: Any) -> str:
    """Run an embedding from the panel; return the model that did it."""
    choose(board, "task", "embedding")
    lab.says(re.compile("leads for embedding"))
    board.get_by_label("texts").fill("a raven\na crow")
    board.get_by_role("button", name="Run").click()
    return str(lab.says(re.compile("items/s"))).partition(" · ")[0]


def test_two_notebooks_work_on_one_store_at_once(
    open_lab: Callable[[], Any], make_notebook: Make
) -> None:
    """A run in one shows in the history and in the ranking of the other; none is lost."""
    reader, writer = open_lab(), open_lab()
    history = reader.run_notebook(
        make_notebook([SETUP, "HistoryExplorer(manager)", "manager"], file="reader")
    )
    reader.says("No executions yet")
    board = writer.run_notebook(make_notebook([SETUP, "Dashboard(manager)"], file="writer"))
    model = embed(writer, board)
    history.get_by_role("button", name="Refresh").click()
    reader.says("1 execution")
    history.locator(FIGURE).first.wait_for()
    learned = "print(manager.get_model_recommendations('embedding')[0].runs)"
    assert reader.execute(learned).strip() == "1"

    for lab, name in ((reader, "from reader"), (writer, "from writer")):
        lab.begin(WORK.format(name=name))
    assert [lab.ended().strip() for lab in (reader, writer)] == ["done", "done"]
    history.get_by_role("button", name="Refresh").click()
    reader.says("103 executions")
    for name in (model, "from reader", "from writer"):
        choose(history, "model", name)
        history.get_by_role("row", name=name).first.wait_for()
        reader.says(f"{3 if name == model else 50} executions of 1 model")
    board.get_by_role("tab", name="History").click()
    writer.says("103 executions")


def test_a_restarted_kernel_finds_everything_again(lab: Any, make_notebook: Make) -> None:
    """Preferences, history and judgements are there after a restart, and after reopening."""
    path = make_notebook([SETUP, "Dashboard(manager)"])
    board = lab.run_notebook(path)
    board.get_by_role("radio", name="memory").check()
    board.get_by_role("button", name="Apply").click()
    lab.says("Applied and saved")
    model = embed(lab, board)
    board.get_by_role("button", name="Good answer").click()
    lab.says("Judged: quality 1")
    lab.save()

    lab.restart_kernel()
    lab.run_all()
    assert lab.failures() == []
    board = lab.panel
    assert board.get_by_role("radio", name="memory").is_checked()
    choose(board, "task", "embedding")
    leader = board.get_by_role("row", name=model).first
    leader.filter(has_text="1 run here").wait_for()
    leader.filter(has_text="n = 1").wait_for()
    board.get_by_role("tab", name="History").click()
    lab.says("1 execution")

    # The page is gone and comes back; the kernel went on meanwhile, and so do its panels.
    lab.save()
    lab.open(path)
    board = lab.panel
    board.get_by_role("tab", name="Select").click()
    embed(lab, board)
    board.get_by_role("tab", name="History").click()
    lab.says("2 executions")
    board.locator(f"{FIGURE}:visible").first.wait_for()
