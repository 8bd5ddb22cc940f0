"""The constraints one by one, what lifts them together, and where a model is placed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.estimation import MemoryEstimate, estimate_memory
from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import Machine, Recommendations, assess, relax
from ravenxterm_lab.selection.constraints import in_words
from ravenxterm_lab.selection.limits import rounded_down, rounded_up

GIB = 2**30
TASK = "text_generation"
CPU, CUDA, METAL = HardwareType.CPU, HardwareType.CUDA, HardwareType.METAL


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


def made(name: str = "m", size: int = GIB, **changes: Any) -> ModelMetadata:
    values: dict[str, Any] = {
        "task_types": (TASK,), "runtimes": ("fake",), "preferred_hardware": (CUDA, CPU),
        "fingerprint": f"print-{name}", "quantization": "Q8_0", "context_length": 131_072,
        "embedding_length": 1024, "vocabulary_size": 32_000, "license": "mit",
        "attention": AttentionGeometry((8,) * 16, 64, 64), "supports_batching": True,
    }  # fmt: skip
    return ModelMetadata(name, ModelType.GGUF, Path(name), size, **{**values, **changes})


Rank = Callable[..., Recommendations]


@pytest.fixture
def rank(home: Path) -> Rank:
    """Return what ranks models on a machine that is described in a line."""

    def rank(
        *models: ModelMetadata,
        on: str = "16 GiB RAM",
        free: int | None = None,
        asked: dict[str, Any] | None = None,
        **preferences: Any,
    ) -> Recommendations:
        machine = StillMachine.simulate(on)
        if free is not None:
            machine = replace(machine, available_memory=free)
        bench = Workbench(home, hardware=machine, runtimes=[FakeRuntime("fake")])
        selector = AdaptiveModelSelector(UserPreferences(**preferences), workbench=bench)
        return selector.get_recommended_models(models, TASK, requirements=asked)

    return rank


def test_every_broken_constraint_is_named_and_one_change_lifts_all(rank: Rank) -> None:
    """Size, license, batching and memory: four reasons, four keys, and all of them suffice."""
    model = made(size=12 * GIB, supports_batching=False)
    asked = {"max_size_bytes": GIB, "license": ["apache-2.0"], "requires_batching": True}
    why = rank(model, asked=asked).why_not("m")
    assert set(why.change) == {
        "max_size_bytes", "license", "requires_batching", "max_memory_usage",
    }  # fmt: skip
    for words in ("12.0 GiB on disk", "its license is mit", "does not batch", "the budget is"):
        assert words in why.reason
    usage = why.change.pop("max_memory_usage")
    assert why.change.pop("license") == ["apache-2.0", "mit"]
    changed = {**asked, **why.change, "license": ["apache-2.0", "mit"]}
    assert rank(model, asked=changed, max_memory_usage=usage)[0].model.name == "m"


@pytest.mark.parametrize(
    ("changes", "asked", "constraint"),
    [
        ({"license": None}, {"license": ["mit"]}, "license"),
        ({"quantization": None}, {"quantizations": ["Q8_0", ""]}, "quantizations"),
        ({"context_length": None}, {"min_context_length": 100}, "min_context_length"),
        ({}, {"min_quality": 0.2}, "min_quality"),
    ],
)
def test_what_is_not_known_passes_only_without_the_requirement(
    rank: Rank, changes: dict[str, Any], asked: dict[str, Any], constraint: str
) -> None:
    """A license, quantization, context or quality that is not known meets no requirement."""
    model = made(**changes)
    ranked = rank(model, asked=asked)
    assert [one.constraint for one in ranked.rejected] == [constraint]
    why = ranked.why_not("m")
    assert why.change == {constraint: None}
    assert f"leave {constraint} out" in why.reason
    assert len(rank(model, asked={**asked, constraint: None})) == 1


def test_devices_are_tried_in_order_until_one_fits(rank: Rank) -> None:
    """What is too large for the GPU is placed on the CPU, if the person allows it."""
    on = "RTX 3060 12GB, 64 GiB RAM"
    small, large = made("small", 4 * GIB), made("large", 20 * GIB)
    ranked = rank(small, large, on=on)
    placed = {item.model.name: len(item.memory.devices) for item in ranked}
    assert placed == {"small": 2, "large": 1}
    alone = rank(large, on=on, preferred_devices=["cuda"])
    assert [one.constraint for one in alone.rejected] == ["gpu_memory"]
    why = alone.why_not("large")
    assert why.change == {"preferred_devices": ["cuda", "cpu"]}
    assert "add cpu to preferred_devices" in why.reason
    required = rank(large, on=on, asked={"required_hardware": ["cuda"]}).why_not("large")
    assert required.change == {"required_hardware": ["cuda", "cpu"]}


def test_a_gpu_s_memory_is_no_part_of_the_system_s_budget(rank: Rank) -> None:
    """A model that fits the GPU needs no budget of that size in the system's memory."""
    ranked = rank(made(size=16 * GIB), on="RTX 4090 24GB, 8 GiB RAM")
    assert len(ranked) == 1
    assert ranked[0].memory.total_bytes > 8 * GIB


