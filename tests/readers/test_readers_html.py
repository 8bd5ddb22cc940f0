"""Whatever a model calls itself, no text of it reaches the notebook as HTML."""

from __future__ import annotations

import json
from contextlib import suppress
from html.parser import HTMLParser

import pytest
from stores import importable, plugin

from ravenxterm_lab.discovery import DirectorySource
from ravenxterm_lab.discovery.plugins import plugin_sources
from ravenxterm_lab.exceptions import UnknownModelError
from ravenxterm_lab.models import ModelManager, ModelRegistry, Workbench

IMAGE = "<img src=x onerror=alert(1)>"
EVIL = f"a\n{IMAGE}\r\n<script>alert(2)</script>\x1b[31m'\"&\u2028"


class Tags(HTMLParser):
    """Collects the elements of a page, and the attributes that would run something."""

    def __init__(self, page):
        super().__init__()
        self.tags = set()
        self.running = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.running += [name for name, _ in attrs if name.startswith("on")]


#: A source of another package, which checks nothing.
SOURCE = f"""
import os, pathlib
from ravenxterm_lab.discovery import Source
from ravenxterm_lab.metadata import ModelMetadata, ModelType
EVIL = {EVIL!r}

class AcmeSource(Source):
    name = EVIL

    def __init__(self, environment):
        self.path = pathlib.Path(environment["ACME_MODELS"])

    def roots(self):
        return (self.path.parent,)

    def discover(self, progress=None, cache=None):
        yield ModelMetadata(
            EVIL, ModelType.GGUF, self.path, self.path.stat().st_size, quantization=EVIL,
            architecture=EVIL, task_types=(EVIL,), license=EVIL, source=EVIL, notes=(EVIL,),
            problems=(EVIL,),
        )
"""


@pytest.fixture
def registry(files, tmp_path, home):
    """Models whose files, and all that these say, are called so; some broken, some twice."""
    place = tmp_path / "models" / EVIL.replace("/", "")
    place.mkdir(parents=True)
    name = f"{IMAGE}\n"
    stated = {
        "general.name": EVIL, "general.license": EVIL, "general.file_type": 2,
        "general.architecture": EVIL,
    }  # fmt: skip
    files.gguf_file(place / f"{name}.gguf", general=stated)
    (place / f"{name} copy.gguf").write_bytes((place / f"{name}.gguf").read_bytes())
    files.onnx_file(place / f"{name}.onnx")
    (place / f"{name} broken.gguf").write_bytes(b"GGUF\3\0\0\0")
    (place / f"{name}.part").write_bytes(b"half of it")
    graph = place / f"{name} graph"
    graph.mkdir()
    tensors = {"__metadata__": {"format": EVIL}}
    tensors["w"] = {"dtype": EVIL, "shape": [2], "data_offsets": [0, 8]}
    raw = json.dumps(tensors).encode()
    (graph / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    card = EVIL.replace("\n", "").replace("\r", "")
    config = {"model_type": EVIL, "architectures": [EVIL]}
    files.write_config(graph, config, card=f"---\nlicense: {card}\npipeline_tag: {card}\n---\n")
    (tmp_path / "other").mkdir()
    other = files.gguf_file(tmp_path / "other" / "x.gguf", seed=3)
    bench = Workbench(home)
    made = ModelRegistry(tmp_path / "models", workbench=bench)
    plugin(tmp_path / "site", SOURCE)
    with importable(tmp_path / "site"):
        sources = plugin_sources({"ACME_MODELS": str(other)})
        made._sources = [DirectorySource(tmp_path / "models"), *sources]
        made.scan()
        yield made
    bench.store.close()


def harmless(shown):
    """Check what a notebook and a terminal are given, and return the page."""
    bundle = shown._repr_mimebundle_()
    page = bundle["text/html"]
    tags = Tags(page)
    assert not tags.tags & {"img", "script"}
    assert tags.running == []
    for text in (page, bundle["text/plain"], str(shown)):
        assert all(char.isprintable() or char == "\n" for char in text)
    return page


def test_the_registry_and_its_report(registry):
    """Names, formats, architectures, licenses, tasks, sources, and the reasons for what is not."""
    assert len(registry) == 4
    assert len(registry.last_scan.skipped) >= 2
    assert "&lt;img" in harmless(registry)
    assert "&lt;img" in harmless(registry.last_scan)
    for model in registry.available_models.values():
        assert model.describe().isprintable()
        assert "\n" not in "".join((model.name, *model.notes, *model.problems))


def test_the_space_and_the_trash(registry):
    """What models take, their copies and leftovers, and what was moved away."""
    space = registry.space()
    assert "&lt;img" in harmless(space)
    name = next(name for name in registry.available_models if ".gguf" in name or "img" in name)
    moved = registry.trash(name)
    assert "&lt;img" in harmless(moved)
    assert "&lt;img" in harmless(registry.trashed())


def test_the_messages(registry):
    """A message may quote any name."""
    registry.messages.add("warning", EVIL, EVIL)
    assert "&lt;img" in harmless(registry.messages)
    with pytest.raises(UnknownModelError, match="No model") as caught:
        registry.get(EVIL)
    assert str(caught.value).isprintable()


def test_estimates_and_choices(registry, home):
    """What is said of one model, and why it was chosen or not."""
    manager = ModelManager(home / "nothing", workbench=registry._bench)
    manager.registry._sources = registry._sources
    manager.scan()
    harmless(manager.selector.get_recommended_models(manager.registry.available_models))
    for name in manager.registry.available_models:
        harmless(manager.estimate(name))
        with suppress(UnknownModelError):  # of a model that nothing here can run
            harmless(manager.why_not(name))
