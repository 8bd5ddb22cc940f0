"""The person's preferences: validated, told apart, saved whole."""

from __future__ import annotations

import math
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import (
    AccuracyPreference,
    HardwareType,
    PerformancePreference,
    UserPreferences,
)
from ravenxterm_lab.exceptions import PreferenceError

if TYPE_CHECKING:
    from pathlib import Path

text = st.text(st.characters(exclude_categories=["Cs"]))
valid = st.fixed_dictionaries(
    {},
    optional={
        "performance_mode": st.sampled_from(PerformancePreference),
        "accuracy_preference": st.sampled_from(AccuracyPreference),
        "max_memory_usage": st.floats(0.05, 1.0),
        "preferred_devices": st.lists(st.sampled_from(HardwareType), min_size=1, unique=True),
        "enable_adaptive_selection": st.booleans(),
        "model_weights": st.dictionaries(text, st.floats(0, 100, exclude_min=True), max_size=4),
        "auto_cleanup_threshold_bytes": st.integers(0, 2**63 - 1),
        "keep_alive_seconds": st.floats(0, 1e9),
        "history_window_days": st.integers(1, 3650),
    },
)
BAD = [
    ("performance_mode", "fast", "'speed', 'balanced' or 'memory'"),
    ("performance_mode", None, "performance_mode=None"),
    ("accuracy_preference", "highest", "'low', 'medium' or 'high'"),
    ("max_memory_usage", 0.04, "greater than or equal to 0.05"),
    ("max_memory_usage", 1.5, "less than or equal to 1"),
    ("max_memory_usage", math.nan, "max_memory_usage=nan"),
    ("max_memory_usage", True, "a number is needed"),
    ("preferred_devices", [], "at least 1"),
    ("preferred_devices", ["cuda", "cuda"], "each device may stand there once"),
    ("preferred_devices", ["abacus"], "'abacus'"),
    ("enable_adaptive_selection", 2, "boolean"),
    ("model_weights", {"a": 0}, "model_weights.a=0"),
    ("model_weights", {"a": 101}, "less than or equal to 100"),
    ("model_weights", {"a": math.inf}, "model_weights.a=inf"),
    ("model_weights", {"a": True}, "a number is needed"),
    ("model_weights", {"\udcff": 1}, "not valid Unicode"),
    ("model_weights", [1], "model_weights"),
    ("auto_cleanup_threshold_bytes", -1, "greater than or equal to 0"),
    ("auto_cleanup_threshold_bytes", 1.5, "auto_cleanup_threshold_bytes=1.5"),
    ("auto_cleanup_threshold_bytes", True, "a number is needed"),
    ("keep_alive_seconds", -0.1, "greater than or equal to 0"),
    ("keep_alive_seconds", math.inf, "keep_alive_seconds=inf"),
    ("history_window_days", 0, "greater than or equal to 1"),
    ("history_window_days", True, "a number is needed"),
    ("max_memory", 0.5, "Did you mean 'max_memory_usage'"),
]


def test_the_defaults_are_those_of_the_contract() -> None:
    """Each default is the documented one, and two sets of defaults share nothing."""
    preferences = UserPreferences.get_defaults()
    assert preferences.performance_mode is PerformancePreference.BALANCED
    assert preferences.accuracy_preference is AccuracyPreference.MEDIUM
    assert preferences.max_memory_usage == 0.7
    assert preferences.preferred_devices == ["cuda", "cpu"]
    assert preferences.enable_adaptive_selection is True
    assert preferences.model_weights == {}
    preferences.model_weights["a"] = 2.0
    preferences.preferred_devices.reverse()
    assert UserPreferences() == UserPreferences.get_defaults() != preferences


@given(valid)
def test_saving_and_loading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    """All that can be set can be saved as TOML and comes back equal."""
    preferences = UserPreferences(**values)
    path = preferences.save(tmp_path_factory.mktemp("home") / "new" / "preferences.toml")
    assert UserPreferences.load(path) == preferences
    assert [item.name for item in path.parent.iterdir()] == ["preferences.toml"]


