"""What may be recorded: every value is checked before anything is written."""

from __future__ import annotations

import json
import math
import numbers
import os
import sys
from collections.abc import Mapping
from json import encoder as json_encoder
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import MetricError, StoreError, did_you_mean
from ravenxterm_lab.store.schema import COMMON, CONTEXT, MAX_PAYLOAD, TABLES, ExecutionId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["check_context", "encode_fields", "encode_metrics"]

_NAN = math.nan
_UINT_MAX = {"UBIGINT": 2**64 - 1, "UINTEGER": 2**32 - 1}
_EVENTS = ("added", "changed", "moved", "removed")

_encoder = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, check_circular=False, separators=(",", ":")
)


def _encode(value: object) -> str:
    return "".join(_iterencode(value, 0))


def _make_iterencode() -> Callable[[object, int], Iterable[str]]:
    # JSONEncoder.encode builds this object anew on each call, which is most of its time.
    c_make_encoder = getattr(json_encoder, "c_make_encoder", None)
    if c_make_encoder is None:
        return lambda value, _level: [_encoder.encode(value)]
    encode: Callable[[object, int], Iterable[str]] = c_make_encoder(
        None, _encoder.default, json_encoder.encode_basestring, None, ":", ",", False, False, False
    )
    return encode


_iterencode = _make_iterencode()


def _refuse(key: str, value: object, allowed: str) -> MetricError:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}…"
    return MetricError(
        f"Metric {key!r} cannot be {shown} ({type(value).__name__}); it must be {allowed}. "
        "Nothing was recorded."
    )


def _is_bool(value: object) -> bool:
    # numpy's own bool is neither a bool nor a number; its dtype tells.
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return isinstance(value, bool) or (kind == "b" and getattr(value, "shape", None) == ())


def _number(key: str, value: object, allowed: str) -> float:
    if _is_bool(value) or not isinstance(value, numbers.Real):
        raise _refuse(key, value, allowed)
    try:
        number = float(value)
    except OverflowError as error:
        raise _refuse(key, value, allowed) from error
    if not math.isfinite(number):
        raise _refuse(key, value, allowed)
    return number


def _at_least_zero(unit: str) -> Callable[[str, object], float]:
    allowed = f"a finite number of {unit}, at least 0"

    def check(key: str, value: object) -> float:
        number = _number(key, value, allowed)
        if number < 0:
            raise _refuse(key, value, allowed)
        return number

    return check


def _fraction(key: str, value: object) -> float:
    allowed = "a number from 0 to 1"
    number = _number(key, value, allowed)
    if not 0 <= number <= 1:
        raise _refuse(key, value, allowed)
    return number


def _count(unit: str, limit: int = _UINT_MAX["UBIGINT"]) -> Callable[[str, object], int]:
    allowed = f"a whole number of {unit}, at least 0 and at most {limit}"

    def check(key: str, value: object) -> int:
        if isinstance(value, numbers.Integral) and not _is_bool(value):
            number = int(value)
        else:
            exact = _number(key, value, allowed)
            number = int(exact)
            if number != exact:
                raise _refuse(key, value, allowed)
        if not 0 <= number <= limit:
            raise _refuse(key, value, allowed)
        return number

    return check


def _flag(key: str, value: object) -> bool:
    if not _is_bool(value):
        raise _refuse(key, value, "True or False")
    return bool(value)


def _text(key: str, value: object) -> str:
    if isinstance(value, (os.PathLike, ExecutionId)):
        value = str(value)
    if not isinstance(value, str):
        raise _refuse(key, value, "a string")
    return str(value)


def _real(key: str, value: object) -> float:
    return _number(key, value, "a finite number")


def _int32(key: str, value: object) -> int:
    allowed = "a whole number of 32 bits"
    if _is_bool(value) or not isinstance(value, numbers.Integral):
        raise _refuse(key, value, allowed)
    if not -(2**31) <= int(value) < 2**31:
        raise _refuse(key, value, allowed)
    return int(value)


def _texts(key: str, value: object) -> list[str]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise _refuse(key, value, "a list of strings")
    return [_text(key, item) for item in value]


def _execution(key: str, value: object) -> str:
    text = _text(key, value)
    try:
        ExecutionId.parse(text)
    except ValueError as error:
        raise _refuse(key, value, "an ExecutionId or 'session:seq'") from error
    return text


def _event(key: str, value: object) -> str:
    if value not in _EVENTS:
        raise _refuse(key, value, f"one of {', '.join(_EVENTS)}")
    return str(value)


def _json(key: str, value: object) -> object:
    """Return ``value`` as it is; `_finish` encodes it with the rest."""
    try:
        _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _refuse(
            key, value, f"something that JSON can hold ({str(error) or type(error).__name__})"
        ) from error
    return value


