"""The front matter of a model card (``README.md``): three facts, and nothing is built.

A YAML loader makes whatever a document asks for; the few lines that are wanted need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.text import clean, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ModelCard", "read_card"]

_WANTED = ("license", "license_name", "pipeline_tag")
#: Items of a list that are kept.
_LISTED = 8


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the front matter of a model card says.

    Attributes
    ----------
    license, pipeline_tag : str or None
    notes : tuple of str
        Why it cannot be read.
    """

    license: str | None = None
    pipeline_tag: str | None = None
    notes: tuple[str, ...] = ()


def read_card(path: Path | None) -> ModelCard:
    """Read the front matter of a model card; one that cannot be read becomes a note.

    Parameters
    ----------
    path : Path or None
        None where there is none.
    """
    if path is None:
        return ModelCard()
    try:
        text = read_text(path, limits.CARD_BYTES)
    except ModelFileError as error:
        return ModelCard(notes=(clean(str(error)),))
    lines = iter(StringIO(text))
    if next(lines, "").strip() != "---":
        return ModelCard()
    found = _front_matter(lines)
    names = found.get("license", [])
    if names == ["other"]:
        names = found.get("license_name") or names
    tag = next(iter(found.get("pipeline_tag", [])), None)
    return ModelCard(clean(", ".join(names)) or None, tag)


def _front_matter(lines: Iterator[str]) -> dict[str, list[str]]:
    """Return the facts by key, each as a list: YAML has one text, and two kinds of lists."""
    found: dict[str, list[str]] = {}
    listed: list[str] | None = None
    for line in lines:
        if line.strip() in ("---", "..."):
            break
        key, colon, value = line.partition(":")
        if colon and key in _WANTED and key not in found:
            listed = found[key] = []
            text = value.partition(" #")[0].strip()
            items = text[1:-1].split(",") if text[:1] + text[-1:] == "[]" else [text]
        elif listed is not None and line.lstrip().startswith("- "):
            items = [line.lstrip()[2:].partition(" #")[0]]
        else:
            # A line that is set in, blank or a comment does not end the list before it.
            listed = listed if line.strip() == "" or line[:1] in (" ", "#") else None
            continue
        kept = (clean(item.strip().strip("'\""), 80) for item in items[:_LISTED])
        listed.extend([item for item in kept if item][: _LISTED - len(listed)])
    return found
