"""Which layers lie on which device, as llama.cpp splits them."""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CPU", "Placement", "place"]

#: The number of the CPU; GPUs are numbered from 1 in the order in which they are given.
CPU = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of each layer.

    Attributes
    ----------
    layers : tuple of int
        For each layer 0 for the CPU, else the number of the GPU.
    output : int
        Of the output head and the final norm.
    gpus : int
        How many GPUs there are.
    """

    layers: tuple[int, ...]
    output: int
    gpus: int

    @property
    def pipelined(self) -> bool:
        """Whether several batches are under way at once: all of it lies on several GPUs."""
        return self.gpus > 1 and self.output != CPU and CPU not in self.layers

    @property
    def offloaded(self) -> int:
        """Layers on GPUs, the output counted as one."""
        return sum(device != CPU for device in (*self.layers, self.output))


def place(layers: int, gpu_layers: int | None, free: Sequence[int]) -> Placement:
    """Place layers as llama.cpp does by default: the last ones on the GPUs, by free memory.

    The output counts as one more layer, after all others; the input embedding stays on the CPU.
    Source: ``llama-model.cpp`` (``i_gpu_start``, ``act_gpu_layers``, and the split points,
    which are compared as 32-bit floats).

    Parameters
    ----------
    layers : int
        Layers of the model.
    gpu_layers : int or None
        How many are asked for on GPUs, the output included; None for all.
    free : sequence of int
        Free memory of each GPU; only their ratio counts.

    Raises
    ------
    ValueError
        If ``gpu_layers`` is negative.

    Examples
    --------
    >>> place(4, 3, [1, 1])
    Placement(layers=(0, 0, 1, 1), output=2, gpus=2)
    """
    if gpu_layers is not None and gpu_layers < 0:
        raise ValueError(f"gpu_layers must be 0 or more, got {gpu_layers}.")
    everything = layers + 1
    wanted = everything if gpu_layers is None else min(gpu_layers, everything)
    if not free or not wanted:
        return Placement((CPU,) * layers, CPU, len(free))
    weights = [max(amount, 0) for amount in free]
    if not any(weights):
        weights = [1] * len(free)
    ends = list(accumulate(map(_single, weights), lambda end, part: _single(end + part)))
    ends = [_single(end / ends[-1]) for end in ends]
    start = everything - wanted
    devices = [
        CPU
        if layer < start
        else min(bisect_right(ends, _single((layer - start) / wanted)), len(free) - 1) + 1
        for layer in range(everything)
    ]
    return Placement(tuple(devices[:-1]), devices[-1], len(free))


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
