"""One estimator: formulas, what was measured here, and what follows for other settings."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.estimation import (
    Estimator,
    History,
    HistoryReader,
    Verdict,
    basis_of,
    cached_share,
    estimate_memory,
    model_key,
)
from ravenxterm_lab.estimation.history import Outcome, Truth
from ravenxterm_lab.estimation.learning import Subject
from ravenxterm_lab.estimation.recall import FRESH_SECONDS, WHOLE_SECONDS
from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.reading import Mark, Reader

MIB = 2**20
NOW = "2026-05-01 12:00:00"
MACHINE = HardwareProfile(
    cpu_architecture="x86_64",
    cpu_name="test",
    cpu_cores=2,
    cpu_threads=2,
    instruction_sets=("avx2",),
    total_memory=8 * 2**30,
    available_memory=8 * 2**30,
    memory_bandwidth=2e10,
)
HERE = MACHINE.fingerprint


def model(**changes: object) -> ModelMetadata:
    made = ModelMetadata(
        "m",
        ModelType.GGUF,
        Path("m.gguf"),
        100 * MIB,
        parameter_count=200_000_000,
        architecture="llama",
        context_length=32768,
        runtimes=("llama_cpp",),
        attention=AttentionGeometry((4,) * 24, 64, 64),
        embedding_length=512,
        vocabulary_size=32000,
        tensor_bytes={"Q8_0": 100 * MIB},
        fingerprint="f",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store", ingest=False) as made:
        yield made


def estimator(store: Store, machine: HardwareProfile = MACHINE) -> Estimator:
    reader = HistoryReader(store, now=lambda: NOW)
    return Estimator(machine, lambda: reader.read(machine.fingerprint))


def ran(store: Store, context: int, peak: int, **changes: object) -> None:
    fields: dict[str, object] = {
        "model": "m", "fingerprint": "f", "task": "text_generation", "device": "cpu",
        "runtime": "llama_cpp", "settings": f"ctx={context} kv=f16", "hardware": HERE,
        "metrics": {"success": True, "peak_memory": peak},
    }  # fmt: skip
    store.record_execution(**{**fields, **changes})


def predicted(
    store: Store, quantity: str, value: float, actual: float | None, **more: object
) -> None:
    fields: dict[str, object] = {
        "model": "m", "fingerprint": "f", "quantity": quantity, "tier": "roofline",
        "predicted": value, "low": value / 2, "high": value * 2, "level": 0.8, "spread": 0.5,
        "actual": actual, "engine": "llama_cpp", "device": "cpu", "hardware": HERE,
        "settings": "ctx=4096 kv=f16",
    }  # fmt: skip
    store.record("predictions", **{**fields, **more})


def test_a_measured_peak_is_the_answer(store: Store) -> None:
    """The largest peak with these settings; narrower than the formula, and said to be measured."""
    plain = estimator(store).memory(model(), LoadOptions(context_length=2048))
    assert plain.tier == "formula"
    ran(store, 2048, 300 * MIB)
    ran(store, 2048, 310 * MIB)
    found = estimator(store).memory(model(), LoadOptions(context_length=2048))
    assert (found.tier, found.total_bytes, found.measured, found.runs) == (
        "measured", 310 * MIB, True, 2,
    )  # fmt: skip
    assert found.low_bytes < 310 * MIB < found.high_bytes
    assert found.high_bytes / found.low_bytes < plain.high_bytes / plain.low_bytes


def test_a_load_that_was_never_run_counts_until_a_run_does(store: Store) -> None:
    """What the load took is known at once; the peak of a run replaces it."""
    where = {
        "model": "m", "fingerprint": "f", "runtime": "llama_cpp", "device": "cpu",
        "settings": "ctx=2048 kv=f16", "hardware": HERE,
    }  # fmt: skip
    store.record("loads", **where, success=True, memory_bytes=290 * MIB)
    store.record("loads", **where, success=False, memory_bytes=999 * MIB, failure="corrupt")
    asked = LoadOptions(context_length=2048)
    assert estimator(store).memory(model(), asked).total_bytes == 290 * MIB
    ran(store, 2048, 280 * MIB)
    assert estimator(store).memory(model(), asked).total_bytes == 280 * MIB


def test_another_context_is_moved_by_the_difference_of_the_formula(store: Store) -> None:
    """From a peak at 2,048 tokens to 8,192: the KV cache and the compute buffer grow, no more."""
    ran(store, 2048, 300 * MIB)
    ran(store, 512, 10 * MIB)
    found = estimator(store).memory(model(), LoadOptions(context_length=8192))
    at = [
        estimate_memory(model(), context_length=n, instruction_sets=("avx2",)).total_bytes
        for n in (2048, 8192)
    ]
    assert found.tier == "interpolated"
    assert found.total_bytes == 300 * MIB + at[1] - at[0]
    assert not found.measured
    assert found.low_bytes < found.total_bytes < found.high_bytes


@pytest.mark.parametrize(
    "other",
    [
        {"hardware": "elsewhere"},
        {"runtime": "onnx"},
        {"device": "cuda"},
        {"settings": "ctx=2048 kv=q8_0"},
        {"settings": "ctx=2048 kv=f16 threads=1"},
        {"fingerprint": "another"},
        {"runtime": None},
        {"metrics": {"success": False, "peak_memory": 300 * MIB}},
    ],
)
def test_what_was_measured_under_other_conditions_is_no_truth(
    store: Store, other: dict[str, object]
) -> None:
    """Another machine, engine, device, cache type or model, and a failed run, say nothing."""
    ran(store, 2048, 300 * MIB, **other)
    for context in (2048, 8192):
        found = estimator(store).memory(model(), LoadOptions(context_length=context))
        assert found.tier == "formula"


def test_intervals_of_memory_follow_the_history(store: Store) -> None:
    """Where loads took 30% more than the formula said, again and again, the interval says so."""
    before = estimator(store).memory(model())
    for _ in range(60):
        predicted(
            store, "peak_memory", 1e8, 1.3e8, tier="formula", spread=before.above,
            basis=basis_of(Subject({}, "other", settings="s")),
        )  # fmt: skip
    after = estimator(store).memory(model())
    assert after.total_bytes == before.total_bytes
    assert after.high_bytes > 1.2 * after.total_bytes > before.high_bytes


def test_speeds_are_learned_from_what_the_store_holds(store: Store) -> None:
    """Outcomes that were recorded come back as cells, and shape the next prediction."""
    first = estimator(store).speed(model(), prompt_tokens=100)
    for _ in range(3):
        for quantity, forecast, factor in (
            ("throughput", first.decode, 0.5),
            ("time_to_first_token", first.first_token, 2.0),
            ("load_seconds", first.load, 2.0),
        ):
            predicted(
                store, quantity, forecast.value, forecast.value * factor, spread=forecast.spread,
                basis=basis_of(forecast.subject),
            )  # fmt: skip
    later = estimator(store).speed(model(), prompt_tokens=100)
    assert later.decode_rate == pytest.approx(first.decode_rate / 2, rel=0.1)
    assert later.time_to_first_token == pytest.approx(first.time_to_first_token * 2, rel=0.1)
    assert later.load_seconds == pytest.approx(first.load_seconds * 2, rel=0.1)
    assert {f.tier for f in (later.decode, later.first_token, later.load)} == {"measured"}
    elsewhere = dataclasses.replace(MACHINE, cpu_name="another")
    assert estimator(store, elsewhere).speed(model()).tier == "roofline"


def test_the_history_is_read_once_until_something_is_recorded(store: Store) -> None:
    """A thousand estimates are one query, whatever time goes by, until a row counts."""
    now = [0.0]
    reader = HistoryReader(store, now=lambda: NOW, clock=lambda: now[0])
    first = reader.read(HERE)
    reader.forget()
    now[0] += 100.0
    store.record("messages", level="info", text="nothing to learn from")
    assert reader.read(HERE) is first
    ran(store, 2048, 300 * MIB)
    assert reader.read(HERE) is first, "nobody said so, and a second has not gone by"
    reader.forget()
    second = reader.read(HERE)
    assert list(second.truths.values()) == [Truth(300 * MIB, 1)]
    store.ingest_now()
    reader.forget()
    assert reader.read(HERE) is second, "the rows only moved"
    ran(store, 2048, 0, metrics={"success": True, "throughput": 9.0})
    reader.forget()
    third = reader.read(HERE)
    assert list(third.truths.values()) == [Truth(300 * MIB, 2)]
    ran(store, 2048, 0, metrics={"success": True, "throughput": 9.0}, runtime=None)
    ran(store, 1024, 0, metrics={"success": True, "throughput": 9.0})
    reader.forget()
    assert reader.read(HERE) is third, "neither a peak nor a forecast: all answers still hold"
    now[0] += WHOLE_SECONDS
    assert reader.read(HERE) is not third, "ages move on"


def test_what_another_process_recorded_is_seen_after_a_second(store: Store) -> None:
    """Nobody says so; a row in the spool and one that was ingested are both found."""
    now = [0.0]
    reader = HistoryReader(store, now=lambda: NOW, clock=lambda: now[0])
    assert not reader.read(HERE).truths
    for turn, ingested in enumerate((False, True, False, True), start=1):
        with Store(store.path, ingest=False) as other:
            ran(other, 1024 * turn, 300 * MIB)
            if ingested:
                other.ingest_now()
        now[0] += FRESH_SECONDS
        assert len(reader.read(HERE).truths) == turn


def test_what_is_recorded_during_a_reading_is_seen_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that comes too late for the query, or between it and the totals, counts once."""
    ran(store, 1024, 100 * MIB)
    reader = HistoryReader(store, now=lambda: NOW)
    real = Reader.mark

    def late(snapshot: Reader, tables: Sequence[str]) -> Mark:
        ran(store, 1024, 100 * MIB)
        reader.forget()
        return real(snapshot, tables)

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "mark", late)
        assert [one.runs for one in reader.read(HERE).truths.values()] == [1]
    assert [one.runs for one in reader.read(HERE).truths.values()] == [2]
    store.ingest_now()
    reader.forget()
    assert [one.runs for one in reader.read(HERE).truths.values()] == [2]


