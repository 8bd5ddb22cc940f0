"""Make a quantization ladder from one GGUF file: real variants with real differences."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ravenxterm_lab._imports import require

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LADDER", "build_ladder"]

#: Variants that the demo makes beside the Q4_1 file that it fetches.
LADDER = ("Q8_0", "Q4_0")
# general.file_type of each (llama.h, enum llama_ftype).
_FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}


def build_ladder(
    source: Path, quantizations: Sequence[str] = LADDER, *, progress: bool = True
) -> list[Path]:
    """Write requantized variants of a GGUF file beside it; those that exist are kept.

    The weights are dequantized to float32 and quantized again, so a variant can be no better
    than its source: a "Q8_0" made from a Q4_1 file is bigger and slower for nothing, which a
    selector should find out.

    Parameters
    ----------
    source : Path
        A GGUF file whose name holds its quantization, such as ``x.Q4_1.gguf``.
    quantizations : sequence of str
        From ``F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0``.
    progress : bool
        Show a progress bar, in tensors.

    Returns
    -------
    list of Path
        The variants, in the order asked for.

    Raises
    ------
    MissingPackageError
        If ``gguf`` is not installed.
    KeyError
        On another quantization.
    """
    targets = [
        source.with_name(f"{source.stem.rpartition('.')[0]}.{name}.gguf") for name in quantizations
    ]
    for name in quantizations:
        _FILE_TYPES[name]
    todo = [
        (name, target)
        for name, target in zip(quantizations, targets, strict=True)
        if not target.exists()
    ]
    if todo:
        gguf = require("gguf", "to make a quantization ladder")
        reader = gguf.GGUFReader(source)
        for name, target in todo:
            _write_variant(gguf, reader, name, target, progress=progress)
    return targets


def _write_variant(gguf: Any, reader: Any, name: str, target: Path, *, progress: bool) -> None:
    kind = gguf.GGMLQuantizationType[name]
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".making-")
    os.close(descriptor)
    try:
        writer = gguf.GGUFWriter(temporary, reader.fields["general.architecture"].contents())
        _copy_fields(gguf, reader, writer, _FILE_TYPES[name])
        bar = tqdm(reader.tensors, desc=target.name, unit="tensor", disable=not progress)
        for tensor in bar:
            data, data_type = tensor.data, tensor.tensor_type
            # Norms (one dimension) stay as they are, as llama.cpp's own quantizer leaves them.
            if len(tensor.shape) > 1:
                full = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                data, data_type = gguf.quants.quantize(full, kind), kind
            writer.add_tensor(tensor.name, data, raw_dtype=data_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _copy_fields(gguf: Any, reader: Any, writer: Any, file_type: int) -> None:
    written_by_the_writer = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    for key, field in reader.fields.items():
        if key in written_by_the_writer or key == "general.architecture":
            continue
        value = file_type if key == "general.file_type" else field.contents()
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], sub_type=sub)
