"""LM Studio's folders: ``<publisher>/<repository>/<file>``, laid out as plain directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.directory import DirectorySource
from ravenxterm_lab.discovery.places import home
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.text import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LMStudioSource"]


class LMStudioSource(DirectorySource):
    """Models that LM Studio downloaded.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``; ``HOME`` counts.
    """

    name: ClassVar[str] = "lm_studio"

    def __init__(self, environment: Mapping[str, str]) -> None:
        base = home(environment)
        super().__init__(base / ".lmstudio" / "models", optional=True)
        self._older = base / ".cache" / "lm-studio" / "models"
        self._pointer = base / ".lmstudio-home-pointer"

    def roots(self) -> tuple[Path, ...]:
        """Return the folder that LM Studio was told to use, its default, and its older default."""
        found = [self._root, self._older]
        if is_file(self._pointer):
            try:
                stated = read_text(self._pointer, 4096).strip()
            except ModelFileError:
                stated = ""
            if stated and "\0" not in stated and Path(stated).is_absolute():
                found.insert(0, Path(stated) / "models")
        return tuple(dict.fromkeys(found))
