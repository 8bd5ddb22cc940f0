"""Pickles: what they would import is listed; nothing is imported, built or run."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import lzma
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts
from ravenxterm_lab.readers.lz4_frame import Lz4Decoder
from ravenxterm_lab.readers.pickle_archive import VERDICT


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_state_dict_is_counted_without_torch(files, tmp_path):
    """Globals, parameters and types come out; the verdict is that nothing was loaded."""
    facts = read_facts(files.torch_file(tmp_path / "model.pt"))
    assert facts.pickle_globals == (
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
    )
    assert facts.parameter_count == 12
    assert facts.tensor_bytes == {"F32": 48}
    assert facts.quantization == "F32"
    assert facts.notes[0] == VERDICT
    assert not facts.problems
    assert "safe" not in " ".join(facts.notes + facts.problems)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".pkl", ".joblib"])
def test_a_pickle_that_runs_a_command_does_not_run_it(tmp_path, protocol, suffix):
    """The command's name is listed as a problem in every protocol, and the command never runs."""
    canary = tmp_path / "canary"
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Evil(canary), protocol))
    facts = read_facts(path)
    assert not canary.exists()
    assert facts.pickle_globals == (f"{os.system.__module__}.system",)
    assert facts.problems[0].startswith(VERDICT)
    assert "system" in facts.problems[0]


def test_evil_inside_an_archive(files, tmp_path):
    """The same inside a PyTorch archive, behind an ordinary state dict."""
    canary = tmp_path / "canary"
    evil = pickle.dumps(Evil(canary), 2)[2:-1] + b"0"
    path = files.torch_file(tmp_path / "model.bin", pickle_bytes=files.torch_pickle(extra=evil))
    facts = read_facts(path)
    assert not canary.exists()
    assert any("system" in name for name in facts.pickle_globals)
    assert "torch._utils._rebuild_tensor_v2" in facts.pickle_globals
    assert facts.problems


