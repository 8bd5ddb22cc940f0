"""Files that contain pickles (``.pt``, ``.pth``, ``.bin``, ``.joblib``, …): listed, never loaded.

A pickle is a program. What it would import is named by disassembly; the verdict is at best
"contains pickle; not inspected by loading", never that it is safe.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader
from ravenxterm_lab.readers.binary import FileWindow, shown
from ravenxterm_lab.readers.pickle_opcodes import PickleListing, list_pickle

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VERDICT", "PickleArchiveReader"]

VERDICT = "contains pickle; not inspected by loading"

_ZIP = b"PK\x03\x04"
_STORAGES = {
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "QInt8Storage": ("I8", 1),
    "QUInt8Storage": ("U8", 1),
    "ComplexFloatStorage": ("C64", 8),
}
# What a file of plain tensors imports, as in PyTorch's own `weights_only` list. Being on this
# list says that a name is expected, not that a file is harmless.
_EXPECTED = frozenset(
    {
        "_codecs.encode",
        "collections.OrderedDict",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "joblib.numpy_pickle.NumpyArrayWrapper",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_qtensor",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        "torch.storage._load_from_bytes",
    }
)
_DTYPES = frozenset(
    {
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "int8",
        "uint8",
        "int16",
        "int32",
        "int64",
        "bool",
    }
)
# Training leftovers that lie beside a model and are none.
_LEFTOVERS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state")


class PickleArchiveReader(Reader):
    """Lists pickles, alone or inside a zip archive."""

    model_type: ClassVar[ModelType] = ModelType.PYTORCH
    suffixes: ClassVar[tuple[str, ...]] = (
        ".pt", ".pth", ".bin", ".ckpt", ".jit", ".joblib", ".pkl", ".pickle",
    )  # fmt: skip

    def sniff(self, path: Path, head: bytes) -> bool:
        """Say whether it has one of the suffixes and starts as a zip, a pickle or zlib data."""
        if path.suffix.lower() not in self.suffixes or len(head) < 2:
            return False
        if head.startswith((_ZIP, b"PK\x05\x06")):
            return True
        if head[0] == 0x80:
            return 2 <= head[1] <= 5
        # Protocols 0 and 1 have no magic: only suffixes that mean nothing else are believed.
        plain = path.suffix.lower() in (".pkl", ".pickle", ".joblib")
        return plain and (head[0] in b"(cl]}" or _compressed(head))

    def parse(self, window: FileWindow) -> FileFacts:
        """List the globals of every pickle in the file."""
        head = window.head(16)
        listing = PickleListing()
        notes: list[str] = []
        script = False
        if head.startswith((_ZIP, b"PK\x05\x06")):
            script = _read_zip(window, listing, notes)
        elif _compressed(head):
            _read_compressed(window, listing, notes)
        elif head and head[0] in b"\x80(cl]}":
            _read_raw(window, listing, notes)
        else:
            raise window.fail(self.not_this_format(window, "a pickle or an archive of pickles"))
        by_type, elements = _tensors(listing)
        unexpected = [name for name in listing.names if not _expected(name, script)]
        problems: tuple[str, ...] = ()
        if unexpected:
            more = f" and {len(unexpected) - 8} more" if len(unexpected) > 8 else ""
            problems = (f"{VERDICT}: it would import {', '.join(unexpected[:8])}{more}",)
        else:
            notes.insert(0, VERDICT)
        dominant = max(by_type, key=lambda name: by_type[name], default=None)
        leftover = window.path.name.startswith(_LEFTOVERS)
        return FileFacts(
            model_type=ModelType.PYTORCH,
            size_bytes=window.size,
            kind="other" if leftover else "model",
            architecture="TorchScript" if script else None,
            parameter_count=elements or None,
            active_parameter_count=elements or None,
            quantization=dominant,
            tensor_bytes=by_type,
            pickle_globals=tuple(listing.names),
            problems=problems,
            notes=tuple(notes),
        )


class _Memory:
    """A member's content, as a ``Source`` of opcodes."""

    __slots__ = ("_data", "_window", "size")

    def __init__(self, data: bytes, window: FileWindow) -> None:
        self._data = data
        self._window = window
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def fail(self, reason: str) -> ModelFileError:
        return self._window.fail(reason)


class _Bounded(io.RawIOBase):
    """The open file as ``zipfile`` wants it; one read is refused above the cap.

    The path is not opened a second time: it could be something else by then.
    """

    def __init__(self, window: FileWindow) -> None:
        super().__init__()
        self._window = window
        self._pos = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._pos

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._pos, self._window.size)[whence]
        if start + offset < 0:
            raise ValueError("an offset before the start")
        self._pos = start + offset
        return self._pos

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._window.size - self._pos, 0)
        count = left if size < 0 else min(size, left)
        if count > limits.ARCHIVE_DIRECTORY_BYTES:
            raise self._window.fail(f"asks for {count} bytes at once.")
        data = self._window.read(self._pos, count) if count else b""
        self._pos += count
        return data


def _expected(name: str, script: bool) -> bool:
    if name in _EXPECTED:
        return True
    module, _, attribute = name.rpartition(".")
    if module in ("torch", "torch.cuda") and attribute in _STORAGES:
        return True
    if module == "torch" and attribute in _DTYPES:
        return True
    # TorchScript resolves these inside the archive's own code.
    return script and (name.startswith(("__torch__.", "torch.jit._pickle.")))


def _compressed(head: bytes) -> bool:
    return head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b")


