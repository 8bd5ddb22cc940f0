"""LM Studio's folders: ``<publisher>/<repository>/<file>``, laid out as plain directories.

Its home is named by ``~/.lmstudio-home-pointer``; without one it is ``~/.cache/lm-studio`` where
that exists (the older place), else ``~/.lmstudio``. Its ``settings.json`` may name another
``downloadsFolder`` (see ``findLMStudioHome`` and ``importCmd.ts`` in LM Studio's open-source
command line). All of these are looked into: what an earlier version left still takes space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.directory import DirectorySource
from ravenxterm_lab.discovery.naming import parent_labels
from ravenxterm_lab.discovery.places import home
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.text import read_json, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["LMStudioSource"]

#: What LM Studio brings along, such as its embedding model.
_BUNDLED = (".internal", "bundled-models")


class LMStudioSource(DirectorySource):
    """Models that LM Studio downloaded or brought along.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``; ``HOME`` counts.
    """

    name: ClassVar[str] = "lm_studio"

    def __init__(self, environment: Mapping[str, str]) -> None:
        base = home(environment)
        super().__init__(base / ".lmstudio" / "models", optional=True)
        self._homes = (base / ".lmstudio", base / ".cache" / "lm-studio")
        self._pointer = base / ".lmstudio-home-pointer"
        self._looked: tuple[Path, ...] = ()

    def roots(self) -> tuple[Path, ...]:
        """Return the folders that it was told to use, its defaults and what it brings along."""
        stated = _absolute(_pointed(self._pointer))
        homes = dict.fromkeys(self._homes if stated is None else (stated, *self._homes))
        told = [folder for one in homes if (folder := _downloads(one)) is not None]
        usual = [one / "models" for one in homes]
        bundled = [one.joinpath(*_BUNDLED) for one in homes]
        self._looked = tuple(dict.fromkeys((*told, *usual, *bundled)))
        return self._looked

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        """Return the repository and the publisher."""
        # Asked for every model: the pointer and the settings are not read again each time.
        return parent_labels(model, self._looked or self.roots())


def _pointed(pointer: Path) -> str:
    if not is_file(pointer):
        return ""
    try:
        return read_text(pointer, 4096).strip()
    except ModelFileError:
        return ""


def _downloads(base: Path) -> Path | None:
    settings = base / "settings.json"
    if not is_file(settings):
        return None
    try:
        return _absolute(read_json(settings, limits.CONFIG_BYTES).get("downloadsFolder"))
    except ModelFileError:
        # LM Studio itself falls back to its default folder then.
        return None


def _absolute(stated: object) -> Path | None:
    """Return a stated path if it is one that says the same in any working directory."""
    if not isinstance(stated, str) or "\0" in stated:
        return None
    path = Path(stated)
    return path if path.is_absolute() else None
