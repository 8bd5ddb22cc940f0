"""How the metrics of an execution are laid out: four in the slot, other numbers packed as doubles.

Numbers travel as ``struct`` doubles, since their names repeat from one execution to the
next and are interned with the context; everything else travels as JSON.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ravenxterm_lab.store.schema import IN_SLOT
from ravenxterm_lab.store.validation import encode_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["split_metrics"]

#: An object of our own: a NaN that was given is another one, and is refused.
_ABSENT = float("nan")
_INF = float("inf")
_MAX = sys.float_info.max
#: Whole numbers up to here are exact as doubles.
_EXACT = 2**53
#: What the known numbers may be, as in `METRIC_CHECKS`.
_RANGES: dict[str, tuple[tuple[type, ...], float, float]] = {
    "time_to_first_token": ((float, int), 0.0, _MAX),
    "energy": ((float, int), 0.0, _MAX),
    "quality": ((float, int), 0.0, 1.0),
    "tokens_in": ((int,), 0, _EXACT),
    "tokens_out": ((int,), 0, _EXACT),
    "peak_memory": ((int,), 0, _EXACT),
}
_ANY_NUMBER = ((float, int), -_MAX, _MAX)
#: Different sets of names that are packed in one process; someone may well make up a name for
#: each event, and neither memory nor the interned contexts may grow with that.
_MOST_LAYOUTS = 256


class _Layout(NamedTuple):
    """How the values of one set of names are packed."""

    names: tuple[str, ...]
    limits: tuple[tuple[str, tuple[type, ...], float, float], ...]
    pack: Callable[..., bytes]


_layouts: dict[tuple[str, ...], _Layout | None] = {}


def _layout(keys: tuple[object, ...]) -> _Layout | None:
    if len(_layouts) >= _MOST_LAYOUTS or not all(type(key) is str and key for key in keys):
        return None
    names = tuple(str(key) for key in keys if key not in IN_SLOT)
    layout = None
    if "error" not in names:
        limits = tuple((name, *_RANGES.get(name, _ANY_NUMBER)) for name in names)
        layout = _Layout(names, limits, struct.Struct(f"={len(names)}d").pack)
    _layouts[tuple(map(str, keys))] = layout
    return layout


def split_metrics(
    metrics: Mapping[str, Any], selection: str | None
) -> tuple[float, float, float, bool, tuple[str, ...] | None, bytes | None]:
    """Check the metrics of an execution and lay them out for a slot.

    Parameters
    ----------
    metrics : mapping of str to any
        Known keys in the units of the table ``executions``; None is "not measured".
    selection : str or None
        The selection that chose the model.

    Returns
    -------
    tuple
        Latency (s), throughput (1/s), memory efficiency (0-1), each NaN when not
        measured; success; the names of the doubles in the payload, or None when the
        payload is JSON or there is none; and the payload, if anything else was given.

    Raises
    ------
    MetricError
        If a value is not allowed; the message names the key, the value and what is.
    """
    if selection is None and type(metrics) is dict:
        keys = tuple(metrics)
        try:
            layout = _layouts[keys]
        except KeyError:
            layout = _layout(keys)
        if layout is not None:
            packed = _pack(metrics, layout)
            if packed is not None:
                return packed
    latency, throughput, memory, success, payload = encode_metrics(metrics, selection)
    return latency, throughput, memory, success, None, payload


def _pack(
    metrics: dict[str, Any], layout: _Layout
) -> tuple[float, float, float, bool, tuple[str, ...] | None, bytes | None] | None:
    """Lay out the usual types in their usual ranges; None for anything else."""
    get = metrics.get
    latency, throughput, memory = (
        get("latency", _ABSENT),
        get("throughput", _ABSENT),
        get("memory_efficiency", _ABSENT),
    )
    success = get("success", True)
    if not (
        type(latency) is type(throughput) is type(memory) is float
        and (0.0 <= latency < _INF or latency is _ABSENT)
        and (0.0 <= throughput < _INF or throughput is _ABSENT)
        and (0.0 <= memory <= 1.0 or memory is _ABSENT)
        and (success is True or success is False)
    ):
        return None
    values = []
    for name, kinds, low, high in layout.limits:
        value = metrics[name]
        if type(value) not in kinds or not low <= value <= high:
            return None
        values.append(value)
    if not values:
        return latency, throughput, memory, success, None, None
    return latency, throughput, memory, success, layout.names, layout.pack(*values)
