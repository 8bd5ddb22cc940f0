"""What earlier scans of this process read, so that an unchanged file is not read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["ScanCache"]

_T = TypeVar("_T")


class ScanCache:
    """Remembers results by what they were computed from.

    The signature of a model is the path, size, modification time and inode of every file that
    its entry depends on. Held by a registry; used by one scan at a time.

    Attributes
    ----------
    misses : int
        Results that had to be computed since ``begin``.
    """

    __slots__ = ("_entries", "_seen", "misses")

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Hashable, object]] = {}
        self._seen: set[Hashable] = set()
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self) -> None:
        """Start a scan."""
        self._seen.clear()
        self.misses = 0

    def end(self) -> None:
        """End a scan: forget what it did not meet."""
        for key in self._entries.keys() - self._seen:
            del self._entries[key]

    def get(self, key: Hashable, signature: Hashable, compute: Callable[[], _T]) -> _T:
        """Return the remembered result of an equal signature, else compute and remember it.

        Parameters
        ----------
        key : hashable
            What the result is of, such as a path.
        signature : hashable
            What it depends on, such as size and modification time.
        compute : callable
            Makes the result.
        """
        self._seen.add(key)
        known = self._entries.get(key)
        if known is not None and known[0] == signature:
            return known[1]  # type: ignore[return-value]  # one key always holds one kind of result
        self.misses += 1
        value = compute()
        self._entries[key] = (signature, value)
        return value
