"""What is kept from one estimate to the next, and what ends it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.estimation import Estimator, History
from ravenxterm_lab.estimation.conformal import Calibrator, Group, Score
from ravenxterm_lab.estimation.history import LAWS, Outcome
from ravenxterm_lab.estimation.learning import Cell, Learned, Subject
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions

MIB = 2**20
MACHINE = HardwareProfile(
    cpu_architecture="x86_64", cpu_name="test", cpu_cores=2, cpu_threads=2,
    instruction_sets=("avx2",), total_memory=8 * 2**30, available_memory=8 * 2**30,
    memory_bandwidth=2e10,
)  # fmt: skip
LAW = LAWS["throughput"]


def model(name: str, size: int = 100 * MIB) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), size, runtimes=("llama_cpp",), parameter_count=size,
        context_length=8192, embedding_length=576, attention=AttentionGeometry((3,) * 30, 64, 64),
        tensor_bytes={"Q8_0": size}, fingerprint=f"print-{name}", architecture="llama",
    )  # fmt: skip


def measured(estimator: Estimator, one: ModelMetadata, factor: float) -> list[Outcome]:
    """Return what comes of a run that is so many times as fast as was said."""
    speed = estimator.speed(one)
    pairs = ("throughput", speed.decode), ("time_to_first_token", speed.first_token)
    return [
        Outcome(
            name, said.tier, "llama_cpp", "cpu", said.subject, said.value, said.value * factor,
            said.low, said.high, said.level, said.spread,
        )
        for name, said in pairs
    ]  # fmt: skip


KEY = st.sampled_from(["a", "b", "c"])
SUBJECT = st.builds(
    Subject,
    st.fixed_dictionaries({"steps": st.floats(1e-4, 1e-2), "bytes": st.floats(1e-4, 1e-1)}),
    KEY,
    KEY,
    KEY,
)
CELL = st.builds(Cell, SUBJECT, st.floats(-6, 0), st.floats(0.1, 20), st.integers(1, 9))


@settings(deadline=None)
@given(st.lists(CELL, max_size=12), st.lists(SUBJECT, min_size=1, max_size=8))
def test_predicted_in_one_go_is_predicted_one_by_one(
    cells: list[Cell], subjects: list[Subject]
) -> None:
    """The same values to the last digits, the same evidence, whichever is asked for first."""
    together = Learned(LAW, cells, subjects)
    for subject in reversed(subjects):
        alone, among = Learned(LAW, cells).predict(subject), together.predict(subject)
        assert (alone.tier, alone.runs) == (among.tier, among.runs)
        assert among.ln_seconds == pytest.approx(alone.ln_seconds, rel=1e-9, abs=1e-9)
        assert among.spread == pytest.approx(alone.spread, rel=1e-9)


def test_a_run_of_one_model_moves_what_is_said_of_the_others() -> None:
    """Answers are kept for one history; the next says what it would say without any kept."""
    models = [model(name, (place + 1) * 50 * MIB) for place, name in enumerate("abcd")]
    history = History()
    estimator = Estimator(MACHINE, lambda: history)
    for _ in range(3):
        before = [estimator.speed(one).decode_rate for one in models]
        assert before == [estimator.speed(one).decode_rate for one in models]
        history = history.extended(measured(estimator, models[0], 0.5))
        after = [estimator.speed(one) for one in models]
        assert all(now.decode_rate != then for now, then in zip(after, before, strict=True))
        anew = History(history.outcomes)
        for one, speed in zip(models, after, strict=True):
            fresh = Estimator(MACHINE, lambda: anew).speed(one)  # noqa: B023 - asked at once
            assert speed.tier == fresh.tier
            assert speed.decode_rate == pytest.approx(fresh.decode_rate, rel=1e-9)
            assert speed.decode.low == pytest.approx(fresh.decode.low, rel=1e-9)
            assert speed.first_token.value == pytest.approx(fresh.first_token.value, rel=1e-9)
            assert speed.load_seconds == pytest.approx(fresh.load_seconds, rel=1e-9)


def test_what_was_asked_before_is_expected_of_the_next_law_and_no_later_one() -> None:
    """A prompt of a length that never comes again is not carried along for ever."""
    history = History()
    estimator = Estimator(MACHINE, lambda: history)
    one = model("a")
    for turn in range(5):
        estimator.speed(one)
        estimator.speed(one, prompt_tokens=100 + turn)
        law = history.learned("time_to_first_token", "llama_cpp", "cpu")
        assert len(law.asked) == 2
        history = history.extended(measured(estimator, one, 0.8))


def test_facts_options_and_machine_make_an_answer_of_their_own() -> None:
    """What physics says is kept by the very model and machine, and by each option."""
    one = model("a")
    estimator = Estimator(MACHINE)
    first = estimator.speed(one)
    assert estimator.speed(one) == first
    changed = dataclasses.replace(one, tensor_bytes={"Q8_0": 200 * MIB})
    assert estimator.speed(changed).decode_rate < first.decode_rate
    full = estimator.speed(one, context_length=8000)
    assert full.decode_rate < first.decode_rate
    quantised = estimator.speed(one, LoadOptions(kv_type="q8_0"), context_length=8000)
    assert full.decode_rate < quantised.decode_rate
    longer = estimator.speed(one, prompt_tokens=1000)
    assert longer.time_to_first_token > first.time_to_first_token
    wider = dataclasses.replace(MACHINE, memory_bandwidth=4e9)
    assert Estimator(wider).speed(one).decode_rate < first.decode_rate
    assert estimator.speed(one) == first


def test_a_score_of_one_quantity_moves_its_own_intervals_only() -> None:
    """Quantiles are kept until a score of the same quantity comes."""
    calibrator = Calibrator()
    groups = [
        Group(name, "measured", "llama_cpp", "cpu") for name in ("throughput", "load_seconds")
    ]
    before = [calibrator.quantiles(group) for group in groups]
    elsewhere = Group("throughput", "roofline", "onnx", "cuda")
    for _ in range(10):
        calibrator.add(Score(elsewhere, 3.0))
    speed, load = (calibrator.quantiles(group) for group in groups)
    assert speed[1] > before[0][1]
    assert load == before[1]
    copied = calibrator.copy()
    copied.add(Score(elsewhere, 9.0))
    assert calibrator.quantiles(groups[0]) == speed != copied.quantiles(groups[0])
