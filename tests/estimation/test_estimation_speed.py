"""The speed estimator: physics first, then what was measured, without a step between them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from speed_rows import fitting_row, published_rows

from ravenxterm_lab.estimation import History, SpeedEstimate, estimate_speed
from ravenxterm_lab.estimation.history import Outcome
from ravenxterm_lab.estimation.roofline import (
    CONSTANTS,
    Place,
    decode_parts,
    effective_bandwidth,
    fit_gpu,
)
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType

FAST = 1e11


def model(size: int = 10**9, name: str = "m", **changes: object) -> ModelMetadata:
    facts: dict[str, object] = {
        "parameter_count": size * 2,
        "architecture": "llama",
        "fingerprint": name,
        "attention": AttentionGeometry((8,) * 32, 64, 64),
    }
    return ModelMetadata(name, ModelType.GGUF, Path("m.gguf"), size, **{**facts, **changes})


def seen(history: History, of: ModelMetadata, rate: float, times: int = 1, **how: object) -> None:
    """Let a model have run at ``rate`` tokens/s."""
    for _ in range(times):
        forecast = estimate_speed(of, memory_bandwidth=FAST, history=history, **how).decode
        history.add(
            Outcome(
                "throughput", forecast.tier, "gguf", "cpu", forecast.subject, forecast.value, rate,
                forecast.low, forecast.high, forecast.level, forecast.spread,
            )
        )  # fmt: skip


def predict(history: History, of: ModelMetadata, **how: object) -> SpeedEstimate:
    return estimate_speed(of, memory_bandwidth=FAST, history=history, **how)


def test_published_speeds_are_met_with_their_device_left_out(shared_data: Path) -> None:
    """On devices that the fit never saw: mean error ≤ 20%, four of five within 30%, and better
    than 0.55 × bandwidth / bytes.
    """
    table = published_rows(shared_data)
    errors, rule = [], []
    for row in table:
        known = fit_gpu([fitting_row(r) for r in table if r["device"] != row["device"]])
        moved, bandwidth, layers, seconds = fitting_row(row)
        place = Place(HardwareType.CUDA, bandwidth)
        predicted = known.layer_seconds * layers + moved / effective_bandwidth(place, known)
        errors.append(abs(seconds / predicted - 1))
        rule.append(abs(0.55 * bandwidth / moved * seconds - 1))
    assert len(errors) == 21
    assert sum(errors) / 21 <= 0.2
    assert sum(error <= 0.3 for error in errors) >= 0.8 * 21
    assert sum(errors) < sum(rule)


def test_the_constants_of_gpus_are_those_of_the_fit(shared_data: Path) -> None:
    """What the product holds is what its own fit gives on the published runs."""
    fitted = fit_gpu([fitting_row(row) for row in published_rows(shared_data)])
    held = CONSTANTS[HardwareType.CUDA]
    assert held.layer_seconds == pytest.approx(fitted.layer_seconds, rel=0.01)
    assert held.ceiling == pytest.approx(fitted.ceiling, rel=0.01)


def test_published_gpu_runs_lie_in_the_first_interval(shared_data: Path) -> None:
    """Before anything is measured, the 80% interval holds at least four of five published runs."""
    table = published_rows(shared_data)
    inside = 0
    for row in table:
        estimate = estimate_speed(
            model(int(row["file_bytes"]), parameter_count=int(float(row["parameters_b"]) * 1e9),
                  attention=None),
            memory_bandwidth=float(row["memory_bandwidth_gb_s"]) * 1e9,
            device=HardwareType.CUDA,
        )  # fmt: skip
        inside += estimate.low <= float(row["decode_tokens_s"]) <= estimate.high
    assert inside >= 0.8 * len(table)


def test_a_mixture_of_experts_is_judged_by_its_active_parameters() -> None:
    """Decoding reads the active weights only, so a sparse model of equal size is faster."""
    dense = predict(History(), model(10**10))
    sparse = predict(
        History(), model(10**10, parameter_count=8 * 10**9, active_parameter_count=10**9)
    )
    assert sparse.decode_rate > 3 * dense.decode_rate
    assert sparse.time_to_first_token < dense.time_to_first_token


def test_a_longer_context_is_slower_and_a_longer_prompt_later() -> None:
    """The KV cache of the context is read once a token; a prompt costs operations a token."""
    short, long = (predict(History(), model(), context_length=n) for n in (256, 65536))
    assert long.decode_rate < 0.8 * short.decode_rate
    brief, essay = (predict(History(), model(), prompt_tokens=n) for n in (64, 4096))
    assert essay.time_to_first_token > 10 * brief.time_to_first_token


def test_split_over_devices_the_times_add_up() -> None:
    """Half the layers on a card and half on the CPU take half of each one's time."""
    cpu, card = Place(HardwareType.CPU, 5e10), Place(HardwareType.CUDA, 5e11)
    half = [Place(HardwareType.CUDA, 5e11, None, 0.5), Place(HardwareType.CPU, 5e10, None, 0.5)]
    alone = [sum(decode_parts(8e9, 32, [place]).values()) for place in (cpu, card)]
    assert sum(decode_parts(8e9, 32, half).values()) == pytest.approx(sum(alone) / 2)


