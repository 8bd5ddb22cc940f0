"""One behaviour suite over every reader."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import READERS, Reader, fingerprint, read_facts, reader_for

FORMATS = ["gguf", "safetensors", "onnx", "pytorch"]


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, files, tmp_path):
    name, write = files.WRITERS[kind]
    return write(tmp_path / name)


def reader_of(kind: str) -> Reader:
    return next(one for one in READERS if one.model_type is ModelType(kind))


def test_every_reader_is_in_this_suite():
    """A reader that is added without being tested here fails this."""
    assert sorted(one.model_type.value for one in READERS) == sorted(FORMATS)


def test_a_file_finds_its_reader_and_only_that(model, kind):
    """Exactly one reader takes a file of its format."""
    assert reader_for(model) is reader_of(kind)
    head = model.read_bytes()[:64]
    assert [one.model_type.value for one in READERS if one.sniff(model, head)] == [kind]


def test_facts_are_stable_and_the_file_is_untouched(model, kind):
    """Reading twice gives equal facts and changes neither content nor times."""
    before = (model.read_bytes(), model.stat().st_mtime_ns)
    first, second = read_facts(model), read_facts(model)
    assert first == second
    assert first.model_type.value == kind
    assert first.size_bytes == len(before[0])
    assert first.kind == "model"
    assert not first.problems
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


def test_tensor_bytes_are_within_the_file(model):
    """The tensors' bytes are positive and fit into the file."""
    facts = read_facts(model)
    assert 0 < sum(facts.tensor_bytes.values()) <= facts.size_bytes
    assert facts.parameter_count > 0


def test_every_truncation_is_a_model_file_error(model, kind):
    """A file cut anywhere is refused, with the path in the message; nothing else is raised."""
    whole = model.read_bytes()
    cuts = sorted({*range(0, min(len(whole), 400), 7), *range(0, len(whole), 997), len(whole) - 1})
    for cut in cuts:
        model.write_bytes(whole[:cut])
        with pytest.raises(ModelFileError) as caught:
            reader_of(kind).read(model)
        assert model.name in str(caught.value)


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
    # A socket's path may have 107 bytes only, fewer than tmp_path can have.
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{short}/s")
        for path, word in [
            (tmp_path, "directory"),
            (fifo, "FIFO"),
            (Path(short) / "s", "socket"),
            (Path("/dev/zero"), "character device"),
            (tmp_path / "absent", "No such file"),
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
