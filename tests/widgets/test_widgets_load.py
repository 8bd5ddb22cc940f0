"""Load, Unload and the bar of the selection panel, driven through its controls."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.widgets import SelectionPanel, execution, progress

Make = Callable[..., ModelManager]
HOSTILE = "<img src=x onerror=alert(1)>"


class SlowRuntime(FakeRuntime):
    """Its loads last until they are let go."""

    def __init__(self, **script: object) -> None:
        super().__init__("fake", **script)  # type: ignore[arg-type]
        self.entered, self.release = threading.Event(), threading.Event()

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        self.entered.set()
        assert self.release.wait(60)
        return super().load(model, options)


def pressed(panel: SelectionPanel) -> SelectionPanel:
    panel.runner.load_button.click()
    assert panel.runner.wait(60)
    return panel


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begun(panel: SelectionPanel, runtime: SlowRuntime) -> str:
    """Wait for the load to begin and for its bar; return what the bar shows."""
    assert runtime.entered.wait(60)
    until(lambda: panel.runner._bar.value)
    return str(panel.runner._bar.value)


def latency(panel: SelectionPanel) -> float:
    assert panel.recommendations is not None
    return panel.recommendations[0].part("latency").value


def test_load_makes_the_first_choice_resident_and_ranks_again(manager: ModelManager) -> None:
    """Load says what is loaded, records no execution, and every open panel ranks without it."""
    other, panel = SelectionPanel(manager), SelectionPanel(manager)
    before = latency(other)
    assert panel.runner.unload_button.disabled
    pressed(panel)
    assert [item.model.name for item in manager.pool.resident()] == ["small"]
    assert re.fullmatch(r"small is loaded: [\d.]+ KiB, 250 ms\.", panel.runner.summary)
    assert panel.runner.summary in panel.runner._state.value
    assert 'role="status"' in panel.runner._state.value
    assert panel.runner._bar.value == ""
    assert latency(panel) == latency(other) < before
    assert manager.sql("SELECT count(*) FROM executions").fetchall() == [(0,)]
    assert manager.sql("SELECT model, success FROM loads").fetchall() == [("small", True)]
    assert pressed(panel).runner.summary.startswith("small is loaded already: ")


def test_unload_frees_what_was_loaded_from_here(manager: ModelManager) -> None:
    """Unload names its model, says what came back, and the ranking counts the load again."""
    panel = pressed(SelectionPanel(manager))
    resident = latency(panel)
    assert "small" in panel.runner.unload_button.tooltip
    panel.runner.unload_button.click()
    assert manager.pool.resident() == ()
    assert re.fullmatch(r"small is unloaded; it held [\d.]+ KiB\.", panel.runner.summary)
    assert panel.runner.unload_button.disabled
    assert latency(panel) > resident
    pressed(panel)
    manager.pool.unload_idle()
    panel.runner.unload_button.click()
    assert "small was not loaded any more." in panel.runner._state.value


def test_a_model_that_runs_is_not_unloaded(manager: ModelManager) -> None:
    """What somebody else runs stays, and the panel says why."""
    panel = pressed(SelectionPanel(manager))
    shown: list[str] = []

    def on_token(_: str) -> None:
        panel.runner.unload_button.click()
        shown.append(panel.runner._state.value)

    small = manager.registry.get("small").size_bytes
    manager.run("text_generation", "hello", {"max_size_bytes": small}, on_token=on_token)
    assert "raven-error" in shown[0]
    assert "small is in use" in shown[0]
    assert len(manager.pool.resident()) == 1


def test_the_bar_holds_the_load_against_its_prediction(make_manager: Make) -> None:
    """While it loads there is a named bar with words, and nothing that would disturb it."""
    runtime = SlowRuntime()
    panel = SelectionPanel(make_manager({"small": 2}, runtime))
    panel.runner.load_button.click()
    shown = begun(panel, runtime)
    assert 'role="progressbar"' in shown
    assert 'aria-label="loading small"' in shown
    counting = r">loading small: ([\d.]+) s(?: of about|, longer than the) [\d.]+ s"
    first = re.search(counting, shown)
    assert first, shown
    assert 'role="status"' not in shown
    assert "Loading small …" in panel.runner._state.value
    assert panel.runner.summary == "A load is going on."
    runner = panel.runner
    for control in (runner.run_button, runner.load_button, runner.stop_button):
        assert control.disabled
    until(lambda: "longer than" in runner._bar.value)
    then = re.search(counting, runner._bar.value)
    assert then, runner._bar.value
    assert float(then[1]) > float(first[1])
    assert 'aria-valuenow="99"' in runner._bar.value
    runtime.release.set()
    assert runner.wait(60)
    assert runner._bar.value == ""
    assert not runner.run_button.disabled
    assert not runner.load_button.disabled


@pytest.mark.parametrize(
    ("seconds", "predicted", "share", "words"),
    [
        (0.8, 1.4, 0.8 / 1.4, "0.8 s of about 1.4 s"),
        (1.4, 1.4, 0.99, "1.4 s of about 1.4 s"),
        (1.9, 1.4, 0.99, "1.9 s, longer than the 1.4 s that were predicted"),
        (72.0, 180.0, 0.4, "1 min 12 s of about 3 min 0 s"),
        (2.0, None, None, "2.0 s so far; how long it takes is not known yet"),
    ],
)
def test_a_prediction_is_never_taken_for_the_end(
    seconds: float, predicted: float | None, share: float | None, words: str
) -> None:
    """The bar follows elapsed over predicted, stays short of full, and says when it is late."""
    assert progress._of_prediction(seconds, predicted) == (share, words)


def test_tokens_are_counted_against_their_limit() -> None:
    """Until the first token it waits; then the bar is the share of the tokens that may come."""
    assert progress._of_tokens(0.3, 0, 64) == (0.0, "waiting for the first token, 0.3 s")
    assert progress._of_tokens(2.0, 16, 64) == (0.25, "about 16 of at most 64 tokens")
    assert progress._of_tokens(2.0, 65, 64)[0] == 1.0
    # The engine refuses such a limit, and says so; the bar must not fail before.
    assert progress._of_tokens(2.0, 1, 0)[0] is None


def test_a_name_in_the_bar_is_text(make_manager: Make) -> None:
    """A model whose name is HTML is escaped in the words and in the attributes."""
    runtime = SlowRuntime()
    panel = SelectionPanel(make_manager({HOSTILE: 2}, runtime))
    panel.runner.load_button.click()
    shown = begun(panel, runtime)
    assert "<img" not in shown
    assert 'aria-label="loading &lt;img src=x' in shown
    runtime.release.set()
    assert panel.runner.wait(60)


def test_a_load_that_fails_says_what_happened(make_manager: Make) -> None:
    """The failed candidate is named beside the one that loaded; none left is an error."""
    failing = {"small": FailureKind.CORRUPT}
    manager = make_manager({"small": 2, "large": 40}, FakeRuntime(load_failures=failing))
    panel = pressed(SelectionPanel(manager))
    assert panel.runner.summary.startswith("large is loaded: ")
    assert "Tried before: small (corrupt)" in panel.runner.summary
    pressed(panel)
    assert panel.recommendations is not None
    assert "small" in [item.model.name for item in panel.recommendations.rejected]
    manager.pool.unload_idle()
    failing["large"] = FailureKind.CORRUPT
    manager = make_manager({}, FakeRuntime(load_failures=failing))
    panel = pressed(SelectionPanel(manager))
    assert "raven-error" in panel.runner._state.value
    assert "large: as asked: corrupt" in panel.runner._state.value
    assert panel.runner._bar.value == ""
    assert panel.runner.unload_button.disabled
    assert not panel.runner.load_button.disabled


def test_what_cannot_be_loaded_is_said(manager: ModelManager) -> None:
    """A bad limit, and a preference that unloads at once, are named; nothing is loaded."""
    panel = SelectionPanel(manager)
    panel.limits["max_latency"].value = "soon"
    panel.runner.load_button.click()
    assert not panel.runner.running
    assert "must be" in panel.runner._state.value
    panel.limits["max_latency"].value = ""
    manager.update_preferences(keep_alive_seconds=0)
    pressed(panel)
    assert "keep_alive_seconds is 0" in panel.runner._state.value
    assert manager.pool.resident() == ()


def test_a_task_on_arrays_can_be_loaded_but_not_run(manager: ModelManager) -> None:
    """Only what can be typed can be run from here; a load needs no input."""
    runner = SelectionPanel(manager).runner
    runner.offer("voice_activity_detection")
    assert (runner.run_button.disabled, runner.load_button.disabled) == (True, False)
    runner.offer(None)
    assert (runner.run_button.disabled, runner.load_button.disabled) == (True, True)


def test_stop_while_a_run_waits_for_its_load(make_manager: Make) -> None:
    """The load cannot be interrupted, which is said; the run then ends before its first token."""
    runtime = SlowRuntime()
    manager = make_manager({"small": 2}, runtime)
    panel = SelectionPanel(manager)
    panel.runner.run_button.click()
    assert "loading small" in begun(panel, runtime)
    panel.runner.stop_button.click()
    assert "a load cannot be interrupted" in panel.runner._state.value
    runtime.release.set()
    assert panel.runner.wait(60)
    assert "Stopped by you before the first token" in panel.runner._state.value
    assert panel.runner.text == ""
    assert len(manager.pool.resident()) == 1
    kept = manager.sql("SELECT success, extra->>'failure' FROM executions").fetchall()
    assert kept == [(False, "interrupted")]


def test_a_closed_panel_loads_nothing_further(
    make_manager: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed during a load, no candidate after it is tried, and both threads end."""
    monkeypatch.setattr(execution, "_CLOSE_SECONDS", 0.01)
    runtime = SlowRuntime(load_failures={"small": FailureKind.CORRUPT})
    panel = SelectionPanel(make_manager({"small": 2, "large": 40}, runtime))
    runner = panel.runner
    runner.load_button.click()
    begun(panel, runtime)
    ticker = runner._bar._ticker
    assert ticker is not None
    panel.close()
    assert not ticker.alive
    assert runner.running
    runtime.release.set()
    assert runner.wait(60)
    assert runtime.loads == []
    assert runner._bar._ticker is None


@pytest.mark.models
def test_a_real_load_and_a_real_run_move_the_bar(real_manager: ModelManager) -> None:
    """The bar follows a real load and a real stream, in words, and is drawn ten times a second."""
    panel = SelectionPanel(real_manager)
    panel.limits["max_size_bytes"].value = "80"
    shown: list[str] = []
    panel.runner._bar.observe(lambda change: shown.append(change["new"]), "value")
    pressed(panel)
    name = panel.runner.held.name  # type: ignore[union-attr]
    assert re.fullmatch(
        rf"{re.escape(name)} is loaded: \d+\.\d MiB, \S+ m?s\.", panel.runner.summary
    )
    assert any(f"loading {name}: " in one for one in shown)
    shown.clear()
    panel.runner.prompt.value = "Tell me a long story about a raven."
    panel.runner.max_tokens.value = 60
    started = time.monotonic()
    panel.runner.run_button.click()
    assert panel.runner.wait(60)
    seconds = time.monotonic() - started
    assert "resident already" in panel.runner.summary
    assert not any("loading" in one for one in shown)
    assert re.search(r"about \d+ of at most 60 tokens", "".join(shown))
    assert shown[-1] == ""
    assert len(shown) <= seconds / progress._TICK_SECONDS + 3
