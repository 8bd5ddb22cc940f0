"""Which processes have a file open or mapped, as far as Linux tells."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ravenxterm_lab.trash.removal import Item

__all__ = ["open_elsewhere"]

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def open_elsewhere(items: Iterable[Item], proc: Path = Path("/proc")) -> Iterator[str]:
    """Yield which processes have any of some files open or mapped; none where ``/proc`` is none.

    Parameters
    ----------
    items : iterable of Item
        Links among them are not followed.
    proc : Path
        Where the kernel shows processes; those of other people cannot be looked into.
    """
    files = [item for item in items if item.target is None]
    marks = {(item.device, item.inode) for item in files}
    paths = {os.fsencode(os.path.realpath(item.path)) for item in files}
    if not marks or not proc.is_dir():
        return
    for process in proc.iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):
                if _opens(process, marks) or _maps(process, paths):
                    name = (process / "comm").read_bytes().decode("utf-8", "replace").strip()
                    yield f"process {process.name} ({name}) has it open; end that, or wait for it"


def _opens(process: Path, marks: set[tuple[int, int]]) -> bool:
    for fd in (process / "fd").iterdir():
        with suppress(OSError):
            status = fd.stat()
            if (status.st_dev, status.st_ino) in marks:
                return True
    return False


def _maps(process: Path, paths: set[bytes]) -> bool:
    # A mapped file stays in use after it was closed. Not by its inode: some file systems show
    # another device here than elsewhere.
    for line in (process / "maps").read_bytes().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(b"/"):
            path = _ESCAPED.sub(lambda m: bytes([int(m[1], 8)]), fields[5])
            if path in paths:
                return True
    return False
