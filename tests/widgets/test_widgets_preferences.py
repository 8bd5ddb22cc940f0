"""The preferences panel, driven through its controls."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipywidgets import Widget

from ravenxterm_lab.exceptions import PreferenceError
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.widgets import PreferencesPanel


def said(panel: PreferencesPanel) -> str:
    return str(panel._state.value)


def test_every_preference_has_a_labelled_control(manager: ModelManager) -> None:
    """Each field has a control, each control a description, and each shows what is in force."""
    panel = PreferencesPanel(manager)
    assert set(panel.controls) == set(UserPreferences.model_fields)
    assert all(control.description for control in panel.controls.values())
    assert panel.draft == manager.preferences
    assert panel._apply.disabled
    assert panel._undo.disabled


def test_an_edit_holds_only_after_apply(manager: ModelManager, home: Path) -> None:
    """An edit shows its difference and its Python, and Apply saves it and puts it in force."""
    panel = PreferencesPanel(manager)
    panel.controls["performance_mode"].value = "speed"
    assert manager.preferences.performance_mode == "balanced"
    assert panel.python == "manager.update_preferences(performance_mode='speed')"
    assert "performance_mode" in panel._difference.value
    assert 'role="status"' in said(panel)
    assert "1 edit" in said(panel)
    panel._apply.click()
    assert manager.preferences.performance_mode == "speed"
    assert UserPreferences.load(home / "preferences.toml") == (manager.preferences)
    assert "Applied" in said(panel)
    assert panel._apply.disabled


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("max_memory_usage", 0.01, "greater than or equal to 0.05"),
        ("max_memory_usage", float("nan"), "max_memory_usage"),
        ("preferred_devices", "cuda, warp", "warp"),
        ("preferred_devices", "", "preferred_devices"),
        ("preferred_devices", "cpu, cpu", "once"),
        ("model_weights", "small", "model name = 1.5"),
        ("model_weights", "= 2", "model name = 1.5"),
        ("model_weights", "small = -1", "greater than 0"),
        ("history_window_days", 2.5, "history_window_days"),
        ("keep_alive_seconds", -1.0, "keep_alive_seconds"),
        ("auto_cleanup_threshold_bytes", float("inf"), "auto_cleanup_threshold_bytes"),
    ],
)
def test_a_bad_value_is_said_and_nothing_is_applied(
    manager: ModelManager, field: str, value: object, named: str
) -> None:
    """What is not allowed is named beside the controls at once, and Apply changes nothing."""
    panel = PreferencesPanel(manager)
    before = manager.preferences
    panel.controls["performance_mode"].value = "memory"
    panel.controls[field].value = value
    assert named in said(panel)
    assert panel._apply.disabled
    panel.apply()
    assert manager.preferences is before
    with pytest.raises(PreferenceError):
        _ = panel.draft
    assert "cannot be applied" in panel.summary
    panel._discard.click()
    assert panel.draft == before


def test_undo_gives_back_what_was_in_force_step_by_step(manager: ModelManager) -> None:
    """Each Undo takes back one Apply, and only the fields that it had changed."""
    panel = PreferencesPanel(manager)
    panel.controls["performance_mode"].value = "speed"
    panel.apply()
    panel.controls["max_memory_usage"].value = 0.5
    panel.apply()
    manager.update_preferences(keep_alive_seconds=7)
    panel._undo.click()
    assert manager.preferences.max_memory_usage == 0.7
    assert manager.preferences.performance_mode == "speed"
    panel._undo.click()
    assert manager.preferences.performance_mode == "balanced"
    assert manager.preferences.keep_alive_seconds == 7
    assert panel._undo.disabled
    assert panel.draft == manager.preferences


def test_a_change_elsewhere_shows_and_keeps_the_edit(manager: ModelManager) -> None:
    """Another panel's Apply shows here too, and leaves an edit that was not applied yet."""
    one, other = PreferencesPanel(manager), PreferencesPanel(manager)
    other.controls["accuracy_preference"].value = "high"
    one.controls["performance_mode"].value = "memory"
    one.apply()
    assert other.controls["performance_mode"].value == "memory"
    assert other.changes == {"accuracy_preference": "high"}
    manager.update_preferences(accuracy_preference="low")
    other.refresh()
    assert other.controls["accuracy_preference"].value == "high"
    assert other.changes == {"accuracy_preference": "high"}