@pytest.mark.parametrize(
    ("program", "found"),
    [
        # The name by way of the memo, with other strings pushed in between.
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x05dummy0h\x00h\x01\x93.", "os.system"),
        # The name swapped through POP: a scanner that takes the last two strings is fooled.
        (b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x04math\x8c\x03sin00\x93.", "os.system"),
        # A name that an earlier call would return.
        (
            b"\x80\x04cbuiltins\nstr\n)R\x8c\x06system\x93.",
            "(a name that is computed while loading)",
        ),
        (b"\x80\x02(S'ls'\nios\nsystem\n.", "os.system"),
        (b"\x80\x02\x82\x07.", "copyreg.extension_7"),
    ],
)
def test_tricks_that_hide_a_name(tmp_path, program, found):
    """The stack and the memo are emulated, so that the real operands are named."""
    path = tmp_path / "a.pkl"
    path.write_bytes(program)
    facts = read_facts(path)
    assert found in facts.pickle_globals
    assert facts.problems


def test_globals_agree_with_pickletools(tmp_path):
    """For protocols with GLOBAL the names are those that pickletools lists."""
    value = [collections.Counter("abc"), io.BytesIO, zlib.crc32, {"k": (1, 2.5, "x" * 5000)}]
    data = pickle.dumps(value, 2)
    expected = {
        arg.replace(" ", ".") for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    assert set(read_facts(path).pickle_globals) == expected


def test_pickles_in_a_row_are_all_listed(tmp_path):
    """Older PyTorch files hold several pickles and then raw bytes."""
    path = tmp_path / "old.pt"
    parts = [pickle.dumps(one, 2) for one in (1, "two", collections.Counter)]
    path.write_bytes(b"".join(parts) + bytes(100))
    facts = read_facts(path)
    assert facts.pickle_globals == ("collections.Counter",)
    assert "100 bytes follow" in facts.notes[-1] + " ".join(facts.problems)


def test_a_compressed_pickle_is_listed(tmp_path):
    """A joblib file may be compressed with zlib."""
    path = tmp_path / "a.joblib"
    path.write_bytes(zlib.compress(pickle.dumps(Evil(tmp_path / "canary"))))
    assert any("system" in name for name in read_facts(path).pickle_globals)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "compress",
    [bytes, zlib.compress, gzip.compress, bz2.compress, lzma.compress, "alone", "lz4"],
)
def test_joblib_arrays_are_stepped_over(files, tmp_path, compress):
    """What a pickle does behind an array is listed too, compressed by whatever joblib knows."""
    evil = pickle.dumps(Evil(tmp_path / "canary"), 2)[2:-1] + b"0"
    arrays = (np.ones((300, 4), np.float32), np.arange(7), np.array(["ab", "c"]))
    data = files.joblib_bytes(*arrays, after=evil)
    if compress == "alone":
        data = lzma.compress(data, lzma.FORMAT_ALONE)
    else:
        data = files.lz4_frame(data) if compress == "lz4" else compress(data)
    path = tmp_path / "a.joblib"
    path.write_bytes(data)
    facts = read_facts(path)
    assert facts.tensor_bytes == {"F32": 4800, "I64": 56}
    assert facts.parameter_count == 1207
    assert facts.pickle_globals[-1].endswith(".system")
    assert len(facts.problems) == 1
    assert not (tmp_path / "canary").exists()


def test_joblib_files_are_read_as_joblib_writes_them(tmp_path):
    """Arrays, one of objects among them, and what follows, in every compression of joblib."""
    joblib = pytest.importorskip("joblib", reason="joblib itself is not installed")
    value = {
        "a": np.ones((30, 4), np.float32),
        "o": np.array(["x", Evil(tmp_path / "canary")], dtype=object),
        "b": [np.arange(5)],
        "end": collections.Counter(),
    }
    for method in (0, "zlib", "gzip", "bz2", "lzma", "xz"):
        path = tmp_path / "a.joblib"
        joblib.dump(value, path, compress=(method, 3) if method else 0)
        facts = read_facts(path)
        assert facts.tensor_bytes == {"F32": 480, "I64": 40}, method
        assert facts.pickle_globals[-1] == "collections.Counter"
        assert any(name.endswith(".system") for name in facts.pickle_globals)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"numpy_array_alignment_bytes", b"Numpy_array_alignment_bytes"),
        (b"f4", b"z4"),
    ],
)
def test_an_array_that_cannot_be_stepped_over_is_a_problem(files, tmp_path, old, new):
    """Where what follows is not certain, the file is never passed."""
    path = tmp_path / "a.joblib"
    data = files.joblib_bytes(np.ones(3, np.float32), after=b"cos\nsystem\n0")
    at = data.index(old)
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    facts = read_facts(path)
    assert facts.problems
    assert "system" in facts.problems[0] or "unlisted" in facts.problems[0]


def test_opcodes_cannot_hide_as_an_array(files, tmp_path):
    """To ``pickle`` an array's bytes are opcodes: such a file is called unlisted."""
    data = files.joblib_bytes(np.ones(64, np.float32))
    at = data.index(b"b", data.index(b"\x10u")) + 1
    program = b"cos\nsystem\n(S'true'\ntR0"
    path = tmp_path / "a.pkl"
    path.write_bytes(data[:at] + program + data[at + len(program) :])
    facts = read_facts(path)
    assert "unlisted" in facts.problems[0]


def test_a_script_says_so(files, tmp_path):
    """TorchScript's own classes are expected in it, and its code is mentioned, not run."""
    facts = read_facts(files.script_file(tmp_path / "a.pt"))
    assert facts.architecture == "TorchScript"
    assert "__torch__.torch.nn.modules.linear.Linear" in facts.pickle_globals
    assert not facts.problems
    assert "never run" in facts.notes[-1]


def test_storages_of_two_pickles_are_counted_apart(files, tmp_path):
    """Constants and data of a script both begin at storage 0."""
    path = zip_of(
        tmp_path / "a.pt",
        [
            ("n/data.pkl", files.torch_pickle(12)),
            ("n/constants.pkl", files.torch_pickle(8)),
            ("n/data/0", bytes(48)),
            ("n/constants/0", bytes(32)),
        ],
    )
    assert read_facts(path).parameter_count == 20


