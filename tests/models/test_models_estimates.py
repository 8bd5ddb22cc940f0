"""Estimates before a load, predictions beside outcomes, and the track record that follows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import (
    FailureKind,
    HardwareError,
    RequirementError,
    RuntimeFailureError,
    UnknownModelError,
)
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, ModelManager, Workbench
from ravenxterm_lab.models.running import Request, run_selection
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime

GIB = 2**30
TASK = "text_generation"


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine(
    cpu_architecture="x86_64",
    cpu_name="made up",
    cpu_cores=8,
    cpu_threads=16,
    instruction_sets=("avx2",),
    total_memory=16 * GIB,
    available_memory=12 * GIB,
    memory_bandwidth=40e9,
)


def made(name: str, size: int = GIB, **changes: object) -> ModelMetadata:
    values: dict[str, object] = {
        "task_types": (TASK,),
        "runtimes": ("fake",),
        "preferred_hardware": (HardwareType.CPU,),
        "fingerprint": f"print-{name}",
        "quantization": "Q8_0",
        "architecture": "llama",
        "parameter_count": size,
        "context_length": 8192,
        "embedding_length": 1024,
        "vocabulary_size": 32_000,
        "attention": AttentionGeometry((8,) * 16, 64, 64),
        "tensor_bytes": {"Q8_0": size},
    }
    return ModelMetadata(name, ModelType.GGUF, Path(name), size, **{**values, **changes})


def manager_with(home: Path, runtime: FakeRuntime) -> ModelManager:
    bench = Workbench(home, hardware=MACHINE, runtimes=[runtime])
    return ModelManager(home / "none", workbench=bench, preferences=UserPreferences())


@pytest.fixture
def manager(home: Path) -> Iterator[ModelManager]:
    made_up = manager_with(home, FakeRuntime("fake", throughput=40.0, load_seconds=0.25))
    yield made_up
    made_up.pool.close()
    made_up.store.close()


def run(manager: ModelManager, model: ModelMetadata, times: int = 1) -> None:
    bench = manager._bench
    selector = AdaptiveModelSelector(UserPreferences(), workbench=bench, seed=0)
    for _ in range(times):
        run_selection(
            bench, manager.pool, selector.select([model], TASK), TaskRequirements(),
            Request("hello"),
        )  # fmt: skip


def test_each_run_is_judged_by_what_was_known_before_it(manager: ModelManager) -> None:
    """The first prediction is the roofline's, the second knows one run; nothing knows its own."""
    before = manager.estimate(made("a")).speed.decode
    run(manager, made("a"), times=3)
    rows = manager.sql(
        "SELECT tier, predicted, actual FROM predictions WHERE quantity = 'throughput' ORDER BY ts"
    ).fetchall()
    assert [tier for tier, _, _ in rows] == ["roofline", "measured", "measured"]
    assert rows[0][1] == pytest.approx(before.value, rel=0.2)
    assert [actual for _, _, actual in rows] == [40.0] * 3
    errors = [abs(predicted - 40) for _, predicted, _ in rows]
    assert errors[0] > errors[1] >= errors[2]


def test_a_load_is_stored_once_and_later_runs_do_not_repeat_it(manager: ModelManager) -> None:
    """One load, one load time and one peak, however often the resident model runs."""
    run(manager, made("a"), times=3)
    counts = dict(manager.sql("SELECT quantity, count(*) FROM predictions GROUP BY ALL").fetchall())
    assert counts["load_seconds"] == counts["peak_memory"] == 1
    assert counts["throughput"] == 3
    verdict, tier = manager.sql(
        "SELECT verdict, tier FROM predictions WHERE quantity = 'peak_memory'"
    ).fetchall()[0]
    assert (verdict, tier) == ("fits", "formula")


