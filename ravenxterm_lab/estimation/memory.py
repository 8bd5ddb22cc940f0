"""The memory that a model takes when it is loaded, item by item and device by device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.devices import DeviceMemory, device_memory, needed_bytes
from ravenxterm_lab.estimation.engines import ENGINES, engine_for, parts_of
from ravenxterm_lab.estimation.parts import Parts, Same, Settings
from ravenxterm_lab.estimation.verdict import Verdict, judge
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from ravenxterm_lab.hardware import GpuDevice
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["MemoryEstimate", "estimate_memory"]

_ORDER = (Verdict.FITS, Verdict.PAGES, Verdict.UNKNOWN, Verdict.CANNOT)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a load takes, in bytes, and whether that fits.

    Attributes
    ----------
    engine : str
        The runtime that it holds for.
    context_length : int or None
        Tokens of context that it holds for.
    weights_bytes : int or None
        Weights as mapped from the file, with those of a projector.
    repack_bytes : int
        Weights copied into another layout beside the mapped ones.
    kv_cache_bytes : int or None
        The KV cache (and recurrent state).
    compute_bytes, overhead_bytes : int
        Scratch buffers; the engine itself.
    total_bytes : int or None
        The sum over all devices, or the measured peak; None when a needed fact is missing.
    low_bytes, high_bytes : int or None
        An interval around the total. The low end is for texts much shorter than a batch.
    budget_bytes : int or None
        What the CPU's share was held against.
    verdict : Verdict
        Fits, pages, cannot, or unknown: the worst of all devices.
    measured : bool
        Whether the total was measured on an earlier load here.
    source : str
        Which formula or measurement was used.
    missing : tuple of str
        Facts that would be needed.
    devices : tuple of DeviceMemory
        The same items device by device: the CPU, then each GPU in the order given; empty when
        a needed fact is missing.
    needed_bytes : int or None
        The smallest budget of the system's memory with which it fits: the measured peak, or what
        the CPU and GPUs without memory of their own take times the safety factor, of an uncertain
        formula its upper end. None when a needed fact is missing.
    """

    engine: str
    context_length: int | None
    weights_bytes: int | None
    repack_bytes: int
    kv_cache_bytes: int | None
    compute_bytes: int
    overhead_bytes: int
    total_bytes: int | None
    low_bytes: int | None
    high_bytes: int | None
    budget_bytes: int | None
    verdict: Verdict
    measured: bool
    source: str
    missing: tuple[str, ...] = ()
    devices: tuple[DeviceMemory, ...] = ()
    needed_bytes: int | None = None

    def describe(self) -> str:
        """Return one line for a person, such as ``"fits: 172 MiB at 2,048 tokens"``."""
        if self.total_bytes is None:
            return f"unknown: {', '.join(self.missing) or 'no estimate'} not known"
        size = format_bytes(self.total_bytes)
        context = f" at {self.context_length:,} tokens" if self.context_length else ""
        how = "measured" if self.measured else "estimated"
        line = f"{self.verdict.value}: {size}{context} ({how})"
        short = [one for one in self.devices if one.verdict in (Verdict.PAGES, Verdict.CANNOT)]
        if len(self.devices) > 1:
            for one in short:
                line += f", {one.name} needs {format_bytes(one.total_bytes)}"
                line += f" of {format_bytes(one.budget_bytes)}"
        elif self.verdict in (Verdict.PAGES, Verdict.CANNOT):
            line += f", budget {format_bytes(self.budget_bytes)}"
        return line


