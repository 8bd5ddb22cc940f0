"""How fast a model will be: load, first token, decoding, each with an interval and its tier."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.conformal import DEFAULT_LEVEL, Group
from ravenxterm_lab.estimation.forecast import Forecast, SpeedEstimate
from ravenxterm_lab.estimation.history import RATES, History
from ravenxterm_lab.estimation.kv import kv_cache_bytes
from ravenxterm_lab.estimation.learning import Subject
from ravenxterm_lab.estimation.parts import Same
from ravenxterm_lab.estimation.roofline import (
    Place,
    decode_parts,
    layers_of,
    load_parts,
    prefill_parts,
)
from ravenxterm_lab.estimation.weights import active_bytes
from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["estimate_speed", "expect_speed", "family_key", "model_key", "places_for"]

#: Tokens of a prompt when nobody says how long it is.
DEFAULT_PROMPT = 64
#: Further standard deviation of ln where the bandwidth is an assumption.
_ASSUMED_SPREAD = 1.0


def model_key(model: ModelMetadata) -> str:
    """Return what history knows a model by: its fingerprint, or its name without one."""
    return model.fingerprint or model.name


def family_key(model: ModelMetadata) -> str:
    """Return what all quantizations of the same weights share; empty when it is not known."""
    if not (model.architecture and model.parameter_count):
        return ""
    # Files of one model differ by an output head that is or is not stored apart.
    size = round(math.log(model.parameter_count) * 20)
    return f"{model.architecture}/{model.embedding_length}/{layers_of(model)}/{size}"


def places_for(
    hardware: HardwareProfile | None,
    device: HardwareType,
    *,
    layers: int,
    gpu_layers: int | None = None,
    memory_bandwidth: float | None = None,
    weight_bytes: float | None = None,
) -> tuple[Place, ...]:
    """Return the devices that hold the layers, with their shares.

    Parameters
    ----------
    hardware : HardwareProfile or None
        The machine.
    device : HardwareType
        Where the layers go that are offloaded.
    layers : int
        Of the model.
    gpu_layers : int, optional
        How many are offloaded; by default all of them, when the device is no CPU.
    memory_bandwidth : float, optional
        Of the device, instead of the profile's (bytes/s).
    weight_bytes : float, optional
        Bytes a weight, where the engine is a build of 2026.
    """
    bandwidth = memory_bandwidth if device is HardwareType.CPU else None
    cpu = Place(HardwareType.CPU, bandwidth)
    if hardware is not None:
        cpu = Place(
            HardwareType.CPU,
            bandwidth or hardware.memory_bandwidth,
            hardware.matrix_speed,
            cores=hardware.cpu_cores,
        )
    if device is HardwareType.CPU:
        return (cpu,)
    wanted = layers if gpu_layers is None else min(gpu_layers, layers)
    share = wanted / layers
    gpus = [gpu for gpu in hardware.gpu_devices if gpu.hardware is device] if hardware else []
    placed = [
        Place(
            device,
            memory_bandwidth
            or gpu.memory_bandwidth
            or (hardware.memory_bandwidth if hardware and gpu.unified_memory else None),
            gpu.matrix_speed,
            share / len(gpus),
            weight_bytes=weight_bytes,
        )
        for gpu in gpus
    ] or [Place(device, memory_bandwidth, None, share, weight_bytes=weight_bytes)]
    rest = replace(cpu, share=1 - share)
    return (*placed, rest) if share < 1 else tuple(placed)


def estimate_speed(
    model: ModelMetadata,
    *,
    hardware: HardwareProfile | None = None,
    memory_bandwidth: float | None = None,
    device: HardwareType = HardwareType.CPU,
    engine: str | None = None,
    context_length: int | None = None,
    prompt_tokens: int | None = None,
    kv_type: str = "f16",
    batch_size: int = 512,
    gpu_layers: int | None = None,
    settings: str = "",
    recent: bool = False,
    cached: float | None = None,
    history: History | None = None,
    level: float = DEFAULT_LEVEL,
) -> SpeedEstimate:
    """Predict load time, time to first token and decode speed.

    Decoding reads the active weights and the KV cache of the current context once a token; a
    prompt costs ``2 · active parameters`` operations a token, and the weights once a batch; a
    load reads the file. What was measured shapes all three (see `learning`).

    Parameters
    ----------
    model : ModelMetadata
        The model.
    hardware : HardwareProfile, optional
        Gives bandwidth and matrix speed of each device.
    memory_bandwidth : float, optional
        Of the device, instead of the profile's (bytes/s).
    device : HardwareType
        Where it would run.
    engine : str, optional
        By default the first of its runtimes.
    context_length : int, optional
        Tokens in the KV cache while decoding; by default those of the prompt.
    prompt_tokens : int, optional
        Tokens to read before the first one; by default 64.
    kv_type : str
        Type of the cached keys and values.
    batch_size : int
        Prompt tokens that are processed at a time.
    gpu_layers : int, optional
        Layers on the device; by default all of them. The rest stay on the CPU, and the times
        add up.
    settings : str
        How it would be loaded, as `LoadOptions.settings` has it: runs under the same settings
        are this model's own, others are scaled.
    recent : bool
        Whether the engine is a build of 2026; the published speeds are of 2024.
    cached : float, optional
        Share of the file in the page cache (0–1); None when that is not known.
    history : History, optional
        What was measured here; without it, the prior alone.
    level : float
        Share of the outcomes that the intervals shall hold.

    Returns
    -------
    SpeedEstimate
        ``decode_rate`` is None when neither a bandwidth nor a measurement is known.

    Raises
    ------
    ValueError
        On an unknown ``kv_type``, or a level outside 0–1.
    """
    history = history or _NOTHING
    base = _base(
        Same(model),
        Same(hardware),
        memory_bandwidth,
        device,
        engine,
        context_length,
        prompt_tokens,
        kv_type,
        batch_size,
        gpu_layers,
        settings,
        recent,
        cached,
    )
    load = _forecast(history, "load_seconds", base.load, base, level)
    decode = _forecast(history, "throughput", base.decode, base, level)
    first = None
    if base.first is not None:
        first = _forecast(history, "time_to_first_token", base.first, base, level)
    missing = ""
    if decode.tier == "none" and base.unknown is not None:
        remedy = "run a model once"
        if hardware is not None and hardware.source == "simulated":
            remedy = 'name it in the description, such as "DDR5-5600"'
        missing = (
            f"the memory bandwidth of the device ({base.unknown.value}) is not known, and nothing "
            f"was measured on it: {remedy}"
        )
    return SpeedEstimate(decode, first, load, base.context, base.tokens, missing)


def expect_speed(
    model: ModelMetadata,
    history: History,
    *,
    hardware: HardwareProfile,
    device: HardwareType,
    kv_type: str,
    batch_size: int,
    gpu_layers: int | None,
    settings: str,
    recent: bool,
) -> None:
    """Say that `estimate_speed` will be asked for this: many are predicted in one go.

    Parameters
    ----------
    model, history, hardware, device, kv_type, batch_size, gpu_layers, settings, recent
        As it will be asked.
    """
    base = _base(
        Same(model), Same(hardware), None, device, None, None, None, kv_type, batch_size,
        gpu_layers, settings, recent, None,
    )  # fmt: skip
    for quantity, subject in (
        ("load_seconds", base.load),
        ("throughput", base.decode),
        ("time_to_first_token", base.first),
    ):
        if subject is not None:
            history.learned(quantity, base.engine, base.device).expect(subject)


@dataclass(frozen=True, slots=True)
class _Base:
    """What physics says, whatever was measured; ``unknown`` has no known bandwidth."""

    engine: str
    device: str
    context: int
    tokens: int
    load: Subject
    decode: Subject
    first: Subject | None
    unknown: HardwareType | None


# Each ranking asks for the same again; only what was measured has changed meanwhile.
@lru_cache(maxsize=4096)
def _base(
    same: Same[ModelMetadata],
    machine: Same[HardwareProfile | None],
    memory_bandwidth: float | None,
    device: HardwareType,
    engine: str | None,
    context_length: int | None,
    prompt_tokens: int | None,
    kv_type: str,
    batch_size: int,
    gpu_layers: int | None,
    settings: str,
    recent: bool,
    cached: float | None,
) -> _Base:
    model = same.value
    engine = engine or (model.runtimes[0] if model.runtimes else model.model_type.value)
    tokens = max(1, DEFAULT_PROMPT if prompt_tokens is None else prompt_tokens)
    context = max(1, tokens if context_length is None else context_length)
    layers = layers_of(model)
    weights = active_bytes(model)
    active = model.active_parameter_count or model.parameter_count
    places = places_for(
        machine.value,
        device,
        layers=layers,
        gpu_layers=gpu_layers,
        memory_bandwidth=memory_bandwidth,
        weight_bytes=weights / active if recent and active else None,
    )
    key, family = model_key(model), family_key(model) or model_key(model)

    def subject(parts: dict[str, float], place: str) -> Subject:
        return Subject(parts, key, family, place)

    warmth = "" if cached is None else "warm" if cached > 0.5 else "cold"
    moved = weights + _kv_read(model, context, kv_type)
    first = None
    if model.attention is not None:
        operations = 2 * (active or weights) * tokens
        parts = prefill_parts(weights, operations, layers, -(-tokens // batch_size), places)
        first = subject(parts, f"{settings} prompt={_bucket(tokens, 16)}")
    return _Base(
        engine,
        device.value,
        context,
        tokens,
        subject(load_parts(model.size_bytes, cached), f"{settings} {warmth}"),
        subject(decode_parts(moved, layers, places), f"{settings} used={_bucket(context, 256)}"),
        first,
        next((place.device for place in places if place.bandwidth is None), None),
    )


def _forecast(
    history: History, quantity: str, subject: Subject, base: _Base, level: float
) -> Forecast:
    predicted = history.learned(quantity, base.engine, base.device).predict(subject)
    tier, spread = predicted.tier, predicted.spread
    if tier == "roofline" and base.unknown is not None and quantity != "load_seconds":
        tier, spread = "none", math.hypot(spread, _ASSUMED_SPREAD)
    centre = -predicted.ln_seconds if quantity in RATES else predicted.ln_seconds
    group = Group(quantity, tier, base.engine, base.device)
    low, high = history.calibrator.quantiles(group, level)
    return Forecast(
        math.exp(centre),
        math.exp(centre + low * spread),
        math.exp(centre + high * spread),
        level,
        tier,
        predicted.runs,
        spread,
        subject,
    )


_NOTHING = History()


def _bucket(tokens: int, least: int) -> int:
    """Return the power of two below: runs of about this length are alike, and short ones all."""
    return max(least, 1 << (tokens.bit_length() - 1))


def _kv_read(model: ModelMetadata, context: int, kv_type: str) -> int:
    if model.attention is None:
        return 0
    return kv_cache_bytes(model.attention, context, kv_type=kv_type)
