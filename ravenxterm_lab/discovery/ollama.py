"""The Ollama store: a manifest for each tag, its layers as blobs named by their digest."""

from __future__ import annotations

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
from ravenxterm_lab.discovery.places import home
from ravenxterm_lab.discovery.walk import Folder, walk
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.text import clean, read_json, read_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["OllamaSource"]

_DIGEST = re.compile(r"^sha256[:-]([0-9a-f]{64})$")
_KIND = "application/vnd.ollama.image."
_COMPANION_LAYERS = ("projector", "adapter", "template", "params", "system")


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
        stated = self._environment.get("OLLAMA_MODELS")
        if stated:
            return (Path(stated).expanduser(),)
        own = home(self._environment) / ".ollama" / "models"
        service = Path("/usr/share/ollama/.ollama/models")
        return (own, service) if sys.platform == "linux" else (own,)

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield the model of every manifest."""
        cache = ScanCache() if cache is None else cache
        for root in self.roots():
            manifests = root / "manifests"
            try:
                present = manifests.is_dir()
            except OSError as error:
                yield Skipped(root, f"cannot be looked at: {error.strerror}.", self.name)
                continue
            if not present:
                continue
            for folder in walk(manifests, self.name):
                yield from folder.skipped
                for name in folder.files:
                    yield self._manifest(root, folder.path / name, progress, cache)

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        """Return the store's name: its tags are unique already."""
        return (self.name,) if model.source == self.name else ()

    def _manifest(
        self,
        root: Path,
        path: Path,
        progress: Callable[[Path], None] | None,
        cache: ScanCache,
    ) -> ModelMetadata | Skipped:
        try:
            layers = _layers(read_json(path, limits.CONFIG_BYTES))
        except ModelFileError as error:
            return Skipped(path, clean(str(error), 400), self.name)
        if isinstance(layers, str):
            return Skipped(path, layers, self.name)
        blobs = root / "blobs"
        weights = [(digest, size) for kind, digest, size in layers if kind == "model"]
        if len(weights) != 1:
            reason = f"a manifest with {len(weights)} layers of weights; one GGUF file is expected"
            return Skipped(path, reason, self.name)
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
        read = read_group(Group((blob,)), Folder(blobs, _beside(status, blob)), cache)
        if read is None or isinstance(read, str):
            return Skipped(blob, read or "of no known format", self.name)
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
            if kind in ("projector", "adapter") and not is_file(blobs / f"sha256-{other}")
        )
        return build_model(
            facts,
            name=_tag(path.relative_to(root / "manifests")),
            paths=(blob,),
            mark=mark,
            source=self.name,
            companions=companions,
            problems=problems + more + absent,
        )


def _beside(status: os.stat_result, blob: Path) -> dict[str, os.stat_result]:
    return {blob.name: status}


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
        found.append((label, match[1], size if type(size) is int else None))
    return found


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