def test_a_storage_of_another_size_is_a_problem(files, tmp_path):
    """The member that holds a storage must have the bytes that the pickle says."""
    members = [("n/data.pkl", files.torch_pickle(12)), ("n/data/0", bytes(40))]
    facts = read_facts(zip_of(tmp_path / "a.pt", members))
    assert facts.problems == ("storage '0' has 40 bytes; 48 are needed",)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_bombs(files, tmp_path, compress):
    """A small file that would unpack to 50 MB is refused, without memory for it."""
    path = tmp_path / "a.joblib"
    path.write_bytes(compress(b"\x80\x04B\0\0\0\x03" + bytes(50 << 20)))

    def read():
        with pytest.raises(ModelFileError, match="zip bomb"):
            read_facts(path)

    assert files.peak_memory(read, 12 << 20)[1] < 12 << 20


def test_an_lzma_stream_may_not_ask_for_gigabytes(tmp_path):
    """A dictionary of 2 GiB, stated in 13 bytes, is refused before it is allocated."""
    path = tmp_path / "a.joblib"
    path.write_bytes(b"\x5d" + (2**31).to_bytes(4, "little") + b"\xff" * 8 + bytes(64))
    with pytest.raises(ModelFileError):
        read_facts(path)
    path.write_bytes(b"\x5d\x00\x00\x00\x80" + b"\xff" * 8 + bytes(64))
    with pytest.raises(ModelFileError, match="limit"):
        read_facts(path)


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (b"\x0f\x01\x00\xff", "ends too early"),
        (b"\x00\x05\x00\x00", "points outside"),
        (b"\x10a\x00\x00\x00", "points outside"),
        (b"\x1fa\x01\x00" + b"\xff" * 30_000 + b"\x00\x00", "points outside|zip bomb"),
        (b"\xf0\xff", "ends too early"),
    ],
)
def test_damaged_lz4_blocks(tmp_path, block, word):
    """Matches outside what was unpacked, and blocks that end too early, are refused."""
    head = b"\x04\x22\x4d\x18\x60\x70\x73"
    path = tmp_path / "a.joblib"
    path.write_bytes(head + len(block).to_bytes(4, "little") + block + bytes(4))
    with pytest.raises(ModelFileError, match=word):
        read_facts(path)


def test_lz4_matches_are_unpacked():
    """Literals, matches near and far, one over itself, plain blocks and a second frame's rest."""
    blocks = [b"\x30abc\x03\x00\x50 tail", b"\x1fx\x01\x00\x05\x50-end."]
    frame = b"\x04\x22\x4d\x18\x40\x70\x00"
    frame += b"".join(len(block).to_bytes(4, "little") + block for block in blocks)
    frame += (3 | 1 << 31).to_bytes(4, "little") + b"raw" + bytes(4)
    decoder = Lz4Decoder()
    out = b""
    for byte in frame + b"REST":
        out += decoder.decompress(bytes([byte]), 7)
        while not decoder.needs_input and not decoder.eof:
            out += decoder.decompress(b"", 7)
        if decoder.eof:
            break
    assert out == b"abcabca tail" + b"x" * 25 + b"-end." + b"raw"


def test_reading_imports_nothing(files, tmp_path):
    """In a fresh interpreter no module that a pickle names, nor torch, is imported."""
    path = files.torch_file(
        tmp_path / "model.pt", pickle_bytes=b"\x80\x02cantigravity\nx\ncthis\ns\n\x86."
    )
    code = (
        "import sys; from pathlib import Path; from ravenxterm_lab.readers import read_facts;"
        "f = read_facts(Path(sys.argv[1])); print(f.pickle_globals);"
        "print([m for m in ('this', 'antigravity', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["('antigravity.x', 'this.s')", "[]"]


def test_training_leftovers_are_no_models(files, tmp_path):
    """An optimizer's state beside a model is not a model."""
    assert read_facts(files.torch_file(tmp_path / "optimizer.pt")).kind == "other"


def zip_of(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([("a/data.pkl", b"\x80\x02N."), ("a/data/0", bytes(50 << 20))], "zip bomb"),
        ([("a/data.pkl", b"\x80\x02" + b"N0" * (8 << 20) + b".")], "zip bomb"),
        ([("a/data/0", b"x")], "without a pickle"),
        ([("a/data.pkl", b"\x80\x02N."), ("../../evil", b"x")], "leaves the archive"),
        ([("a/data.pkl", b"\x80\x02N."), ("/evil", b"x")], "leaves the archive"),
        ([(f"{n}.pkl", b"\x80\x02N.") for n in range(limits.PICKLE_MEMBERS + 1)], "pickles"),
    ],
)
def test_hostile_archives(tmp_path, members, word):
    """Zip bombs, paths that leave the archive and floods of pickles are refused."""
    with pytest.raises(ModelFileError, match=word):
        read_facts(zip_of(tmp_path / "a.pt", members))


