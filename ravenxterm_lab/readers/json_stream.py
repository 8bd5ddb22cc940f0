"""JSON from a file that is not trusted, read forward, one member of an object after the other.

A parser that builds the whole document takes up to a hundred times the document's size. Here
only a piece of the text, and one value, are in memory at a time.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.text import DECODER, clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.exceptions import ModelFileError
    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["JsonStream"]

_STEP = 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_IN_STRING = re.compile(r'[^"\\]*')
_STRUCTURE = re.compile(r'[^"{}\[\]]*')
_CLOSING = {"{": "}", "[": "]"}


class JsonStream:
    """A cursor in a JSON document of UTF-8, which only moves forward.

    Parameters
    ----------
    window : FileWindow
    start, end : int
        Where in the file the document lies.
    """

    __slots__ = ("_at", "_decode", "_end", "_pos", "_text", "_window")

    def __init__(self, window: FileWindow, start: int, end: int) -> None:
        self._window = window
        self._pos = start
        self._end = end
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no white space, an empty text at the end.

        Raises
        ------
        ModelFileError
            If the file cannot be read, or is not UTF-8.
        """
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill(1):
                return ""

    def members(self) -> Iterator[str]:
        """Yield the key of each member of the object that comes next.

        Whoever asks takes the member's value (``value``, ``skip`` or ``members`` again) before
        asking for the next key. A key that is stated twice is yielded twice.

        Raises
        ------
        ModelFileError
            If what comes is no object, or a key has more than ``limits.JSON_PIECE`` characters.
        """
        self._expect("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._damaged()
            key: str = self.value()
            self._expect(":")
            yield key
            mark = self.peek()
            if mark not in (",", "}"):
                raise self._damaged()
            self._at += 1
            if mark == "}":
                return

    def value(self) -> Any:
        """Return the value that comes next.

        Raises
        ------
        ModelFileError
            If it is not JSON, or takes more than ``limits.JSON_PIECE`` characters.
        """
        self.peek()
        self._fill(limits.JSON_PIECE)
        try:
            value, end = DECODER.raw_decode(self._text, self._at)
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        if end == len(self._text) and self._pos < self._end:
            raise self._damaged()
        self._at = end
        return value

    def skip(self) -> None:
        """Pass over the value that comes next, however long it is.

        Of what is in it only the brackets and quotes are looked at.

        Raises
        ------
        ModelFileError
            If it has no end, or is nested deeper than ``limits.JSON_DEPTH``.
        """
        if self.peek() not in ('"', "{", "["):
            self.value()
            return
        closing: list[str] = []
        while True:
            mark = self._text[self._at]
            self._at += 1
            if mark == '"':
                self._skip_string()
            elif mark in _CLOSING:
                closing.append(_CLOSING[mark])
                if len(closing) > limits.JSON_DEPTH:
                    raise self._window.fail("its JSON is nested too deeply.")
            elif closing.pop() != mark:
                raise self._damaged()
            if not closing:
                return
            self._pass(_STRUCTURE)

    def finish(self) -> None:
        """Make sure that nothing follows.

        Raises
        ------
        ModelFileError
            If something does.
        """
        if self.peek():
            raise self._damaged()

    def _skip_string(self) -> None:
        while True:
            self._pass(_IN_STRING)
            mark = self._text[self._at]
            self._at += 1
            if mark == '"':
                return
            if not self._fill(1):  # the character after a backslash
                raise self._damaged()
            self._at += 1

    def _pass(self, pattern: re.Pattern[str]) -> None:
        """Move behind all that matches, to a character that is there."""
        while True:
            match = pattern.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return
            if not self._fill(1):
                raise self._damaged()

    def _expect(self, mark: str) -> None:
        if self.peek() != mark:
            raise self._damaged()
        self._at += 1

    def _fill(self, count: int) -> bool:
        """Have ``count`` characters from the cursor on, or all that are left; False for none."""
        while len(self._text) - self._at < count and self._pos < self._end:
            raw = self._window.read(self._pos, min(_STEP, self._end - self._pos))
            self._pos += len(raw)
            try:
                more = self._decode(raw, self._pos == self._end)
            except UnicodeDecodeError as error:
                raise self._damaged(error) from error
            self._text = self._text[self._at :] + more
            self._at = 0
        return self._at < len(self._text)

    def _damaged(self, error: Exception | None = None) -> ModelFileError:
        if isinstance(error, RecursionError):
            return self._window.fail("its JSON is nested too deeply.")
        before = self._pos - len(self._text[self._at :].encode("utf-8", "replace"))
        said = f": {clean(error.args[0] if error.args else '')}" if error else ""
        return self._window.fail(
            f"not valid JSON, or a text of more than {limits.JSON_PIECE} characters in it, near "
            f"byte {before}{said}."
        )