def estimate_memory(
    model: ModelMetadata,
    *,
    engine: str | None = None,
    context_length: int | None = None,
    batch_size: int = 512,
    kv_type: str | tuple[str, str] = "f16",
    gpu_layers: int | None = None,
    devices: tuple[GpuDevice, ...] = (),
    sequences: int = 1,
    unified: bool = False,
    flash_attention: bool | None = None,
    instruction_sets: Collection[str] = (),
    budget_bytes: int | None = None,
    measured_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimate what loading a model takes, from facts alone.

    Parameters
    ----------
    model : ModelMetadata
        The model. All experts of a mixture count: each is in memory, however few a token uses.
    engine : str, optional
        ``"llama_cpp"``, ``"onnx"``, ``"transformers"`` or ``"vllm"``; by default the first of
        its runtimes, else the one that its format is made for.
    context_length : int, optional
        Tokens of all sequences together; by default what the runtime would load:
        ``min(trained, 4096)``.
    batch_size : int
        Tokens that the engine computes at once.
    kv_type : str or tuple of str
        Type of the cached keys and values, or a pair.
    gpu_layers : int, optional
        Layers on the GPUs, the output counted as one; by default all, if there are ``devices``.
    devices : tuple of GpuDevice
        The GPUs that may be used; layers are dealt out by their free memory.
    sequences : int
        Sequences that are kept at the same time.
    unified : bool
        Whether they share one pool of cache cells.
    flash_attention : bool, optional
        By default as the engine would choose: it uses it.
    instruction_sets : collection of str
        Of the CPU: they decide whether llama.cpp repacks the weights.
    budget_bytes : int, optional
        Held against the CPU's share for the verdict; each GPU has a budget of its own.
    measured_bytes : int, optional
        A peak measured on an earlier load with the same settings: it replaces the sum.

    Returns
    -------
    MemoryEstimate
        With verdict ``unknown`` when a needed fact is missing.

    Raises
    ------
    ValueError
        On an unknown ``kv_type``, a number below 1, or negative ``gpu_layers``.
    """
    engine = engine or (model.runtimes[0] if model.runtimes else engine_for(model.model_type))
    # An engine without a formula of its own is judged by the engine that its format is made for.
    formula = engine if engine in ENGINES else engine_for(model.model_type)
    parts = _parts(
        Same(model),
        formula if formula in ENGINES else engine,
        Settings(
            context_length,
            batch_size,
            kv_type,
            gpu_layers,
            devices,
            sequences,
            unified,
            flash_attention,
            frozenset(instruction_sets),
        ),
    )
    known = not parts.missing
    total = sum(share.total for share in parts.shares) if known else None
    low = None if total is None else max(total - parts.below, 0)
    high = None if total is None else total + parts.above
    shown = device_memory(parts, devices, budget_bytes, measured_bytes) if known else ()
    needed = None
    if known:
        held = shown[0].total_bytes + sum(one.total_bytes for one in shown[1:] if one.unified)
        needed = needed_bytes(parts, held)
    if measured_bytes is not None:
        total = low = high = needed = measured_bytes
        verdict = judge(measured_bytes, budget_bytes, pageable_bytes=parts.mapped, measured=True)
    else:
        verdict = max((one.verdict for one in shown), key=_ORDER.index, default=Verdict.UNKNOWN)
    return MemoryEstimate(
        engine=engine,
        context_length=parts.context_length,
        weights_bytes=_sum(parts, "weights") if known or parts.shares[0].weights else None,
        repack_bytes=_sum(parts, "repack"),
        kv_cache_bytes=_sum(parts, "kv") if parts.has_cache else None,
        compute_bytes=_sum(parts, "compute"),
        overhead_bytes=_sum(parts, "overhead"),
        total_bytes=total,
        low_bytes=low,
        high_bytes=high,
        budget_bytes=budget_bytes,
        verdict=verdict,
        measured=measured_bytes is not None,
        source=parts.source if measured_bytes is None else "peak measured on an earlier load here",
        missing=parts.missing if measured_bytes is None else (),
        devices=shown,
        needed_bytes=needed,
    )


# Each ranking asks for the same models again; only the budget has changed meanwhile.
@lru_cache(maxsize=4096)
def _parts(same: Same[ModelMetadata], formula: str, settings: Settings) -> Parts:
    return parts_of(same.value, formula, settings)


def _sum(parts: Parts, item: str) -> int:
    return sum(getattr(share, item) for share in parts.shares)
