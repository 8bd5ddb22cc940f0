"""A model as a card."""

from __future__ import annotations

from pathlib import Path

from ravenxterm_lab.metadata import ModelMetadata, ModelType


def test_a_model_shows_its_facts_and_what_is_wrong() -> None:
    """The card has every fact in its unit, says what is not told, and lists the problems."""
    model = ModelMetadata(
        "m<b>", ModelType.GGUF, Path("/models/m.gguf"), 3 * 2**20, context_length=8192,
        parameter_count=30_000_000_000, active_parameter_count=3_000_000_000,
        task_types=("text_generation",), shards=(Path("a"), Path("b")),
        runtime_gap="no runtime", duplicates=(Path("/copy"),), problems=("a shard is missing",),
    )  # fmt: skip
    text = str(model)
    facts = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)
    told = {name: said.strip() for name, said in facts.items()}
    assert told["on disk"] == "3.0 MiB in 2 files"
    assert told["parameters"] == "30B, 3B of them for a token"
    assert told["context"] == "8,192 tokens"
    assert told["tasks"] == "text generation"
    assert told["runs with"] == "no runtime"
    assert told["license"] == "not told"
    assert told["copy"] == "/copy"
    assert "a shard is missing" in text
    html = model._repr_mimebundle_()["text/html"]
    assert "m&lt;b&gt;" in html
    assert repr(model).startswith("ModelMetadata(name=")