def test_callbacks_hear_of_every_change(manager: ModelManager) -> None:
    """on_change gets the new preferences after Apply and after Undo."""
    panel = PreferencesPanel(manager)
    heard: list[str] = []
    panel.on_change(lambda now: heard.append(now.performance_mode.value))
    panel.controls["performance_mode"].value = "speed"
    panel.apply()
    panel.undo()
    assert heard == ["speed", "balanced"]


def test_a_change_that_cannot_be_saved_says_so(manager: ModelManager, home: Path) -> None:
    """Preferences whose file cannot be written are in force, and the panel says why."""
    (home / "preferences.toml").mkdir(parents=True)
    panel = PreferencesPanel(manager)
    panel.controls["performance_mode"].value = "speed"
    panel.apply()
    assert manager.preferences.performance_mode == "speed"
    assert "not saved" in said(panel)


def test_names_are_escaped(make_manager: Callable[..., ModelManager]) -> None:
    """A model name that is HTML is shown as text, wherever the panel shows it."""
    manager = make_manager({"small": 2})
    panel = PreferencesPanel(manager)
    panel.controls["model_weights"].value = "<img src=x onerror=alert(1)> = 2"
    shown = panel._difference.value + said(panel)
    assert "<img" not in shown
    assert "&lt;img" in shown
    panel.controls["model_weights"].value = "<script>"
    assert "<script" not in said(panel)


def test_weights_that_fit_no_line_are_kept(manager: ModelManager) -> None:
    """A weight of a name with a line end cannot be typed, and is not lost by other edits."""
    manager.update_preferences(model_weights={"two\nlines": 3.0, "small": 1.25})
    panel = PreferencesPanel(manager)
    assert panel.controls["model_weights"].value == "small = 1.25"
    panel.controls["model_weights"].value = "small = 2"
    panel.apply()
    assert manager.preferences.model_weights == {"two\nlines": 3.0, "small": 2.0}


weights = st.dictionaries(
    st.text(min_size=1, max_size=12), st.floats(0.001, 100.0, allow_subnormal=False), max_size=3
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    memory=st.floats(0.05, 1.0),
    cleanup=st.integers(0, 2**50),
    keep=st.floats(0, 1e9),
    days=st.integers(1, 3650),
    weights=weights,
)
def test_the_controls_show_preferences_without_loss(
    manager: ModelManager,
    memory: float,
    cleanup: int,
    keep: float,
    days: int,
    weights: dict[str, float],
) -> None:
    """Whatever is in force is what the controls say, and the Python line says it again."""
    try:
        wanted = UserPreferences(
            max_memory_usage=memory,
            auto_cleanup_threshold_bytes=cleanup,
            keep_alive_seconds=keep,
            history_window_days=days,
            model_weights=weights,
        )
    except PreferenceError:
        return  # a name that is not valid Unicode
    manager.update_preferences(**wanted.model_dump())
    panel = PreferencesPanel(manager)
    assert panel.draft == wanted
    call = ast.parse(panel.python, mode="eval").body
    given = (
        {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        if isinstance(call, ast.Call)
        else {}
    )
    assert UserPreferences(**given) == wanted
    panel.close()


def test_close_leaves_nothing_behind(manager: ModelManager) -> None:
    """A closed panel keeps no widget, hears nothing, and may be closed again."""
    before = set(Widget.get_manager_state()["state"])
    panel, other = PreferencesPanel(manager), PreferencesPanel(manager)
    panel.close()
    panel.close()
    other.controls["performance_mode"].value = "speed"
    other.apply()
    assert panel.controls["performance_mode"].value == "balanced"
    other.close()
    assert set(Widget.get_manager_state()["state"]) == before
