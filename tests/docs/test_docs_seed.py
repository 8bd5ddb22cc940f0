"""The seed document's Python blocks run verbatim, and so do the README's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.models import ModelManager, ModelRegistry

pytestmark = pytest.mark.models
REPOSITORY = Path(__file__).resolve().parents[2]
SEED = REPOSITORY.parent / "shared" / "seed" / "model_management.md"


def blocks(path: Path) -> list[str]:
    """Return the Python blocks of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def models(demo_directory: Path, home: Path) -> Path:
    """Return the home's own models directory, filled with real models."""
    directory = home / "models"
    for folder in ("smollm2-135m-instruct", "all-minilm-l6-v2-int8"):
        shutil.copytree(
            demo_directory / folder, directory / folder,
            copy_function=lambda source, target: Path(target).symlink_to(source),
        )  # fmt: skip
    return directory


def made_real(block: str, models: Path) -> tuple[str, dict[str, Any]]:
    """Return a block with its placeholders made real, and the names that it takes as given."""
    manager = ModelManager(models)
    name = next(n for n in manager.registry.available_models if "Q4_1" in n)
    block = block.replace("/path/to/models", str(models)).replace('"model_name"', repr(name))
    given = {
        "manager": manager,
        "model": manager.registry[name],
        "available_models": ModelRegistry(models).available_models,
    }
    return block, given


@pytest.mark.skipif(not SEED.is_file(), reason="the seed document is not beside this checkout")
def test_every_seed_block_runs_verbatim(models: Path) -> None:
    """Each block runs on its own, with nothing but its placeholders made real."""
    found = blocks(SEED)
    assert len(found) == 8
    for block in found:
        code, given = made_real(block, models)
        exec(compile(code, str(SEED), "exec"), dict(given))


@pytest.mark.skipif(not SEED.is_file(), reason="the seed document is not beside this checkout")
def test_the_seed_s_workflow_records_what_it_says(models: Path) -> None:
    """The example workflow chooses a real model and leaves its execution in the store."""
    code, _ = made_real(blocks(SEED)[-1], models)
    names: dict[str, Any] = {}
    exec(compile(code, str(SEED), "exec"), names)
    assert "text_generation" in names["model"].task_types
    rows = names["manager"].sql("SELECT model, latency, throughput, success FROM executions")
    assert rows.fetchall() == [(names["model"].name, 0.1, 1000.0, True)]


def test_the_readme_runs_from_top_to_bottom(models: Path) -> None:
    """The README's Python blocks run one after the other in one namespace."""
    found = blocks(REPOSITORY / "README.md")
    assert len(found) >= 5
    names: dict[str, Any] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    manager = names["manager"]
    asked = "SELECT count(*) FROM executions WHERE extra->>'benchmark' IS {} NULL"
    assert manager.sql(asked.format("")).fetchall() == [(4,)]
    assert manager.sql(asked.format("NOT")).fetchall()[0][0] >= 20


def test_the_readme_has_one_line_to_run_and_one_to_test() -> None:
    """`## Run` and `## Test` hold exactly one fenced block of exactly one line each."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for heading in ("Run", "Test"):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        fenced = re.findall(r"^```[a-z]*\n(.*?)^```$", section, re.M | re.S)
        assert len(fenced) == 1
        assert len(fenced[0].splitlines()) == 1


def test_the_picture_is_there_and_every_link_in_the_readme_leads_somewhere() -> None:
    """Relative links of the README exist in the repository."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (REPOSITORY / target).exists(), target
