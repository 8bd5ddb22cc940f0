"""Mutated model files through every reader; the loop that the tests and a person run.

``python tests/readers/fuzz_readers.py --rounds 100000`` mutates each kind of file so often, from
one seed number, and prints a table. Where atheris is installed, in an environment of its own,

    python tests/readers/fuzz_readers.py --write-corpus CORPUS
    python tests/readers/fuzz_readers.py --atheris CORPUS [options of libFuzzer]

(the first where the formats' libraries are) lets coverage guide it. An input is one byte for the
kind, and a file.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import re
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if "--atheris" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["ravenxterm_lab.readers"]):
        import ravenxterm_lab.readers.dispatch  # noqa: F401 - imported to be instrumented

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import READERS
from ravenxterm_lab.readers.binary import FileWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ravenxterm_lab.readers import FileFacts, Reader

EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
#: Bytes that a reader may read of a small file: a few times its size, and one of its windows.
READ_TIMES, READ_BASE = 64, 1 << 16


class CountingWindow(FileWindow):
    """A window that counts the bytes that were read from the file."""

    __slots__ = ("bytes_read",)

    def __init__(self, path: Path, chunk: int = 1 << 16) -> None:
        self.bytes_read = 0
        super().__init__(path, chunk)

    def _pread(self, offset: int, count: int) -> bytes:
        data = super()._pread(offset, count)
        self.bytes_read += len(data)
        return data


@dataclass(frozen=True)
class Kind:
    """One kind of input: the file's name, its reader, whole files, and how a mutant is dressed."""

    name: str
    file: str
    reader: Reader
    seeds: tuple[bytes, ...]
    dress: Callable[[bytes], bytes]
    mutate: Callable[[bytes, random.Random], bytes]


def _zipped(inner: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("net/data.pkl"), inner)
        archive.writestr(zipfile.ZipInfo("net/data/0"), bytes(48))
    return out.getvalue()


def _sized(header: bytes) -> bytes:
    """Return a safetensors file with that header; 960 bytes of data, as its seed has them."""
    return len(header).to_bytes(8, "little") + header + bytes(960)


def _graph(graph: bytes) -> bytes:
    """Return an ONNX model of that graph (field 7), so that a mutant's outer length is right."""
    size, length = len(graph), b""
    while True:
        length += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
        size >>= 7
        if not size:
            return b"\x08\x08\x3a" + length + graph


def _reader(kind: str) -> Reader:
    return next(one for one in READERS if one.model_type.value == kind)


#: Name, file and format of every kind; the numbers in a corpus are positions in this list.
NAMES = (
    ("gguf", "a.gguf", "gguf"),
    ("gguf big-endian", "b.gguf", "gguf"),
    ("safetensors", "a.safetensors", "safetensors"),
    ("onnx", "a.onnx", "onnx"),
    ("pytorch zip", "a.pt", "pytorch"),
    ("pickle in a zip", "b.pt", "pytorch"),
    ("pickle", "a.pkl", "pytorch"),
    ("joblib", "a.joblib", "pytorch"),
    ("joblib compressed", "b.joblib", "pytorch"),
    ("pickle compressed", "c.joblib", "pytorch"),
    ("tflite", "a.tflite", "tflite"),
    ("openvino", "a.xml", "openvino"),
    ("openvino text", "a.xml", "openvino"),
    ("safetensors text", "b.safetensors", "safetensors"),
    ("onnx graph", "b.onnx", "onnx"),
    ("fasttext", "a.ftz", "fasttext"),
)
_DRESSES = {
    "pickle in a zip": _zipped,
    "pickle compressed": zlib.compress,
    "safetensors text": _sized,
    "onnx graph": _graph,
}


