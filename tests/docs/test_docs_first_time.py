"""The first time, without a model: what is empty says why and what to run, and running it works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab import ModelManager, plots, widgets
from ravenxterm_lab.cli import _parser, main
from ravenxterm_lab.discovery import PackagesSource
from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.magics.commands import act
from ravenxterm_lab.models import ModelRegistry
from ravenxterm_lab.models.monitoring import RecordingMonitor

TASK = "text_generation"
OWNERS = {
    "manager": ModelManager,
    "registry": ModelRegistry,
    "ModelManager": ModelManager,
    "monitor": RecordingMonitor,
}


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(RavenXTermError) as caught:
        call()
    return str(caught.value)


def view(name: str) -> Callable[[ModelManager], str]:
    def draw(manager: ModelManager) -> str:
        given: dict[str, Callable[[], object]] = {
            "ranking": lambda: manager.get_model_recommendations(TASK),
            "frontier": lambda: manager.get_model_recommendations(TASK),
            "replay": manager.replay,
        }
        drawn = getattr(plots, name)(given.get(name, lambda: manager)())
        # The map of the memory has the machine to show; all others are empty.
        assert name == "memory" or drawn.rows is None
        return str(drawn.summary)

    return draw


def views_of(panel: Any) -> str:
    """Return what a panel says in each of its views."""
    said = []
    for _, kind in panel.kind.options:
        panel.kind.value = kind
        panel.refresh()
        said.append(panel.summary)
        assert steps(panel.summary), kind
    panel.close()
    return " ".join(said)


def selection(manager: ModelManager) -> str:
    panel = widgets.SelectionPanel(manager)
    panel.runner.run()
    text = panel.runner._state.value
    assert panel.summary.split("`")[0] in text
    panel.close()
    return panel.summary


def tab(number: int) -> Callable[[ModelManager], str]:
    def show(manager: ModelManager) -> str:
        board = widgets.Dashboard(manager)
        board.tabs.selected_index = number
        texts = (
            board.selection.summary, board.history.summary, board.hardware.summary,
            board._models.value, board._messages.value,
        )  # fmt: skip
        board.close()
        return texts[number]

    return show


IN_PYTHON: dict[str, Callable[[ModelManager], object]] = {
    "the manager": lambda m: m,
    "manager.registry": lambda m: m.registry,
    "manager.registry[name]": lambda m: error_of(lambda: m.registry["llama"]),
    "manager.scan": lambda m: m.scan(),
    "manager.messages": lambda m: (m.scan(), m.messages)[1],
    "manager.get_system_status": lambda m: m.get_system_status(),
    "manager.get_model_recommendations": lambda m: m.get_model_recommendations(TASK),
    "manager.optimize_model_selection": lambda m: error_of(
        lambda: m.optimize_model_selection(TASK)
    ),
    "manager.run": lambda m: error_of(lambda: m.run(TASK, "Why?")),
    "manager.plan": lambda m: m.plan(TASK),
    "manager.benchmark": lambda m: error_of(lambda: m.benchmark(TASK)),
    "manager.estimate": lambda m: error_of(lambda: m.estimate("llama")),
    "manager.estimates": lambda m: m.estimates(),
    "manager.get_model_performance_history": lambda m: error_of(
        lambda: m.get_model_performance_history("llama")
    ),
    "manager.replay": lambda m: m.replay(),
    "manager.calibration": lambda m: m.calibration(),
    "manager.sql": lambda m: m.sql("FROM executions"),
    "manager.store.info": lambda m: m.store.info(),
    "registry.space": lambda m: m.registry.space(),
    "registry.trashed": lambda m: m.registry.trashed(),
    **{f"plots.{name}": view(name) for name in plots.__all__ if name not in {"Rows", "View"}},
    "HistoryExplorer": lambda m: views_of(widgets.HistoryExplorer(m)),
    "HardwareMonitor": lambda m: views_of(widgets.HardwareMonitor(m)),
    "SelectionPanel": selection,
    **{f"tab {number} of the Dashboard": tab(number) for number in range(5)},
    "%raven status": lambda m: act(m, ["status"]),
    "%raven models": lambda m: act(m, ["models"]),
    "%raven scan": lambda m: act(m, ["scan"]),
    "%raven select": lambda m: act(m, ["select", TASK]),
    "%raven why": lambda m: error_of(lambda: (act(m, ["select"]), act(m, ["why", "llama"]))),
}
COMMANDS = (
    "scan", "models", "models space", "models trash", f"select {TASK}", f"run {TASK} Why?",
    f"bench {TASK}", "estimate", "estimate llama", "sql 'FROM executions'", "store info", "status",
)  # fmt: skip


def steps(text: str) -> list[str]:
    """Return the lines and names of ours that a text tells to run; each of them must exist."""
    commands = re.findall(r"`(raven-lab [^`]+)`", text)
    for command in commands:
        words = shlex.split(command)[1:]
        with suppress(SystemExit):
            _parser().parse_args(words)
            continue
        pytest.fail(f"there is no command {command!r}")
    names = re.findall(r"\b(manager|registry|ModelManager|monitor)\.([a-z_]+)", text)
    for owner, name in names:
        # Attributes that are made with the object are not found at its class.
        made = {("manager", "registry")}
        assert (owner, name) in made or hasattr(OWNERS[owner], name), f"{owner}.{name}"
    return [*commands, *(f"{owner}.{name}" for owner, name in names)]


@pytest.fixture
def nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelManager]:
    """A manager in a new home of a new person; models inside of installed packages are left out."""
    (tmp_path / "person").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(PackagesSource, "discover", lambda *_: iter(()))
    manager = ModelManager()
    yield manager
    manager.pool.close()
    manager.store.close()


@pytest.mark.parametrize("name", IN_PYTHON)
def test_what_is_empty_says_why_and_what_to_run(nothing: ModelManager, name: str) -> None:
    """Each names a command that the parser takes, or something of ours that is there."""
    text = str(IN_PYTHON[name](nothing))
    assert steps(text), text
    assert re.search(r"\bNo [a-z]+|\bempty\b|nothing is recorded yet", text), text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_says_the_same(
    nothing: ModelManager, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed or as the one line of an error, with the same next step."""
    failed = main(shlex.split(command))
    printed = capsys.readouterr()
    text = printed.err if failed else printed.out
    if failed and command.startswith("select"):
        text = printed.out
    assert steps(text), text
    assert "Traceback" not in printed.err


