"""The judges of the eviction policy: the optimum is one, and the peers are what they are called."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from bench_eviction import product
from eviction_peers import PEERS, optimum, replay
from eviction_traces import Item, Trace, synthetic
from hypothesis import given, settings
from hypothesis import strategies as st


def brute_force(trace: Trace, step: int = 0, resident: frozenset[str] = frozenset()) -> float:
    """Try every set of models to keep, at every use."""
    if step == len(trace.uses):
        return 0.0
    name = trace.uses[step]
    paid = 0.0 if name in resident else trace.items[name].seconds
    others = sorted(resident - {name})
    return paid + min(
        brute_force(trace, step + 1, frozenset(kept) | {name})
        for count in range(len(others) + 1)
        for kept in combinations(others, count)
        if sum(trace.items[one].bytes for one in (*kept, name)) <= trace.budget
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_the_optimum_is_what_trying_everything_finds(seed: int) -> None:
    """On small random traces, the dynamic program and brute force agree."""
    rng = random.Random(seed)
    items = {name: Item(rng.randint(1, 6), rng.randint(1, 9)) for name in "abcd"}
    trace = Trace("", items, rng.choices("abcd", k=8), 10)
    assert optimum(trace) == brute_force(trace)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_policy_beats_the_optimum(seed: int) -> None:
    """On every kind of trace, each policy loads for at least as long as the optimum."""
    rng = random.Random(seed)
    items = {name: Item(rng.randint(10, 60), rng.uniform(0.2, 2)) for name in "abcdef"}
    for trace in synthetic(items, 100, 120, seed):
        least = optimum(trace) - 1e-9
        assert least > 0
        for make in PEERS.values():
            assert replay(trace, make) >= least
        assert product(trace) >= least


def test_lru_and_lfu_evict_what_they_should() -> None:
    """On a trace where the two differ, each loads the models that its rule says."""
    items = {name: Item(1, 10.0**place) for place, name in enumerate("abc")}
    # c takes the place of b (LRU) or of the less used a (LFU); then b and a are used.
    trace = Trace("", items, list("bbbaca"), 2)
    assert replay(trace, PEERS["LRU"]) == 10 + 1 + 100
    assert replay(trace, PEERS["LFU"]) == 10 + 1 + 100 + 1
