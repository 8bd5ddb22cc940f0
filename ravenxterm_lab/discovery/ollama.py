"""The Ollama store: a manifest for each tag, its layers as blobs named by their digest.

A manifest lies at ``manifests/<host>/<namespace>/<model>/<tag>``; a layer is
``blobs/sha256-<digest>``, and ``blobs/sha256-<digest>-partial`` while it is pulled, with one
``-partial-<number>`` that says how far each part is (``manifest/`` and ``server/download.go`` in
Ollama's source).
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ravenxterm_lab.discovery.assemble import build_model, read_group
from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.cache import ScanCache
from ravenxterm_lab.discovery.grouping import Group
from ravenxterm_lab.discovery.naming import printable
from ravenxterm_lab.discovery.places import expanded, home, is_there
from ravenxterm_lab.discovery.walk import Folder, walk
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.text import clean, read_json, read_text
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["OllamaSource"]

_DIGEST = re.compile(r"^sha256[:-]([0-9a-fA-F]{64})$")
_BLOB = re.compile(r"^sha256-(?P<digest>[0-9a-fA-F]{64})(?:-partial(?P<part>-\d+)?)?$")
_NAME = re.compile(r"^\w[\w.:-]*$", re.ASCII)
_KIND = "application/vnd.ollama.image."
_COMPANION_LAYERS = ("projector", "adapter", "draft", "template", "params", "system", "messages")
_NEEDED_LAYERS = ("projector", "adapter", "draft")
_NO_FORMAT = "is empty or of no known format, where a GGUF file is expected. Pull it again."
_PART_BYTES = 4096
#: A pull has 16 parts or a few more; one that claims a million costs no more than this.
_PARTS = 1024


class OllamaSource(Source):
    """An Ollama store.

    Parameters
    ----------
    environment : mapping of str to str
        Such as ``os.environ``; ``OLLAMA_MODELS`` counts.
    root : Path, optional
        The store itself; overrides the environment.
    """

    name: ClassVar[str] = "ollama"

    def __init__(self, environment: Mapping[str, str], root: Path | None = None) -> None:
        self._environment = environment
        self._given = root

    def roots(self) -> tuple[Path, ...]:
        """Return the store's directory, and on Linux that of the system service too."""
        if self._given is not None:
            return (self._given,)
        # Ollama itself takes quotes and spaces off, which a line of a service file may leave.
        stated = self._environment.get("OLLAMA_MODELS", "").strip().strip("\"'")
        if stated:
            return (expanded(stated, self._environment),)
        own = home(self._environment) / ".ollama" / "models"
        service = Path("/usr/share/ollama/.ollama/models")
        return (own, service) if sys.platform == "linux" else (own,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the model of every manifest, and the blobs that belong to none."""
        cache = ScanCache() if cache is None else cache
        for root in self.roots():
            manifests = root / "manifests"
            there = is_there(manifests)
            if there is not True:
                if there:
                    yield Skipped(manifests, there, self.name)
                continue
            named: set[str] = set()
            whole = True
            for folder in walk(manifests, self.name, cache):
                yield from folder.skipped
                for name in sorted(folder.broken):
                    reason = "a link to a manifest that does not exist. Pull the model again."
                    yield Skipped(folder.path / name, reason, self.name)
                whole = whole and not (folder.skipped or folder.broken)
                for name in folder.files:
                    if not name.startswith("."):
                        found = self._manifest(root, folder.path / name, named, progress, cache)
                        whole = whole and isinstance(found, ModelMetadata)
                        yield found
            yield from self._others(root / "blobs", named if whole else None)

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        """Return the store's name: its tags are unique already."""
        return (self.name,) if model.source == self.name else ()

    def _manifest(
        self,
        root: Path,
        path: Path,
        named: set[str],
        progress: Callable[[Path], None] | None,
        cache: ScanCache,
    ) -> ModelMetadata | Skipped:
        parts = path.relative_to(root / "manifests").parts
        if len(parts) != 4 or not all(_NAME.match(part) for part in parts):
            reason = "not at host/namespace/model/tag, where alone Ollama looks for a manifest"
            return Skipped(path, reason, self.name)
        try:
            layers = _layers(read_json(path, limits.CONFIG_BYTES))
        except ModelFileError as error:
            return Skipped(path, clean(str(error), 400), self.name)
        if isinstance(layers, str):
            return Skipped(path, layers, self.name)
        named.update(digest for _, digest, _ in layers)
        blobs = root / "blobs"
        weights = [(digest, size) for kind, digest, size in layers if kind == "model"]
        if len(weights) != 1:
            return Skipped(path, _unusual(layers, len(weights)), self.name)
        digest, size = weights[0]
        blob = blobs / f"sha256-{digest}"
        try:
            status = blob.stat()
        except OSError as error:
            reason = (
                f"its blob sha256-{digest[:12]}… cannot be read: {error.strerror}. Pull it again."
            )
            return Skipped(path, reason, self.name)
        if progress is not None:
            progress(blob)
        problems: tuple[str, ...] = ()
        if size is not None and size != status.st_size:
            problems = (f"its blob has {status.st_size} bytes; the manifest says {size}",)
        read = read_group(Group((blob,)), Folder(blobs, {blob.name: status}), cache)
        if read is None or isinstance(read, str):
            return Skipped(blob, read or _NO_FORMAT, self.name)
        facts, mark, more = read
        if facts.license is None:
            facts = replace(facts, license=_license(layers, blobs))
        companions = tuple(
            blobs / f"sha256-{other}"
            for kind, other, _ in layers
            if kind in _COMPANION_LAYERS and is_file(blobs / f"sha256-{other}")
        )
        absent = tuple(
            f"missing {kind} blob sha256-{other[:12]}…"
            for kind, other, _ in layers
            if kind in _NEEDED_LAYERS and not is_file(blobs / f"sha256-{other}")
        )
        return build_model(
            facts,
            name=_tag(Path(*parts)),
            paths=(blob,),
            mark=_adapted(mark, layers),
            source=self.name,
            companions=companions,
            projector_bytes=max(
                (size or 0 for kind, _, size in layers if kind == "projector"), default=0
            ),
            problems=problems + more + absent,
        )

    def _others(self, blobs: Path, named: set[str] | None) -> Iterator[Skipped]:
        """Yield what is being pulled, and what no manifest names if all of them could be read."""
        pulled: list[str] = []
        parts: dict[str, list[str]] = {}
        left: list[str] = []
        try:
            with os.scandir(blobs) as entries:
                for entry in entries:
                    match = _BLOB.match(entry.name)
                    if match is None:
                        continue
                    if match["part"]:
                        parts.setdefault(match["digest"], []).append(entry.name)
                    elif entry.name.endswith("-partial"):
                        pulled.append(entry.name)
                    elif named is not None and match["digest"].lower() not in named:
                        left.append(entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            reason = f"cannot be listed: {error.strerror}. Check its permissions."
            yield Skipped(blobs, reason, self.name)
            return
        for name in sorted(pulled):
            some = sorted(parts.get(name.removeprefix("sha256-").removesuffix("-partial"), ()))
            yield Skipped(blobs / name, _so_far(blobs, name, some), self.name)
        if left:
            yield Skipped(blobs, _left_over(blobs, left), self.name)


def _layers(manifest: dict[str, Any]) -> list[tuple[str, str, int | None]] | str:
    """Return kind, digest and size of each layer, or why the manifest cannot be used."""
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        return "not an Ollama manifest: it has no layers"
    found = []
    for layer in layers[:4096]:
        if not isinstance(layer, dict):
            return "not an Ollama manifest: a layer is not an object"
        digest = layer.get("digest")
        match = _DIGEST.match(digest) if isinstance(digest, str) else None
        if match is None:
            return f"has a layer with the digest {shown(digest)}; it was not followed"
        kind, size = layer.get("mediaType"), layer.get("size")
        label = kind.removeprefix(_KIND) if isinstance(kind, str) else ""
        found.append((label, match[1].lower(), size if type(size) is int else None))
    settings = manifest.get("config")
    own = settings.get("digest") if isinstance(settings, dict) else None
    match = _DIGEST.match(own) if isinstance(own, str) else None
    if match is not None:
        found.append(("config", match[1].lower(), None))
    return found


def _adapted(mark: str, layers: list[tuple[str, str, int | None]]) -> str:
    """Return the fingerprint of the weights together with the adapters that change them."""
    adapters = [digest for kind, digest, _ in layers if kind == "adapter"]
    if not adapters:
        return mark
    return hashlib.sha256(":".join([mark, *adapters]).encode()).hexdigest()[: len(mark)]


def _unusual(layers: list[tuple[str, str, int | None]], weights: int) -> str:
    tensors = sum(kind == "tensor" for kind, _, _ in layers)
    if not weights and tensors:
        return (
            f"its weights are {tensors} tensors, each a blob of its own, which only Ollama's own "
            "engine loads"
        )
    return f"a manifest with {weights} layers of weights; one GGUF file is expected"


def _so_far(blobs: Path, name: str, parts: list[str]) -> str:
    """Say how much of a layer was pulled: the file itself has its full length from the start."""
    done = 0
    try:
        total = (blobs / name).lstat().st_size
        for part in parts[:_PARTS]:
            completed = read_json(blobs / part, _PART_BYTES).get("Completed")
            done += completed if type(completed) is int else 0
    except (OSError, ModelFileError):
        return "a pull that is not finished; it was not read"
    if not parts or not 0 <= done <= total:
        return f"a pull that is not finished, of {format_bytes(total)}; it was not read"
    return (
        f"a pull that is not finished: {format_bytes(done)} of {format_bytes(total)} so far; "
        "it was not read"
    )


def _left_over(blobs: Path, names: list[str]) -> str:
    size = 0
    for name in names:
        try:
            size += (blobs / name).stat().st_size
        except OSError:
            continue
    what = "1 blob belongs" if len(names) == 1 else f"{len(names)} blobs belong"
    return (
        f"{what} to no model ({format_bytes(size)}): a pull that is not finished, or what an "
        "interrupted one left; Ollama removes the latter when it starts"
    )


def _license(layers: list[tuple[str, str, int | None]], blobs: Path) -> str | None:
    for kind, digest, _ in layers:
        if kind == "license":
            try:
                lines = read_text(blobs / f"sha256-{digest}", limits.CARD_BYTES).splitlines()
            except ModelFileError:
                return None
            return next((clean(line, 80) for line in lines if line.strip()), None)
    return None


def _tag(path: Path) -> str:
    """Return the name that ``ollama list`` shows.

    Examples
    --------
    >>> _tag(Path("registry.ollama.ai/library/llama3/8b"))
    'llama3:8b'
    """
    *owner, model, tag = path.parts if len(path.parts) > 1 else ("", *path.parts)
    if owner[:1] == ["registry.ollama.ai"]:
        owner = owner[1:]
    if owner == ["library"]:
        owner = []
    return printable(f"{'/'.join([*owner, model])}:{tag}")