def kinds(directory: Path) -> list[Kind]:
    """Write whole files of every kind with the formats' own libraries, and return them."""
    import bz2
    import gzip
    import lzma

    import model_files as files
    import onnx

    def bytes_of(write: Callable[..., Path], name: str, **options: object) -> bytes:
        return write(directory / name, **options).read_bytes()

    inner = files.joblib_file(directory / "x.joblib").read_bytes()
    pickled = files.torch_pickle(extra=b"ccollections\nCounter\n)R0")
    card = files.tflite_metadata("name", "description", "mit")
    # Its ``.bin`` lies beside it; only the ``.xml`` is mutated.
    graph = bytes_of(files.openvino_file, "a.xml")
    looped = bytes_of(files.openvino_file, "a.xml", more=files.IR_LOOP)
    tensors = bytes_of(files.safetensors_file, "s.safetensors")
    network = bytes_of(files.onnx_file, "s.onnx")
    found = {
        "gguf": [
            bytes_of(files.gguf_file, "s1.gguf", tensors={}),
            bytes_of(files.gguf_file, "s2.gguf", layers=1, general={"general.file_type": 2}),
        ],
        "gguf big-endian": [bytes_of(files.gguf_file, "s3.gguf", layers=1, big_endian=True)],
        "safetensors": [tensors],
        "onnx": [
            network,
            bytes_of(files.onnx_file, "t.onnx", external="t.onnx_data"),
        ],
        "pytorch zip": [bytes_of(files.torch_file, "s.pt"), bytes_of(files.script_file, "t.pt")],
        "pickle in a zip": [pickled],
        "pickle": [pickled, pickled[:-1] + b"0.\x80\x02." + pickled],
        "joblib": [inner],
        "joblib compressed": [
            zlib.compress(inner), gzip.compress(inner, mtime=0), bz2.compress(inner),
            lzma.compress(inner), lzma.compress(inner, lzma.FORMAT_ALONE), files.lz4_frame(inner),
        ],
        "pickle compressed": [inner],
        "tflite": [
            bytes_of(files.tflite_file, "s.tflite", metadata=card),
            bytes_of(files.tflite_file, "t.tflite", external=True, signature=False),
        ],
        "openvino": [graph, looped],
        "openvino text": [graph, looped],
        "safetensors text": [tensors[8 : 8 + int.from_bytes(tensors[:8], "little")]],
        "onnx graph": [onnx.load_from_string(network).graph.SerializeToString()],
        "fasttext": [
            bytes_of(files.fasttext_file, "s.ftz", bucket=3, ngrams=(1, 2)),
            bytes_of(files.fasttext_file, "t.ftz", model=1, loss=2),
            # The centroids are most of a quantized model: of one column they are fewest.
            bytes_of(files.fasttext_file, "u.ftz", bucket=9, pruned=[(8, 0)], width=1, dim=1),
        ],
    }  # fmt: skip
    return [
        Kind(
            name,
            file,
            _reader(kind),
            tuple(found[name]),
            _DRESSES.get(name, bytes),
            mutate_text if name.endswith(" text") else mutate,
        )
        for name, file, kind in NAMES
    ]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one to five changes."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        size = max(len(out), 1)
        # Headers lie at the start, zip directories at the end.
        at = draw.choice(
            [
                draw.randrange(size),
                draw.randrange(min(size, 300)),
                size - 1 - draw.randrange(min(size, 300)),
            ]
        )
        kind = draw.randrange(6)
        if kind == 0:
            out[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            width = draw.choice([1, 2, 4, 8])
            value = draw.choice(EDGES) & (1 << 8 * width) - 1
            out[at : at + width] = value.to_bytes(width, draw.choice(["little", "big"]))
        elif kind == 2:
            del out[at : at + draw.randint(1, 40)]
        elif kind == 3:
            out[at:at] = draw.randbytes(draw.randint(1, 40))
        elif kind == 4:
            start = draw.randrange(size)
            out[at:at] = out[start : start + draw.randint(1, 60)]
        else:
            del out[at:]
    return bytes(out)


_WORDS = (
    "-1", "1e999", "nan", "0x10", "9" * 25, "<", "&amp;", "&x;", '"', "\\u0000", "\\ud800", "[[[[",
    "}", "null", "\u2028",
    "\x1b[31m", "<b>", "../../x", "body", "Const", "F4", "data", "layer", "?",
)  # fmt: skip


def mutate_text(data: bytes, draw: random.Random) -> bytes:
    """Return a text with one to three of its numbers, words or lines changed."""
    text = data.decode()
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(5)
        spots = list(re.finditer(r"\d+" if kind < 2 else r'[\w.]+|"[^"]*"', text))
        if kind == 4 or not spots:
            lines = re.split(r"(?<=[\n,])", text)
            at = draw.randrange(len(lines))
            lines[at : at + 1] = [lines[at]] * draw.choice([0, 2, 3])
            text = "".join(lines)
            continue
        spot = draw.choice(spots)
        new = {
            0: str(draw.choice(EDGES)),
            1: str(draw.randrange(300)),
            2: draw.choice(_WORDS),
            3: draw.choice(spots)[0],
        }[kind]
        text = text[: spot.start()] + new + text[spot.end() :]
    return text.encode("utf-8", "surrogatepass")


def texts(value: object) -> Iterator[str]:
    """Yield every text in facts, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        yield from texts(list(value))
    elif is_dataclass(value):
        for field in fields(value):
            yield from texts(getattr(value, field.name))


class Target:
    """One file of a kind, written again for each input and read by its reader."""

    def __init__(self, directory: Path, file: str, reader: Reader) -> None:
        self.path = directory / file
        self.reader = reader
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def check(self, data: bytes) -> FileFacts | None:
        """Read an input; None where it is refused. Anything but a ModelFileError comes out."""
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
        facts, message = None, ""
        with CountingWindow(self.path, self.reader.chunk) as window:
            try:
                facts = self.reader.parse(window)
            except ModelFileError as error:
                message = str(error)
            most = READ_TIMES * len(data) + READ_BASE
            assert window.bytes_read <= most, f"{window.bytes_read} bytes of {len(data)} were read"
        assert message.isprintable(), repr(message)
        if facts is not None:
            assert all(text.isprintable() for text in texts(facts)), facts
            counts = (facts.parameter_count, facts.context_length, *facts.tensor_bytes.values())
            assert all(count is None or count >= 0 for count in counts), facts
        return facts


def run(directory: Path, kind: Kind, rounds: int, seed: int) -> int:
    """Mutate one kind so often; return how many mutants were refused."""
    draw = random.Random(f"{kind.name} {seed}")
    target = Target(directory, kind.file, kind.reader)
    refused = 0
    try:
        for _ in range(rounds):
            data = kind.dress(kind.mutate(draw.choice(kind.seeds), draw))
            try:
                refused += target.check(data) is None
            except BaseException:
                Path("crash.bin").write_bytes(bytes([_number(kind.name)]) + data)
                raise
    finally:
        target.close()
    return refused


def _number(name: str) -> int:
    return next(number for number, (one, *_) in enumerate(NAMES) if one == name)


def _guided(directory: Path, arguments: list[str]) -> None:
    targets = [Target(directory, file, _reader(kind)) for _, file, kind in NAMES]
    dresses = [_DRESSES.get(name, bytes) for name, *_ in NAMES]

    def one(data: bytes) -> None:
        if data:
            number = data[0] % len(NAMES)
            targets[number].check(dresses[number](data[1:]))

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> None:
    """Run the loop, or atheris."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20_000, help="mutants of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-corpus", type=Path, metavar="DIRECTORY")
    parser.add_argument(
        "--atheris", action="store_true", help="all further options are libFuzzer's"
    )
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.atheris:
            _guided(Path(folder), rest)
            return
        total = 0
        for kind in kinds(Path(folder)):
            if options.write_corpus is not None:
                options.write_corpus.mkdir(parents=True, exist_ok=True)
                for number, data in enumerate(kind.seeds):
                    name = f"{kind.name.replace(' ', '_')}_{number}"
                    (options.write_corpus / name).write_bytes(bytes([_number(kind.name)]) + data)
                continue
            start = time.process_time()
            refused = run(Path(folder), kind, options.rounds, options.seed)
            seconds = time.process_time() - start
            total += options.rounds
            print(
                f"{kind.name:18} {options.rounds:9,} mutants {refused:9,} refused {seconds:7.1f} s"
            )
        print(f"{total:,} mutants, no exception but ModelFileError")


if __name__ == "__main__":
    main()
