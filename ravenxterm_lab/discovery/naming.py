"""Names: short, printable, unique, and the same on every scan of the same files."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["base_name", "is_generic", "parent_labels", "printable", "repository", "unique_names"]

_SHARD = re.compile(r"-\d{5,6}-of-\d{5,6}$")
_GENERIC_FILE = re.compile(
    r"^(?:(?:pytorch|tf|flax|diffusion_pytorch|adapter|openvino)_)?model"
    r"(?:[._-](?:quantized|optimized|merged|o[1-4]|fp16|fp32|int8|uint8|q4|q4f16|q8|bnb4|quint8|"
    r"qint8|avx2|avx512|avx512_vnni|arm64))*$"
    r"|^(?:weights|consolidated|best|last|checkpoint)(?:\.\d+)?$",
    re.IGNORECASE,
)
_GENERIC_FOLDER = re.compile(
    r"^(?:\d{1,3}|onnx|openvino|gguf|models?|data|weights|resources|assets|checkpoints?|snapshots|"
    r"src|lib|cache|hub|[0-9a-f]{40})$",
    re.IGNORECASE,
)
_LONGEST = 160


def printable(name: str) -> str:
    r"""Return a name on one line: valid UTF-8, no control characters, at most 160 characters.

    Examples
    --------
    >>> printable("evil\nname")
    'evil_name'
    """
    if not name.isprintable():
        name = "".join(char if char.isprintable() else "_" for char in name)
    kept = name.strip()
    return kept[:_LONGEST] or "_"


@lru_cache(maxsize=4096)
def is_generic(folder: str) -> bool:
    """Say whether a directory's name says nothing about the model in it."""
    return bool(_GENERIC_FOLDER.match(folder))


def repository(path: Path) -> str | None:
    """Return the Hugging Face repository that a path in a hub cache belongs to."""
    for part in path.parts:
        if part.startswith("models--"):
            return printable(part.removeprefix("models--").replace("--", "/"))
    return None


def base_name(path: Path, root: Path) -> str:
    """Return the name that a model's file suggests, not yet unique.

    A file that is called ``model.*`` and the like is named after its repository or its
    directory; any other after itself.

    Examples
    --------
    >>> from pathlib import Path
    >>> base_name(Path("m/all-MiniLM/onnx/model.onnx"), Path("m"))
    'all-MiniLM'
    >>> base_name(Path("m/SmolLM2.Q4_1-00001-of-00002.gguf"), Path("m"))
    'SmolLM2.Q4_1'
    """
    stem = _SHARD.sub("", path.stem) or path.stem
    if not _GENERIC_FILE.match(stem):
        return printable(stem)
    return repository(path) or next(iter(_folders(path, root)), None) or printable(stem)


def parent_labels(model: ModelMetadata, roots: Sequence[Path]) -> tuple[str, ...]:
    """Return the repository, or the directories that say something, nearest first."""
    owner = repository(model.path)
    if owner:
        revision = next((part[:8] for part in model.path.parts if len(part) == 40), "")
        return (owner, revision) if revision else (owner,)
    parts = model.path.parts
    root = next((root for root in roots if parts[: len(root.parts)] == root.parts), None)
    return tuple(_folders(model.path, root or model.path.parent))


def _folders(path: Path, root: Path) -> list[str]:
    """Return the directories that say something, nearest first, up to the root's own name."""
    parts, above = path.parts, root.parts
    # The anchor is no name.
    first = len(path.anchor[:1])
    if parts[: len(above)] == above:
        first = max(first, len(above) - 1)
    return [printable(name) for name in reversed(parts[first:-1]) if not is_generic(name)]


def unique_names(
    models: Sequence[ModelMetadata], labels: Callable[[int], Sequence[str]]
) -> list[str]:
    """Return a name for each model, all different.

    Where several share one, they are told apart by directory or repository, then quantization,
    then format, then file, then the start of their fingerprint: by the first of these that
    differs, and by further ones only where that leaves two alike.

    Parameters
    ----------
    models : sequence of ModelMetadata
    labels : callable
        Returns the labels that its source has for a position in ``models``; asked only where
        names are alike.
    """
    names = [model.name for model in models]

    def label(position: int) -> str:
        base = models[position].name
        return next((one for one in labels(position) if one not in base), "")

    steps: tuple[tuple[Callable[[int], str], Callable[[str, str], str]], ...] = (
        (label, lambda name, value: f"{value}/{name}"),
        (lambda i: models[i].quantization or "", lambda name, value: f"{name}-{value}"),
        (lambda i: models[i].model_type.value, lambda name, value: f"{name}.{value}"),
        (lambda i: printable(models[i].path.stem), lambda name, value: f"{name}:{value}"),
        (lambda i: models[i].fingerprint[:8], lambda name, value: f"{name}@{value}"),
        (str, lambda name, value: f"{name}#{value}"),
    )
    for value_of, join in steps:
        if len(set(names)) == len(names):
            break
        for positions in _shared(names):
            values = [value_of(position) for position in positions]
            if len(set(values)) > 1:
                for position, value in zip(positions, values, strict=True):
                    names[position] = join(names[position], value) if value else names[position]
    return names


def _shared(names: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(name, []).append(position)
    return [positions for positions in groups.values() if len(positions) > 1]
