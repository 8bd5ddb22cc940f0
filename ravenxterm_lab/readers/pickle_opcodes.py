"""Lists what a pickle would import, by walking its opcodes; nothing is ever built or imported.

The opcode table is the standard library's ``pickletools``. The stack is emulated with names
only, because the operands of STACK_GLOBAL lie on it. Long arguments are skipped, not read.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import shown

if TYPE_CHECKING:
    from ravenxterm_lab.exceptions import ModelFileError

__all__ = ["Global", "PickleListing", "Source", "list_pickle"]


class Source(Protocol):
    """Bytes at offsets that only grow: a ``FileWindow``, or what a compressed file unpacks to."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset`` on, or raise ``ModelFileError``."""

    def fail(self, reason: str) -> ModelFileError:
        """Return the error that says what is wrong."""


class Global(str):
    """The dotted name of something that a pickle imports."""

    __slots__ = ()


@dataclass(slots=True)
class PickleListing:
    """What one or more pickles in a row would do.

    Attributes
    ----------
    names : dict of str to None
        Globals that would be imported, in order.
    place : str
        Where in its archive the pickle lies; storages of different places are different ones.
    storages : dict of (str, str) to (str, int)
        Tensor storages by place and key: the class's name and the number of elements.
    arrays : dict of int to (str, int)
        numpy arrays that joblib wrote between the opcodes, by offset: the dtype, such as
        ``"f4"``, and the number of elements.
    end : int
        Offset behind the last STOP opcode.
    stopped : str or None
        Why the walk ended early, if it did.
    joblib : bool
        Whether it may be of joblib's, with arrays between the opcodes.
    capped : bool
        Whether that was a cap of ours: an unpickler would have gone on.
    opcodes : int
    kept : int
        Bytes of memory that the values took, those that were dropped since counted too.
    """

    names: dict[str, None] = field(default_factory=dict)
    place: str = ""
    storages: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    arrays: dict[int, tuple[str, int]] = field(default_factory=dict)
    end: int = 0
    stopped: str | None = None
    joblib: bool = False
    capped: bool = False
    opcodes: int = 0
    kept: int = 0


_MARK = object()
_TABLE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_STRINGS = frozenset(
    {
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    }
)
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
_MEMO_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_MEMO_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_LINE = 4096
_DTYPE = re.compile(r"([biufcmMSUV?])(\d{0,9})")
_NESTED = 8
#: Twice the number of items of a dictionary that are kept; the wrapper has six.
_KEPT = 32
#: Bytes of memory, at most, of one entry in a dictionary.
_PLACE_BYTES = 144
_ARRAY, _DTYPE_NAME = "joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype"


def list_pickle(source: Source, start: int, listing: PickleListing) -> None:
    """Walk one pickle from ``start`` to its STOP opcode and add what it names to ``listing``.

    Where the walk cannot go on, ``listing.stopped`` says why and what was found is kept.

    Raises
    ------
    ModelFileError
        If the source can no longer be read.
    """
    listing.stopped = _Walk(source, start, listing, 0).run()


@dataclass(frozen=True, slots=True)
class _Made:
    """An object that the pickle would build: of what class, and from which text."""

    kind: str
    text: str = ""


