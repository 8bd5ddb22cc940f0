"""A budget for each device: the short one is freed, at the least loss, and none is exceeded."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, ModelPool
from ravenxterm_lab.runtimes.budgets import RAM, Bytes, added, shortage
from ravenxterm_lab.runtimes.eviction import Candidate, least_loss
from ravenxterm_lab.runtimes.fake import FakeModel, FakeRuntime

DEVICES = (RAM, "GPU 0", "GPU 1")
AMOUNTS = st.dictionaries(st.sampled_from(DEVICES), st.integers(0, 60), min_size=1)


def made(name: str) -> ModelMetadata:
    return ModelMetadata(name, ModelType.GGUF, Path(name), 0, fingerprint=name)


def pool_of(budget: Bytes, needs: dict[str, Bytes], **arguments: object) -> ModelPool:
    return ModelPool(
        budget=lambda: budget,
        estimate=lambda model, options: needs[model.name],
        **arguments,  # type: ignore[arg-type]
    )


def touch(pool: ModelPool, runtime: FakeRuntime, name: str) -> None:
    with pool.acquire(runtime, made(name)):
        pass


def test_the_device_that_is_short_is_freed() -> None:
    """A model for the GPU evicts what lies there, not what is older and lies elsewhere."""
    needs = {
        "old, in RAM": {RAM: 80},
        "on GPU 0": {RAM: 5, "GPU 0": 70},
        "on GPU 1": {RAM: 5, "GPU 1": 70},
        "new": {RAM: 5, "GPU 0": 60},
    }
    pool, runtime = pool_of({RAM: 100, "GPU 0": 100, "GPU 1": 100}, needs), FakeRuntime()
    for name in needs:
        touch(pool, runtime, name)
    assert runtime.unloads == ["on GPU 0"]
    assert [item.gpu_memory for item in pool.resident()] == [{}, {"GPU 1": 70}, {"GPU 0": 60}]
    pool.close()


def test_what_cannot_fit_names_the_device_and_who_holds_it() -> None:
    """OUT_OF_MEMORY of a GPU says which, lists who is in use there alone, and evicts nobody."""
    needs = {
        "idle": {"GPU 0": 20},
        "held": {"GPU 0": 30},
        "host": {RAM: 50},
        "large": {"GPU 0": 80},
    }
    pool, runtime = pool_of({RAM: 100, "GPU 0": 100}, needs), FakeRuntime()
    touch(pool, runtime, "idle")
    with (
        pool.acquire(runtime, made("held")),
        pool.acquire(runtime, made("host")),
        pytest.raises(RuntimeFailureError, match="needs 80 B on GPU 0") as caught,
    ):
        touch(pool, runtime, "large")
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    assert "the budget for loaded models there is 100 B" in str(caught.value)
    assert "held (ctx=4096 kv=f16): 30 B, in use." in str(caught.value)
    assert "host" not in str(caught.value)
    assert "put fewer layers there" in str(caught.value)
    assert runtime.unloads == []
    pool.close()


def test_a_full_gpu_stops_no_model_that_does_not_need_it() -> None:
    """Where others have filled a device beyond its budget, only what goes there is refused."""
    needs = {"a": {RAM: 10, "GPU 0": 0}, "b": {RAM: 10, "GPU 0": 1}}
    pool, runtime = pool_of({RAM: 100, "GPU 0": -5}, needs), FakeRuntime()
    touch(pool, runtime, "a")
    with pytest.raises(RuntimeFailureError, match="on GPU 0"):
        touch(pool, runtime, "b")
    pool.close()


def test_a_device_without_a_budget_has_no_limit() -> None:
    """A GPU that does not tell its memory is not held against anything."""
    pool, runtime = pool_of({RAM: 10}, {"a": {RAM: 1, "GPU 7": 10**12}}), FakeRuntime()
    touch(pool, runtime, "a")
    assert pool.resident()[0].gpu_memory == {"GPU 7": 10**12}
    pool.close()


class Process(FakeModel):
    """A fake in a process, so that a driver can tell what that holds."""

    number = 0

    @property
    def pid(self) -> int:
        return self.number


class Processes(FakeRuntime):
    """Loads models into made-up processes, numbered from 1."""

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        loaded = super().load(model, options)
        assert isinstance(loaded, FakeModel)
        made_up = Process(self, model, loaded.options, loaded.report, self._script)
        made_up.number = len(self.loads)
        return made_up


def test_what_the_driver_tells_counts_if_it_is_more() -> None:
    """A process that took more of a GPU than was predicted leaves less for the next."""
    told: dict[int, Bytes] = {}
    needs: dict[str, Bytes] = {name: {"GPU 0": 30} for name in "abc"}
    pool, runtime = pool_of({"GPU 0": 100}, needs, on_gpus=lambda: told), Processes()
    for name in "ab":
        touch(pool, runtime, name)
    told.update({1: {"GPU 0": 65}, 2: {"GPU 0": 10}, 77: {"GPU 0": 90}})
    assert [item.gpu_memory["GPU 0"] for item in pool.resident()] == [65, 10]
    touch(pool, runtime, "c")  # 65 + 30 + 30 are too much: what it reserved counts for b
    assert runtime.unloads == ["a"]
    told.clear()
    assert [item.gpu_memory["GPU 0"] for item in pool.resident()] == [30, 30]
    pool.close()


def candidates(idle: list[tuple[Bytes, float]]) -> list[Candidate]:
    return [Candidate(("r", str(i), ""), held, loss) for i, (held, loss) in enumerate(idle)]


def suffices(chosen: tuple[Candidate, ...], needed: Bytes) -> bool:
    freed = added(item.bytes for item in chosen)
    return all(freed.get(device, 0) >= count for device, count in needed.items())


@settings(deadline=None)
@given(
    st.lists(st.tuples(AMOUNTS, st.floats(0, 10)), min_size=1, max_size=7),
    st.dictionaries(st.sampled_from(DEVICES), st.floats(0, 1)),
)
def test_the_victims_make_room_on_every_short_device_at_the_least_loss(
    idle: list[tuple[Bytes, float]], shares: dict[str, float]
) -> None:
    """No other set of idle models frees enough on each device at less loss."""
    choice = candidates(idle)
    every = added(item.bytes for item in choice)
    needed = {device: int(share * every.get(device, 0)) for device, share in shares.items()}
    chosen = least_loss(choice, needed)
    assert suffices(chosen, needed)
    least = min(
        sum(item.loss for item in some)
        for count in range(len(choice) + 1)
        for some in combinations(choice, count)
        if suffices(some, needed)
    )
    assert sum(item.loss for item in chosen) == pytest.approx(least)


@settings(deadline=None)
@given(
    st.lists(st.tuples(AMOUNTS, st.floats(0, 10)), min_size=13, max_size=30),
    st.dictionaries(st.sampled_from(DEVICES), st.floats(0, 1)),
)
def test_of_many_enough_goes_and_none_for_nothing(
    idle: list[tuple[Bytes, float]], shares: dict[str, float]
) -> None:
    """With more models than can be tried in all ways, each victim is needed on some device."""
    choice = candidates(idle)
    every = added(item.bytes for item in choice)
    needed = {device: int(share * every.get(device, 0)) for device, share in shares.items()}
    chosen = least_loss(choice, needed)
    assert suffices(chosen, needed)
    for item in chosen:
        assert not suffices(tuple(one for one in chosen if one is not item), needed)


def test_more_than_a_device_holds_cannot_be_freed() -> None:
    """Plenty on one device makes no room on another."""
    with pytest.raises(ValueError, match="11 bytes of GPU 0 cannot be freed"):
        least_loss(candidates([({RAM: 99, "GPU 0": 10}, 1.0)]), {RAM: 5, "GPU 0": 11})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(AMOUNTS, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=25),
)
def test_no_device_is_exceeded_whatever_comes(
    amounts: list[Bytes], steps: list[tuple[int, bool]]
) -> None:
    """Over any sequence of uses, reservations stay within each budget, and nobody in use goes."""
    budget = {RAM: 100, "GPU 0": 80, "GPU 1": 70}
    needs = {f"m{index}": amount for index, amount in enumerate(amounts)}
    pool, runtime = pool_of(budget, needs), FakeRuntime()
    with ExitStack() as holding:
        in_use: dict[str, Bytes] = {}
        for index, hold in steps:
            name = f"m{index % len(amounts)}"
            before = {item.model.name: item for item in pool.resident()}
            gone = len(runtime.unloads)
            if name not in in_use and shortage(budget, added(in_use.values()), needs[name]):
                # It does not fit beside what is in use: it is refused, and nobody goes.
                if name not in before:
                    with pytest.raises(RuntimeFailureError, match="needs"):
                        touch(pool, runtime, name)
                    assert len(runtime.unloads) == gone
            elif hold:
                holding.enter_context(pool.acquire(runtime, made(name)))
                in_use[name] = needs[name]
            else:
                touch(pool, runtime, name)
            victims = runtime.unloads[gone:]
            assert not set(victims) & set(in_use)
            reserved = added(item.reserved for item in pool.resident())
            assert all(reserved.get(device, 0) <= most for device, most in budget.items())
            if victims:
                # Each of them was needed: with it, some device that was wanted is short.
                stay = [item.reserved for item in before.values() if item.model.name not in victims]
                for victim in victims:
                    kept = added([*stay, before[victim].reserved])
                    assert shortage(budget, kept, needs[name])
    pool.close()


def test_models_in_use_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may grow to what it reserved; the rest goes to those in use, and is given anew."""
    growth: dict[str, int] = {}

    def note(self: FakeModel, extra: int) -> bool:
        growth[self.model.name] = extra
        return True

    monkeypatch.setattr(FakeModel, "limit_growth", note)
    needs: dict[str, Bytes] = {"a": {RAM: 100}, "b": {RAM: 150}}
    held = {"a": 80, "b": 150}
    runtime = FakeRuntime(memory_bytes=lambda model: held[model.name])
    pool = pool_of({RAM: 350}, needs)
    with pool.acquire(runtime, made("a")):
        assert growth == {"a": 20 + 250}
        with pool.acquire(runtime, made("b")):
            assert growth == {"a": 20 + 50, "b": 50}
        assert growth == {"a": 20 + 100, "b": 0}
    assert growth == {"a": 20, "b": 0}
    with pool.acquire(runtime, made("b")):
        assert growth == {"a": 20, "b": 100}
        pool.unload_idle()
    with pool.acquire(runtime, made("b")):
        assert growth["b"] == 200
    pool.close()


