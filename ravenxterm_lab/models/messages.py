"""Warnings and system messages: kept, logged, and recorded, so that none is swallowed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, overload

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.tables import Card, Displayed, Table, printable

if TYPE_CHECKING:
    from ravenxterm_lab.store import Store

__all__ = ["Message", "MessageLog"]

_LOGGER = logging.getLogger("ravenxterm_lab")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One message: when (UTC), how serious (``info``, ``warning``, ``error``), about what."""

    time: datetime
    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"[{self.level}] {_line(self.text)}"


class MessageLog(Displayed, Sequence[Message]):
    """The last thousand messages of this process, oldest first.

    Each is also logged under ``ravenxterm_lab``, on one line and without control characters,
    and recorded in the store as it is. May be used from any thread.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._kept: deque[Message] = deque(maxlen=_KEPT)
        self._store = store

    def add(self, level: str, subject: str, text: str) -> Message:
        """Keep, log and record a message; one that repeats the last is kept once.

        Parameters
        ----------
        level : str
            ``"info"``, ``"warning"`` or ``"error"``.
        subject : str
            What it is about, such as a model's name.
        text : str
            One or two sentences: the thing, the reason, the remedy.
        """
        # A file name that is not UTF-8 holds lone surrogates, which nothing here could write.
        subject, text = (t.encode("utf-8", "replace").decode("utf-8") for t in (subject, text))
        message = Message(datetime.now(UTC), level, subject, text)
        if self._kept and (self._kept[-1].subject, self._kept[-1].text) == (subject, text):
            return self._kept[-1]
        self._kept.append(message)
        # A handler writes it as it is, to a terminal or a file of lines.
        _LOGGER.log(_LEVELS[level], "%s", _line(text))
        if self._store is not None:
            try:
                self._store.record("messages", level=level, subject=subject, text=text)
            except StoreError as error:
                # The store itself is what fails: keep that here, and do not try again.
                self._store = None
                self.add("warning", "store", f"Nothing is recorded any more: {error}")
        return message

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return list(self._kept)[index] if isinstance(index, slice) else self._kept[index]

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return str(self)

    def _card(self) -> Card:
        if not self._kept:
            return Card("Messages", "None: nothing went wrong so far.")
        rows = [[f"{m.time:%H:%M:%S}", m.level, m.text] for m in list(self._kept)[-20:]]
        note = f"{len(self)} kept, the last {len(rows)} shown; times are UTC"
        return Card("Messages", note, [Table(["time", "level", "message"], rows)])


def _line(text: str) -> str:
    """Return a text on one line, without what a file's name could make a terminal do."""
    return printable(" ".join(text.splitlines()))
