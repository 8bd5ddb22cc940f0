"""Text and JSON from untrusted files, bounded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import FileWindow, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DECODER", "clean", "parse_json", "read_json", "read_text"]


def clean(value: object, limit: int = limits.TEXT) -> str:
    r"""Return a text on one line, printable, valid UTF-8 and at most ``limit`` characters long.

    Anything that is not a string gives an empty one.

    Examples
    --------
    >>> clean("  SmolLM2\n135M\x00 ")
    'SmolLM2 135M'
    """
    if not isinstance(value, str):
        return ""
    kept = value[: 4 * limit]
    if not kept.isprintable():
        kept = "".join(char if char.isprintable() else " " for char in kept)
    line = " ".join(kept.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def read_text(path: Path, limit: int) -> str:
    """Return at most ``limit`` bytes of a text file, undecodable bytes replaced.

    Raises
    ------
    ModelFileError
        If it cannot be opened or is not a regular file.
    """
    with FileWindow(path) as window:
        return window.head(limit).decode("utf-8", "replace")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Return the object in a JSON file of at most ``limit`` bytes.

    Raises
    ------
    ModelFileError
        If it is larger, cannot be read, or is not one JSON object.
    """
    with FileWindow(path) as window:
        if window.size > limit:
            raise window.fail(f"has {window.size} bytes; at most {limit} are read.")
        return parse_json(window.head(limit), path)


def parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    """Parse one JSON object; keys that are stated twice and NaN are refused.

    Raises
    ------
    ModelFileError
        If it is anything else, or has more values than ``limits.JSON_VALUES``.
    """
    # Counted before parsing: a key takes three bytes in the file and 300 in memory.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > limits.JSON_VALUES:
        raise ModelFileError(f"{shown(str(path))}: its JSON has too many values.")
    try:
        value = DECODER.decode(raw.decode(json.detect_encoding(raw)))
    except RecursionError as error:
        raise ModelFileError(f"{shown(str(path))}: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise ModelFileError(f"{shown(str(path))}: not valid JSON: {clean(str(error))}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{shown(str(path))}: its JSON is not an object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is stated twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


#: One for all: making it takes as long as parsing a small file. Keys that are stated twice, and
#: NaN, are a ValueError.
DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