def test_a_budget_that_changed_is_felt_by_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later use of a resident model asks for the budget again, at most every few seconds."""
    growth: list[int] = []
    monkeypatch.setattr(FakeModel, "limit_growth", lambda self, extra: growth.append(extra) or True)
    budget, now = {RAM: 300}, [0.0]
    pool = pool_of(budget, {"a": {RAM: 100}}, clock=lambda: now[0])
    runtime = FakeRuntime(memory_bytes=lambda model: 100)
    touch(pool, runtime, "a")
    budget[RAM] = 500
    with pool.acquire(runtime, made("a")):
        assert growth[-1] == 200
    now[0] = 60.0
    with pool.acquire(runtime, made("a")):
        assert growth[-1] == 400
    pool.close()


def test_the_same_model_with_other_settings_counts_twice() -> None:
    """Reservations belong to a load, not to a file."""
    pool, runtime = pool_of({RAM: 100, "GPU 0": 100}, {"a": {"GPU 0": 60}}), FakeRuntime()
    shorter = pool.acquire(runtime, made("a"), LoadOptions(context_length=64))
    with (
        pool.acquire(runtime, made("a")),
        pytest.raises(RuntimeFailureError, match="GPU 0"),
        shorter,
    ):
        pass
    pool.close()


def test_an_interrupt_while_limits_are_set_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a warm use nor a load that is interrupted there leaves a model that never goes."""
    strikes = [0]

    def limit(self: FakeModel, extra: int) -> bool:
        strikes[0] -= 1
        if strikes[0] == 0:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(FakeModel, "limit_growth", limit)
    pool, runtime = pool_of({RAM: 300}, {name: {RAM: 100} for name in "ab"}), FakeRuntime()
    touch(pool, runtime, "a")
    for name in "ab":  # a is there, b is to be loaded
        strikes[0] = 1
        with pytest.raises(KeyboardInterrupt):
            touch(pool, runtime, name)
        assert [(item.model.name, item.in_use) for item in pool.resident()] == [("a", 0)]
        touch(pool, runtime, name)
        assert pool.unload_idle() == 0  # the fakes hold nothing
        touch(pool, runtime, "a")
    pool.close()
