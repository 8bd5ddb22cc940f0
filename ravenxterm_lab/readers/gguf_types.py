"""The tensor types and file types of GGUF, and which quantization a file really holds.

Block sizes are those of ``ggml.h``; they are written down here because the ``gguf`` package
is an optional one. A test compares them with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FILE_TYPES", "TENSOR_TYPES", "quantization_of"]

#: Type id to its name, elements per block and bytes per block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

#: ``general.file_type`` to llama.cpp's name for that mixture of tensor types.
FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}

# llama.cpp falls back to another type where a row is not a multiple of the block of 256, and
# some mixtures hold most of their bytes in a neighbour of the type that they are named after.
_MAY_DOMINATE: dict[str, frozenset[str]] = {
    "Q2_K": frozenset({"Q2_K", "Q3_K", "Q4_0", "IQ4_NL"}),
    "Q3_K": frozenset({"Q3_K", "Q4_K", "Q4_0", "IQ4_NL"}),
    "Q4_K": frozenset({"Q4_K", "Q5_0"}),
    "Q5_K": frozenset({"Q5_K", "Q5_1"}),
    "Q6_K": frozenset({"Q6_K", "Q8_0"}),
    "IQ2_XXS": frozenset({"IQ2_XXS", "IQ4_NL"}),
    "IQ2_XS": frozenset({"IQ2_XS", "IQ4_NL"}),
    "IQ2_S": frozenset({"IQ2_S", "IQ2_XS", "IQ4_NL"}),
    "IQ2_M": frozenset({"IQ2_S", "IQ3_S", "IQ4_NL"}),
    "IQ3_XXS": frozenset({"IQ3_XXS", "IQ3_S", "IQ4_NL"}),
    "IQ3_XS": frozenset({"IQ3_XXS", "IQ3_S", "IQ4_NL"}),
    "IQ3_S": frozenset({"IQ3_S", "IQ4_NL"}),
    "IQ3_M": frozenset({"IQ3_S", "Q4_K", "IQ4_NL"}),
    "IQ4_XS": frozenset({"IQ4_XS", "IQ4_NL"}),
    "MXFP4_MOE": frozenset({"MXFP4"}),
    "TQ1_0": frozenset({"TQ1_0", "Q4_0"}),
    "TQ2_0": frozenset({"TQ2_0", "Q4_0"}),
}


def quantization_of(
    file_type: object, layer_bytes: Mapping[str, int], all_bytes: Mapping[str, int]
) -> tuple[str | None, str | None]:
    """Name the quantization that the tensors themselves have.

    Parameters
    ----------
    file_type : object
        The value of ``general.file_type``; believed only where the tensors agree.
    layer_bytes, all_bytes : mapping of str to int
        Bytes by tensor type, of the layers' tensors and of all tensors.

    Returns
    -------
    quantization, note : str or None
        llama.cpp's name (``"Q4_K_M"``) or the dominant tensor type; a note where they disagree.

    Examples
    --------
    >>> quantization_of(15, {"Q4_K": 900, "Q6_K": 90}, {"Q4_K": 900, "Q6_K": 90})
    ('Q4_K_M', None)
    >>> quantization_of(2, {"Q8_0": 900}, {"Q8_0": 900})
    ('Q8_0', 'general.file_type says Q4_0, but most tensor bytes are Q8_0')
    """
    counted = layer_bytes or all_bytes
    if not counted:
        return None, None
    dominant = max(counted, key=lambda name: counted[name])
    claimed = FILE_TYPES.get(file_type) if isinstance(file_type, int) else None
    if claimed is None:
        return dominant, None
    base = claimed[:-2] if claimed.endswith(("_S", "_M", "_L")) and "_K_" in claimed else claimed
    if dominant in _MAY_DOMINATE.get(base, frozenset({base})):
        return claimed, None
    return dominant, f"general.file_type says {claimed}, but most tensor bytes are {dominant}"
