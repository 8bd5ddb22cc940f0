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
from ravenxterm_lab.readers.inflate import Inflated, compression_of, refuse_bomb, unpacked
from ravenxterm_lab.readers.pickle_opcodes import PickleListing, list_pickle

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VERDICT", "PickleArchiveReader"]

VERDICT = "contains pickle; not inspected by loading"

_ZIP = b"PK\x03\x04"
_PLAIN = (".pkl", ".pickle", ".joblib")
_PROBLEMS = 8
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
#: dtype of a numpy array to a name; the bytes of one element are its digits.
_ARRAYS = {"f": "F", "i": "I", "u": "U", "b": "BOOL", "c": "C"}
_UNLISTED = "(unlisted: the pickle was not read to its end)"
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
        plain = path.suffix.lower() in _PLAIN
        return plain and (head[0] in b"(cl]}" or compression_of(head) is not None)

    def parse(self, window: FileWindow) -> FileFacts:
        """List the globals of every pickle in the file."""
        head = window.head(16)
        compression = compression_of(head)
        listing = PickleListing()
        notes: list[str] = []
        problems: list[str] = []
        script = False
        if head.startswith((_ZIP, b"PK\x05\x06")):
            script = _read_zip(window, listing, notes, problems)
        elif compression is not None:
            most = limits.LZ4_BYTES if compression == "lz4" else limits.PICKLE_BYTES
            listing.joblib = True
            _read_row(window, Inflated(window, unpacked(window), most), listing, notes)
            notes.append(f"compressed with {compression}")
        elif head and head[0] in b"\x80(cl]}":
            listing.joblib = window.path.suffix.lower() in _PLAIN
            _read_row(window, window, listing, notes)
        else:
            raise window.fail(self.not_this_format(window, "a pickle or an archive of pickles"))
        if script:
            notes.append("TorchScript: holds program code of its own, which is never run here")
        by_type, elements = _tensors(listing)
        unexpected = [name for name in listing.names if not _expected(name, script)]
        if unexpected:
            more = f" and {len(unexpected) - 8} more" if len(unexpected) > 8 else ""
            problems.insert(0, f"{VERDICT}: it would import {', '.join(unexpected[:8])}{more}")
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
            problems=tuple(problems),
            notes=tuple(notes),
        )


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


def _tensors(listing: PickleListing) -> tuple[dict[str, int], int]:
    by_type: dict[str, int] = {}
    elements = 0
    for kind, count in listing.storages.values():
        name, size = _STORAGES.get(kind, ("unknown", 1))
        by_type[name] = by_type.get(name, 0) + count * size
        elements += count
    for dtype, count in listing.arrays.values():
        letter, width = dtype[0], int(dtype[1:] or 1)
        if letter not in _ARRAYS:
            continue
        name = _ARRAYS[letter] + ("" if letter == "b" else str(8 * width))
        by_type[name] = by_type.get(name, 0) + count * width
        elements += count
    return by_type, elements


def _read_row(
    window: FileWindow, source: FileWindow | Inflated, listing: PickleListing, notes: list[str]
) -> None:
    """List pickles that follow one another, as older PyTorch files and joblib files hold them."""
    start = 0
    for number in range(limits.PICKLE_MEMBERS):
        list_pickle(source, start, listing)
        if listing.stopped is not None:
            if not listing.names and not listing.capped:
                raise window.fail(f"is not a pickle: {listing.stopped}.")
            notes.append(f"listed as far as byte {listing.end}, then: {listing.stopped}")
            # What follows in an older PyTorch file is bare data, which is no pickle at all.
            if number == 0 or listing.capped or source is not window:
                listing.names[_UNLISTED] = None
            return
        start = listing.end
        if start >= source.size or source.read(start, 1) != b"\x80":
            break
    if start < window.size and source is window:
        notes.append(f"{window.size - start} bytes follow the pickle and were not looked into")


def _read_zip(
    window: FileWindow, listing: PickleListing, notes: list[str], problems: list[str]
) -> bool:
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
                refuse_bomb(window, member.filename, member.compress_size, member.file_size)
            pickles = [one for one in members if one.filename.lower().endswith((".pkl", ".pickle"))]
            if not pickles:
                raise window.fail("is a zip archive without a pickle in it; not a PyTorch file.")
            if len(pickles) > limits.PICKLE_MEMBERS:
                raise window.fail(f"has {len(pickles)} pickles.")
            left = limits.PICKLE_BYTES
            for member in pickles:
                left -= member.file_size
                if left < 0:
                    raise window.fail(f"{shown(member.filename)} has {member.file_size} bytes.")
                _list_member(window, archive, member, listing, notes)
            problems.extend(_short_storages(members, listing))
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
    # The other methods of zip unpack whatever a block holds at once.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise window.fail(f"{shown(member.filename)} is compressed as PyTorch never does.")
    stem = member.filename.rpartition(".")[0]
    listing.place = f"{stem}/"
    with archive.open(member) as stream:
        pieces = iter(lambda: stream.read(1 << 16), b"")
        list_pickle(Inflated(window, pieces, limits.PICKLE_BYTES), 0, listing)
    if listing.stopped is not None:
        notes.append(f"{shown(member.filename)} was listed in part: {listing.stopped}")
        # A part that was not listed could hold anything.
        listing.names[_UNLISTED] = None


def _short_storages(members: list[zipfile.ZipInfo], listing: PickleListing) -> list[str]:
    """Say which storages have a member of another size than their type and count need."""
    sizes = {one.filename: one.file_size for one in members}
    problems = []
    for (place, key), (kind, count) in listing.storages.items():
        size = sizes.get(f"{place}{key}")
        width = _STORAGES.get(kind, ("", 0))[1]
        if size is not None and width and size != count * width:
            problems.append(f"storage {shown(key)} has {size} bytes; {count * width} are needed")
            if len(problems) == _PROBLEMS:
                break
    return problems


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