#: The metrics of an execution that have columns of their own, and what each may be.
_METRICS: dict[str, Callable[[str, object], object]] = {
    "latency": _at_least_zero("seconds"),
    "throughput": _at_least_zero("tokens or items per second"),
    "memory_efficiency": _fraction,
    "success": _flag,
    "time_to_first_token": _at_least_zero("seconds"),
    "tokens_in": _count("tokens"),
    "tokens_out": _count("tokens"),
    "peak_memory": _count("bytes"),
    "energy": _at_least_zero("joules"),
    "quality": _fraction,
    "error": _text,
}
#: The largest float that a metric can be.
_MOST = {
    "latency": sys.float_info.max,
    "throughput": sys.float_info.max,
    "memory_efficiency": 1.0,
    "time_to_first_token": sys.float_info.max,
    "energy": sys.float_info.max,
    "quality": 1.0,
}
_BY_TYPE: dict[str, Callable[[str, object], object]] = {
    "VARCHAR": _text,
    "DOUBLE": _real,
    "UBIGINT": _count("units"),
    "UINTEGER": _count("units", _UINT_MAX["UINTEGER"]),
    "INTEGER": _int32,
    "BOOLEAN": _flag,
    "JSON": _json,
    "VARCHAR[]": _texts,
}
_BY_COLUMN: dict[tuple[str, str], Callable[[str, object], object]] = {
    ("feedback", "quality"): _fraction,
    ("feedback", "execution"): _execution,
    ("predictions", "execution"): _execution,
    ("changes", "first_execution"): _execution,
    ("changes", "noticed_execution"): _execution,
    ("selections", "probability"): _fraction,
    ("candidates", "probability"): _fraction,
    ("candidates", "reliability"): _fraction,
    ("loads", "seconds"): _at_least_zero("seconds"),
    ("models", "event"): _event,
}


def _finish(document: Mapping[str, object]) -> bytes:
    try:
        payload = _encode(document).encode()
    except UnicodeEncodeError as error:
        raise MetricError(
            f"{error.object[:80]!r} cannot be recorded: it holds a lone surrogate, which is "
            "no valid Unicode text. Replace the character. Nothing was recorded."
        ) from error
    if len(payload) > MAX_PAYLOAD:
        raise MetricError(
            f"One event holds {len(payload)} bytes; at most {MAX_PAYLOAD} fit. Keep large "
            "values in a file and record its path. Nothing was recorded."
        )
    return payload


def encode_metrics(
    metrics: Mapping[str, Any], selection: str | None
) -> tuple[float, float, float, bool, bytes | None]:
    """Check the metrics of an execution one by one and encode those beyond the slot as JSON.

    Returns
    -------
    tuple
        As `ravenxterm_lab.store.packing.split_metrics`, without the names.

    Raises
    ------
    MetricError
        If a value is not allowed; the message names the key, the value and what is.
    """
    if not isinstance(metrics, Mapping):
        raise MetricError(
            f"metrics must be a mapping such as {{'latency': 0.1}}, got "
            f"{type(metrics).__name__}. Nothing was recorded."
        )
    known: dict[str, Any] = {}
    num: dict[str, float] = {}
    extra: dict[str, object] = {}
    for key, value in metrics.items():
        check = _METRICS.get(key)
        if check is not None:
            # The usual type in its range needs no call.
            if type(value) is float and 0.0 <= value <= _MOST.get(key, -1.0):
                known[key] = value
            elif value is not None:
                known[key] = check(key, value)
        elif type(key) is not str or not key:
            raise MetricError(
                f"The name of a metric must be a string that is not empty, got {key!r}. "
                "Nothing was recorded."
            )
        elif type(value) is str:
            extra[key] = value
        elif isinstance(value, numbers.Real) and not _is_bool(value):
            num[key] = _real(key, value)
        else:
            extra[key] = bool(value) if _is_bool(value) else _json(key, value)
    pop = known.pop
    latency = pop("latency", _NAN)
    throughput = pop("throughput", _NAN)
    memory = pop("memory_efficiency", _NAN)
    success = pop("success", "error" not in known)
    if selection is not None:
        known["selection"] = _text("selection", selection)
    if num:
        known["num"] = num
    if extra:
        known["extra"] = extra
    return latency, throughput, memory, success, _finish(known) if known else None


def check_context(context: Sequence[object]) -> None:
    """Check what describes an execution; called when a context is new to a segment.

    After the fields of `CONTEXT` may stand the names of the numbers in the payload.

    Raises
    ------
    MetricError
        If one is of a wrong type or the model has no name.
    """
    for name, value in zip(CONTEXT, context, strict=False):
        if name == "external":
            _flag(name, value)
        elif value is not None and not isinstance(value, str):
            raise _refuse(name, value, "a string")
    if not context[0]:
        raise MetricError("An execution needs the name of its model. Nothing was recorded.")


def encode_fields(table: str, fields: Mapping[str, object]) -> tuple[int, bytes]:
    """Check one event of any table but ``executions`` and encode it.

    Returns
    -------
    tuple of int and bytes
        The kind of the table and the payload.

    Raises
    ------
    StoreError
        If there is no such table.
    MetricError
        If there is no such column, or a value is not of its type.
    """
    if table == "executions":
        raise StoreError("Executions are recorded by record_execution(), not by record().")
    if table not in TABLES:
        known = [name for name in TABLES if name != "executions"]
        raise StoreError(f"There is no table {table!r} to record into.{did_you_mean(table, known)}")
    columns = TABLES[table].columns
    document: dict[str, object] = {}
    for name, value in fields.items():
        if name not in columns:
            hint = (
                " The store fills it in itself." if name in COMMON else did_you_mean(name, columns)
            )
            raise MetricError(
                f"The table {table!r} has no column {name!r} to record.{hint} Nothing was recorded."
            )
        if value is not None:
            check = _BY_COLUMN.get((table, name)) or _BY_TYPE[columns[name]]
            document[name] = check(f"{table}.{name}", value)
    return TABLES[table].kind, _finish(document)