@given(valid, valid)
def test_updating_and_the_difference_agree(one: dict[str, Any], two: dict[str, Any]) -> None:
    """The difference to a copy names only what was changed, and the original stays."""
    before = UserPreferences(**one)
    kept = before.model_copy(deep=True)
    after = before.updated(**two)
    assert before == kept
    assert set(before.diff(after)) <= set(two)
    assert (before.diff(after) == {}) == (before == after)
    assert {key: (b, a) for key, (a, b) in before.diff(after).items()} == after.diff(before)


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_bad_value_is_refused_however_it_is_set(field: str, value: Any, message: str) -> None:
    """Construction, assignment and update give the same error, and change nothing."""
    preferences = UserPreferences()
    for attempt in (
        lambda: UserPreferences(**{field: value}),
        lambda: setattr(preferences, field, value),
        lambda: preferences.updated(**{field: value}),
    ):
        with pytest.raises(PreferenceError) as caught:
            attempt()
        assert message in str(caught.value)
        assert field in str(caught.value)
        assert "Value error" not in str(caught.value)
    assert preferences == UserPreferences()


def test_several_bad_values_are_all_told() -> None:
    """One error names every bad field."""
    with pytest.raises(PreferenceError, match=r"max_memory_usage=7.*; .*history_window_days=0"):
        UserPreferences(max_memory_usage=7, history_window_days=0)


@pytest.mark.parametrize("value", ["speed", " SPEED ", "Speed", PerformancePreference.SPEED])
def test_strings_become_values(value: str) -> None:
    """Case and spaces around do not matter."""
    preferences = UserPreferences()
    preferences.performance_mode = value  # type: ignore[assignment]
    assert preferences.performance_mode is PerformancePreference.SPEED


def test_one_device_stands_for_a_list_of_one() -> None:
    """A single name is taken as the only preferred device."""
    assert UserPreferences(preferred_devices="CPU").preferred_devices == [HardwareType.CPU]


def test_the_file_is_plain_toml(tmp_path: Path) -> None:
    """A person can read and write the file with the documented names."""
    path = UserPreferences(performance_mode="speed").save(tmp_path / "p.toml")
    assert tomllib.loads(path.read_text("utf-8"))["performance_mode"] == "speed"
    path.write_text('performance_mode = "memory"\n', encoding="utf-8")
    assert UserPreferences.load(path) == UserPreferences(performance_mode="memory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"performance_mode = ", "Cannot read the preferences"),
        (b"\xff\xfe", "Cannot read the preferences"),
        (b"max_memory_usage = 9", "less than or equal to 1"),
        (b"max_memry_usage = 0.5", "Did you mean 'max_memory_usage'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """The error says which file and what is wrong in it."""
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    with pytest.raises(PreferenceError, match=message) as caught:
        UserPreferences.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_directory_are_errors_of_ours(tmp_path: Path) -> None:
    """Neither gives an error that is not a PreferenceError."""
    with pytest.raises(PreferenceError, match="There is no preferences file"):
        UserPreferences.load(tmp_path / "absent.toml")
    with pytest.raises(PreferenceError, match="Cannot read"):
        UserPreferences.load(tmp_path)


def test_a_failed_save_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """A place that cannot be written is named, and no temporary file stays."""
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    with pytest.raises(PreferenceError, match="RAVENXTERM_HOME"):
        UserPreferences().save(blocked / "preferences.toml")
    directory = tmp_path / "preferences.toml"
    directory.mkdir()
    with pytest.raises(PreferenceError, match="Cannot save"):
        UserPreferences().save(directory)
    assert blocked.read_text() == "kept"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "preferences.toml"]


def test_the_card_tells_what_differs_from_the_defaults() -> None:
    """Every field stands on the card with its unit, beside its default."""
    text = str(UserPreferences(performance_mode="speed", model_weights={"a": 1.5}))
    assert "2 of 9 differ from the defaults" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[3:]}
    assert list(lines) == list(UserPreferences.model_fields)
    assert lines["performance_mode"] == ["speed", "balanced"]
    assert lines["keep_alive_seconds"] == ["300", "s", "300", "s"]
    assert lines["model_weights"] == ["a", "=", "1.5", "none"]
    assert "all defaults" in UserPreferences()._repr_mimebundle_()["text/html"]
