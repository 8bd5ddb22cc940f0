"""Why a model is not the first choice, and what a person's judgement changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

Make = Callable[..., str]
DASHBOARD = """from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard
manager = ModelManager(seed=0)
Dashboard(manager)"""
MIB = 2**20
JUDGED = (
    "SELECT f.quality, e.model FROM feedback AS f JOIN executions AS e "
    "ON f.execution = e.session || ':' || e.seq ORDER BY f.ts"
)


def names(board: Any) -> list[str]:
    """Return the candidates that are shown, best first."""
    found: list[str] = board.locator("table.raven strong").all_inner_texts()
    return found


def first_is(board: Any, name: str) -> None:
    """Wait until a model leads the ranking."""
    exactly = re.compile(f"^{re.escape(name)}$")
    board.locator("table.raven tbody tr").first.locator("strong", has_text=exactly).wait_for()


def apply(lab: Any, board: Any) -> None:
    board.get_by_role("button", name="Apply").click()
    lab.says("Applied and saved")


def test_why_not_names_what_helps_and_it_helps(lab: Any, make_notebook: Make) -> None:
    """What a reason asks for, typed as it says, puts the model first; so it does for a limit."""
    board = lab.run_notebook(make_notebook([DASHBOARD]))
    board.locator("table.raven").first.wait_for()
    first, *others = names(board)
    why = board.get_by_label("why not")
    offered = why.locator("option").all_inner_texts()
    assert first not in offered
    assert offered[: len(others)] == others
    last = others[-1]
    why.select_option(label=last)
    reason = board.get_by_text(re.compile(f"^{re.escape(last)}: feasible, "))
    asked = re.search(r"model_weights\['(.+?)'\] ≥ ([\d.]+)", reason.inner_text())
    assert asked, reason.inner_text()
    assert asked[1] == last
    board.get_by_label("model weights").fill(f"{asked[1]} = {asked[2]}")
    apply(lab, board)
    first_is(board, last)
    assert last not in why.locator("option").all_inner_texts()

    board.get_by_label("max size (MiB)").fill("1")
    lab.page.keyboard.press("Enter")
    lab.says("No candidate is feasible")
    why.select_option(label=last)
    reason = board.get_by_text(re.compile(f"^{re.escape(last)}: .*max_size_bytes ≥ "))
    asked = re.search(r"max_size_bytes ≥ (\d+)", reason.inner_text())
    assert asked, reason.inner_text()
    board.get_by_label("max size (MiB)").fill(repr(int(asked[1]) / MIB))
    lab.page.keyboard.press("Enter")
    lab.says(re.compile(f"^{re.escape(last)} leads"))
    board.get_by_label("max size (MiB)").fill(repr((int(asked[1]) - 1) / MIB))
    lab.page.keyboard.press("Enter")
    board.get_by_role("region", name="Rejected, and why").get_by_role("row", name=last).wait_for()


def test_a_thumb_is_kept_and_moves_the_quality(lab: Any, make_notebook: Make) -> None:
    """A thumb is a row of the table of feedback; the quality and the score follow, and go back."""
    board = lab.run_notebook(make_notebook([DASHBOARD]))
    board.locator("table.raven").first.wait_for()
    # One that is set apart, so that the run is of a model that is known beforehand.
    model = names(board)[0]
    board.get_by_label("model weights").fill(f"{model} = 10")
    apply(lab, board)
    first_is(board, model)
    row = board.locator("table.raven tbody tr").first
    score, quality = row.locator("td").nth(2), row.locator("td").nth(5)
    assert "not measured" in quality.inner_text()
    board.get_by_label("prompt").fill("What is the capital of France?")
    board.get_by_label("max tokens").fill("8")
    board.get_by_role("button", name="Run").click()
    assert lab.says(re.compile(r"tok/s .* loaded in ")).startswith(f"{model} · ")
    assert board.get_by_role("region", name="answer").inner_text()
    row.filter(has_text="1 run here").wait_for()
    assert "not measured" in quality.inner_text()

    def judged(thumb: str, said: str, before: str) -> tuple[float, str]:
        board.get_by_role("button", name=thumb).click()
        lab.says(said)
        lab.page.wait_for_function(
            "before => document.querySelector('table.raven tbody tr').innerText !== before",
            arg=before,
        )
        assert "n\xa0=\xa01" in quality.inner_text()
        return float(quality.inner_text().split()[0]), score.inner_text()

    good, high = judged("Good answer", "Judged: quality 1", row.inner_text())
    bad, low = judged("Bad answer", "Judged: quality 0", row.inner_text())
    assert bad < good
    assert float(low.split()[0]) < float(high.split()[0])
    kept = lab.execute(f"print(manager.sql({JUDGED!r}).fetchall())")
    assert kept.strip() == str([(1.0, model), (0.0, model)])
