"""Importing: what a fresh interpreter loads, and what is public."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ravenxterm_lab
from ravenxterm_lab._imports import is_installed, require
from ravenxterm_lab.exceptions import MissingPackageError

HEAVY = ("pandas", "polars", "pyarrow", "plotly", "ipywidgets")


def fresh(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import ravenxterm_lab",
        "import ravenxterm_lab; dir(ravenxterm_lab)",
        "from ravenxterm_lab import UserPreferences, TaskRequirements, ModelType, HardwareProfile",
        "import ravenxterm_lab.models",
        "from ravenxterm.models import *",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    """Data frames, plots and widgets are loaded when they are used, not before."""
    loaded = fresh(f"import sys\n{statement}\nprint(*sorted(set({HEAVY}) & set(sys.modules)))")
    assert loaded == ""


@pytest.mark.parametrize("name", ravenxterm_lab.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name in __all__ can be had, is in dir(), and has a docstring."""
    value = getattr(ravenxterm_lab, name)
    assert name in dir(ravenxterm_lab)
    assert isinstance(value, str) or value.__doc__


def test_the_list_of_public_names_is_sorted() -> None:
    """The order of __all__ is that of its characters, capitals first."""
    assert ravenxterm_lab.__all__ == sorted(ravenxterm_lab.__all__)


def test_a_name_is_the_same_object_every_time() -> None:
    """The lazy name and the room's own are one."""
    from ravenxterm_lab.preferences import UserPreferences

    assert ravenxterm_lab.UserPreferences is UserPreferences
    assert ravenxterm_lab.UserPreferences is ravenxterm_lab.UserPreferences


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy import hides no mistake."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ravenxterm_lab.nonsense


def test_both_import_names_give_the_same() -> None:
    """``ravenxterm.models`` exports what ``ravenxterm_lab.models`` does."""
    assert (
        fresh(
            "import ravenxterm.models as a, ravenxterm_lab.models as b\n"
            "print(sorted(a.__all__) == sorted(b.__all__),"
            " all(getattr(a, n) is getattr(b, n) for n in b.__all__))"
        )
        == "True True"
    )


def test_a_missing_package_names_the_extra() -> None:
    """The error says why it is needed and how to install it."""
    with pytest.raises(MissingPackageError, match=r"pip install no_such_package_here") as caught:
        require("no_such_package_here", "to test this")
    assert "needed to test this" in str(caught.value)
    assert caught.value.name == "no_such_package_here"
    assert isinstance(caught.value, ImportError)


def test_an_extra_is_named_for_what_an_extra_brings() -> None:
    """In an interpreter that sees no packages, the runtimes extra is named for the runtime."""
    message = fresh(
        "import sys\n"
        "sys.modules['xllamacpp'] = None\n"
        "from ravenxterm_lab._imports import require\n"
        "try:\n    require('xllamacpp', 'to run a model')\n"
        "except ImportError as error:\n    print(error)"
    )
    assert 'pip install "ravenxterm-lab[runtimes]"' in message


def test_installed_packages_are_found_without_importing_them() -> None:
    """Looking does not import."""
    assert is_installed("plotly")
    assert not is_installed("no_such_package_here")
    assert require("json", "always").loads("1") == 1
    assert (
        fresh(
            "import sys\nfrom ravenxterm_lab._imports import is_installed\n"
            "print(is_installed('plotly'), 'plotly' in sys.modules)"
        )
        == "True False"
    )
