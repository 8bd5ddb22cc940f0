"""Where things are kept: ``RAVENXTERM_HOME`` and the paths below it.

Nothing here creates a directory; whoever writes does, at the moment of writing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ravenxterm_lab.exceptions import ConfigurationError

__all__ = ["Paths", "paths"]

HOME_VARIABLE = "RAVENXTERM_HOME"


@dataclass(frozen=True, slots=True)
class Paths:
    """Every place that this package writes to, all of them below ``home``."""

    home: Path

    @property
    def store(self) -> Path:
        """The directory of the DuckDB file and its spool."""
        return self.home / "store"

    @property
    def preferences(self) -> Path:
        """The TOML file of the person's preferences."""
        return self.home / "preferences.toml"

    @property
    def models(self) -> Path:
        """A directory of models that is always among the well-known ones."""
        return self.home / "models"

    @property
    def cache(self) -> Path:
        """What can be measured or computed again, such as the memory bandwidth."""
        return self.home / "cache"

    @property
    def notebooks(self) -> Path:
        """Notebooks that were copied or executed by the command line."""
        return self.home / "notebooks"


def paths(home: str | os.PathLike[str] | None = None) -> Paths:
    """Resolve the paths that are in force now.

    Parameters
    ----------
    home : path, optional
        Overrides ``RAVENXTERM_HOME``; without either, the platform's directory
        for user data (``~/.local/share/ravenxterm`` on Linux).

    Raises
    ------
    ConfigurationError
        If the home exists and is not a directory, or begins with the home of an unknown user.
    """
    chosen = home or os.environ.get(HOME_VARIABLE)
    if chosen:
        try:
            root = Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise ConfigurationError(
                f"{HOME_VARIABLE} points to {os.fspath(chosen)!r}, and {error} "
                "Write the directory out in full."
            ) from error
    else:
        # Imported here: it costs 13 ms, and RAVENXTERM_HOME makes it needless.
        import platformdirs

        root = Path(platformdirs.user_data_dir("ravenxterm", appauthor=False))
    if root.exists() and not root.is_dir():
        raise ConfigurationError(
            f"{HOME_VARIABLE} points to {root}, which is a file; it must be a directory "
            "(it is created when it does not exist)."
        )
    return Paths(root)