@pytest.mark.parametrize("ingested", [False, True])
def test_rows_that_came_and_were_ingested_before_anybody_looked_are_found(
    store: Store, ingested: bool
) -> None:
    """Another process may end, and all that it left be moved, between two questions."""
    reader = HistoryReader(store, now=lambda: NOW)
    ran(store, 1024, 100 * MIB)
    if ingested:
        store.ingest_now()
    assert len(reader.read(HERE).truths) == 1
    forecast = estimator(store).speed(model(), prompt_tokens=100).decode
    with Store(store.path, ingest=False) as other:
        ran(other, 2048, 200 * MIB)
        predicted(
            other, "throughput", forecast.value, forecast.value / 2, spread=forecast.spread,
            basis=basis_of(forecast.subject),
        )  # fmt: skip
    store.ingest_now()
    assert not list((store.path / "spool").glob(f"{other._recorder.session}*"))
    reader.forget()
    history = reader.read(HERE)
    assert sorted(one.peak_bytes for one in history.truths.values()) == [100 * MIB, 200 * MIB]
    assert len(history.outcomes) == 1


def test_a_lost_row_is_not_made_up_for_by_one_that_comes_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Totals that agree by chance are no proof: what went unseen is read."""
    ran(store, 1024, 100 * MIB)
    reader = HistoryReader(store, now=lambda: NOW)
    assert len(reader.read(HERE).truths) == 1
    with Store(store.path, ingest=False) as other:
        ran(other, 2048, 200 * MIB)
    store.ingest_now()
    real, calls = Store.mark, []

    def busy(self: Store, tables: Sequence[str]) -> Mark:
        mark = real(self, tables)
        calls.append(mark)
        ran(store, 1024, 100 * MIB)
        return mark

    reader.forget()
    with monkeypatch.context() as patched:
        patched.setattr(Store, "mark", busy)
        found = reader.read(HERE)
    assert len(calls) > 1
    assert sorted(one.peak_bytes for one in found.truths.values()) == [100 * MIB, 200 * MIB]


ROW = st.one_of(
    st.fixed_dictionaries(
        {
            "table": st.just("executions"),
            "peak": st.sampled_from([None, 10 * MIB, 20 * MIB]),
            "success": st.booleans(),
            "runtime": st.sampled_from(["llama_cpp", "onnx", None]),
            "settings": st.sampled_from(["ctx=1024 kv=f16", None]),
            "device": st.sampled_from(["cpu", None]),
            "hardware": st.sampled_from([HERE, None, "elsewhere"]),
            "fingerprint": st.sampled_from(["f", None]),
            "interrupted": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "table": st.just("loads"),
            "memory_bytes": st.sampled_from([None, 5 * MIB, 30 * MIB]),
            "success": st.booleans(),
            "runtime": st.sampled_from(["llama_cpp", None]),
            "settings": st.sampled_from(["ctx=1024 kv=f16", None]),
            "device": st.sampled_from(["cpu", None]),
            "hardware": st.sampled_from([HERE, None, "elsewhere"]),
            "fingerprint": st.sampled_from(["f", None]),
        }
    ),
    st.fixed_dictionaries(
        {
            "table": st.just("predictions"),
            "actual": st.sampled_from([None, 1.5, 3.0]),
            "hardware": st.sampled_from([HERE, None, "elsewhere"]),
            "basis": st.sampled_from(
                [None, {"parts": {"steps": 0.01, "bytes": 0.02}, "model": "f", "settings": "s"}]
            ),
        }
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ROW, st.booleans(), st.booleans()), max_size=8))
def test_a_history_that_follows_is_the_one_that_is_read(
    steps: list[tuple[dict[str, Any], bool, bool]],
) -> None:
    """Row by row, by this store or another, ingested or not: as one query over all of it."""
    with (
        tempfile.TemporaryDirectory() as name,
        Store(Path(name) / "store", ingest=False) as mine,
        Store(Path(name) / "store", ingest=False) as others,
    ):
        following = HistoryReader(mine, now=lambda: NOW)
        for fields, elsewhere, ingest in steps:
            row, store = dict(fields), others if elsewhere else mine
            table = row.pop("table")
            if table == "executions":
                metrics = {"success": row.pop("success"), "peak_memory": row.pop("peak")}
                if row.pop("interrupted"):
                    metrics["failure"] = "interrupted"
                store.record_execution(model="m", metrics=metrics, **row)
            elif table == "loads":
                store.record("loads", model="m", **row)
            else:
                predicted(store, "throughput", 2.0, row.pop("actual"), **row)
            if ingest:
                store.ingest_now()
            following.forget()
            following.read(HERE)
        followed = following.read(HERE)
        whole = HistoryReader(others, now=lambda: NOW).read(HERE)
        assert followed.truths == whole.truths
        assert followed.outcomes == whole.outcomes


NEWS = st.one_of(
    st.tuples(
        st.just("truth"), st.sampled_from("fg"), st.sampled_from([1024, 4096]),
        st.integers(100, 900),
    ),
    st.tuples(
        st.sampled_from(["throughput", "load_seconds", "peak_memory"]), st.sampled_from("fg"),
        st.floats(0.5, 2), st.booleans(),
    ),
    st.tuples(st.just("nothing")),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(NEWS, max_size=8))
def test_an_answer_that_is_kept_is_the_answer(steps: list[tuple[Any, ...]]) -> None:
    """Peaks, speeds and both come in any order: who asked before hears what a newcomer does."""
    models = [model(), model(name="n", fingerprint="g"), model(name="o", fingerprint="h")]
    history = [History()]
    asked = Estimator(MACHINE, lambda: history[0])
    for kind, *what in [("nothing",), *steps]:
        truths, outcomes = dict(history[0].truths), []
        if kind == "truth":
            place = (what[0], "llama_cpp", "cpu", f"ctx={what[1]} kv=f16")
            truths[place] = Truth(what[2] * MIB, 1)
        elif kind != "nothing":
            subject = Subject({"steps": 0.01, "bytes": 0.02}, what[0], "", "ctx=4096 kv=f16")
            outcomes = [
                Outcome(
                    kind, "measured", "llama_cpp", "cpu", subject, 30.0, 30.0 * what[1],
                    low=20.0, high=40.0, spread=0.2, here=what[2],
                )
            ]  # fmt: skip
        history[0] = history[0].extended(outcomes, truths)
        fresh = Estimator(MACHINE, lambda known=history[0]: known)
        # Predicted in one go, and by the newcomer one by one.
        asked.expect((one, LoadOptions(context_length=4096)) for one in models)
        for one in models:
            for context, budget in ((1024, None), (4096, 500 * MIB)):
                options = LoadOptions(context_length=context)
                kept = asked.memory(one, options, budget_bytes=budget)
                assert kept == fresh.memory(one, options, budget_bytes=budget)
                speed, anew = asked.speed(one, options), fresh.speed(one, options)
                for name in ("decode", "first_token", "load"):
                    mine, theirs = getattr(speed, name), getattr(anew, name)
                    assert (mine.tier, mine.runs) == (theirs.tier, theirs.runs)
                    assert [mine.value, mine.low, mine.high] == pytest.approx(
                        [theirs.value, theirs.low, theirs.high], rel=1e-12
                    )


def test_a_peak_of_one_model_leaves_the_answers_on_others() -> None:
    """Of a thousand models a run changes one; the rest is not estimated again."""
    ran, other = model(), model(name="n", fingerprint="g")
    history = [History()]
    asked = Estimator(MACHINE, lambda: history[0])
    before = asked.memory(ran), asked.memory(other), asked.speed(ran)
    place = ("f", "llama_cpp", "cpu", "ctx=4096 kv=f16")
    history[0] = history[0].extended([], {place: Truth(300 * MIB, 1)})
    assert asked.memory(ran).measured
    assert not before[0].measured
    assert asked.memory(other) is before[1]
    assert asked.speed(ran) is before[2]


def test_a_history_read_step_by_step_is_the_one_read_at_once(store: Store) -> None:
    """What is added to an earlier history gives what reading all gives; the earlier one stays."""
    stepwise = HistoryReader(store, now=lambda: NOW)
    earlier: list[tuple[History, int]] = []
    for turn in range(6):
        forecast = estimator(store).speed(model(), prompt_tokens=100).decode
        ran(store, 2048 + 256 * turn, 300 * MIB + turn)
        for factor in (0.5, 0.6):
            predicted(
                store, "throughput", forecast.value, forecast.value * (factor + turn / 50),
                spread=forecast.spread, basis=basis_of(forecast.subject),
            )  # fmt: skip
        if turn == 3:
            store.ingest_now()
        stepwise.forget()
        history = stepwise.read(HERE)
        earlier.append((history, len(history.outcomes)))
    whole = HistoryReader(store, now=lambda: NOW).read(HERE)
    assert whole.outcomes == history.outcomes
    assert whole.truths == history.truths
    assert [length for _, length in earlier] == [2, 4, 6, 8, 10, 12]
    assert [len(one.outcomes) for one, _ in earlier] == [2, 4, 6, 8, 10, 12]
    asked = LoadOptions(context_length=2048)
    one, other = (Estimator(MACHINE, lambda h=h: h) for h in (whole, history))
    assert one.speed(model(), asked) == other.speed(model(), asked)
    assert one.memory(model(), asked) == other.memory(model(), asked)
    begun = Estimator(MACHINE, lambda: earlier[0][0]).speed(model(), asked)
    assert begun.decode.runs == 2


def test_a_store_that_cannot_be_read_is_told_and_formulas_remain(tmp_path: Path) -> None:
    """The error goes to whoever asked to be told; the estimate is that of an empty history."""
    (tmp_path / "store").write_text("in the way")
    told: list[StoreError] = []
    reader = HistoryReader(Store(tmp_path / "store"), now=lambda: NOW, on_error=told.append)
    assert Estimator(MACHINE, lambda: reader.read(HERE)).memory(model()).tier == "formula"
    assert len(told) == 1


def test_a_frozen_estimator_does_not_learn(store: Store) -> None:
    """What is recorded after it was frozen changes nothing for it."""
    asking = estimator(store)
    frozen = asking.frozen()
    ran(store, 2048, 300 * MIB)
    asked = LoadOptions(context_length=2048)
    assert frozen.memory(model(), asked).tier == "formula"
    assert estimator(store).memory(model(), asked).tier == "measured"


@pytest.mark.parametrize("budget", [160, 200, 300, 500, 100_000])
def test_the_largest_context_is_the_last_that_fits(budget: int) -> None:
    """It fits; 256 tokens more do not, unless it is all that the model was trained for."""
    asking = Estimator(MACHINE)
    found = asking.largest_context(model(), budget * MIB)

    def verdict(length: int) -> Verdict:
        asked = LoadOptions(context_length=length)
        return asking.memory(model(), asked, budget_bytes=budget * MIB).verdict

    if found == 0:
        assert verdict(256) is not Verdict.FITS
    else:
        assert verdict(found) is Verdict.FITS
        assert found == 32768 or verdict(found + 256) is not Verdict.FITS


def test_the_largest_context_of_what_has_none_is_not_made_up() -> None:
    """No attention geometry, no context: None."""
    assert Estimator(MACHINE).largest_context(model(attention=None), 10**12) is None
    assert Estimator(MACHINE).largest_context(model(context_length=None), 10**12) is None


def test_what_lies_in_the_page_cache_is_seen(tmp_path: Path) -> None:
    """A file that was just written lies in it; one that does not exist cannot be said."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4 * MIB)
    share = cached_share([path])
    assert share is None or share > 0.9
    assert cached_share([path, tmp_path / "absent"]) is None
    assert cached_share([]) is None


def test_a_thousand_models_are_estimated_without_a_thousand_queries(store: Store) -> None:
    """Estimates of many models cost their arithmetic only: the history is read once."""
    for context in (512, 2048):
        ran(store, context, 300 * MIB)
    reads: list[History] = []
    reader = HistoryReader(store, now=lambda: NOW, clock=lambda: 0.0)

    def read() -> History:
        history = reader.read(HERE)
        reads.append(history)
        return history

    asking = Estimator(MACHINE, read).frozen()
    many = [model(name=f"m{i}", fingerprint=f"f{i}", size_bytes=(i + 1) * MIB) for i in range(1000)]
    totals = {asking.memory(one).total_bytes for one in many}
    rates = {asking.speed(one).decode_rate for one in many}
    assert len(reads) == 1
    assert len(totals) == 1000
    assert None not in rates


def test_a_model_without_a_fingerprint_is_known_by_its_name() -> None:
    """The key of history is the fingerprint where there is one."""
    assert model_key(model()) == "f"
    assert model_key(model(fingerprint="")) == "m"
