"""Each store in its real layout, filled with real model files.

The hub cache and the installed distributions are compared with what their own libraries make and
read, in the tests of each; Ollama, LM Studio and llama.cpp have no Python library, and their
layouts follow their sources (named in the modules of the sources).
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huggingface_hub.file_download import repo_folder_name

from ravenxterm_lab.discovery import (
    DirectorySource,
    HuggingFaceSource,
    LlamaCppSource,
    LMStudioSource,
    OllamaSource,
    PackagesSource,
    Source,
)
from ravenxterm_lab.discovery.plugins import plugin_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

REVISION = "0123456789abcdef0123456789abcdef01234567"
OLDER = "f" * 40
#: Large enough to be taken for a model in a Python package too.
LAYERS = 6


def directory(files: ModuleType, root: Path, **options: Any) -> Path:
    """Write ``small.gguf`` into a directory of its own."""
    root.mkdir(parents=True, exist_ok=True)
    return files.gguf_file(root / "small.gguf", **options)


def add_blob(blobs: Path, content: bytes, prefix: str = "") -> Path:
    """Write a blob that is named by its SHA-256."""
    blobs.mkdir(parents=True, exist_ok=True)
    blob = blobs / f"{prefix}{hashlib.sha256(content).hexdigest()}"
    blob.write_bytes(content)
    return blob


def hub(
    files: ModuleType,
    root: Path,
    repo: str = "org/small",
    revision: str = REVISION,
    main: bool = True,
    name: str = "small.gguf",
    links: bool = True,
    content: bytes | None = None,
    **options: Any,
) -> Path:
    """Lay out one file of one revision as the hub's client does; return its place there."""
    repository = root / repo_folder_name(repo_id=repo, repo_type="model")
    pointer = repository / "snapshots" / revision / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    blobs = repository / "blobs"
    blobs.mkdir(exist_ok=True)
    if main:
        ref = repository / "refs" / "main"
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(revision)
    if content is None:
        made = files.gguf_file(repository / "new.gguf", **options)
        content = made.read_bytes()
        made.unlink()
    if not links:  # as on Windows: the file itself is moved into the snapshot
        pointer.write_bytes(content)
        return pointer
    blob = add_blob(blobs, content)
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return pointer


def ollama(
    files: ModuleType,
    root: Path,
    tag: str = "small/latest",
    parts: Sequence[tuple[str, bytes]] = (),
    namespace: str = "library",
    host: str = "registry.ollama.ai",
    content: bytes | None = None,
    **options: Any,
) -> Path:
    """Lay out one tag as Ollama does: a manifest that names blobs by digest."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)

    def add(media: str, raw: bytes) -> dict[str, Any]:
        blob = add_blob(blobs, raw, "sha256-")
        return {"mediaType": media, "digest": blob.name.replace("-", ":"), "size": len(raw)}

    if content is None:
        made = files.gguf_file(root / "new.gguf", **options)
        content = made.read_bytes()
        made.unlink()
    kind = "application/vnd.ollama.image."
    listed = [add(f"{kind}model", content), *(add(f"{kind}{one}", raw) for one, raw in parts)]
    settings = {
        "model_format": "gguf",
        "model_family": "llama",
        "file_type": "Q4_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in listed]},
    }
    media = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": add(media, json.dumps(settings).encode()),
        "layers": listed,
    }
    path = root / "manifests" / host / namespace / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return blobs / listed[0]["digest"].replace(":", "-")


def llama_cpp(
    files: ModuleType, root: Path, repo: str = "org/small", name: str = "small.gguf", **options: Any
) -> Path:
    """Lay out one file as llama.cpp did before it used the hub's layout."""
    root.mkdir(parents=True, exist_ok=True)
    owner, _, repository = repo.partition("/")
    path = files.gguf_file(root / f"{owner}_{repository}_{name}", **options)
    path.with_name(path.name + ".etag").write_text('"0123"')
    manifest = {"ggufFile": {"rfilename": name}}
    (root / f"manifest={owner}={repository}=latest.json").write_text(json.dumps(manifest))
    return path


def distribution(
    site: Path,
    name: str,
    contents: Mapping[str, bytes],
    *,
    more: Mapping[str, int] | None = None,
    entry_points: str = "",
) -> Path:
    """Install a distribution: its files and a ``dist-info``; return the latter.

    ``more`` lists files that are not written here, with the size that ``RECORD`` states.
    """
    for path, raw in contents.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    own = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "INSTALLER": "pip\n"}
    if entry_points:
        own["entry_points.txt"] = entry_points
    for path, text in own.items():
        (info / path).write_text(text)
    rows: list[tuple[str, str, int | str]] = []
    for path, raw in (contents | {f"{info.name}/{k}": v.encode() for k, v in own.items()}).items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()
        rows.append((path, f"sha256={digest}", len(raw)))
    rows.extend((path, "", size) for path, size in (more or {}).items())
    rows.append((f"{info.name}/RECORD", "", ""))
    with (info / "RECORD").open("w", newline="", errors="surrogateescape") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return info


def package(files: ModuleType, site: Path, name: str = "tiny-detector", **options: Any) -> Path:
    """Install a distribution that brings a model along."""
    site.mkdir(parents=True, exist_ok=True)
    made = files.gguf_file(site / "new.gguf", **options)
    module = name.replace("-", "_")
    inside = f"{module}/models/small.gguf"
    distribution(
        site, name, {f"{module}/__init__.py": b"raise SystemExit", inside: made.read_bytes()}
    )
    made.unlink()
    return site / inside


