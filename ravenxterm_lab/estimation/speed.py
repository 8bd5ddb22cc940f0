"""How fast a model will be: a prediction, an interval, and the tier of evidence behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["SpeedEstimate", "estimate_speed"]

# Seconds per token = a + b · bytes moved / bandwidth. For GPUs both were fitted by relative
# least squares on the 21 published runs of Llama 3 (a = 3.4 ms, b = 1.08; leaving one GPU out:
# 22% mean error). On a CPU the same bytes cost more, because threads synchronise at each
# operator; b = 2 is a prior, and the interval says so.
_PER_TOKEN = {HardwareType.CPU: (0.0034, 2.0)}
_PER_TOKEN_GPU = (0.0034, 1.08)
# One standard deviation of ln speed when nothing was measured on this machine.
_PRIOR_LOG_SD = 0.46
_Z90 = 1.645
# Reading a file that may be on disk, and starting the engine.
_LOAD_BYTES_PER_SECOND = 0.8e9
_START_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Predicted speed of one model on one device.

    Attributes
    ----------
    decode_rate : float or None
        Tokens per second (items per second for a model that does not generate).
    low, high : float or None
        A 90% interval of it.
    time_to_first_token : float
        Seconds, model resident, short prompt.
    load_seconds : float
        Seconds to make it resident.
    tier : str
        ``"measured"``, ``"roofline"`` or ``"none"``.
    source : str
        In words.
    """

    decode_rate: float | None
    low: float | None
    high: float | None
    time_to_first_token: float
    load_seconds: float
    tier: str
    source: str


def estimate_speed(
    model: ModelMetadata,
    *,
    memory_bandwidth: float | None,
    device: HardwareType = HardwareType.CPU,
    kv_read_bytes: int = 0,
    measured_rate: float | None = None,
    measured_runs: int = 0,
) -> SpeedEstimate:
    """Predict decode speed from the bytes that one token moves, or from measurements.

    Decoding reads the active weights and the KV cache of the current context once a token.

    Parameters
    ----------
    model : ModelMetadata
        The model.
    memory_bandwidth : float or None
        Of the device, bytes per second.
    device : HardwareType
        Where it would run.
    kv_read_bytes : int
        KV bytes of the context in use.
    measured_rate : float, optional
        Median tokens per second of earlier runs of this model on this device.
    measured_runs : int
        How many they were.
    """
    load = _START_SECONDS + model.size_bytes / _LOAD_BYTES_PER_SECOND
    if measured_rate is not None and measured_rate > 0 and measured_runs:
        # Single runs on a shared machine scatter by about 0.22 in ln (variance .05).
        spread = math.exp(_Z90 * 0.22 * math.sqrt(1 + 1 / measured_runs))
        return SpeedEstimate(
            decode_rate=measured_rate,
            low=measured_rate / spread,
            high=measured_rate * spread,
            time_to_first_token=8 / measured_rate,
            load_seconds=load,
            tier="measured",
            source=f"median of {measured_runs} runs here",
        )
    if not memory_bandwidth:
        return SpeedEstimate(
            None, None, None, 0.3, load, "none", "the memory bandwidth of the device is not known"
        )
    active = 1.0
    if model.active_parameter_count and model.parameter_count:
        active = model.active_parameter_count / model.parameter_count
    weights = sum(model.tensor_bytes.values()) or model.size_bytes
    fixed, factor = _PER_TOKEN.get(device, _PER_TOKEN_GPU)
    seconds = fixed + factor * (weights * active + kv_read_bytes) / memory_bandwidth
    spread = math.exp(_Z90 * _PRIOR_LOG_SD)
    return SpeedEstimate(
        decode_rate=1 / seconds,
        low=1 / seconds / spread,
        high=spread / seconds,
        # A prompt is computed in batches, at several times the speed of decoding.
        time_to_first_token=min(2.0, 8 * seconds),
        load_seconds=load,
        tier="roofline",
        source="bytes moved per token ÷ memory bandwidth; nothing measured for this model yet",
    )
