"""Where things are kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ravenxterm_lab.config import paths
from ravenxterm_lab.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PLACES = ("store", "preferences", "models", "cache", "notebooks")


def test_everything_lies_below_the_home(tmp_path: Path) -> None:
    """Each place is a different one below home, and asking creates nothing."""
    found = paths(tmp_path / "home")
    places = [getattr(found, name) for name in PLACES]
    assert all(place.parent == tmp_path / "home" for place in places)
    assert len(set(places)) == len(PLACES)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_decides_at_the_time_of_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAVENXTERM_HOME is read on each call, and an argument goes before it."""
    monkeypatch.setenv("RAVENXTERM_HOME", str(tmp_path / "one"))
    assert paths().home == tmp_path / "one"
    monkeypatch.setenv("RAVENXTERM_HOME", str(tmp_path / "two"))
    assert paths().home == tmp_path / "two"
    assert paths(tmp_path / "three").home == tmp_path / "three"


def test_an_empty_variable_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set but empty means the platform's place, below the user's home."""
    monkeypatch.setenv("RAVENXTERM_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert tmp_path in paths().home.parents


def test_a_tilde_and_a_relative_path_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of directory does not move the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths("~/lab").home == tmp_path / "lab"
    monkeypatch.chdir(tmp_path)
    assert paths("lab").home == tmp_path / "lab"


def test_a_path_object_and_a_string_mean_the_same(tmp_path: Path) -> None:
    """Both kinds of path are taken."""
    assert paths(tmp_path) == paths(os.fspath(tmp_path))


def test_a_file_is_no_home(tmp_path: Path) -> None:
    """A home that is a file is an error that names it."""
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigurationError, match=r"file, which is a file"):
        paths(file)


def test_the_home_of_nobody_is_an_error_of_ours() -> None:
    """A user that does not exist is told with the variable and the remedy."""
    with pytest.raises(ConfigurationError, match="RAVENXTERM_HOME points to '~no-such-user-here"):
        paths("~no-such-user-here/lab")