def test_a_measured_load_is_truth_for_selection_pool_and_estimate_alike(
    manager: ModelManager,
) -> None:
    """After one run all three say the measured bytes, and another context is interpolated."""
    run(manager, made("a"))
    peak = manager.sql("SELECT max(peak_memory) FROM executions").fetchall()[0][0]
    selector = AdaptiveModelSelector(UserPreferences(), workbench=manager._bench)
    ranked = selector.get_recommended_models([made("a")], TASK)
    assert ranked[0].memory.total_bytes == peak
    assert manager.estimate(made("a")).memory.total_bytes == peak
    assert manager.estimate(made("a"), context_length=2048).memory.tier == "interpolated"
    manager.pool.unload_idle()
    run(manager, made("a"))
    predicted = manager.sql("SELECT predicted_bytes FROM loads ORDER BY ts").fetchall()
    assert predicted[-1] == (peak,)


def test_a_load_that_ran_out_of_memory_counts_against_the_estimate(home: Path) -> None:
    """It was said to fit: the prediction is stored with the failure, and the view counts it."""
    runtime = FakeRuntime("fake", load_failures={"a": FailureKind.OUT_OF_MEMORY})
    manager = manager_with(home, runtime)
    with (
        pytest.raises(RuntimeFailureError),
        manager.pool.acquire(runtime, made("a"), LoadOptions()),
    ):
        pass
    stored = manager.sql(
        "SELECT quantity, verdict, failure, actual, predicted > 0 FROM predictions"
    ).fetchall()
    assert stored == [("peak_memory", "fits", "out_of_memory", None, True)]
    (row,) = manager.calibration().rows
    assert (row.failures, row.wrongly_said_to_fit, row.coverage) == (1, 1, None)
    assert "1 said to fit" in str(manager.calibration())
    manager.store.close()


def test_the_track_record_says_error_and_coverage(manager: ModelManager) -> None:
    """The card sums up the last twenty; the rows are those of the view."""
    run(manager, made("a"), times=6)
    record = manager.calibration()
    assert record.latest == 14
    held = manager.sql(
        "SELECT count(*) FROM predictions WHERE actual BETWEEN low AND high"
    ).fetchall()[0][0]
    assert record.latest_held == held
    assert f"held {held} of 14" in record.summary
    measured = next(r for r in record.rows if (r.quantity, r.tier) == ("throughput", "measured"))
    assert measured.predictions == 5
    assert measured.median_error < 0.05
    assert len(record.pl()) == len(record.rows) == len(record.df())
    assert set(record.pl().columns) >= {"median_error", "bias", "coverage", "failures"}
    assert "decode speed" in str(record)
    assert "median error" in record._repr_mimebundle_()["text/html"]


def test_an_empty_track_record_says_what_to_do(manager: ModelManager) -> None:
    """Nothing recorded: no table of nothing, but the next step."""
    record = manager.calibration()
    assert len(record) == 0
    assert f"No predictions with an outcome yet: {manager.registry.next_step}." in str(record)
    assert "no prediction" in repr(record)


def test_an_estimate_shows_items_intervals_and_evidence(manager: ModelManager) -> None:
    """Bytes by item, the verdict, three speeds with their intervals, and the longest context."""
    found = manager.estimate(made("a"), context_length=1024)
    memory = found.memory
    assert memory.total_bytes == sum(
        (
            memory.weights_bytes, memory.repack_bytes, memory.kv_cache_bytes,
            memory.compute_bytes, memory.overhead_bytes,
        )
    )  # fmt: skip
    text = str(found)
    for part in ("KV cache", "80%", "formula", "roofline", "decoding, 1,024", "8,192 tokens"):
        assert part in text
    assert found.remedies == ()
    assert found.largest_context == 8192
    figures = found.as_dict()
    assert figures["decode_rate"]["low"] < figures["decode_rate"]["value"]
    assert figures["decode_rate_full_context"]["value"] < figures["decode_rate"]["value"]
    assert figures["memory"]["total_bytes"] == memory.total_bytes


