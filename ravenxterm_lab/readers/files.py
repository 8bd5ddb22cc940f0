"""Looks at the file system that never raise: what may not be looked at is not there."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_directory", "is_file", "regular_size"]


def is_file(path: Path) -> bool:
    """Say whether a regular file can be seen there; False too where permission is denied."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_directory(path: Path) -> bool:
    """Say whether a directory can be seen there; False too where permission is denied."""
    try:
        return path.is_dir()
    except OSError:
        return False


def regular_size(path: Path) -> int | None:
    """Return the bytes of a regular file, links followed; None where there is none to be seen."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
