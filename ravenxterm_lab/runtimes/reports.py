"""What a load took and what a run gave: the facts that a runtime reports, with their units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["LoadReport", "MemoryUse", "RunResult"]


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory, in bytes.

    Attributes
    ----------
    anonymous_bytes : int
        Only an unload gives these back.
    file_bytes : int
        Pages of mapped files (weights among them), which the system may reclaim.
    """

    anonymous_bytes: int
    file_bytes: int

    @property
    def total(self) -> int:
        """Both together (bytes)."""
        return self.anonymous_bytes + self.file_bytes


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load really took.

    Attributes
    ----------
    seconds : float
        From the call to a model that can answer, the start of the worker included.
    memory_bytes : int
        Growth of the resident memory over the engine's idle state (bytes).
    anonymous_bytes, file_bytes : int
        The same growth, by kind (bytes).
    buffers : mapping of str to int
        What the engine itself says it allocated (bytes): ``"weights"``, ``"kv"``,
        ``"compute"``, ``"output"``, ``"repack"``; empty where it does not say.
    context_length : int
        Tokens that it has room for.
    device : HardwareType
        Where it runs.
    engine : str
        Name and version of the engine.
    log : str
        The last lines that the engine printed.
    """

    seconds: float
    memory_bytes: int
    anonymous_bytes: int
    file_bytes: int
    buffers: Mapping[str, int] = field(default_factory=dict)
    context_length: int = 0
    device: HardwareType = HardwareType.CPU
    engine: str = ""
    log: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RunResult:
    """One execution, as the engine counted it.

    Attributes
    ----------
    output : str, list, numpy.ndarray, or dict of str to numpy.ndarray
        The answer: a text or a list of texts; an embedding is float32 of shape ``(n, d)``, each
        row of length 1; a classifier's labels are a list of ``{"label", "probability"}``, the
        likeliest first, or for a list of texts a list of such lists.
    latency : float
        Wall time of the run, without the load (s).
    time_to_first_token : float or None
        From the request to the first piece of text (s).
    throughput : float or None
        Decoding speed as the engine reports it (tokens/s), or items/s.
    tokens_in, tokens_out : int or None
        Tokens read and written.
    peak_memory : int
        The most that the worker ever held above its idle state, up to the end of this run (bytes).
    finish_reason : str or None
        ``"stop"`` or ``"length"``.
    memory_efficiency : float or None
        Weights and the part of the KV cache in use, over ``peak_memory`` (0–1).
    details : mapping of str to float
        Further counters of the engine, such as ``"prompt_ms"``.
    """

    output: str | list[Any] | np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]
    latency: float
    time_to_first_token: float | None = None
    throughput: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    peak_memory: int = 0
    finish_reason: str | None = None
    memory_efficiency: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float | int | bool]:
        """Return the execution metrics that were measured, under the names that the store knows."""
        known: dict[str, float | int | bool | None] = {
            "latency": self.latency,
            "throughput": self.throughput,
            "memory_efficiency": self.memory_efficiency,
            "success": True,
            "time_to_first_token": self.time_to_first_token,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "peak_memory": self.peak_memory or None,
        }
        return {key: value for key, value in known.items() if value is not None}