def test_memory_that_is_shared_is_counted_once_and_with_the_factor(rank: Rank) -> None:
    """On a chip whose GPU uses the system's memory both shares together obey the fit rule."""
    model = made(size=20 * GIB, preferred_hardware=(METAL, CPU))
    preferences = {"preferred_devices": ["metal", "cpu"]}
    why = rank(model, on="M2 Max 32GB", max_memory_usage=0.5, **preferences).why_not("m")
    usage = why.change["max_memory_usage"]
    ranked = rank(model, on="M2 Max 32GB", max_memory_usage=usage, **preferences)
    assert ranked[0].memory.total_bytes * 1.1 <= int(32 * GIB * usage)
    assert ranked[0].memory.total_bytes * 1.1 > int(32 * GIB * (usage - 0.001))


def test_a_shorter_context_is_offered_where_nothing_else_helps(rank: Rank) -> None:
    """Where the cache of a long context does not fit, the longest that does is named."""
    model = made(attention=AttentionGeometry((8,) * 64, 128, 128))
    asked = {"min_context_length": 100_000}
    ranked = rank(model, on="16 GiB RAM", asked=asked)
    why = ranked.why_not("m")
    assert why.change.keys() <= {"min_context_length", "max_memory_usage"}
    context = why.change["min_context_length"]
    assert 4096 < context < 100_000
    usage = why.change.get("max_memory_usage", 0.7)
    assert len(rank(model, asked={"min_context_length": context}, max_memory_usage=usage)) == 1
    more = {"min_context_length": context + 1}
    assert len(rank(model, asked=more, max_memory_usage=usage)) == 0


def test_free_memory_that_lacks_says_who_can_help(rank: Rank) -> None:
    """No preference frees memory, so no change is offered, and the words say what to do."""
    ranked = rank(made(size=4 * GIB), free=2 * GIB)
    assert [one.constraint for one in ranked.rejected] == ["available_memory"]
    why = ranked.why_not("m")
    assert why.change == {}
    assert "only 2.0 GiB are free" in why.reason
    assert "close other programs" in why.reason


def test_more_than_the_machine_has_is_final(rank: Rank) -> None:
    """A model larger than the memory gets no share of it offered."""
    why = rank(made(size=60 * GIB)).why_not("m")
    assert why.change == {}
    assert "more than this machine has" in why.reason


def test_an_uncertain_formula_must_fit_at_its_upper_end(rank: Rank) -> None:
    """For an ONNX model the offered share is that of the interval's end, and it suffices."""
    model = made(size=GIB // 2, attention=None)
    model = replace(model, model_type=ModelType.ONNX)
    why = rank(model, on="8 GiB RAM", max_memory_usage=0.2).why_not("m")
    assert "needs up to" in why.reason
    usage = why.change["max_memory_usage"]
    assert len(rank(model, on="8 GiB RAM", max_memory_usage=usage)) == 1
    assert len(rank(model, on="8 GiB RAM", max_memory_usage=usage - 0.001)) == 0


def test_two_models_of_one_name_are_an_error(rank: Rank) -> None:
    """A list with two different models of one name is refused, with the same twice it is not."""
    with pytest.raises(RequirementError, match="two different models called 'm'"):
        rank(made(), made(size=2 * GIB))
    assert len(rank(made(), made())) == 1


def test_relax_finds_the_least_share_among_devices() -> None:
    """Of several devices that a change would allow, the smallest share of memory is offered."""
    machine = Machine((CUDA, CPU), 16 * GIB, 16 * GIB, 4 * GIB, (CUDA, CPU), (CUDA, CPU))
    model = made()
    needs = {CUDA: 9 * GIB, CPU: 6 * GIB}

    def place(_: Any, there: Machine, device: HardwareType) -> tuple[MemoryEstimate, tuple[()]]:
        base = estimate_memory(model, budget_bytes=there.limit)
        return replace(base, total_bytes=needs[device] * 10 // 11, needed_bytes=needs[device],
                       devices=base.devices[:1]), ()  # fmt: skip

    wanted = TaskRequirements.parse({"task_type": TASK})
    found = assess(model, wanted, machine, place)
    assert [one.constraint for one in found.violations] == ["max_memory_usage"]
    way = relax(model, wanted, machine, place, 4096)
    assert way is not None
    assert way.change == {"max_memory_usage": 0.375}
    assert way.assessment.device is CPU


@given(st.floats(1e-9, 1e9))
def test_rounded_limits_hold_and_are_close(value: float) -> None:
    """Rounding keeps four digits, never crosses the value, and moves it by less than a digit."""
    low, high = rounded_down(value), rounded_up(value)
    assert low <= value <= high
    assert high - low <= 1.001e-3 * value
    assert rounded_down(low) == low
    assert math.isclose(rounded_up(high), high)


def test_a_change_in_words() -> None:
    """Each kind of change is said as a person would make it."""
    assert in_words({"max_memory_bytes": 2 * GIB}) == ("max_memory_bytes ≥ 2147483648 (2.0 GiB)")
    assert in_words({"min_context_length": 4096, "license": None}) == (
        "min_context_length ≤ 4096 and leave license out"
    )
    assert in_words({"model_types": ["onnx", "gguf"]}) == "add gguf to model_types"
    assert in_words({"requires_batching": False}) == "requires_batching = False"
    assert in_words({"model_weights": {"m": 1.5}}) == "model_weights['m'] ≥ 1.5"
