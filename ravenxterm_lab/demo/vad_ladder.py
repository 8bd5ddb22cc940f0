"""Make quantized variants of a voice activity model, one of them ruined: a case to learn from."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab._imports import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["VAD_LADDER", "build_vad_ladder"]

_WHY = "to quantize an ONNX model"
#: Variant, to the weights' type in `onnxruntime.quantization`; all else is its default.
_WEIGHT_TYPES = {"int8": "QInt8", "uint8": "QUInt8"}
#: Variants that can be made beside the float32 file.
VAD_LADDER = tuple(_WEIGHT_TYPES)


def build_vad_ladder(source: Path, variants: Sequence[str] = VAD_LADDER) -> list[Path]:
    """Write dynamically quantized variants of an ONNX file beside it; those that exist are kept.

    Both are what ``onnxruntime.quantization.quantize_dynamic`` makes with its defaults, and
    differ in the type of the weights alone. Of ``silero_vad_16k.onnx`` it quantizes the six
    convolutions. ``uint8`` is as good as the source. ``int8``, which is the function's default
    and a few bytes smaller, loads cleanly and calls nothing speech: a tensor has one scale, and
    in the last layer of the encoder one weight of 54.9 sets a scale at which 97% of the others
    are rounded to 0 (``tests/demo/test_demo_vad.py`` counts them and measures both). A
    selector that looks at size and speed picks it; one that looks at quality does not.

    Parameters
    ----------
    source : Path
        Such as ``silero-vad-16k/silero_vad_16k.onnx`` of the demo. ``silero_vad.onnx`` itself
        holds its weights where the function does not look, and comes out as it went in.
    variants : sequence of str
        From ``int8 uint8``.

    Returns
    -------
    list of Path
        The variants, in the order asked for, such as ``silero_vad_16k.int8.onnx``.

    Raises
    ------
    MissingPackageError
        If ``onnx`` or ``onnxruntime`` is not installed.
    KeyError
        On another variant.
    """
    kinds = [_WEIGHT_TYPES[name] for name in variants]
    targets = [source.with_suffix(f".{name}{source.suffix}") for name in variants]
    for kind, target in zip(kinds, targets, strict=True):
        if not target.exists():
            _write_variant(source, kind, target)
    return targets


def _write_variant(source: Path, kind: str, target: Path) -> None:
    onnx = require("onnx", _WHY)
    require("onnxruntime", _WHY)
    quantization = require("onnxruntime.quantization", _WHY)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".making-")
    os.close(descriptor)
    try:
        with _in_silence():
            # Of a path it would write a copy into the source's own directory.
            quantization.quantize_dynamic(
                onnx.load(source),
                temporary,
                weight_type=getattr(quantization.QuantType, kind),
            )
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep quiet what onnxruntime advises on the root logger, which a notebook would show."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root = logging.getLogger()
    root.addFilter(is_of_others)
    try:
        yield
    finally:
        root.removeFilter(is_of_others)