def test_what_does_not_fit_says_what_would_make_it_fit(manager: ModelManager) -> None:
    """Each remedy that is named was tried: with it the same model fits."""
    model = made("a", 10 * GIB, attention=AttentionGeometry((8,) * 40, 128, 128))
    found = manager.estimate(model, context_length=8192)
    assert found.memory.verdict.value != "fits"
    assert any("context_length=" in text for text in found.remedies)
    again = manager.estimate(model, context_length=found.largest_context)
    assert again.memory.verdict.value == "fits"
    if any("q8_0" in text for text in found.remedies):
        quantised = manager.estimate(model, context_length=8192, kv_type="q8_0")
        assert quantised.memory.verdict.value == "fits"
    assert any("lacks" in text for text in found.remedies)


def test_a_machine_to_be_bought_is_answered_for(manager: ModelManager) -> None:
    """A simulated card holds what this machine cannot, faster; runs here say nothing of it."""
    model = made("a", 20 * GIB)
    assert manager.estimate(model).memory.verdict.value != "fits"
    there = manager.estimate(model, hardware="RTX 4090 24GB, 64 GiB RAM")
    assert there.options.device is HardwareType.CUDA
    assert there.memory.verdict.value == "fits"
    assert len(there.memory.devices) == 2
    assert there.speed.decode_rate > 3 * manager.estimate(model).speed.decode_rate
    assert "RTX 4090" in str(there)
    run(manager, made("b"), times=3)
    profile = HardwareProfile.simulate("RTX 4090 24GB, 64 GiB RAM")
    bought = manager.estimate(made("b"), hardware=profile, device="cpu")
    assert bought.memory.tier == "formula"
    assert bought.speed.tier in ("roofline", "none")


def test_too_large_for_the_card_it_is_split(manager: ModelManager) -> None:
    """As many layers on the card as fit; with one more they do not."""
    model = made("a", 30 * GIB)
    machine = "RTX 3060 12GB, 128 GiB RAM, DDR4-3200"
    found = manager.estimate(model, hardware=machine)
    layers = found.options.gpu_layers
    assert found.memory.verdict.value == "fits"
    assert 0 < layers < 17
    more = manager.estimate(model, hardware=machine, gpu_layers=layers + 1)
    assert more.memory.verdict.value != "fits"
    alone = manager.estimate(model, hardware=machine, device="cpu")
    assert found.speed.decode_rate > alone.speed.decode_rate


def test_all_models_are_estimated_in_one_table(manager: ModelManager) -> None:
    """Without models the table says what to do; see also the test on real models."""
    assert "No models yet" in str(manager.estimates())
    assert len(manager.estimates().pl()) == 0
    sample = ModelManager.sample()
    table = str(sample.estimates())
    assert "interval (80%)" in table
    # What is slow is not told as nothing.
    assert not re.search(r" 0 to \d", table)
    sample.close()


def test_bad_questions_are_refused_with_a_remedy(manager: ModelManager) -> None:
    """An unknown name, device, machine, cache type, or too long a context."""
    with pytest.raises(UnknownModelError):
        manager.estimate("nothing")
    with pytest.raises(RequirementError, match="device"):
        manager.estimate(made("a"), device="gpu")
    with pytest.raises(RequirementError, match="8192 tokens"):
        manager.estimate(made("a"), context_length=10_000)
    with pytest.raises(RequirementError, match="kv_type"):
        manager.estimate(made("a"), kv_type="f15")
    with pytest.raises(RequirementError, match="model must be"):
        manager.estimate(None)  # type: ignore[arg-type]
    with pytest.raises(HardwareError):
        manager.estimate(made("a"), hardware="GTX 99999")


def test_without_adaptive_selection_only_measured_peaks_are_used(manager: ModelManager) -> None:
    """A peak is a fact and binds; speed stands on formulas; the estimate tells what was seen."""
    run(manager, made("a"))
    still = UserPreferences(enable_adaptive_selection=False)
    selector = AdaptiveModelSelector(still, workbench=manager._bench)
    first = selector.get_recommended_models([made("a")], TASK)[0]
    assert first.memory.measured
    assert first.runs == 0
    assert manager.estimate(made("a")).memory.measured is True
