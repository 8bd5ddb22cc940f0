"""Random situations: nothing ranked breaks a constraint, and every change that is offered works.

The constraints are judged here once more, in words of their own. `pytest -m slow` on this file runs
10,000 situations, the ordinary run 300, or as many as the variable SITUATIONS says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from situation_strategies import Case, cases

from ravenxterm_lab.estimation import Verdict
from ravenxterm_lab.estimation.devices import GPU_RESERVE
from ravenxterm_lab.metadata import HardwareType, ModelMetadata
from ravenxterm_lab.models.selector import Selection
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.selection import Evidence, Recommendation, Rejection

EXAMPLES = int(os.environ.get("SITUATIONS", "300"))
PLACED = {"memory", "max_memory_bytes", "max_memory_usage", "available_memory", "gpu_memory"}
SITUATION = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


def check(case: Case) -> None:
    """Hold one situation against everything that a ranking promises."""
    note(repr(case))
    selection = case.rank()
    ranked = selection.ranked
    names = [item.model.name for item in ranked]
    fallen = {one.model.name: one for one in ranked.rejected}
    assert sorted([*names, *fallen]) == sorted(model.name for model in case.models)
    for item in ranked:
        broken = breaks(case, item.model, selection.options[item.model.name])
        assert not broken, (item.model.name, broken)
        assert not limits_broken(case, item), item
    check_scores(selection)
    for rejection in fallen.values():
        check_rejection(case, selection, rejection)
    if len(ranked) > 1:
        # One of them, since each asks for some twenty rankings.
        check_behind(case, selection, ranked[1 + case.idle % (len(ranked) - 1)])
    if ranked:
        assert "first choice" in str(ranked.why_not(names[0]))
        assert not ranked.why_not(names[0]).change


# -- the constraints, judged again -----------------------------------------------------------


def breaks(case: Case, model: ModelMetadata, options: LoadOptions) -> set[str]:
    """Return the names of the constraints that a model breaks where it would be loaded."""
    wanted, preferences, machine = case.wanted, case.preferences, case.hardware
    if model.problems:
        return {"problems"}
    if wanted.task_type not in model.task_types:
        return {"task_type"}
    if not model.runtimes:
        return {"runtime"}
    found = set()
    if wanted.model_types and model.model_type not in wanted.model_types:
        found.add("model_types")
    for key, mine in (("quantizations", model.quantization), ("license", model.license)):
        allowed = getattr(wanted, key)
        if allowed and (mine is None or mine.lower() not in [one.lower() for one in allowed]):
            found.add(key)
    if wanted.max_size_bytes is not None and model.size_bytes > wanted.max_size_bytes:
        found.add("max_size_bytes")
    if wanted.min_context_length and (model.context_length or 0) < wanted.min_context_length:
        found.add("min_context_length")
    if wanted.requires_batching and not model.supports_batching:
        found.add("requires_batching")
    here = {HardwareType.CPU, *(gpu.hardware for gpu in machine.gpu_devices)}
    can = here & set(model.preferred_hardware)
    if not can & set(preferences.preferred_devices):
        found.add("preferred_devices")
    elif options.device not in can & set(preferences.preferred_devices):
        found.add("device")
    if wanted.required_hardware and options.device not in wanted.required_hardware:
        found.add("required_hardware")
    return found | memory_broken(case, model, options)


def memory_broken(case: Case, model: ModelMetadata, options: LoadOptions) -> set[str]:
    """Judge memory by the rule of the design: predicted × 1.10 ≤ budget, unless measured."""
    machine, found = case.hardware, set()
    budget = int(machine.total_memory * case.preferences.max_memory_usage)
    available = machine.available_memory + case.idle
    memory = case.estimator().memory(model, options, budget_bytes=min(budget, available))
    if memory.total_bytes is None:
        return {"memory"}
    factor = 1.0 if memory.measured else 1.1
    most = case.wanted.max_memory_bytes
    if most is not None and memory.total_bytes * factor > most:
        found.add("max_memory_bytes")
    own = 0
    for share, gpu in zip(
        memory.devices[1:],
        [gpu for gpu in machine.gpu_devices if gpu.hardware is options.device],
        strict=False,
    ):
        if gpu.unified_memory or not share.total_bytes:
            continue
        own += share.total_bytes
        free = gpu.total_memory if gpu.available_memory is None else gpu.available_memory
        if share.verdict is not Verdict.FITS or share.total_bytes * 1.1 > free - GPU_RESERVE:
            found.add("gpu_memory")
    system = (memory.total_bytes - own) * factor
    # A formula with a wide interval fits only at its upper end, which the verdict knows.
    wide = not memory.measured and memory.total_bytes == sum(
        share.total_bytes for share in memory.devices
    )

    def too_much(limit: int) -> bool:
        if not wide:
            return system > limit
        verdict = case.estimator().memory(model, options, budget_bytes=limit).devices[0].verdict
        return system > limit or verdict is not Verdict.FITS

    if too_much(budget):
        found.add("max_memory_usage")
    # That the machine has too little says enough.
    if too_much(available) and not (too_much(budget) and too_much(machine.total_memory)):
        found.add("available_memory")
    return found


def limits_broken(case: Case, item: Recommendation) -> set[str]:
    """Judge the limits on measurements by what the recommendation itself shows."""
    wanted, found = case.wanted, set()
    if wanted.max_latency is not None and item.part("latency").value > wanted.max_latency:
        found.add("max_latency")
    if wanted.min_throughput is not None and item.decode_rate < wanted.min_throughput * (1 - 1e-12):
        found.add("min_throughput")
    known = case.preferences.enable_adaptive_selection
    cell = case.evidence.cell(f"print-{item.model.name}", case.requirements["task_type"])
    if wanted.min_quality is not None and (
        not known or cell.quality_mean is None or cell.quality_mean < wanted.min_quality
    ):
        found.add("min_quality")
    return found


def check_scores(selection: Selection) -> None:
    ranked = selection.ranked
    assert [item.rank for item in ranked] == list(range(1, len(ranked) + 1))
    scores = [item.score for item in ranked]
    assert scores == sorted(scores, reverse=True)
    assert not ranked or math.isclose(sum(item.probability_best for item in ranked), 1)
    for item in ranked:
        total = sum(part.contribution for part in item.parts)
        assert math.isclose(item.score, total * item.reliability * item.person_weight)
        for part in item.parts:
            assert 0 <= part.contribution <= part.weight
            assert part.low <= part.value <= part.high or part.name == "memory", part
        assert item.prior_only == ("prior only" in item.evidence)


# -- what is offered for a rejected one --------------------------------------------------------


def check_rejection(case: Case, selection: Selection, rejection: Rejection) -> None:
    name = rejection.model.name
    named = [one.constraint for one in rejection.violations]
    assert rejection.constraint == named[0]
    assert all(one.reason for one in rejection.violations)
    broken = breaks(case, rejection.model, selection.options[name])
    facts = set(named) - {"max_latency", "min_throughput", "min_quality"}
    nowhere = {"preferred_devices", "required_hardware", "device"}
    if broken & nowhere:
        # Nowhere to load it: memory is judged for the device that would come first.
        assert facts & nowhere
        assert facts - PLACED - nowhere == broken - PLACED - nowhere
    else:
        assert facts == broken, (rejection, broken)
    why = selection.ranked.why_not(name)
    assert rejection.reason in why.reason
    if not why.change:
        check_nothing_helps(case, rejection)
        return
    then = case.changed(why.change)
    assert name in names(then), (why, fallen(then, name))
    for smaller in smaller_changes(case, why.change):
        less = case.changed(smaller)
        assert name not in names(less), (why.change, smaller)


def check_nothing_helps(case: Case, rejection: Rejection) -> None:
    """Where no change is offered, even the loosest requirements and preferences do not help."""
    model, task = rejection.model, case.requirements["task_type"]
    if model.problems or not model.runtimes or task not in model.task_types:
        return  # facts of the model, which nobody's wishes change
    loosest = replace(case, requirements={"task_type": case.requirements["task_type"]}).changed(
        {"max_memory_usage": 1.0, "preferred_devices": [one.value for one in HardwareType]}
    )
    for first in HardwareType:
        others = [one.value for one in HardwareType if one is not first]
        found = fallen(
            loosest.changed({"preferred_devices": [first.value, *others]}), rejection.model.name
        )
        assert found is not None, rejection


def smaller_changes(case: Case, change: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the same change with one part left out, and with one number a little less far."""
    for key, value in change.items():
        yield {other: kept for other, kept in change.items() if other != key}
        step = stepped(key, value)
        if step is not None and not already(case, key, step):
            yield {**change, key: step}


