"""The facts of a model's files as JSON, and back: nothing but our own types comes out.

What is read back may have been damaged, or written by somebody else: every value is checked for
its type and range, so that a wrong row is refused here and cannot fail a scan later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import AttentionGeometry, ModelType, NetworkShape, WeightLayout
from ravenxterm_lab.readers import FACTS_VERSION, READERS, FileFacts, TensorSignature, limits
from ravenxterm_lab.readers.onnx import safe_relative_name
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMAT", "Facts", "decode", "encode"]

#: Facts, fingerprint and problems; or why there is no model; or None for any other file.
Facts = tuple[FileFacts, str, tuple[str, ...]] | str | None

#: Facts of another format, or of other readers, are not trusted.
FORMAT = hashlib.blake2b(
    repr(
        (
            FACTS_VERSION,
            [type(reader).__name__ for reader in READERS],
            [field.name for kind in (FileFacts, AttentionGeometry, WeightLayout, NetworkShape,
                                     TensorSignature)
             for field in dataclasses.fields(kind)],
        )
    ).encode(),
    digest_size=4,
).hexdigest()  # fmt: skip

_TEXT = 1000
_ITEMS = limits.LAYERS
_LARGEST = 2**62


def encode(value: Facts) -> dict[str, Any]:
    """Return what JSON can hold of a result of reading."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"reason": value}
    facts, mark, problems = value
    document = {
        name: _plain(getattr(facts, name))
        for name in _FIELDS
        if getattr(facts, name) != _DEFAULTS.get(name, ...)
    }
    return {"fingerprint": mark, "problems": list(problems), "facts": document}


def decode(document: object) -> Facts:
    """Return the result that ``encode`` made a document of.

    Parameters
    ----------
    document : str or dict
        JSON text, or what it says.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(document, str):
        document = json.loads(document)
    if not isinstance(document, dict):
        raise ValueError("no object")  # noqa: TRY004 - one error for whatever is wrong
    if not document:
        return None
    if "reason" in document:
        return _text(document["reason"])
    mark = _text(document["fingerprint"]) if "fingerprint" in document else ""
    if len(mark) != 32 or not set(mark) <= set("0123456789abcdef"):
        raise ValueError("no fingerprint")
    given = document.get("facts")
    if not isinstance(given, dict) or not given.keys() <= _FIELDS.keys():
        raise ValueError("no facts")
    facts = {name: _FIELDS[name](value) for name, value in given.items()}
    if "model_type" not in facts:
        raise ValueError("no type")
    return FileFacts(**facts), mark, _texts(document.get("problems", []))


def _plain(value: Any) -> Any:
    if isinstance(value, (AttentionGeometry, WeightLayout, NetworkShape, TensorSignature)):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if hasattr(value, "keys") else value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - as above
    return clean(value, _TEXT)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > _ITEMS:
        raise ValueError("no list")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError("no number")
    return value


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(_number(item) for item in _list(value))


def _flags(value: object) -> tuple[bool, ...]:
    if not all(isinstance(item, bool) for item in _list(value)):
        raise ValueError("no flags")
    return tuple(_list(value))


def _pair(value: object) -> tuple[int, int]:
    first, second = _numbers(value)
    return first, second


def _sizes(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > _ITEMS:
        raise ValueError("no sizes")
    return {_text(name): _number(size) for name, size in value.items()}


def _names(value: object) -> tuple[str, ...]:
    """Names of files, which become paths: none may leave the directory."""
    names = tuple(_list(value))
    if not all(isinstance(name, str) and safe_relative_name(name) for name in names):
        raise ValueError("no names of files")
    return names


def _optional(check: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else check(value)


def _attention(value: object) -> AttentionGeometry:
    if not isinstance(value, dict) or value.keys() != _ATTENTION.keys():
        raise ValueError("no geometry")
    return AttentionGeometry(**{name: _ATTENTION[name](item) for name, item in value.items()})


def _weights(value: object) -> WeightLayout:
    if not isinstance(value, dict) or value.keys() != _WEIGHTS.keys():
        raise ValueError("no layout of weights")
    return WeightLayout(**{name: _WEIGHTS[name](item) for name, item in value.items()})


def _network(value: object) -> NetworkShape:
    if not isinstance(value, dict) or value.keys() != _NETWORK.keys():
        raise ValueError("no shape of a network")
    return NetworkShape(**{name: _NETWORK[name](item) for name, item in value.items()})


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("no flag")  # noqa: TRY004 - as above
    return value


def _signatures(value: object) -> tuple[TensorSignature, ...]:
    return tuple(_signature(item) for item in _list(value))


def _signature(value: object) -> TensorSignature:
    if not isinstance(value, dict) or value.keys() != {"name", "dtype", "shape"}:
        raise ValueError("no signature")
    return TensorSignature(
        _text(value["name"]), _text(value["dtype"]), tuple(map(_size, _list(value["shape"])))
    )


def _size(value: object) -> int | str | None:
    return _text(value) if isinstance(value, str) else _optional(_number)(value)


_ATTENTION: dict[str, Callable[[object], Any]] = {
    "heads_kv": _numbers,
    "key_length": _number,
    "value_length": _number,
    "window": _optional(_number),
    "windowed": _flags,
    "latent_rank": _optional(_number),
    "rope_dimension": _optional(_number),
    "recurrent_elements": _number,
    "indexer_elements": _number,
}
_WEIGHTS: dict[str, Callable[[object], Any]] = {
    "input_bytes": _number,
    "layer_bytes": _numbers,
    "output_bytes": _number,
    "embedding_bytes": _number,
    "embedding_type": _optional(_text),
    "head_bytes": _number,
    "head_type": _optional(_text),
    "other_bytes": _number,
    "expert_bytes": _numbers,
    "experts": _optional(_pair),
    "matrix_bytes": _sizes,
}
_NETWORK: dict[str, Callable[[object], Any]] = {
    field.name: _flag if field.name in ("gated", "fused_projection", "fused_gate") else _number
    for field in dataclasses.fields(NetworkShape)
}
_BY_FIELD: dict[str, Callable[[object], Any]] = {
    "model_type": lambda value: ModelType(_text(value)),
    "kind": _text,
    "size_bytes": _number,
    "expert_parameter_count": _number,
    "experts": _optional(_pair),
    "split": _optional(_pair),
    "attention": _optional(_attention),
    "weight_layout": _optional(_weights),
    "network": _optional(_network),
    "tensor_bytes": _sizes,
    "external": _names,
    "inputs": _signatures,
    "outputs": _signatures,
    "task_types": _texts,
    "pickle_globals": _texts,
    "problems": _texts,
    "notes": _texts,
    **dict.fromkeys(("name", "architecture", "quantization", "license"), _optional(_text)),
    **dict.fromkeys(
        (
            "parameter_count", "active_parameter_count", "context_length", "embedding_length",
            "vocabulary_size", "file_type",
        ),
        _optional(_number),
    ),
}  # fmt: skip
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FileFacts)}
_FIELDS = {name: check for name, check in _BY_FIELD.items() if name in _DEFAULTS}