class _Walk:
    __slots__ = ("_depth", "listing", "memo", "pos", "source", "stack")

    def __init__(self, source: Source, start: int, listing: PickleListing, depth: int) -> None:
        self._depth = depth
        self.source = source
        self.pos = start
        self.listing = listing
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> str | None:
        """Walk to STOP and return None, or return why the walk ended before."""
        while True:
            at = self.pos
            if at >= self.source.size:
                return f"ends without a STOP opcode at byte {at}"
            self.listing.opcodes += 1
            if self.listing.opcodes > limits.PICKLE_OPCODES:
                return self._cap(f"has more than {limits.PICKLE_OPCODES} opcodes")
            if len(self.stack) + len(self.memo) > limits.PICKLE_STACK:
                return self._cap(f"keeps more than {limits.PICKLE_STACK} values")
            if self.listing.kept > limits.PICKLE_KEPT_BYTES:
                return self._cap(f"has values of more than {limits.PICKLE_KEPT_BYTES} bytes")
            raw = self.source.read(at, 1)
            if not raw:
                return f"ends without a STOP opcode at byte {at}"
            code = raw[0]
            opcode = _TABLE.get(code)
            if opcode is None:
                return f"byte {at} ({code:#04x}) is not a pickle opcode"
            self.pos += 1
            argument = self._argument(opcode)
            if isinstance(argument, _Broken):
                return f"{opcode.name} at byte {at} {argument.reason}"
            if opcode.name == "STOP":
                self.listing.end = self.pos
                return None
            popped = self._apply(opcode, argument)
            if popped is None:
                return f"{opcode.name} at byte {at} finds too little on the stack"
            if opcode.name == "BUILD" and self.listing.joblib and popped[0] == _Made(_ARRAY):
                reason = self._pass_array(popped[1])
                if reason is not None:
                    return reason

    def _cap(self, reason: str) -> str:
        self.listing.capped = True
        return reason

    def _argument(self, opcode: pickletools.OpcodeInfo) -> object:
        kind = opcode.arg
        if kind is None:
            return None
        if kind.n >= 0:
            return self._take(kind.n)
        if kind.n in _LENGTH_BYTES:
            raw = self._take(_LENGTH_BYTES[kind.n])
            if isinstance(raw, _Broken):
                return raw
            return self._take(int.from_bytes(raw, "little"))
        lines = 2 if opcode.name in ("GLOBAL", "INST") else 1
        parts = []
        for _ in range(lines):
            room = min(_LINE, self.source.size - self.pos)
            line, newline, _rest = self.source.read(self.pos, room).partition(b"\n")
            if not newline:
                return _Broken("has a line without an end")
            self.pos += len(line) + 1
            parts.append(line)
        return b" ".join(parts)

    def _take(self, count: int) -> bytes | _Broken:
        if count > self.source.size - self.pos:
            return _Broken(f"claims {count} bytes, more than are left")
        kept = self.source.read(self.pos, count) if count <= limits.PICKLE_STRING else b""
        if count <= limits.PICKLE_STRING and len(kept) < count:
            return _Broken(f"claims {count} bytes, more than are left")
        self.pos += count
        return kept

    def _apply(self, opcode: pickletools.OpcodeInfo, argument: object) -> list[object] | None:
        """Do to the stack what an opcode does; return what it took, None if too little is there."""
        name, stack = opcode.name, self.stack
        raw = argument if isinstance(argument, bytes) else b""
        if name in _MEMO_PUT or name == "MEMOIZE":
            if not stack:
                return None
            place = len(self.memo) if name == "MEMOIZE" else _index(name, raw)
            self.listing.kept += 0 if place in self.memo else _PLACE_BYTES
            self.memo[place] = stack[-1]
            return []
        if name in _MEMO_GET:
            stack.append(self.memo.get(_index(name, raw)))
            return []
        if name == "DUP":
            stack.append(stack[-1] if stack else None)
            return []
        popped = self._pop(opcode)
        if popped is None:
            return None
        value = self._value(name, raw, popped)
        if value is not None:
            self.listing.kept += sys.getsizeof(value)
        if name in ("SETITEM", "SETITEMS"):
            self.listing.kept += _PLACE_BYTES * min(len(popped), _KEPT) // 2
        for made in opcode.stack_after:
            stack.append(_MARK if made is pickletools.markobject else value)
        return popped

    def _pop(self, opcode: pickletools.OpcodeInfo) -> list[object] | None:
        stack = self.stack
        before = opcode.stack_before
        taken: list[object] = []
        if opcode.name == "POP":
            if not stack:
                return None
            stack.pop()
            return taken
        if pickletools.stackslice in before or pickletools.markobject in before:
            while stack and stack[-1] is not _MARK:
                taken.append(stack.pop())
            if not stack:
                return None
            stack.pop()
            count = before.index(pickletools.markobject)
        else:
            count = len(before)
        if count > len(stack):
            return None
        taken.extend(stack.pop() for _ in range(count))
        taken.reverse()
        return taken

    def _value(self, name: str, raw: bytes, popped: list[object]) -> object:
        if name in _STRINGS:
            text = raw.decode("utf-8", "replace")
            return text.strip("'\"") if name == "STRING" else text
        if name in _INTEGERS:
            return int.from_bytes(raw, "little", signed=name in ("BININT", "LONG1"))
        if name in ("GLOBAL", "INST"):
            return self._name(*raw.decode("utf-8", "replace").partition(" ")[::2])
        if name == "STACK_GLOBAL":
            return self._name(popped[0], popped[1])
        if name in ("EXT1", "EXT2", "EXT4"):
            return self._name("copyreg", f"extension_{int.from_bytes(raw, 'little')}")
        if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            return tuple(popped) if len(popped) <= 8 else None
        if name == "BINPERSID" and popped:
            self._storage(popped[0])
        return _object(name, popped)

    def _pass_array(self, state: object) -> str | None:
        """Step over the array that joblib writes behind its wrapper; say why that cannot be.

        Source: ``NumpyArrayWrapper.write_array`` of joblib: a pickle of its own for an array of
        objects; else a byte with the length of the padding, the padding, and the elements.
        """
        found = state if isinstance(state, dict) else {}
        dtype, shape = found.get("dtype"), found.get("shape")
        text = dtype.text if isinstance(dtype, _Made) and dtype.kind == _DTYPE_NAME else ""
        if text.startswith("O"):
            if self._depth >= _NESTED:
                return self._cap("nests arrays of objects too deeply")
            inner = _Walk(self.source, self.pos, self.listing, self._depth + 1)
            reason = inner.run()
            self.pos = inner.pos
            return reason
        match = _DTYPE.fullmatch(text)
        if match is None or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
            return self._cap("holds an array whose size is not told")
        count = math.prod(shape)
        if count < 0 or count > limits.ELEMENTS:
            return f"holds an array of {count} elements"
        # From 1 to 16, none of which is an opcode: here pickle itself would stop, and nothing can
        # hide among the elements. Joblib before 1.2 wrote no padding.
        padding = self.source.read(self.pos, 1)
        if "numpy_array_alignment_bytes" not in found or not padding or not 0 < padding[0] <= 16:
            return self._cap("holds an array that an older joblib wrote, which is not looked into")
        self.pos += 1 + padding[0]
        if len(self.listing.arrays) < limits.ARCHIVE_MEMBERS:
            self.listing.arrays[self.pos] = (text, count)
        self.pos += count * int(match[2] or 1) * (4 if match[1] == "U" else 1)
        return None

    def _name(self, module: object, attribute: object) -> Global:
        if isinstance(module, str) and isinstance(attribute, str):
            found = Global(shown(f"{module}.{attribute}", 200)[1:-1])
        else:
            # The operands were computed: a trick that no ordinary pickler plays.
            found = Global("(a name that is computed while loading)")
        if len(self.listing.names) < limits.GGUF_KEEP_ITEMS:
            self.listing.names[found] = None
        return found

    def _storage(self, reference: object) -> None:
        """Note a storage of PyTorch: ``("storage", class, key, device, elements)``."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            return
        kind, key, count = reference[1], reference[2], reference[4]
        if not (isinstance(kind, Global) and isinstance(key, str) and isinstance(count, int)):
            return
        storages = self.listing.storages
        if 0 <= count <= limits.ELEMENTS and len(storages) < limits.ARCHIVE_MEMBERS:
            self.listing.kept += 3 * _PLACE_BYTES
            storages[self.listing.place, key] = (str(kind).rpartition(".")[2], count)


def _object(name: str, popped: list[object]) -> object:
    """Return what is known of an object, as far as joblib's wrapper of arrays needs it."""
    if name in ("NEWTRUE", "NEWFALSE"):
        return name == "NEWTRUE"
    if name == "EMPTY_TUPLE":
        return ()
    if name == "EMPTY_DICT":
        return {}
    if name in ("SETITEM", "SETITEMS") and isinstance(popped[0], dict):
        target, pairs = popped[0], popped[1:]
        if len(target) < _KEPT:
            for key, value in zip(pairs[:_KEPT:2], pairs[1:_KEPT:2], strict=False):
                if isinstance(key, str):
                    target[key] = value
        return target
    if name in ("REDUCE", "NEWOBJ") and isinstance(popped[0], Global):
        arguments = popped[1]
        first = arguments[0] if isinstance(arguments, tuple) and arguments else None
        return _Made(popped[0], first[:16] if isinstance(first, str) else "")
    if name == "BUILD":
        return popped[0]
    return None


@dataclass(frozen=True, slots=True)
class _Broken:
    reason: str


def _index(name: str, raw: bytes) -> int:
    if name in ("PUT", "GET"):
        return int(raw) if raw.isdigit() and len(raw) < 12 else -1
    return int.from_bytes(raw, "little")