def test_overlapping_members_are_a_bomb(tmp_path):
    """Members that share one stretch of data (a quine bomb) are refused."""
    path = zip_of(
        tmp_path / "a.pt",
        [("a/data.pkl", b"\x80\x02N."), ("x", os.urandom(3000))],
        zipfile.ZIP_STORED,
    )
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    entry = data[start : data.rindex(b"PK\x05\x06")]
    end = bytearray(data[data.rindex(b"PK\x05\x06") :])
    copies = 10
    for offset in (8, 10):
        end[offset : offset + 2] = (2 + copies).to_bytes(2, "little")
    directory = int.from_bytes(end[12:16], "little") + copies * len(entry)
    end[12:16] = directory.to_bytes(4, "little")
    path.write_bytes(data[: data.rindex(b"PK\x05\x06")] + bytes(entry) * copies + end)
    with pytest.raises(ModelFileError, match=r"overlap|damaged"):
        read_facts(path)


@pytest.mark.parametrize("pack", [bytes, zlib.compress])
@pytest.mark.parametrize("body", [b"N0" * (4 << 20), b"N" * (limits.PICKLE_STACK + 10)])
def test_a_pickle_over_a_cap_is_never_passed(tmp_path, pack, body):
    """Opcodes without end, and a stack without end, are listed to the cap and no further."""
    path = tmp_path / "a.joblib"
    path.write_bytes(pack(b"\x80\x04" + body))
    facts = read_facts(path)
    assert "unlisted" in facts.problems[0]
    assert "has more than" in facts.notes[0] or "keeps more than" in facts.notes[0]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
        b"\x80\x02X\xff\xff\xff\x7fx.",
        b"\x80\x02R.",
        b"\x80\x02t.",
        b"\x80\x02u.",
        b"\x80\x020.",
        b"\x80\x02\x94.",
        b"\x80\x02c" + b"a" * 10_000,
        b"\x80\x02\xfe.",
    ],
)
def test_damaged_pickles(tmp_path, data):
    """Lengths past the end, an empty stack and endless pushes are refused."""
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(ModelFileError):
        read_facts(path)


def test_a_damaged_pickle_in_an_archive_is_never_passed(files, tmp_path):
    """What cannot be listed to its end makes the file unusable, and says so."""
    facts = read_facts(
        files.torch_file(tmp_path / "a.pt", pickle_bytes=b"\x80\x02ccollections\nOrderedDict\n\xfe")
    )
    assert facts.problems
    assert "unlisted" in facts.pickle_globals[-1]


@pytest.mark.parametrize(
    "body",
    [
        b"]\x94h\x00a",
        b"}\x94\x8c\x01ah\x00s",
        b")\x94" + b"h\x00\x85\x94" * 3 + b"h\x01h\x01\x86",
        b"N" + b"\x85" * 200_000,
        b"N" + b"\x85\x94" * 100_000,
        b"(" * 100_000,
        b"(" * 100_000 + b"N" + b"t" * 100_000,
    ],
)
def test_pickles_that_hold_themselves_or_nest_without_end(tmp_path, body):
    """Nothing is built, so that nothing can be walked without an end."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04" + body + b"cos\nsystem\n.")
    facts = read_facts(path)
    assert facts.pickle_globals == ("os.system",)
    assert facts.problems
