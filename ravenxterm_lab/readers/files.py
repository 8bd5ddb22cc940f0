"""Looks at the file system that never raise: what may not be looked at is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_directory", "is_file"]


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