_PLUGIN = """
import pathlib
from ravenxterm_lab.discovery import DirectorySource

class AcmeSource(DirectorySource):
    name = "acme"

    def __init__(self, environment):
        super().__init__(pathlib.Path(environment["ACME_MODELS"]), optional=True)
"""


def plugin(site: Path, code: str = _PLUGIN, name: str = "acme-models", point: str = "acme") -> str:
    """Install a distribution that brings a source along; return the name of its module."""
    # A module that was imported stays; another test's has another name.
    module = f"acme_{hashlib.sha256(os.fsencode(site)).hexdigest()[:12]}_{point}"
    text = f"[ravenxterm_lab.sources]\n{point} = {module}:AcmeSource\n"
    distribution(site, name, {f"{module}.py": code.encode()}, entry_points=text)
    return module


@dataclass(frozen=True)
class Store:
    """One source and how to fill its store below a home.

    ``place`` is where it lies, ``lay`` writes one model and returns its file, ``plant`` calls a
    function with the path where such a file would lie after all around it is written.
    """

    name: str
    place: str
    make: Callable[[Path], Source]
    lay: Callable[..., Path]
    plant: Callable[[Path, str, Callable[[Path], object]], Path]
    model: str = "small"
    label: str | None = None


def _planted(path: Path, write: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path


def _plant_hub(root: Path, name: str, write: Callable[[Path], object]) -> Path:
    repository = root / "models--org--odd"
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(REVISION)
    return _planted(repository / "snapshots" / REVISION / name, write)


def _plant_ollama(root: Path, name: str, write: Callable[[Path], object]) -> Path:
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / "odd" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return _planted(root / "blobs" / f"sha256-{digest}", write)


def _plant_package(site: Path, name: str, write: Callable[[Path], object]) -> Path:
    number = len(list(site.glob("*.dist-info"))) if site.is_dir() else 0
    site.mkdir(parents=True, exist_ok=True)
    distribution(site, f"odd{number}", {}, more={f"odd{number}/{name}": 100_000})
    return _planted(site / f"odd{number}" / name, write)


def _plain(root: Path, name: str, write: Callable[[Path], object]) -> Path:
    return _planted(root / "odd" / name, write)


STORES = {
    one.name: one
    for one in (
        Store(
            "directory",
            "models",
            lambda home: DirectorySource(home / "models", optional=True),
            directory,
            _plain,
        ),
        Store(
            "huggingface",
            ".cache/huggingface/hub",
            lambda home: HuggingFaceSource({"HOME": str(home)}),
            hub,
            _plant_hub,
        ),
        Store(
            "huggingface without links",
            "cache/hub",
            lambda home: HuggingFaceSource({"HF_HOME": str(home / "cache")}),
            lambda files, root, **options: hub(files, root, links=False, **options),
            _plant_hub,
            label="huggingface",
        ),
        Store(
            "ollama",
            "ollama",
            lambda home: OllamaSource({"OLLAMA_MODELS": str(home / "ollama")}),
            ollama,
            _plant_ollama,
            model="small:latest",
        ),
        Store(
            "lm_studio",
            ".lmstudio/models",
            lambda home: LMStudioSource({"HOME": str(home)}),
            lambda files, root, **options: directory(files, root / "org" / "repo", **options),
            lambda root, name, write: _planted(root / "org" / "odd" / name, write),
        ),
        Store(
            "llama_cpp",
            "cache/llama.cpp",
            lambda home: LlamaCppSource({"LLAMA_CACHE": str(home / "cache" / "llama.cpp")}),
            llama_cpp,
            _plain,
            model="org_small_small",
        ),
        Store(
            "llama_cpp as a hub cache",
            "cache/llama.cpp",
            lambda home: LlamaCppSource({"LLAMA_CACHE": str(home / "cache" / "llama.cpp")}),
            hub,
            _plant_hub,
            label="llama_cpp",
        ),
        Store(
            "packages",
            "lib/site-packages",
            lambda home: PackagesSource([str(home / "lib" / "site-packages")]),
            package,
            _plant_package,
            model="tiny-detector/small",
        ),
        Store(
            "acme",
            "acme",
            lambda home: _acme({"ACME_MODELS": str(home / "acme")}),
            directory,
            _plain,
        ),
    )
}


def _acme(environment: Mapping[str, str]) -> Source:
    # Only the entry point of the tests' own distribution is on the path besides real ones.
    (source,) = (one for one in plugin_sources(environment) if one.roots())
    return source


@contextlib.contextmanager
def importable(site: Path) -> Iterator[None]:
    """Put a directory of installed distributions on ``sys.path`` for a while."""
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        importlib.invalidate_caches()


@contextlib.contextmanager
def nobody(root: Path) -> Iterator[None]:
    """Be a user who may not read everything, if this is the one who may."""
    user = os.geteuid()
    if user != 0:
        yield
        return
    modes = {one: one.stat().st_mode for one in (root, *root.parents) if one.stat().st_uid == 0}
    for one, mode in modes.items():
        one.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for one, mode in modes.items():
            one.chmod(mode)
