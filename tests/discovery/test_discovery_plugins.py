"""Sources that other packages bring: used, and kept from doing harm."""

from __future__ import annotations

import sys

import pytest
from stores import directory, importable, plugin

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import Skipped, discover, sources_for
from ravenxterm_lab.discovery.plugins import plugin_sources

TOP = """
import pathlib
from ravenxterm_lab.discovery import Skipped, Source
from ravenxterm_lab.metadata import ModelMetadata, ModelType
"""
CLASS = (
    TOP
    + """
class AcmeSource(Source):
    name = "acme"

    def __init__(self, environment):
        {init}

    def roots(self):
        {roots}

    def discover(self, progress=None, cache=None):
        {discover}
"""
)


def body(init="pass", roots="return ()", discover="yield from ()"):
    return CLASS.format(init=init, roots=roots, discover=discover)


BROKEN = {
    "import": "import a_module_that_nobody_has",
    "syntax": "class",
    "exit": "raise SystemExit(3)",
    "no class": "x = 1",
    "no source": "class AcmeSource:\n    def __init__(self, environment): pass",
    "half a source": TOP + "class AcmeSource(Source):\n    name = 'a'\n",
    "init": body(init="raise OSError('no disk')"),
    "roots": body(roots="raise ValueError('bad')"),
    "no roots": body(roots="return None"),
    "discover": body(discover="yield from (); raise KeyError('gone')"),
    "nothing to iterate": body(discover="return 5").replace("yield", "return"),
    "odd things": body(discover="yield 7"),
    "no path": body(discover="yield Skipped(None, 'x')"),
    "no file": body(
        discover="yield ModelMetadata('x', ModelType.GGUF, pathlib.Path('/no/such'), 1)"
    ),
    "exit later": body(discover="yield from (); raise SystemExit"),
}


def test_a_source_of_another_package_is_used(files, tmp_path):
    """Its models are found under its entry point's name, and it is given the environment."""
    plugin(tmp_path / "site")
    path = directory(files, tmp_path / "acme")
    environment = {
        "HOME": str(tmp_path),
        "OLLAMA_MODELS": str(tmp_path),
        "ACME_MODELS": str(path.parent),
    }
    with importable(tmp_path / "site"):
        sources = sources_for(None, paths(tmp_path / "home"), environment)
        found = discover(sources)
    (model,) = (one for one in found.models.values() if one.source != "packages")
    assert (model.source, model.path, model.name) == ("acme", path, "small")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_source_is_skipped_with_its_packages_name(tmp_path, kind):
    """Whatever it raises or yields, the reason names the distribution and the rest goes on."""
    plugin(tmp_path / "site", BROKEN[kind])
    with importable(tmp_path / "site"):
        found = discover(plugin_sources({}))
    assert found.models == {}
    (skipped,) = found.skipped
    assert isinstance(skipped, Skipped)
    assert "acme-models" in skipped.reason
    assert skipped.source == "acme"
    assert skipped.reason.isprintable()


def test_one_broken_source_does_not_hide_another(files, tmp_path):
    """Two distributions, one of which cannot be imported."""
    plugin(tmp_path / "site", "import nothing_like_it", name="broken", point="broken")
    plugin(tmp_path / "site")
    directory(files, tmp_path / "acme")
    with importable(tmp_path / "site"):
        found = discover(plugin_sources({"ACME_MODELS": str(tmp_path / "acme")}))
    assert list(found.models) == ["small"]
    assert [one.source for one in found.skipped] == ["broken"]


def test_a_name_that_is_taken_is_left_out(tmp_path):
    """A package cannot take the place of one of our sources, and is not even imported."""
    module = plugin(tmp_path / "site", "raise SystemExit", point="ollama")
    with importable(tmp_path / "site"):
        found = discover(plugin_sources({}, {"ollama"}))
    assert module not in sys.modules
    assert "has a name that another source has" in found.skipped[0].reason


def test_models_without_a_fingerprint_are_not_taken_for_one(files, tmp_path):
    """It is computed from the files when a source gives none."""
    code = body(
        init="self.root = pathlib.Path(environment['ACME_MODELS'])",
        discover=(
            "yield from (ModelMetadata(one.stem, ModelType.GGUF, one, one.stat().st_size) "
            "for one in sorted(self.root.iterdir()))"
        ),
    )
    plugin(tmp_path / "site", code)
    (tmp_path / "acme").mkdir()
    for seed in (1, 2):
        files.gguf_file(tmp_path / "acme" / f"{seed}.gguf", seed=seed)
    with importable(tmp_path / "site"):
        found = discover(plugin_sources({"ACME_MODELS": str(tmp_path / "acme")}))
    assert sorted(found.models) == ["1", "2"]
    assert all(model.source == "acme" for model in found.models.values())


def test_nothing_is_imported_when_directories_are_given(tmp_path):
    """Another package's code runs only in a registry of the well-known stores."""
    module = plugin(tmp_path / "site", "raise SystemExit")
    with importable(tmp_path / "site"):
        sources = sources_for(tmp_path, paths(tmp_path / "home"))
        discover(sources)
    assert module not in sys.modules
    assert [source.name for source in sources] == ["directory"]