def test_the_next_step_leads_to_this_home_and_not_to_another(
    nothing: ModelManager, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal has a home of its own, so the command names this one, unless it is the usual."""
    assert f"`raven-lab demo --home {home}`" in nothing.registry.next_step
    monkeypatch.delenv("RAVENXTERM_HOME")
    usual = ModelManager()
    assert "`raven-lab demo`" in usual.registry.next_step
    usual.store.close()


def test_a_directory_that_was_given_is_where_models_are_to_be_put(
    nothing: ModelManager, tmp_path: Path
) -> None:
    """The demo's models would not be looked for there, so it is not what is said."""
    given = ModelRegistry(tmp_path / "mine")
    assert str(tmp_path / "mine") in given.next_step
    assert "raven-lab demo" not in given.next_step
    assert len(given) == 0


@pytest.mark.models
def test_doing_what_is_said_works_in_the_kernel_that_is_open(
    nothing: ModelManager, home: Path, demo_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, then manager.scan(), then the line that the next step has become, run."""
    panel = widgets.SelectionPanel(nothing)
    first = nothing.registry.next_step
    command = re.findall(r"`raven-lab ([^`]+)`", first)[0]
    # The models are there already, so that nothing is downloaded.
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory)
    assert main([*shlex.split(command), "--fetch-only"]) == 0
    assert str(home / "models" / "demo") in capsys.readouterr().out
    assert panel.selected is None
    panel.scan_button.click()
    assert panel.selected is not None
    second = nothing.registry.next_step
    assert second.startswith("run manager.run(")
    names: dict[str, Any] = {"manager": nothing}
    exec(f"done = {second.removeprefix('run ')}", names)
    assert names["done"].output
    assert plots.history(nothing).summary.startswith("1 execution of 1 model")
    panel.close()