def _tensors(listing: PickleListing) -> tuple[dict[str, int], int]:
    by_type: dict[str, int] = {}
    elements = 0
    for kind, count in listing.storages.values():
        name, size = _STORAGES.get(kind, ("unknown", 1))
        by_type[name] = by_type.get(name, 0) + count * size
        elements += count
    return by_type, elements


def _read_raw(window: FileWindow, listing: PickleListing, notes: list[str]) -> None:
    """List pickles that follow one another, as older PyTorch files and joblib files hold them."""
    start = 0
    for number in range(limits.PICKLE_MEMBERS):
        list_pickle(window, start, listing)
        if listing.stopped is not None:
            known = number or "joblib.numpy_pickle.NumpyArrayWrapper" in listing.names
            if not known and not listing.names:
                raise window.fail(f"is not a pickle: {listing.stopped}.")
            notes.append(f"listed as far as byte {listing.end}, then: {listing.stopped}")
            return
        start = listing.end
        if start + 2 > window.size or window.read(start, 1) != b"\x80":
            break
    if start < window.size:
        notes.append(f"{window.size - start} bytes follow the pickle and were not looked into")


def _read_compressed(window: FileWindow, listing: PickleListing, notes: list[str]) -> None:
    inflate = zlib.decompressobj(wbits=47)
    out = bytearray()
    pos = 0
    try:
        while pos < window.size and len(out) < limits.PICKLE_BYTES and not inflate.eof:
            block = window.read(pos, min(1 << 16, window.size - pos))
            pos += len(block)
            out += inflate.decompress(block, limits.PICKLE_BYTES - len(out))
            _refuse_bomb(window, window.path.name, pos, len(out))
    except zlib.error as error:
        raise window.fail(f"cannot be decompressed: {error}.") from error
    list_pickle(_Memory(bytes(out), window), 0, listing)
    if listing.stopped is not None:
        if not listing.names:
            raise window.fail(f"is not a compressed pickle: {listing.stopped}.")
        notes.append(f"listed as far as byte {listing.end}, then: {listing.stopped}")


def _refuse_bomb(window: FileWindow, name: str, packed: int, unpacked: int) -> None:
    if unpacked > 1 << 20 and unpacked > packed * limits.ARCHIVE_RATIO:
        raise window.fail(
            f"{shown(name)} unpacks to more than {limits.ARCHIVE_RATIO} times its size: a zip bomb."
        )


def _read_zip(window: FileWindow, listing: PickleListing, notes: list[str]) -> bool:
    """List the pickles in a zip archive; say whether it is TorchScript."""
    _check_directory(window)
    try:
        with zipfile.ZipFile(_Bounded(window)) as archive:
            members = archive.infolist()
            if len(members) > limits.ARCHIVE_MEMBERS:
                raise window.fail(f"has {len(members)} members.")
            packed = sum(member.compress_size for member in members)
            if packed > window.size:
                raise window.fail("has members that overlap: a zip bomb.")
            for member in members:
                _refuse_bomb(window, member.filename, member.compress_size, member.file_size)
            pickles = [one for one in members if one.filename.lower().endswith((".pkl", ".pickle"))]
            if not pickles:
                raise window.fail("is a zip archive without a pickle in it; not a PyTorch file.")
            if len(pickles) > limits.PICKLE_MEMBERS:
                raise window.fail(f"has {len(pickles)} pickles.")
            for member in pickles:
                _list_member(window, archive, member, listing, notes)
            odd = [one.filename for one in members if _leaves(one.filename)]
            if odd:
                raise window.fail(f"has the member {shown(odd[0])}, which leaves the archive.")
            return any(
                "/code/" in one.filename or one.filename.startswith("code/") for one in members
            )
    except ModelFileError:  # a ValueError too: what was found above goes on as it is
        raise
    except (
        zipfile.BadZipFile, struct.error, zlib.error, OSError, EOFError, ValueError,
        NotImplementedError, RuntimeError, OverflowError, KeyError, IndexError,
    ) as error:  # fmt: skip
        raise window.fail(f"is a damaged zip archive: {shown(str(error))}.") from error


def _list_member(
    window: FileWindow,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    listing: PickleListing,
    notes: list[str],
) -> None:
    if member.file_size > limits.PICKLE_BYTES:
        raise window.fail(f"{shown(member.filename)} has {member.file_size} bytes.")
    with archive.open(member) as stream:
        data = stream.read(limits.PICKLE_BYTES + 1)
    if len(data) > limits.PICKLE_BYTES:
        raise window.fail(f"{shown(member.filename)} is larger than it says: a zip bomb.")
    list_pickle(_Memory(data, window), 0, listing)
    if listing.stopped is not None:
        notes.append(f"{shown(member.filename)} was listed in part: {listing.stopped}")
        # A part that was not listed could hold anything.
        listing.names["(unlisted: the pickle is damaged)"] = None


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or parts[0].endswith(":")


def _check_directory(window: FileWindow) -> None:
    """Check the size of the central directory, which ``zipfile`` reads whole, before it does."""
    tail_bytes = min(window.size, 65_557)
    tail = window.read(window.size - tail_bytes, tail_bytes)
    index = tail.rfind(b"PK\x05\x06")
    if index < 0 or len(tail) - index < 22:
        raise window.fail("is a truncated zip archive: it has no directory. Download it again.")
    entries, length = struct.unpack_from("<HI", tail, index + 10)
    wide = tail.rfind(b"PK\x06\x06", 0, index)
    if wide >= 0 and len(tail) - wide >= 56:
        entries, length = struct.unpack_from("<QQ", tail, wide + 32)
    if entries > limits.ARCHIVE_MEMBERS or length > limits.ARCHIVE_DIRECTORY_BYTES:
        raise window.fail(f"claims {entries} members in a directory of {length} bytes.")
