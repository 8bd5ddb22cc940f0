"""Frames between the notebook's process and a worker: a JSON header, then raw array bytes.

Nothing is pickled, so a worker that a hostile model file has taken over cannot make the
parent run anything. A frame is two little-endian unsigned integers (the length of the
header, 4 bytes; the length of the payload, 8 bytes), the header in UTF-8, the payload.
The header's ``"arrays"`` lists name, dtype and shape of each array in the payload.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["Frame", "ProtocolError", "read_frame", "write_frame"]

_PREFIX = struct.Struct("<IQ")
_LONGEST_HEADER = 256 * 1024 * 1024
_PLAIN_KINDS = "biufc"


class ProtocolError(ValueError):
    """A frame is cut short, or its header does not describe its payload."""


@dataclass(slots=True)
class Frame:
    """One message.

    Attributes
    ----------
    header : dict
        JSON values; ``"op"`` says what it is about.
    payload : bytes
        The arrays, one after the other.
    """

    header: dict[str, Any]
    payload: bytes = b""
    arrays_cache: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def op(self) -> str:
        """What the frame is about, such as ``"run"`` or ``"result"``."""
        return str(self.header.get("op"))

    @property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays, by name; each is a writable copy.

        Raises
        ------
        ProtocolError
            If the header does not describe the payload.
        """
        if self.arrays_cache is None:
            self.arrays_cache = _unpack(self.header.get("arrays") or [], self.payload)
        return self.arrays_cache


def _unpack(described: list[dict[str, Any]], payload: bytes) -> dict[str, Any]:
    if not described:
        return {}
    import numpy as np

    arrays: dict[str, Any] = {}
    offset = 0
    for item in described:
        dtype = np.dtype(item["dtype"])
        if dtype.kind not in _PLAIN_KINDS:
            raise ProtocolError(f"An array of dtype {dtype} cannot travel between processes.")
        count = 1
        for length in item["shape"]:
            count *= length
        end = offset + count * dtype.itemsize
        if count < 0 or end > len(payload):
            raise ProtocolError(f"The array {item['name']!r} is longer than its frame.")
        flat = np.frombuffer(payload, dtype=dtype, count=count, offset=offset)
        arrays[item["name"]] = flat.reshape(item["shape"]).copy()
        offset = end
    return arrays


def write_frame(
    stream: BinaryIO,
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> None:
    """Write one frame and flush it.

    Parameters
    ----------
    stream : binary file
        Buffered, and open for writing.
    header : mapping
        JSON values.
    arrays : mapping of str to numpy.ndarray, optional
        Arrays of numbers or booleans, of any shape.

    Raises
    ------
    ProtocolError
        If an array holds something other than numbers or booleans.
    OSError
        If the other side is gone.
    """
    described, pieces = [], []
    for name, array in (arrays or {}).items():
        if array.dtype.kind not in _PLAIN_KINDS:
            raise ProtocolError(f"{name!r} has dtype {array.dtype}; only numbers can travel.")
        described.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
        pieces.append(array.tobytes())
    body = json.dumps({**header, "arrays": described} if described else dict(header)).encode()
    stream.write(_PREFIX.pack(len(body), sum(map(len, pieces))))
    stream.write(body)
    for piece in pieces:
        stream.write(piece)
    stream.flush()


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read one frame; None at the end of the stream.

    Raises
    ------
    ProtocolError
        If the stream ends inside a frame, or the header is no JSON object.
    """
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise ProtocolError("The stream ended inside a frame.")
    header_length, payload_length = _PREFIX.unpack(prefix)
    if header_length > _LONGEST_HEADER:
        raise ProtocolError(f"A header of {header_length} bytes is not one of ours.")
    body = stream.read(header_length)
    payload = stream.read(payload_length) if payload_length else b""
    if len(body) < header_length or len(payload) < payload_length:
        raise ProtocolError("The stream ended inside a frame.")
    try:
        header = json.loads(body)
    except ValueError as error:
        raise ProtocolError(f"A header is not JSON: {error}.") from None
    if not isinstance(header, dict):
        raise ProtocolError("A header is not a JSON object.")
    return Frame(header, payload)
