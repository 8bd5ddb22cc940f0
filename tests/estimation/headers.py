"""Header-only GGUF files: real names, shapes and types of tensors, and no weights on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from ravenxterm_lab.discovery.assemble import build_model
from ravenxterm_lab.readers import read_facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

Q = gguf.GGMLQuantizationType
#: Tensor name to shape (outermost dimension first, as numpy has it) and type.
Tensors = dict[str, tuple[tuple[int, ...], gguf.GGMLQuantizationType]]


def header_only(
    path: Path,
    arch: str,
    keys: Mapping[str, Any],
    tensors: Tensors | None = None,
    general: Mapping[str, Any] | None = None,
    tokens: int = 0,
) -> Path:
    """Write a GGUF header with these keys and tensors; the data is a hole in a sparse file.

    With ``tokens`` it has a tokenizer too, so that llama.cpp loads it: all weights are zero.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**(general or {}), **{f"{arch}.{k}": v for k, v in keys.items()}}.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, list(value))
    if tokens:
        words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        words += [f"word{number}" for number in range(tokens - len(words))]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(words)
        writer.add_token_scores([0.0] * tokens)
        # llama.h: unknown, control, byte and normal tokens.
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (tokens - 259)])
    length = 0
    for name, (shape, kind) in (tensors or {"token_embd.weight": ((8, 32), Q.F32)}).items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = int(np.prod(shape, dtype=np.int64)) // block * size
        stored = (*shape[:-1], shape[-1] // block * size)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), nbytes, raw_dtype=kind)
        length += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        end = -(-path.stat().st_size // 32) * 32
        file.truncate(end + length)
    return path


def header_model(path: Path, *args: Any, **kwargs: Any) -> ModelMetadata:
    """Write a header-only file and return what our own reader makes of it."""
    facts = read_facts(header_only(path, *args, **kwargs))
    assert facts is not None
    return build_model(facts, name=path.stem, paths=(path,), mark="0" * 32, source="directory")
