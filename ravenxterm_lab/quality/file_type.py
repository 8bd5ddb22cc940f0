"""Files of known kinds, generated here: two of one kind must get one label, a third another."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FILE_TYPE", "features"]

_EDGE = 1024
_BLOCK = 4096
_PADDING = 256


def features(data: bytes) -> list[int]:
    """Return what a Magika model reads of a file: 1,024 bytes of each end, 256 as padding.

    As the configuration of its ``standard_v3_3`` model gives it: ``beg_size`` and ``end_size``
    1024, ``block_size`` 4096, ``padding_token`` 256; white space before the first byte
    and after the last is left out.

    Examples
    --------
    >>> row = features(b" ab ")
    >>> len(row), row[:3], row[-4:]
    (2048, [97, 98, 32], [256, 32, 97, 98])
    """
    head = data[:_BLOCK].lstrip()[:_EDGE]
    tail = data[-_BLOCK:].rstrip()[-_EDGE:]
    return [
        *head, *([_PADDING] * (_EDGE - len(head))),
        *([_PADDING] * (_EDGE - len(tail))), *tail,
    ]  # fmt: skip


def _png(seed: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    side = 16 + seed
    rows = b"".join(
        b"\0" + bytes((x * y * 7 + seed * 31) % 256 for x in range(3 * side)) for y in range(side)
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def _zip(seed: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3 + seed):
            # A fixed date, so that the bytes are the same on every day.
            entry = zipfile.ZipInfo(f"notes/part-{number}.txt", (2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, f"part {number} of {seed}\n" * (20 + seed))
    return out.getvalue()


def _wav(seed: int) -> bytes:
    samples = b"".join(
        struct.pack("<h", (n * (37 + seed) % 2000) - 1000) for n in range(2000 + 500 * seed)
    )
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    body += struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _pdf(seed: int) -> bytes:
    parts = [b"%PDF-1.4\n"]
    places = []
    stream = f"BT /F1 {12 + seed} Tf 72 720 Td (Report number {seed}) Tj ET".encode()
    bodies = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    )
    for number, body in enumerate(bodies, 1):
        places.append(sum(map(len, parts)))
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = sum(map(len, parts))
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    parts.append(b"xref\n0 5\n0000000000 65535 f \n" + table)
    parts.append(b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start)
    return b"".join(parts)


def _python(seed: int) -> bytes:
    functions = "\n\n".join(
        f'def area_{n}(width: float, height: float) -> float:\n    """Return an area."""\n'
        f"    if width < 0 or height < 0:\n        raise ValueError(width, height)\n"
        f"    return width * height * {n + seed}"
        for n in range(4 + seed)
    )
    return f'import math\nfrom pathlib import Path\n\n\n{functions}\n\nif __name__ == "__main__":\n    print(area_0(1, 2))\n'.encode()  # noqa: E501


def _json(seed: int) -> bytes:
    rows = [{"id": n, "name": f"row {n}", "tags": ["a", "b"], "price": n * 1.5} for n in range(9)]
    return json.dumps({"version": seed, "rows": rows}, indent=1 + seed).encode()


def _csv(seed: int) -> bytes:
    lines = ["date,city,temperature,humidity"]
    lines += [
        f"2024-01-{n + 1:02d},{('Oslo', 'Lima', 'Pune')[n % 3]},{n + seed}.5,{60 + n}"
        for n in range(25)
    ]
    return "\n".join(lines).encode()


def _html(seed: int) -> bytes:
    items = "".join(f"<li><a href='/page/{n}'>Page {n}</a></li>\n" for n in range(8 + seed))
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head><meta charset='utf-8'>"
        f"<title>Contents {seed}</title></head>\n<body>\n<h1>Contents</h1>\n<ul>\n{items}</ul>\n"
        "</body>\n</html>\n"
    ).encode()


_KINDS: dict[str, Callable[[int], bytes]] = {
    "png": _png, "zip": _zip, "wav": _wav, "pdf": _pdf,
    "python": _python, "json": _json, "csv": _csv, "html": _html,
}  # fmt: skip


@cache
def _rows(kind: str, other: str) -> tuple[tuple[int, ...], ...]:
    files = (_KINDS[kind](1), _KINDS[kind](3), _KINDS[other](2))
    return tuple(tuple(features(data)) for data in files)


def _inputs(kind: str, other: str) -> dict[str, Any]:
    import numpy as np

    return {"bytes": np.array(_rows(kind, other), dtype=np.int32)}


def _tells_apart(kind: str, other: str, run: Callable[[Any], Any]) -> Verdict:
    import numpy as np

    (scores,) = run(_inputs(kind, other)).values()
    first, second, third = (int(label) for label in np.asarray(scores).argmax(axis=1))
    return Verdict(float(first == second != third), f"labels {first}, {second} against {third}")


_NAMES = tuple(_KINDS)
# Each kind against the one after it and the one three further on.
_PAIRS = tuple(
    (kind, _NAMES[(index + step) % len(_NAMES)])
    for step in (1, 3)
    for index, kind in enumerate(_NAMES)
)

FILE_TYPE = QualityCheck(
    task="file_type",
    version=1,
    measures=(
        "Generated files of eight kinds: do two of one kind get the same label, and one of "
        "another kind a different one? The names of the labels are not looked at, since the "
        "model's file does not hold them. Inputs are those of Magika's standard models."
    ),
    items=tuple(
        Item(f"{kind}-{other}", partial(_tells_apart, kind, other)) for kind, other in _PAIRS
    ),
    samples=lambda: tuple(_inputs(kind, other) for kind, other in _PAIRS[:3]),
)
