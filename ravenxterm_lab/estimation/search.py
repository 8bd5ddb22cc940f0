"""What fits: the largest context, and the most layers on the GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation.memory import MemoryEstimate, estimate_memory
from ravenxterm_lab.estimation.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.hardware import GpuDevice
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Offload", "best_offload", "largest_context"]

# Cells of the cache come in so many: between two steps nothing changes.
_STEP = 256
#: Where a model does not say for which context it was trained, the search ends here.
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Offload:
    """How many layers go to the GPUs.

    Attributes
    ----------
    gpu_layers : int
        Layers, the output counted as one; 0 where not even that fits.
    whole : bool
        Whether that is all of the model.
    estimate : MemoryEstimate
        What the load takes then.
    """

    gpu_layers: int
    whole: bool
    estimate: MemoryEstimate


def largest_context(
    model: ModelMetadata,
    *,
    budget_bytes: int,
    paging: bool = False,
    estimate: Callable[..., MemoryEstimate] = estimate_memory,
    **settings: Any,
) -> int | None:
    """Return the most tokens of context with which a model fits, up to its trained length.

    Parameters
    ----------
    model : ModelMetadata
    budget_bytes : int
        For the CPU's share; each GPU has its own.
    paging : bool
        Whether a model whose mapped weights would page counts as fitting.
    estimate : callable
        Estimates in place of `estimate_memory`, such as one that knows of measured loads.
    **settings
        As ``estimate`` takes them, without the context.

    Returns
    -------
    int or None
        0 where it does not even fit with the shortest; None where that cannot be said.
    """
    good = {Verdict.FITS, Verdict.PAGES} if paging else {Verdict.FITS}
    trained = model.context_length or _LONGEST

    def verdict(steps: int) -> Verdict:
        return estimate(
            model,
            context_length=min(steps * _STEP, trained),
            budget_bytes=budget_bytes,
            **settings,
        ).verdict

    longest = -(-trained // _STEP)
    shortest = verdict(1)
    if shortest is Verdict.UNKNOWN:
        return None
    if shortest not in good:
        return 0
    if verdict(longest) in good:
        return trained
    fits, fails = 1, longest
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if verdict(middle) in good:
            fits = middle
        else:
            fails = middle
    return fits * _STEP


def best_offload(
    model: ModelMetadata,
    devices: tuple[GpuDevice, ...],
    *,
    estimate: Callable[..., MemoryEstimate] = estimate_memory,
    **settings: Any,
) -> Offload | None:
    """Return the most layers whose weights, cache and buffers fit the GPUs.

    Each number of layers is judged, from all downwards, because a layer more may move the
    borders between several GPUs: the answer is the most that fits, not the first that does.

    Parameters
    ----------
    model : ModelMetadata
    devices : tuple of GpuDevice
        In the order in which the engine numbers them.
    estimate : callable
        As for `largest_context`.
    **settings
        As ``estimate`` takes them, without ``devices`` and ``gpu_layers``.

    Returns
    -------
    Offload or None
        None where a needed fact is missing.

    Raises
    ------
    ValueError
        Without a device.
    """
    if not devices:
        raise ValueError("best_offload needs at least one device, got none.")
    if model.attention is None:
        return None
    everything = model.attention.layers + 1
    for layers in range(everything, -1, -1):
        found = estimate(model, devices=devices, gpu_layers=layers, **settings)
        verdicts = {device.verdict for device in found.devices[1:]}
        if not verdicts or Verdict.UNKNOWN in verdicts:
            return None
        if verdicts == {Verdict.FITS}:
            return Offload(layers, layers == everything, found)
    raise AssertionError("no layer at all fits any GPU")  # pragma: no cover
