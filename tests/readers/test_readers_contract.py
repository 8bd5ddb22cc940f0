"""One behaviour suite over every reader."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import READERS, Reader, fingerprint, read_facts, reader_for
from ravenxterm_lab.readers.binary import FileWindow

FORMATS = [
    "gguf", "safetensors", "onnx", "pytorch", "tflite", "openvino", "fasttext",
    # The same readers, on what else they take.
    "gguf-big-endian", "pytorch-script", "pytorch-joblib", "fasttext-quantized",
]  # fmt: skip


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, files, tmp_path):
    name, write = (files.WRITERS | files.VARIANTS)[kind]
    return write(tmp_path / name)


def reader_of(kind: str) -> Reader:
    return next(one for one in READERS if one.model_type is ModelType(kind.partition("-")[0]))


def test_every_reader_is_in_this_suite():
    """A reader that is added without being tested here fails this."""
    assert {one.model_type.value for one in READERS} == {kind.partition("-")[0] for kind in FORMATS}


def test_a_file_finds_its_reader_and_only_that(model, kind):
    """Exactly one reader takes a file of its format."""
    assert reader_for(model) is reader_of(kind)
    head = model.read_bytes()[:256]
    assert [one for one in READERS if one.sniff(model, head)] == [reader_of(kind)]


def test_facts_are_stable_and_the_file_is_untouched(model, kind):
    """Reading twice gives equal facts and changes neither content nor times."""
    before = (model.read_bytes(), model.stat().st_mtime_ns)
    first, second = read_facts(model), read_facts(model)
    assert first == second
    assert first.model_type is reader_of(kind).model_type
    assert first == reader_of(kind).read(model)
    assert first.size_bytes == len(before[0])
    assert first.kind == "model"
    assert not first.problems
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


def test_tensor_bytes_are_within_the_files(model):
    """The tensors' bytes are positive and fit into the file and those that it names."""
    facts = read_facts(model)
    outside = sum((model.parent / name).stat().st_size for name in facts.external)
    assert 0 < sum(facts.tensor_bytes.values()) <= facts.size_bytes + outside
    assert facts.parameter_count > 0


def test_every_truncation_is_an_error_or_a_problem(model, kind):
    """A file cut anywhere is refused, with the path in the message, or called unusable."""
    whole = model.read_bytes()
    cuts = {*range(0, min(len(whole), 400), 7), *(len(whole) * n // 64 for n in range(64))}
    # White space may end a text, and is nobody's loss.
    for cut in sorted(cuts | {len(whole.rstrip()) - 1}):
        model.write_bytes(whole[:cut])
        try:
            facts = reader_of(kind).read(model)
        except ModelFileError as error:
            assert model.name in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert facts.problems, cut


def test_a_file_that_is_cut_while_it_is_read_ends_in_no_signal(model, kind):
    """A file that another process truncates gives what was still read, or an error."""
    whole = model.read_bytes()
    for left in (0, len(whole) // 3, len(whole) - 1):
        model.write_bytes(whole)
        with FileWindow(model, 16) as window:
            os.truncate(model, left)
            error = None
            try:
                reader_of(kind).parse(window)
            except ModelFileError as raised:
                error = raised
            # An empty file has nothing to give; of a longer one the header may lie in what is left.
            assert left or error is not None


_AUDIT = """
import json, os, sys
from pathlib import Path
from ravenxterm_lab.readers import READERS, read_facts

folder, events = sys.argv[1], []

def hook(event, arguments):
    if event == "mmap.__new__":
        events.append(("mmap", 0))
    elif event == "open" and str(arguments[0]).startswith(folder):
        events.append((os.path.basename(arguments[0]), arguments[2]))

found = {}
sys.addaudithook(hook)
for path in sorted(Path(folder).iterdir()):
    if path.suffix == ".bin":
        continue
    for read in (read_facts, None):
        events.clear()
        if read is None:
            read = next(one for one in READERS if path.suffix in one.suffixes).read
        read(path)
        found.setdefault(path.name, []).append(list(events))
print(json.dumps(found))
"""


def test_a_file_is_opened_once_to_read_and_never_mapped(files, tmp_path):
    """The interpreter's own audit shows one read-only open that cannot block, and no mmap."""
    for name, write in (files.WRITERS | files.VARIANTS).values():
        write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _AUDIT, tmp_path], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert len(found) == len(files.WRITERS | files.VARIANTS) - 1  # two of them share a name
    for name, readings in found.items():
        for events in readings:
            assert [event[0] for event in events] == [name]
            flags = events[0][1]
            assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) == 0
            assert flags & os.O_NONBLOCK


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>sign in</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS"),
        (bytes(4096), "zeros"),
    ],
)
def test_what_is_not_a_model_is_named(tmp_path, kind, content, word):
    """An empty file, a web page, a Git LFS pointer and a hole are called what they are."""
    path = tmp_path / f"model{reader_of(kind).suffixes[0]}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=word):
        reader_of(kind).read(path)


