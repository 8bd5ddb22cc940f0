"""Which reader takes which file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers.binary import FileWindow, shown
from ravenxterm_lab.readers.fasttext import FastTextReader
from ravenxterm_lab.readers.gguf import GGUFReader
from ravenxterm_lab.readers.onnx import OnnxReader
from ravenxterm_lab.readers.openvino import OpenVinoReader
from ravenxterm_lab.readers.pickle_archive import PickleArchiveReader
from ravenxterm_lab.readers.safetensors import SafetensorsReader
from ravenxterm_lab.readers.tflite import TfliteReader

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.base import FileFacts, Reader

__all__ = ["READERS", "SUFFIXES", "facts_in", "read_facts", "reader_for"]

#: Every reader, the ones whose magic is certain first.
READERS: tuple[Reader, ...] = (
    GGUFReader(),
    TfliteReader(),
    FastTextReader(),
    SafetensorsReader(),
    OpenVinoReader(),
    OnnxReader(),
    PickleArchiveReader(),
)
#: Every suffix that a reader claims, with that reader.
SUFFIXES: dict[str, Reader] = {suffix: one for one in READERS for suffix in one.suffixes}
# Many other things are called so: without the right first bytes such a file is no model.
_AMBIGUOUS = frozenset((*PickleArchiveReader.suffixes, *OpenVinoReader.suffixes))
_HEAD = 256


def reader_for(path: Path) -> Reader | None:
    """Return the reader that takes a file, by its first bytes and then by its suffix.

    Returns
    -------
    Reader or None
        None if no reader knows the file. A file with the suffix of a certain format but the
        wrong first bytes gets that format's reader, which then says what is wrong.

    Raises
    ------
    ModelFileError
        If the file cannot be opened or is not a regular file.
    """
    with FileWindow(path, _HEAD) as window:
        return _reader_of(window)


def read_facts(path: Path) -> FileFacts:
    """Read what one file's header says. The file is opened once.

    Raises
    ------
    ModelFileError
        If no reader knows the file, or the file is truncated, hostile or unreadable.
    """
    with FileWindow(path) as window:
        facts = facts_in(window)
    if facts is None:
        known = ", ".join(sorted(SUFFIXES))
        raise ModelFileError(f"{shown(str(path))} is of no known format (known: {known}).")
    return facts


def facts_in(window: FileWindow) -> FileFacts | None:
    """Read what the header of an open file says; None if no reader knows it.

    Raises
    ------
    ModelFileError
        If the file is truncated, hostile or unreadable.
    """
    reader = _reader_of(window)
    if reader is None:
        return None
    window.chunk = reader.chunk
    return reader.parse(window)


def _reader_of(window: FileWindow) -> Reader | None:
    head = window.head(_HEAD)
    for reader in READERS:
        if reader.sniff(window.path, head):
            return reader
    suffix = window.path.suffix.lower()
    return None if suffix in _AMBIGUOUS else SUFFIXES.get(suffix)