def stepped(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    sign = 1 if key.startswith("min_") else -1
    if isinstance(value, int):
        return value + sign
    unit = 0.001 if key == "max_memory_usage" else 10.0 ** (math.floor(math.log10(value)) - 3) \
        if value else 1e-9  # fmt: skip
    return float(f"{value + sign * unit:.6g}")


def already(case: Case, key: str, value: Any) -> bool:
    """Say whether a value is not allowed, or is no change at all."""
    if key == "max_memory_usage":
        return value < 0.05 or value <= case.preferences.max_memory_usage
    before = case.requirements.get(key)
    if key == "min_quality" and value > 1:
        return True
    return before is not None and (value >= before if key.startswith("min_") else value <= before)


def names(case: Case) -> list[str]:
    return [item.model.name for item in case.rank().ranked]


def fallen(case: Case, name: str) -> Rejection | None:
    return next((one for one in case.rank().ranked.rejected if one.model.name == name), None)


# -- what is offered for one that is behind ---------------------------------------------------


def check_behind(case: Case, selection: Selection, item: Recommendation) -> None:
    ranked, name = selection.ranked, item.model.name
    why = ranked.why_not(name)
    behind = ranked[0].score - item.score
    assert math.isclose(sum(why.gaps.values()), behind, abs_tol=1e-9)
    largest = max(why.gaps, key=lambda key: why.gaps[key])
    assert (f"most of it is {largest}" if behind > 0 else "level with") in why.reason
    for change in (why.change, *why.alternatives):
        if change:
            assert names(case.changed(change))[0] == name, (why, change)
    modes = modes_that_lead(case, name)
    if "model_weights" in why.change:
        weight = why.change["model_weights"][name]
        less = {**why.change["model_weights"], name: stepped("model_weights", weight)}
        assert names(case.changed({"model_weights": less}))[0] != name or ties(item, ranked[0])
        assert [change for change in why.alternatives if change in modes[0]] == modes[0]
    else:
        most = {**case.preferences.model_weights, name: 100.0}
        assert names(case.changed({"model_weights": most}))[0] != name
    if not why.change:
        assert not modes[0]
        assert not modes[1]
    check_more_runs(case, name, why.more_runs)


def ties(item: Recommendation, first: Recommendation) -> bool:
    return math.isclose(item.score, first.score, rel_tol=1e-3)


def modes_that_lead(case: Case, name: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the single settings that put a model first, and the pairs of settings."""
    now = (case.preferences.performance_mode, case.preferences.accuracy_preference)
    single, both = [], []
    for mode, level in product(("speed", "balanced", "memory"), ("low", "medium", "high")):
        change = {"performance_mode": mode, "accuracy_preference": level}
        change = {key: value for (key, value), old in zip(change.items(), now, strict=True)
                  if value != old}  # fmt: skip
        if change and names(case.changed(change))[0] == name:
            (single if len(change) == 1 else both).append(change)
    single.sort(key=lambda change: next(iter(change)) != "performance_mode")
    return single, both


def check_more_runs(case: Case, name: str, more: tuple[int, float] | None) -> None:
    def first(runs: int, quality: float) -> bool:
        key = (f"print-{name}", case.requirements["task_type"])
        cell = case.evidence.cell(*key)
        n = cell.quality_n + runs
        mean = ((cell.quality_mean or 0.0) * cell.quality_n + runs * quality) / n
        cells = {**case.evidence.cells, key: replace(cell, quality_n=n, quality_mean=mean)}
        return names(replace(case, evidence=Evidence(cells)))[0] == name

    if more is None:
        assert not case.preferences.enable_adaptive_selection or not first(50, 1.0)
        return
    runs, quality = more
    assert first(runs, quality)
    assert quality == 0 or not first(runs, quality - 0.01)
    fewer = {1: 0, 2: 1, 5: 2, 10: 5, 20: 10, 50: 20}[runs]
    assert not fewer or not first(fewer, 1.0)


@settings(SITUATION, max_examples=EXAMPLES)
@given(cases())
def test_no_constraint_is_broken_and_every_change_works(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    """In any situation: no violation, binding reasons, and changes that do what they say."""
    check(case.on(shared(tmp_path_factory)))


@pytest.mark.slow
@settings(SITUATION, max_examples=10_000)
@given(cases())
def test_ten_thousand_situations(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    """The same in 10,000 situations."""
    check(case.on(shared(tmp_path_factory)))


_HOMES: list[Path] = []


def shared(factory: pytest.TempPathFactory) -> Path:
    """Return one home for all cases: nothing is written to it."""
    if not _HOMES:
        _HOMES.append(factory.mktemp("home"))
    return _HOMES[0]
