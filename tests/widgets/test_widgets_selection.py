"""The selection panel, driven through its controls."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from ipywidgets import Widget

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.widgets import PreferencesPanel, SelectionPanel

HOSTILE = "<img src=x onerror=alert(1)>"


def names(panel: SelectionPanel) -> list[str]:
    assert panel.recommendations is not None
    return [item.model.name for item in panel.recommendations]


def ran(panel: SelectionPanel) -> SelectionPanel:
    panel.runner.run_button.click()
    assert panel.runner.wait(60)
    return panel


def test_the_ranking_is_shown_with_its_reasons(manager: ModelManager) -> None:
    """The table has every candidate, its parts, verdict and evidence, and the sentence says who."""
    panel = SelectionPanel(manager)
    assert panel.task.value == "text_generation"
    assert panel.selected is not None
    assert panel.selected.name == names(panel)[0] == "small"
    table = panel._table.value
    for word in ("small", "large", "quality", "latency", "memory", "fits", "never run here"):
        assert word in table
    assert panel.summary.startswith("small leads for text generation")
    assert panel.summary in panel._state.value
    assert 'role="status"' in panel._state.value


def test_preferences_change_the_ranking_at_once(manager: ModelManager) -> None:
    """Applying preferences ranks the open panel again while it is live, and not otherwise."""
    preferences, panel = PreferencesPanel(manager), SelectionPanel(manager)
    before = panel._table.value
    preferences.controls["model_weights"].value = "large = 50"
    assert panel._table.value == before
    preferences.apply()
    assert names(panel) == ["large", "small"]
    assert "your weight\xa050" in panel._table.value
    panel.live.value = False
    preferences.undo()
    assert names(panel) == ["large", "small"]
    panel.select_button.click()
    assert names(panel) == ["small", "large"]


def test_requirements_reject_with_a_reason(manager: ModelManager) -> None:
    """A limit that a model does not meet moves it to the rejected ones, with the reason."""
    panel = SelectionPanel(manager)
    size = manager.registry.get("small").size_bytes
    panel.limits["max_size_bytes"].value = str((size + 1) / 2**20)
    assert names(panel) == ["small"]
    assert "Rejected, and why" in panel._table.value
    assert panel.demand()[1]["max_size_bytes"] == size + 1
    panel.limits["max_size_bytes"].value = "0"
    assert panel.selected is None
    assert "No candidate is feasible" in panel._state.value
    panel.limits["max_size_bytes"].value = ""
    assert names(panel) == ["small", "large"]


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", "1e999"])
@pytest.mark.parametrize("limit", ["min_context_length", "max_latency", "max_size_bytes"])
def test_a_bad_limit_is_said_and_ranks_nothing(
    manager: ModelManager, limit: str, value: str
) -> None:
    """What is no limit is named in the status, no table is shown, and Run starts nothing."""
    panel = SelectionPanel(manager)
    panel.limits[limit].value = value
    assert panel.recommendations is None
    assert "raven-error" in panel._state.value
    assert "must be" in panel._state.value
    assert panel._table.value == ""
    panel.runner.run_button.click()
    assert not panel.runner.running
    assert "must be" in panel.runner._state.value


def test_why_not_names_the_change_that_helps(manager: ModelManager) -> None:
    """Why-not offers everything but the first choice, and says what would put it first."""
    panel = SelectionPanel(manager)
    assert [name for _, name in panel.why.options] == ["large"]
    assert "behind small" in panel._reason.value
    assert "model_weights" in panel._reason.value


def test_a_new_ranking_works_out_one_reason(manager: ModelManager) -> None:
    """A reason tries many changes out: a ranking in another order asks for it once."""
    panel = SelectionPanel(manager)
    asked: list[str] = []
    explain = panel._explain
    panel._explain = lambda: (asked.append(panel.why.value), explain())  # type: ignore[method-assign, assign]
    manager.update_preferences(model_weights={"large": 10})
    panel.select()
    assert asked == ["small"]
    assert "behind large" in panel._reason.value
    panel.limits["max_size_bytes"].value = "0.000001"
    assert asked[1:] == ["small"]


def test_a_run_streams_counts_and_can_be_judged(
    make_manager: Callable[..., ModelManager],
) -> None:
    """Run shows text and counters, records the execution, and a thumb records its quality."""
    manager = make_manager({"small": 2}, FakeRuntime(outputs=["blue & <b>bright</b>"]))
    panel = SelectionPanel(manager)
    assert panel.runner.good.disabled
    seen: list[str] = []
    panel.runner._answer.observe(lambda change: seen.append(change["new"]), "value")
    ran(panel)
    assert panel.runner.text == "blue & <b>bright</b>"
    assert len(seen) > 1, "the answer came at once"
    assert "&lt;b&gt;" in panel.runner._answer.value
    assert "<b>" not in panel.runner._answer.value
    for counter in ("small", "tok/s", "first token 50.0 ms", "latency 500 ms"):
        assert counter in panel.runner.summary
    assert "1 run here" in panel._table.value
    panel.runner.good.click()
    panel.runner.bad.click()
    rows = manager.sql("SELECT quality FROM feedback ORDER BY quality DESC").fetchall()
    assert rows == [(1.0,), (0.0,)]
    assert "n\xa0=\xa01" in panel._table.value


def test_a_failed_run_says_what_was_tried(make_manager: Callable[..., ModelManager]) -> None:
    """A candidate that fails is named beside the one that answered; none left is an error."""
    runtime = FakeRuntime(run_failures=[FailureKind.RUNTIME_ERROR])
    manager = make_manager({"small": 2, "large": 40}, runtime)
    panel = ran(SelectionPanel(manager))
    assert "Tried before" in panel.runner.summary
    runtime = FakeRuntime(
        load_failures={"small": FailureKind.CORRUPT, "large": FailureKind.CORRUPT}
    )
    manager = make_manager({}, runtime)
    panel = ran(SelectionPanel(manager))
    assert "raven-error" in panel.runner._state.value
    assert "No model can do text_generation" in panel.runner._state.value
    assert panel.runner.good.disabled
    assert not panel.runner.run_button.disabled


def test_bad_parameters_are_said(manager: ModelManager) -> None:
    """A number of tokens that no engine takes is named, and the panel can run again."""
    panel = SelectionPanel(manager)
    panel.runner.max_tokens.value = 1.5
    ran(panel)
    assert "max_tokens" in panel.runner._state.value
    panel.runner.max_tokens.value = 8
    ran(panel)
    assert panel.runner.report is not None


def test_hostile_names_are_shown_as_text(make_manager: Callable[..., ModelManager]) -> None:
    """A model whose name is HTML is escaped in the table, the reasons and the counters."""
    manager = make_manager({HOSTILE: 2, "large": 40})
    panel = ran(SelectionPanel(manager))
    panel.why.value = panel.why.options[0][1]
    assert HOSTILE in manager.registry.available_models
    for widget in Widget.get_manager_state()["state"].values():
        shown = widget["state"]
        if shown.get("_model_name") == "HTMLModel":
            assert "<img" not in shown["value"]
    assert "&lt;img" in panel._table.value


def test_no_models_says_what_to_run(make_manager: Callable[..., ModelManager]) -> None:
    """Without models the panel says why it is empty and what to run, and cannot run."""
    manager = make_manager({})
    panel = SelectionPanel(manager)
    assert panel.summary == f"No models yet: {manager.registry.next_step}, or press Scan."
    assert "put models into" in panel._state.value
    assert panel.selected is None
    assert panel.runner.run_button.disabled


def test_models_that_a_scan_finds_are_offered(
    make_manager: Callable[..., ModelManager],
) -> None:
    """After a scan, Select offers the tasks of the models that it found."""
    manager = make_manager({})
    panel = SelectionPanel(manager)
    make_manager({"small": 2})
    manager.scan()
    panel.select_button.click()
    assert names(panel) == ["small"]
    assert not panel.runner.run_button.disabled


def test_close_ends_everything(manager: ModelManager) -> None:
    """A closed panel keeps no widget and no thread, and preferences change nothing in it."""
    before = set(Widget.get_manager_state()["state"])
    panel = ran(SelectionPanel(manager))
    ranked = panel.recommendations
    panel.close()
    panel.close()
    preferences = PreferencesPanel(manager)
    preferences.controls["performance_mode"].value = "memory"
    preferences.apply()
    assert panel.recommendations is ranked
    preferences.close()
    assert set(Widget.get_manager_state()["state"]) == before


@pytest.mark.models
def test_stop_ends_a_real_generation_and_keeps_the_model(real_manager: ModelManager) -> None:
    """Stop ends a long generation early, says so, and the next run finds the model loaded."""
    panel = SelectionPanel(real_manager)
    panel.limits["max_size_bytes"].value = "80"
    panel.runner.prompt.value = "Tell me a long story about a raven."
    panel.runner.max_tokens.value = 2000
    panel.runner.run_button.click()
    deadline = time.monotonic() + 60
    while not panel.runner.text and time.monotonic() < deadline:
        time.sleep(0.02)
    panel.runner.stop_button.click()
    assert panel.runner.wait(60)
    assert panel.runner.text
    assert "Stopped by you" in panel.runner._state.value
    assert "the run is kept" in panel.runner._state.value
    kept = real_manager.sql("SELECT success, extra->>'failure' FROM executions").fetchall()
    assert kept == [(False, "interrupted")]
    assert panel.runner.report is None
    assert len(real_manager.pool.resident()) == 1
    panel.runner.max_tokens.value = 4
    ran(panel)
    assert "resident already" in panel.runner.summary


@pytest.mark.models
def test_texts_are_embedded_and_arrays_are_declined(real_manager: ModelManager) -> None:
    """An embedding takes one text a line and shows the shape of what came."""
    panel = SelectionPanel(real_manager)
    panel.task.value = "embedding"
    panel.runner.prompt.value = "a cat\n\na kitten"
    ran(panel)
    assert "shape (2, 384)" in panel.runner.text
    assert "items/s" in panel.runner.summary


@pytest.mark.models
def test_languages_are_named_line_by_line(real_manager: ModelManager) -> None:
    """Language identification takes one text a line and shows a label for each."""
    panel = SelectionPanel(real_manager)
    panel.task.value = "language_identification"
    assert panel.runner.prompt.description == "texts"
    panel.runner.prompt.value = "Wo ist meine Brille?\n\nThe train leaves at eight."
    ran(panel)
    assert [line[:4] for line in panel.runner.text.splitlines()] == ["de (", "en ("]
    assert "items/s" in panel.runner.summary
