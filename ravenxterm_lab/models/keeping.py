"""The saved preferences of a home: read at the start, and again before each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import PreferenceError
from ravenxterm_lab.preferences import UserPreferences

if TYPE_CHECKING:
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["latest_preferences", "saved_preferences"]


def saved_preferences(bench: Workbench) -> UserPreferences:
    """Return the saved preferences, or the defaults; an unreadable file is a message."""
    path = bench.paths.preferences
    if not path.exists():
        return UserPreferences.get_defaults()
    try:
        return UserPreferences.load(path)
    except PreferenceError as error:
        bench.messages.add("warning", "preferences", f"The defaults apply: {error}")
        return UserPreferences.get_defaults()


def latest_preferences(bench: Workbench, current: UserPreferences) -> UserPreferences:
    """Return what the file holds now, so that a change keeps what others saved meanwhile.

    An unreadable file is set aside, with a message, and ``current`` is returned.
    """
    path = bench.paths.preferences
    if not path.is_file():
        return current
    try:
        return UserPreferences.load(path)
    except PreferenceError:
        # A file edited by hand is its owner's work, also when it holds a mistake.
        kept = path.with_name(f"{path.name}.broken")
        try:
            path.replace(kept)
        except OSError:
            return current  # saving will fail too, and say why
        bench.messages.add("warning", "preferences", f"The unreadable file is kept as {kept}.")
        return current
