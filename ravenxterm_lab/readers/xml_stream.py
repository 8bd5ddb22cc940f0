"""XML as a stream of elements, from a file that is not trusted.

The parser is the standard library's expat. A document type, and with it every entity, is refused
where it begins, so that nothing can be expanded, and nothing outside the file is ever looked up.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn
from xml.parsers import expat  # nosec B406 - document types and entities are refused below

from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["stream_elements"]

_STEP = 1 << 16


class _Guard:
    """Counts what the parser keeps, and passes the elements on."""

    __slots__ = ("_begin", "_end", "_names", "_window", "depth", "elements")

    def __init__(
        self,
        window: FileWindow,
        begin: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None],
    ) -> None:
        self._window = window
        self._begin = begin
        self._end = end
        self._names: set[str] = set()
        self.depth = 0
        self.elements = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.depth > limits.XML_DEPTH:
            raise self._window.fail("nests elements too deeply.")
        if self.elements > limits.XML_ELEMENTS:
            raise self._window.fail(f"has more than {limits.XML_ELEMENTS} elements.")
        known = len(self._names)
        self._names.add(name)
        self._names.update(attributes)
        if len(self._names) > known:
            # The parser has them three times: as bytes, as a text, and in a table.
            self._window.keep(3 * sum(map(sys.getsizeof, (name, *attributes))))
        if len(self._names) > limits.XML_NAMES:
            raise self._window.fail(f"has more than {limits.XML_NAMES} names of elements.")
        self._begin(name, attributes)

    def end(self, name: str) -> None:
        self.depth -= 1
        self._end(name)

    def refuse(self, *_: object) -> NoReturn:
        raise self._window.fail("declares a document type or an entity, which no model needs.")


def stream_elements(
    window: FileWindow,
    begin: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Read a whole XML file, element by element.

    Parameters
    ----------
    window : FileWindow
    begin : callable
        Is given the name and the attributes of each element where it opens.
    end : callable
        Is given its name where it closes.
    text : callable
        Is given the text between, in pieces.

    Raises
    ------
    ModelFileError
        If it is not well-formed UTF-8 XML, declares a document type, or is over a cap of
        ``limits``; or whatever the callables raise.
    """
    if window.size > limits.XML_BYTES:
        raise window.fail(f"has {window.size} bytes of XML; at most {limits.XML_BYTES} are read.")
    guard = _Guard(window, begin, end)
    # A stated encoding would make expat ask Python for a codec of that name.
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = guard.begin
    parser.EndElementHandler = guard.end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = guard.refuse
    parser.EntityDeclHandler = guard.refuse
    parser.ExternalEntityRefHandler = guard.refuse
    pos = 0
    try:
        while pos < window.size:
            step = window.read(pos, min(_STEP, window.size - pos))
            pos += len(step)
            parser.Parse(step, pos == window.size)
            # What lies between is one unfinished tag, which the parser keeps and scans again.
            if pos - parser.CurrentByteIndex > limits.XML_TOKEN_BYTES:
                raise window.fail(f"has a tag of more than {limits.XML_TOKEN_BYTES} bytes.")
    except expat.ExpatError as error:
        raise window.fail(f"truncated or damaged XML: {clean(str(error))}.") from error
