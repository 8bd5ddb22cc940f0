"""Where a person's home and cache lie, by the environment that is given."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["absolute", "cache_home", "expanded", "home", "is_there"]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


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


def expanded(text: str, environment: Mapping[str, str], *, variables: bool = False) -> Path:
    """Return the absolute path that the value of an environment variable means.

    Parameters
    ----------
    text : str
        Such as ``"~/models"``; one that is relative counts from the working directory, as it does
        for the tools that read these variables.
    environment : mapping of str to str
        ``HOME`` counts.
    variables : bool
        Replace ``$NAME`` and ``${NAME}`` too, as the hub's client does; an unknown one stays.

    Examples
    --------
    >>> str(expanded("~/models", {"HOME": "/home/ada"}))
    '/home/ada/models'
    """
    if text == "~" or text.startswith("~/"):
        text = f"{home(environment)}{text[1:]}"
    elif text.startswith("~"):
        try:
            text = str(Path(text).expanduser())
        except RuntimeError:
            # No such user: the tools take it for an ordinary name, and so do we.
            text = f"./{text}"
    if variables:
        text = _VARIABLE.sub(lambda found: environment.get(found[1] or found[2], found[0]), text)
    return absolute(Path(text))


def absolute(path: Path) -> Path:
    """Return a path from the root, links not followed; as it is where there is no directory."""
    try:
        return path.absolute()
    except OSError:
        # The working directory was removed; what is relative to it does not exist either.
        return path


def is_there(directory: Path) -> bool | str:
    """Say whether a well-known directory exists, or why that cannot be said.

    Returns
    -------
    bool or str
        False where there is nothing; a reason where something is in the way.
    """
    try:
        mode = directory.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is a link that leads nowhere" if _is_link(directory) else False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return f"cannot be looked at: {reason}. Check its permissions."
    return stat.S_ISDIR(mode) or "is not a directory; nothing was read"


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False
