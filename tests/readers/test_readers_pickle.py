"""Pickles: what they would import is listed; nothing is imported, built or run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
import zlib

import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts
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


def test_a_compressed_bomb(tmp_path):
    """A zlib stream that unpacks to a thousand times its size is refused."""
    path = tmp_path / "a.joblib"
    path.write_bytes(zlib.compress(b"\x80\x04" + b"N0" * (20 << 20), 9))
    with pytest.raises(ModelFileError, match="zip bomb"):
        read_facts(path)


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
        b"\x80\x04" + b"N" * (limits.PICKLE_STACK + 10),
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
