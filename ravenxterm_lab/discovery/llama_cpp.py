"""llama.cpp's own cache of downloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.directory import DirectorySource
from ravenxterm_lab.discovery.places import cache_home, home

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LlamaCppSource"]


class LlamaCppSource(DirectorySource):
    """Models that llama.cpp downloaded (``LLAMA_CACHE``).

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``.
    """

    name: ClassVar[str] = "llama_cpp"

    def __init__(self, environment: Mapping[str, str]) -> None:
        stated = environment.get("LLAMA_CACHE")
        if stated:
            root = Path(stated).expanduser()
        elif sys.platform == "darwin":
            root = home(environment) / "Library" / "Caches" / "llama.cpp"
        else:
            root = cache_home(environment) / "llama.cpp"
        super().__init__(root, optional=True)
