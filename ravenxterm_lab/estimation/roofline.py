"""What a token, a prompt and a load must cost: bytes over bandwidth, operations over speed.

Decoding reads the active weights and the KV cache of the current context once a token, and
starts a fixed number of kernels (or meets a fixed number of barriers) a layer:

    t = a · layers + b · bytes · (bandwidth^-6 + ceiling^-6)^(1/6)

The ceiling is what the kernels of batch size 1 reach however wide the memory is: cards with
HBM are far from their specification there, cards with GDDR are at it. ``a`` and the ceiling
are fitted on `llama3_decode_speed.csv` (21 runs, 12 devices; ``tests/benchmarks/bench_speed.py``
fits them again and prints what other structures give) and taken over for other GPUs. These runs
are of 2024. Kernels of 2026 are bound by the weights that they unpack in a second rather than by
bytes: 3.8e12 is within 15% of what fits eight models on an H200
(``tests/estimation/test_estimation_gpu_log.py`` fits it again). The fixed time fits lower there
(5.9e-5 s a layer); that of 2024 is kept, since one card cannot speak for all others. ``b`` of
ROCm and Metal is the median of the dense models of 3 billion parameters and more that llama.cpp
runs in `local_speed.parquet` (57 on an RX 7900 XT: .81; 27 on an M4 Pro: .84), that of Intel
the median of its 13 runs on two integrated GPUs (4.0). For NPUs nothing better is known than the
constants of CUDA. A CPU unpacks and multiplies some bytes a second on each core, which is less
than a few cores' share of the memory's bandwidth: that is its ceiling. The constants of the CPU
are round figures from one machine of two cores; ``bench_speed.py --live`` prints by what they
would have to be multiplied on another, and a few runs there make up for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = [
    "CONSTANTS",
    "RECENT_WEIGHTS_PER_SECOND",
    "Constants",
    "Place",
    "decode_parts",
    "effective_bandwidth",
    "fit_gpu",
    "layers_of",
    "load_parts",
    "prefill_parts",
]

#: Weights a second that CUDA kernels of 2026 unpack at batch size 1, at most.
RECENT_WEIGHTS_PER_SECOND = 3.8e12

_SHARPNESS = 6.0


@dataclass(frozen=True, slots=True)
class Constants:
    """Of one kind of device, before anything was measured.

    Attributes
    ----------
    layer_seconds : float
        Fixed time a layer and token (s).
    factor : float
        Time of the bytes, as a multiple of bytes / effective bandwidth.
    ceiling : float
        What batch size 1 reaches at most (bytes/s); of a CPU, each of its cores.
    bandwidth : float
        Assumed where the device's is not known (bytes/s).
    matrix_speed : float
        Assumed where the device's is not known (FLOP/s).
    efficiency : float
        Share of the matrix speed that reading a prompt reaches.
    """

    layer_seconds: float
    factor: float
    ceiling: float
    bandwidth: float
    matrix_speed: float
    efficiency: float


_CUDA = Constants(8.82e-5, 1.0, 1.111e12, 400e9, 4e13, 0.35)
CONSTANTS: Mapping[HardwareType, Constants] = {
    HardwareType.CPU: Constants(5e-5, 1.2, 5.5e9, 20e9, 2e11, 0.4),
    HardwareType.CUDA: _CUDA,
    HardwareType.ROCM: replace(_CUDA, factor=0.85),
    HardwareType.METAL: replace(_CUDA, factor=0.85, bandwidth=200e9, matrix_speed=1e13),
    HardwareType.XPU: replace(_CUDA, factor=4.0, bandwidth=100e9, matrix_speed=1e13),
    HardwareType.NPU: replace(_CUDA, bandwidth=60e9, matrix_speed=1e13),
}
#: Engine start; mapping and unpacking a file that lies in memory; reading one that does not.
START_SECONDS = 0.4
MAPPED_BYTES_PER_SECOND = 1.2e9
DISK_BYTES_PER_SECOND = 0.5e9
#: Between the request and the prompt's first operation.
REQUEST_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """A device that holds a share of the layers.

    Attributes
    ----------
    device : HardwareType
        Its kind.
    bandwidth : float or None
        Of its memory (bytes/s).
    matrix_speed : float or None
        Of its multiplications (FLOP/s).
    share : float
        Of the layers, 0–1.
    cores : int or None
        Of a CPU, those that compute; without them only the bandwidth bounds it.
    weight_bytes : float or None
        Bytes a weight, if the engine is a build of 2026; without them one of 2024 is assumed.
    """

    device: HardwareType
    bandwidth: float | None = None
    matrix_speed: float | None = None
    share: float = 1.0
    cores: int | None = None
    weight_bytes: float | None = None


def effective_bandwidth(place: Place, constants: Constants | None = None) -> float:
    """Return the bytes per second that decoding reaches, the factor aside."""
    known = constants or CONSTANTS[place.device]
    ceiling = known.ceiling
    if place.device is HardwareType.CPU:
        if not place.cores:
            return place.bandwidth or known.bandwidth
        ceiling *= place.cores
    elif place.weight_bytes and constants is None:
        ceiling = max(ceiling, RECENT_WEIGHTS_PER_SECOND * place.weight_bytes)
    wide = (place.bandwidth or known.bandwidth) / ceiling
    # (wide^-6 + 1)^(1/6), which overflows for no bandwidth.
    return ceiling / math.pow(1.0 + math.pow(wide, -_SHARPNESS), 1 / _SHARPNESS)


def layers_of(model: ModelMetadata) -> int:
    """Return the number of layers; where the file does not say, that of a Llama of its size."""
    if model.attention is not None and model.attention.layers:
        return model.attention.layers
    parameters = model.parameter_count or model.size_bytes / 0.6
    return max(1, round(32 * math.pow(parameters / 8.03e9, 0.42)))


def decode_parts(bytes_read: float, layers: int, places: Sequence[Place]) -> dict[str, float]:
    """Return the seconds of one token by part.

    Parameters
    ----------
    bytes_read : float
        Active weights and KV cache.
    layers : int
        Of the model.
    places : sequence of Place
        Devices, one after the other; their shares sum to 1.
    """
    steps = moving = 0.0
    for place in places:
        constants = CONSTANTS[place.device]
        steps += constants.layer_seconds * layers * place.share
        moving += constants.factor * bytes_read * place.share / effective_bandwidth(place)
    return {"steps": steps, "bytes": moving}


def prefill_parts(
    bytes_read: float,
    operations: float,
    layers: int,
    batches: int,
    places: Sequence[Place],
) -> dict[str, float]:
    """Return the seconds from a request to its first token, by part.

    Parameters
    ----------
    bytes_read : float
        Active weights, read once a batch.
    operations : float
        ``2 · active parameters · tokens`` (FLOP).
    layers, batches : int
        Of the model; of the prompt.
    places : sequence of Place
        Devices, one after the other.
    """
    parts = decode_parts(bytes_read * batches, layers * batches, places)
    computing = 0.0
    for place in places:
        constants = CONSTANTS[place.device]
        speed = (place.matrix_speed or constants.matrix_speed) * constants.efficiency
        computing += operations * place.share / speed
    return {
        "start": REQUEST_SECONDS + parts["steps"],
        "bytes": parts["bytes"],
        "operations": computing,
    }


def load_parts(size_bytes: float, cached: float | None = None) -> dict[str, float]:
    """Return the seconds of a load by part: the engine's start, the file, and the disk.

    Parameters
    ----------
    size_bytes : float
        Of the file.
    cached : float, optional
        Share of it that lies in the page cache (0–1); half when that is not known.
    """
    absent = 0.5 if cached is None else 1 - cached
    return {
        "start": START_SECONDS,
        "bytes": size_bytes / MAPPED_BYTES_PER_SECOND,
        "disk": size_bytes * absent / DISK_BYTES_PER_SECOND,
    }


def fit_gpu(rows: Sequence[tuple[float, float, int, float]]) -> Constants:
    """Fit ``layer_seconds`` and the ceiling to measured decode speeds.

    Gauss-Newton with Levenberg's damping on ln of the times; no kernel beats the bus, so the
    factor stays 1.

    Parameters
    ----------
    rows : sequence of (bytes a token, bandwidth, layers, seconds a token)
        Bytes, bytes/s, a count, seconds.

    Returns
    -------
    Constants
        With the other values as they are for CUDA.
    """
    import numpy as np

    def at(point: np.ndarray) -> Constants:
        return replace(_CUDA, layer_seconds=math.exp(point[0]), ceiling=math.exp(point[1]))

    def residuals(point: np.ndarray) -> np.ndarray:
        known = at(point)
        errors = [
            math.log(
                (
                    known.layer_seconds * layers
                    + moved / effective_bandwidth(Place(HardwareType.CUDA, bandwidth), known)
                )
                / seconds
            )
            for moved, bandwidth, layers, seconds in rows
        ]
        # Where no card is wide enough to show its ceiling, it stays near 1.5 TB/s.
        return np.array([*errors, (point[1] - math.log(1.5e12)) / 5.0])

    point, damping = np.array([math.log(1e-4), math.log(1.5e12)]), 1e-3
    errors = residuals(point)
    for _ in range(100):
        slopes = np.stack(
            [(residuals(point + step) - errors) / 1e-5 for step in 1e-5 * np.eye(2)], axis=1
        )
        move = np.linalg.solve(slopes.T @ slopes + damping * np.eye(2), -slopes.T @ errors)
        moved = residuals(point + move)
        if moved @ moved < errors @ errors:
            point, errors, damping = point + move, moved, damping / 3
            if float(np.abs(move).max()) < 1e-9:
                break
        else:
            damping *= 3
    return at(point)
