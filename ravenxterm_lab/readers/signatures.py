"""What a graph's inputs, outputs and tensor types tell, alike for every format of graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.readers import limits
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.readers.base import TensorSignature

__all__ = ["NOT_WEIGHTS", "dominant_type", "first_ones", "output_width", "tasks_of_graph"]

#: Types that hold shapes, indices and flags rather than weights.
NOT_WEIGHTS = frozenset({"I64", "I32", "BOOL", "STRING", "U64", "U32"})
_QUANTIZATION = {"I8": "INT8", "U8": "INT8", "I4": "INT4", "U4": "INT4", "I2": "INT2", "U2": "INT2"}
_HIDDEN = frozenset({"last_hidden_state", "sentence_embedding", "token_embeddings", "embeddings"})


def dominant_type(by_type: Mapping[str, int]) -> str | None:
    """Name the quantization that most bytes of the weights have.

    Parameters
    ----------
    by_type : mapping of str to int
        Bytes by tensor type.

    Examples
    --------
    >>> dominant_type({"F32": 60, "I8": 40, "U8": 30, "I64": 999})
    'INT8'
    """
    weights = {name: size for name, size in by_type.items() if name not in NOT_WEIGHTS and size}
    if not weights:
        return None
    # Signed and unsigned bytes are one quantization, of weights and of activations' tables.
    if sum(weights.get(name, 0) for name in ("I8", "U8")) * 2 > sum(weights.values()):
        return "INT8"
    dominant = max(weights, key=lambda name: weights[name])
    return _QUANTIZATION.get(dominant, dominant)


def first_ones(
    inputs: tuple[TensorSignature, ...], outputs: tuple[TensorSignature, ...], notes: list[str]
) -> tuple[tuple[TensorSignature, ...], tuple[TensorSignature, ...]]:
    """Return ``limits.SIGNATURES`` inputs and outputs at most; a note says that there are more."""
    for side, what in ((inputs, "input"), (outputs, "output")):
        if len(side) > limits.SIGNATURES:
            notes.append(f"{format_number(len(side), what)}, of which {limits.SIGNATURES} are kept")
    return inputs[: limits.SIGNATURES], outputs[: limits.SIGNATURES]


def output_width(outputs: tuple[TensorSignature, ...]) -> int | None:
    """Return the last dimension of the first output that has one, where it is a number."""
    last = next((one.shape[-1] for one in outputs if one.shape), None)
    return last if isinstance(last, int) and last > 0 else None


def tasks_of_graph(
    inputs: tuple[TensorSignature, ...], outputs: tuple[TensorSignature, ...]
) -> tuple[str, ...]:
    """Say what a graph does where its signature alone shows it; else nothing."""
    takes = {one.name for one in inputs}
    gives = {one.name for one in outputs}
    if "input_ids" in takes:
        if gives & _HIDDEN:
            return ("embedding",)
        # OpenVINO keeps the cache inside and takes the beam's index instead.
        if "beam_idx" in takes or any(name.startswith("past_key") for name in takes):
            return ("text_generation",)
        return ()
    if {"input", "state"} <= takes and "stateN" in gives:
        return ("voice_activity_detection",)
    if {"input", "h", "c"} <= takes and {"hn", "cn"} <= gives:
        return ("voice_activity_detection",)
    if takes == {"bytes"} and "target_label" in gives:
        return ("file_type",)
    return ()