def test_only_regular_files_are_opened(tmp_path, kind):
    """A directory, a FIFO, a socket, a device and nothing at all are refused without blocking."""
    reader = reader_of(kind)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    # A socket's path may have 107 bytes only, fewer than tmp_path can have.
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{short}/s")
        for path, word in [
            (tmp_path, "directory"),
            (fifo, "FIFO"),
            (Path(short) / "s", "socket"),
            (Path("/dev/zero"), "character device"),
            (tmp_path / "absent", "No such file"),
            (loop, "Too many levels"),
        ]:
            with pytest.raises(ModelFileError, match=word):
                reader.read(path)
    with pytest.raises(ModelFileError, match="null"):
        reader.read(Path("a\0b"))


def test_an_unreadable_file_says_so(model, kind):
    """A file without read permission is a ModelFileError that says why."""
    model.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything: be somebody else for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(ModelFileError, match="Permission denied"):
            reader_of(kind).read(model)
    finally:
        os.seteuid(user)


def test_messages_stay_on_one_printable_line(tmp_path, kind):
    """A hostile file name cannot put a line break or a control character into a message."""
    path = tmp_path / f"a\n\x1b[31m<script>{reader_of(kind).suffixes[0]}"
    path.write_bytes(b"nonsense, and not a model at all")
    with pytest.raises(ModelFileError) as caught:
        reader_of(kind).read(path)
    assert str(caught.value).isprintable()


def test_an_unknown_file_has_no_reader(tmp_path):
    """A file that no reader knows gives None, and reading it names the known suffixes."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert reader_for(path) is None
    with pytest.raises(ModelFileError, match=r"\.gguf"):
        read_facts(path)


def test_an_ordinary_bin_file_is_no_model(tmp_path):
    """A ``.bin`` file without a pickle or a zip in it is left alone."""
    path = tmp_path / "firmware.bin"
    path.write_bytes(b"\x7fELF" + bytes(60))
    assert reader_for(path) is None


class TestFingerprint:
    def test_it_survives_a_move_and_a_copy(self, model, tmp_path):
        """A renamed and a copied file keep the fingerprint."""
        before = fingerprint([model])
        copy = tmp_path / "copy"
        copy.write_bytes(model.read_bytes())
        moved = model.rename(tmp_path / "elsewhere")
        assert fingerprint([moved]) == fingerprint([copy]) == before
        assert len(before) == 32

    def test_it_changes_with_any_byte_of_a_small_file(self, tmp_path):
        """A small file is hashed whole."""
        path = tmp_path / "a"
        path.write_bytes(bytes(1000))
        seen = {fingerprint([path])}
        for position in (0, 500, 999):
            data = bytearray(1000)
            data[position] = 1
            path.write_bytes(bytes(data))
            seen.add(fingerprint([path]))
        assert len(seen) == 4

    def test_a_large_file_is_sampled_at_both_ends_and_between(self, tmp_path):
        """In a large file a change throughout, at the start or at the end is seen."""
        path = tmp_path / "a"
        size = 3 << 20
        seen = set()
        for start, stop in [(0, 0), (0, 1), (size - 1, size), (size // 4, size // 2)]:
            data = bytearray(size)
            data[start:stop] = b"\1" * (stop - start)
            path.write_bytes(bytes(data))
            seen.add(fingerprint([path]))
        assert len(seen) == 4

    def test_shards_count_in_order(self, tmp_path):
        """Two shards in another order, or joined, are another model."""
        one, two, both = tmp_path / "1", tmp_path / "2", tmp_path / "3"
        one.write_bytes(b"aa")
        two.write_bytes(b"bb")
        both.write_bytes(b"aabb")
        marks = {fingerprint([one, two]), fingerprint([two, one]), fingerprint([both])}
        assert len(marks) == 3
