"""What goes when room is needed: the cheapest set of idle models, by what usually follows."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, ModelPool
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.eviction import Candidate, Key, UsePattern, least_loss
from ravenxterm_lab.runtimes.fake import FakeRuntime


def key(name: str) -> Key:
    return ("fake", name, LoadOptions(context_length=4096).settings)


def keys(names: str) -> list[Key]:
    return [key(name) for name in names]


def candidates(sizes: list[tuple[int, float]]) -> list[Candidate]:
    return [Candidate(key(str(i)), {RAM: size}, loss) for i, (size, loss) in enumerate(sizes)]


def test_what_usually_follows_is_expected_more_than_what_is_used_more_often() -> None:
    """After a, which b always follows, b is expected before c, which is used more often."""
    expected = UsePattern(keys("ccab" * 5 + "cca")).expected()
    assert expected[key("b")] > expected[key("c")]


def test_without_a_habit_the_recent_is_expected_most() -> None:
    """Where nothing was ever seen to follow, recency decides."""
    expected = UsePattern(keys("abcd")).expected()
    assert expected[key("a")] < expected[key("b")] < expected[key("c")]


def test_old_habits_fade() -> None:
    """What followed lately outweighs what followed earlier just as often."""
    expected = UsePattern(keys("ab" * 6 + "ac" * 6 + "a")).expected()
    assert expected[key("c")] > 2 * expected[key("b")]


def test_uses_on_end_say_nothing_of_what_follows() -> None:
    """A model that is used many times on end is not taken to follow itself."""
    pattern = UsePattern(keys("aaaaaaaab" * 3 + "a"))
    assert pattern.expected()[key("b")] > 0.5


def test_nothing_is_expected_of_nothing() -> None:
    """A pattern without a use expects nothing."""
    assert dict(UsePattern().expected()) == {}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 10)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_the_choice_is_the_cheapest_that_suffices(
    sizes: list[tuple[int, float]], share: float
) -> None:
    """No other set of idle models frees enough at less loss."""
    idle = candidates(sizes)
    needed = int(share * sum(item.bytes[RAM] for item in idle))
    chosen = least_loss(idle, {RAM: needed})
    assert sum(item.bytes[RAM] for item in chosen) >= needed
    least = min(
        sum(item.loss for item in some)
        for count in range(len(idle) + 1)
        for some in combinations(idle, count)
        if sum(item.bytes[RAM] for item in some) >= needed
    )
    assert sum(item.loss for item in chosen) == pytest.approx(least)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 10)), min_size=13, max_size=30))
def test_of_many_none_goes_for_nothing(sizes: list[tuple[int, float]]) -> None:
    """With more models than can be tried in all ways, enough goes, and none could have stayed."""
    idle = candidates(sizes)
    needed = sum(item.bytes[RAM] for item in idle) // 2
    chosen = least_loss(idle, {RAM: needed})
    freed = sum(item.bytes[RAM] for item in chosen)
    assert freed >= needed
    assert all(freed - item.bytes[RAM] < needed for item in chosen)


def test_more_than_there_is_cannot_be_freed() -> None:
    """Asking for more bytes than all idle models hold is an error."""
    with pytest.raises(ValueError, match="cannot be freed"):
        least_loss(candidates([(10, 1.0)]), {RAM: 11})


def test_the_pool_keeps_what_its_history_says_comes_next() -> None:
    """A new pool that knows of earlier uses evicts another model than one that does not."""

    def evicted(past: str) -> list[str]:
        runtime = FakeRuntime()
        pool = ModelPool(
            budget=lambda: {RAM: 200},
            estimate=lambda model, options: {RAM: 100},
            past=lambda: keys(past),
        )
        for name in "abc":
            model = ModelMetadata(name, ModelType.GGUF, Path(name), 100, fingerprint=name)
            with pool.acquire(runtime, model):
                pass
        gone = list(runtime.unloads)
        pool.close()
        return gone

    assert evicted("") == ["a"]
    assert evicted("ca" * 5 + "b") == ["b"]


def test_the_past_is_asked_for_once_and_not_before_a_load() -> None:
    """Making a pool reads no history, and later loads do not read it again."""
    asked: list[int] = []
    pool = ModelPool(
        budget=lambda: {RAM: 100},
        estimate=lambda model, options: {RAM: 100},
        past=lambda: asked.append(1) or (),
    )
    assert asked == []
    for name in "ab":
        model = ModelMetadata(name, ModelType.GGUF, Path(name), 100, fingerprint=name)
        with pool.acquire(FakeRuntime(), model):
            pass
    assert asked == [1]
    pool.close()
