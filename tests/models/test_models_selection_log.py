"""What is recorded of a decision suffices to make it again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import Arm, Evidence, decide

GIB = 2**30
MACHINE = HardwareProfile(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=8, cpu_threads=16,
    instruction_sets=("avx2",), total_memory=16 * GIB, available_memory=12 * GIB,
    memory_bandwidth=40e9,
)  # fmt: skip


def made(name: str, size: int = GIB) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), size,
        task_types=("text_generation",), runtimes=("fake",),
        preferred_hardware=(HardwareType.CPU,), fingerprint=f"print-{name}",
        quantization="Q8_0", context_length=8192, embedding_length=1024,
        vocabulary_size=32_000, attention=AttentionGeometry((8,) * 16, 64, 64),
    )  # fmt: skip


#: Three that chance alone tells apart, and one that does not fit.
MODELS = [made("a"), made("b"), made("c"), made("d", 60 * GIB)]


@pytest.fixture
def selector(tmp_path: Path) -> AdaptiveModelSelector:
    bench = Workbench(tmp_path, hardware=MACHINE, runtimes=[FakeRuntime("fake")])
    return AdaptiveModelSelector(UserPreferences(), workbench=bench, seed=0)


def test_a_decision_can_be_made_again_from_its_record(selector: AdaptiveModelSelector) -> None:
    """Facts, budget, seed and preferences of the record give the same draw, rank and P(chosen)."""
    store = selector._bench.store
    orders = set()
    for _ in range(8):
        selection = selector.select(MODELS, "text_generation")
        query = "FROM selections WHERE selection = $id"
        seed, machine = store.rows(f"SELECT seed, machine {query}", {"id": selection.id})[0]
        rows = store.rows(
            "SELECT model, memory_bytes, decode_rate, time_to_first_token, load_seconds, "
            "resident, drawn, probability FROM candidates "
            "WHERE selection = $id AND feasible ORDER BY rank",
            {"id": selection.id},
        )
        names = [row[0] for row in rows]
        # The draw goes by the order of the candidates, which is that of the registry.
        facts = {row[0]: row[1:6] for row in rows}
        shared = json.loads(machine)["runs_per_load"]
        arms = [
            Arm(model, *facts[model.name], runs_per_load=shared)
            for model in MODELS
            if model.name in facts
        ]
        again = decide(
            arms, "text_generation", Evidence.none(), selector.preferences,
            budget_bytes=json.loads(machine)["budget"], explore=True,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        assert [arms[index].model.name for index in again.order()] == names
        assert [again.explored[index] for index in again.order()] == [row[6] for row in rows]
        assert sum(row[7] for row in rows) == pytest.approx(1)
        orders.add(tuple(names))
    assert len(orders) > 1, "every draw gave the same order: the seed is not used"


def test_a_rejected_candidate_keeps_its_constraint_and_its_size(
    selector: AdaptiveModelSelector,
) -> None:
    """Which constraint bound, what it would have taken, and on which machine."""
    selector.select(MODELS, "text_generation")
    row = selector._bench.store.rows(
        "SELECT constraint_name, memory_bytes > 60 * 1024 ** 3, memory_measured, decode_rate, "
        "hardware FROM candidates JOIN selections USING (selection) WHERE NOT feasible",
        {},
    )
    assert row == [("max_memory_usage", True, False, None, MACHINE.fingerprint)]


def test_a_seeded_selector_decides_the_same_again(tmp_path: Path) -> None:
    """The selector's seed fixes the sequence of draws; another one gives another sequence."""

    def orders(home: str, seed: int) -> list[list[str]]:
        bench = Workbench(tmp_path / home, hardware=MACHINE, runtimes=[FakeRuntime("fake")])
        selector = AdaptiveModelSelector(workbench=bench, seed=seed)
        chosen = [selector.select(MODELS, "text_generation").ranked for _ in range(8)]
        return [[item.model.name for item in ranked] for ranked in chosen]

    assert orders("one", 1) == orders("two", 1)
    assert orders("three", 1) != orders("four", 2)


def test_a_load_is_expected_to_serve_what_was_asked_for_lately(
    selector: AdaptiveModelSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many runs as within the last keep-alive, this one included; a display is none."""
    bench, minute = selector._bench, [0]
    monkeypatch.setattr(bench, "now", lambda: f"2026-11-01 10:{minute[0]:02d}:00")

    def expected() -> float:
        selection = selector.select(MODELS, "text_generation")
        query = "SELECT machine->'runs_per_load' FROM selections WHERE selection = $id"
        return float(bench.store.rows(query, {"id": selection.id})[0][0])

    for count in range(1, 6):
        selector.get_recommended_models(MODELS, "text_generation")
        selector.select(MODELS, "text_generation", explore=False)
        assert expected() == count
    minute[0] = 4
    assert expected() == 6
    minute[0] = 6  # the keep-alive is five minutes
    assert expected() == 2
    assert bench.lately.count("embedding", bench.now(), 1e9) == 0
    selector.preferences = UserPreferences(keep_alive_seconds=0)
    assert expected() == 1
