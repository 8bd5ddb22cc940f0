"""Where a person's home and cache lie, by the environment that is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cache_home", "home"]


def home(environment: Mapping[str, str]) -> Path:
    """Return ``HOME``, else the home of this user's account."""
    stated = environment.get("HOME")
    if stated:
        return Path(stated)
    try:
        return Path.home()
    except RuntimeError:
        # An account without a home, as in some containers: a place that does not exist is empty.
        return Path("/nonexistent")


def cache_home(environment: Mapping[str, str]) -> Path:
    """Return ``XDG_CACHE_HOME``, else ``~/.cache``."""
    stated = environment.get("XDG_CACHE_HOME")
    return Path(stated) if stated else home(environment) / ".cache"
