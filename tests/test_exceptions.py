"""The errors: one root, standard second bases, and suggestions."""

from __future__ import annotations

import copy
import doctest
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import exceptions
from ravenxterm_lab.exceptions import (
    FailureKind,
    MissingPackageError,
    NoSuitableModelError,
    RavenXTermError,
    RuntimeFailureError,
    did_you_mean,
)

CLASSES = [
    item
    for name in exceptions.__all__
    if isinstance(item := getattr(exceptions, name), type) and issubclass(item, Exception)
]


def example(kind: type[Exception]) -> Exception:
    if kind is RuntimeFailureError:
        return RuntimeFailureError("message", FailureKind.TIMEOUT, "log")
    if kind is NoSuitableModelError:
        return NoSuitableModelError("message", {"a": "too big"})
    if kind is MissingPackageError:
        return MissingPackageError("message", name="package")
    return kind("message")


def test_the_examples_run() -> None:
    """Every docstring example gives what it says."""
    result = doctest.testmod(exceptions)
    assert result.attempted >= 1
    assert result.failed == 0


def test_what_is_public_is_listed_in_order() -> None:
    """All that is public is in __all__, sorted."""
    assert exceptions.__all__ == sorted(exceptions.__all__)
    defined = {
        name
        for name, item in vars(exceptions).items()
        if getattr(item, "__module__", None) == exceptions.__name__ and not name.startswith("_")
    }
    assert defined == set(exceptions.__all__)


@pytest.mark.parametrize("kind", CLASSES)
def test_one_root_and_the_second_base_that_the_tree_names(kind: type[Exception]) -> None:
    """Each error is a RavenXTermError and the standard error that the docstring's tree gives."""
    assert issubclass(kind, RavenXTermError)
    assert kind.__doc__
    tree = exceptions.__doc__ or ""
    assert re.search(rf"\b{kind.__name__}\b", tree)
    if match := re.search(rf"{kind.__name__} +\((\w+)\)", tree):
        base = vars(__import__("builtins"))[match[1]]
        assert issubclass(kind, base)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("carry", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_the_way_to_another_process(kind: type[Exception], carry: object) -> None:
    """A copied or pickled error has the same message and attributes."""
    error = example(kind)
    again = carry(error)  # type: ignore[operator]
    assert type(again) is kind
    assert str(again) == "message"
    for name in ("kind", "log", "reasons", "name"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_reasons_are_a_copy() -> None:
    """Changing the caller's dictionary later changes nothing."""
    reasons = {"a": "b"}
    error = NoSuitableModelError("message", reasons)
    reasons.clear()
    assert error.reasons == {"a": "b"}


@given(st.text(), st.lists(st.text(), max_size=20))
def test_a_suggestion_is_a_known_name_or_none(name: str, known: list[str]) -> None:
    """Only names that would have been accepted are suggested, and nothing when there are none."""
    hint = did_you_mean(name, known)
    if not known:
        assert hint == ""
    elif hint.startswith(" Did you mean "):
        assert any(hint == f" Did you mean {item!r}?" for item in known)
    else:
        assert hint.startswith(" Known: ")


@given(st.lists(st.text("abcdef", min_size=4, max_size=8), min_size=1, unique=True), st.data())
def test_an_exact_name_is_its_own_suggestion(known: list[str], data: st.DataObject) -> None:
    """The nearest name to a known one, in any case, is itself."""
    name = data.draw(st.sampled_from(known))
    assert did_you_mean(name.upper(), known) == f" Did you mean {name!r}?"


def test_long_lists_are_cut() -> None:
    """At most twelve names are listed."""
    hint = did_you_mean("zzz", [f"name{index:02}" for index in range(30)])
    assert hint.count("name") == 12
    assert hint.endswith(", ….")
