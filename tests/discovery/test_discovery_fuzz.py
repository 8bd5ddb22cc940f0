"""Whatever lies in a store's own files, a scan ends with models and reasons, and raises nothing."""

from __future__ import annotations

import os
import random

import pytest
import stores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import LAYERS, OLDER, REVISION, STORES

from ravenxterm_lab.discovery import (
    HuggingFaceSource,
    LMStudioSource,
    OllamaSource,
    PackagesSource,
    ScanCache,
    Skipped,
)
from ravenxterm_lab.metadata import ModelMetadata

#: What turns up where text is expected.
BITS = (
    b"", b"\0", b"\xff", b"\n", b'"', b"{", b"}", b"[" * 300, b"..", b"/", b"../../etc/passwd",
    b"sha256:", b"1e999", b"-1", b"null", b",", b".gguf", b"9" * 40, "\u202e".encode(), b"\\u0000",
)  # fmt: skip


def mutated(raw, chance):
    """Return some bytes with a few of them gone, doubled, replaced or inserted."""
    made = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(made) + 1)
        what = chance.randrange(4)
        if what == 0:
            del made[at : at + chance.randint(1, 30)]
        elif what == 1:
            made[at:at] = made[at : at + chance.randint(1, 60)]
        elif what == 2 and at < len(made):
            made[at] = chance.randrange(256)
        else:
            made[at:at] = chance.choice(BITS)
    return bytes(made)


def look(source, cache=None):
    found = list(source.discover(None, cache))
    for one in found:
        assert isinstance(one, (ModelMetadata, Skipped))
        text = one.name if isinstance(one, ModelMetadata) else one.reason
        assert text
        assert text.isprintable()
        assert len(text) <= 1000
    return found


@pytest.fixture(scope="module")
def texts(files, tmp_path_factory):
    """One store of each kind, with the file of its own that says what is in it."""
    root = tmp_path_factory.mktemp("stores")
    stores.ollama(files, root / "ollama", parts=[("template", b"x"), ("license", b"MIT")])
    manifest = root / "ollama/manifests/registry.ollama.ai/library/small/latest"
    partial = root / "ollama/blobs" / f"sha256-{'a' * 64}-partial"
    partial.write_bytes(b"GGUF")
    part = partial.with_name(f"{partial.name}-0")
    part.write_text('{"N": 0, "Offset": 0, "Size": 4, "Completed": 2}')
    stores.hub(files, root / "hub")
    stores.hub(files, root / "hub", revision=OLDER, main=False)
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    stores.hub(files, root / "hub", name="model.safetensors.index.json", content=index)
    snapshot = root / "hub/models--org--small/snapshots" / REVISION
    stores.package(files, root / "site", layers=LAYERS)
    (root / ".lmstudio").mkdir()
    (root / ".lmstudio/settings.json").write_text(f'{{"downloadsFolder": "{root}/lm"}}')
    (root / ".lmstudio-home-pointer").write_text(str(root / "lmhome"))
    stores.directory(files, root / "lm/org/repo")
    ollama, hub = OllamaSource({}, root / "ollama"), HuggingFaceSource({}, root / "hub")
    studio = LMStudioSource({"HOME": str(root)})
    return {
        "manifest": (manifest, ollama),
        "part": (part, ollama),
        "ref": (root / "hub/models--org--small/refs/main", hub),
        "index": ((snapshot / "model.safetensors.index.json").resolve(), hub),
        "record": (
            root / "site/tiny_detector-1.0.dist-info/RECORD", PackagesSource([str(root / "site")]),
        ),
        "settings": (root / ".lmstudio/settings.json", studio),
        "pointer": (root / ".lmstudio-home-pointer", studio),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["manifest", "part", "ref", "index", "record", "settings", "pointer"]
)
def test_a_mutated_text_of_a_store(texts, name):
    """Two hundred damaged versions of each: found, or skipped with a printable reason."""
    path, source = texts[name]
    moves = name in ("settings", "pointer")
    raw = path.read_bytes()
    chance = random.Random(name)
    cache = ScanCache()
    try:
        for _ in range(200):
            path.write_bytes(mutated(raw, chance))
            # A path that lost its end may name all of the disk; that is a scan of it, no fault.
            if moves and any(path.is_relative_to(root) for root in source.roots()):
                continue
            cache.begin()
            look(source, cache)
            cache.end()
    finally:
        path.write_bytes(raw)
    assert any(isinstance(one, ModelMetadata) for one in look(source))


#: Names that a directory entry may have: any bytes but a slash and NUL.
ENTRY = st.binary(min_size=1, max_size=40).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and raw not in (b".", b"..")
)


@pytest.mark.parametrize("which", [name for name in STORES if name not in ("acme", "packages")])
@given(entries=st.lists(ENTRY, min_size=1, max_size=6), kind=st.integers(0, 4))
@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_a_store_of_odd_names(which, entries, kind, tmp_path_factory):
    """Files, links, FIFOs and directories of any names, at every depth of a layout."""
    home = tmp_path_factory.mktemp("odd")
    store = STORES[which]
    raw = [
        b"models--" + entry if kind == 0 else entry + (b".gguf", b".incomplete", b"", b"-partial")[
            kind % 4
        ]
        for entry in entries
    ]  # fmt: skip
    place = home / store.place
    for depth, entry in enumerate(raw):
        name = os.fsdecode(entry)
        below = ("", "manifests", "blobs", "models--a--b/refs", f"models--a--b/snapshots/{name}")
        path = place / below[(depth + kind) % 5] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if kind == 1:
            os.mkfifo(path)
        elif kind == 2:
            path.symlink_to(os.fsdecode(raw[-1]))
        elif kind == 3:
            path.mkdir()
        else:
            path.write_bytes(b"GGUF" + entry)
    look(store.make(home))