def test_few_cores_cannot_use_all_of_the_bandwidth() -> None:
    """Decoding is bound by the cores where they are few, and by the memory where they are many."""
    rates = [
        effective_bandwidth(Place(HardwareType.CPU, 8e10, cores=cores)) for cores in (1, 2, 8, 64)
    ]
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.01)
    assert rates == sorted(rates)
    assert rates[3] == pytest.approx(8e10, rel=0.01)


def test_without_bandwidth_or_measurement_nothing_is_claimed() -> None:
    """There is no rate then, and the source says what to do; one run gives it a rate."""
    nothing = estimate_speed(model(), memory_bandwidth=None)
    assert nothing.decode_rate is None
    assert nothing.tier == "none"
    assert "bandwidth" in nothing.source
    assert nothing.low is nothing.high is nothing.time_to_first_token is None
    history = History()
    subject = nothing.decode.subject
    history.add(Outcome("throughput", "none", "gguf", "cpu", subject, 20.0, 50.0, spread=0.5))
    assert estimate_speed(model(), history=history).decode_rate == pytest.approx(50, rel=0.2)


def test_each_tier_is_named_and_narrower_than_the_next() -> None:
    """Measured, scaled, device, roofline: what is nearer to the runs has the narrower interval."""
    history = History()
    quantized = model(5 * 10**8, "m-q4", parameter_count=2 * 10**9)
    other = model(3 * 10**9, "other", embedding_length=1)
    bare = predict(history, model(), settings="ctx=512")
    seen(history, model(), 60.0, times=5, settings="ctx=512")
    found = [
        predict(history, model(), settings="ctx=512"),
        predict(history, model(), settings="ctx=4096"),
        predict(history, quantized, settings="ctx=512"),
        predict(history, other, settings="ctx=512"),
    ]
    assert [e.tier for e in [*found, bare]] == [
        "measured", "scaled", "scaled", "device", "roofline",
    ]  # fmt: skip
    widths = [e.high / e.low for e in (found[0], found[1], found[3], bare)]
    assert widths == sorted(widths)
    assert "5 runs of this model" in found[0].source


def test_a_few_runs_move_every_prediction_on_the_device() -> None:
    """A machine at half its roofline is known to be slow after one model; no tier jumps."""
    history, other = History(), model(3 * 10**9, "other", embedding_length=1)
    before, mine = predict(history, other).decode_rate, predict(history, model()).decode_rate
    steps = []
    for _ in range(4):
        seen(history, model(), mine / 2)
        steps.append((predict(history, model()).decode_rate, predict(history, other).decode_rate))
    assert steps[0][0] == pytest.approx(mine / 2, rel=0.1)
    assert steps[3][0] == pytest.approx(mine / 2, rel=0.05)
    assert all(before / 2 < rate < 0.9 * before for _, rate in steps)
    assert steps[3][1] == pytest.approx(steps[0][1], rel=0.1)


def test_a_machine_that_scatters_gets_wider_intervals_on_all_its_models() -> None:
    """Runs of one model that jump up and down widen the interval of another that was run once."""
    steady, busy = History(), History()
    for turn in range(12):
        seen(steady, model(), 60.0)
        seen(busy, model(), 120.0 if turn % 2 else 30.0)
    other = model(3 * 10**9, "other", embedding_length=1)
    widths = []
    for history in (steady, busy):
        seen(history, other, 25.0)
        estimate = predict(history, other)
        widths.append(estimate.high / estimate.low)
    assert widths[1] > 1.5 * widths[0]


def test_one_wild_run_is_outvoted() -> None:
    """A run ten times slower than four others leaves the prediction near the four."""
    history = History()
    seen(history, model(), 60.0, times=4)
    seen(history, model(), 6.0)
    assert predict(history, model()).decode_rate == pytest.approx(60, rel=0.1)


def test_one_model_that_is_an_exception_does_not_speak_for_the_others() -> None:
    """Among six neighbours at their roofline, one that is five times slower hardly counts."""
    history, target = History(), model(2 * 10**9, "target", embedding_length=99)
    plain = predict(history, target).decode_rate
    for index in range(6):
        other = model(10**9 * (index + 1), f"n{index}", embedding_length=index)
        rate = estimate_speed(other, memory_bandwidth=FAST).decode_rate
        seen(history, other, rate / (5 if index == 2 else 1), times=3)
    assert predict(history, target).decode_rate == pytest.approx(plain, rel=0.15)


def test_what_ran_elsewhere_or_long_ago_counts_less() -> None:
    """Runs of another machine shape no speed; recent runs outweigh old ones."""
    history = History()
    subject = predict(history, model()).decode.subject
    away = Outcome("throughput", "roofline", "gguf", "cpu", subject, 50.0, 5.0, here=False)
    history.add(away)
    assert predict(history, model()).tier == "roofline"
    for rate, age in ((30.0, 200.0), (30.0, 199.0), (30.0, 198.0), (80.0, 1.0), (80.0, 0.0)):
        history.add(
            Outcome("throughput", "measured", "gguf", "cpu", subject, 50.0, rate, age_days=age)
        )
    assert predict(history, model()).decode_rate == pytest.approx(80, rel=0.1)


def test_a_cold_file_loads_slower_than_a_warm_one() -> None:
    """What is in the page cache need not be read from the disk."""
    warm, unknown, cold = (
        predict(History(), model(5 * 10**9), cached=share).load_seconds
        for share in (1.0, None, 0.0)
    )
    assert warm < unknown < cold
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in (warm, unknown, cold))
