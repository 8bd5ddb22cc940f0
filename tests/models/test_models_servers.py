"""Models of a server on this machine, as the manager sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_peer import Peer, peer

from ravenxterm_lab.exceptions import NoSuitableModelError, UnknownModelError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes.loopback import Endpoint
from ravenxterm_lab.runtimes.ollama import OllamaServer
from ravenxterm_lab.runtimes.openai_server import OpenAIServer


@pytest.fixture
def server() -> Iterator[Peer]:
    with peer() as made:
        yield made


def managed(
    tmp_path: Path, profile: HardwareProfile, *runtimes: OllamaServer | OpenAIServer
) -> ModelManager:
    bench = Workbench(tmp_path / "home", hardware=profile, runtimes=runtimes)
    (tmp_path / "models").mkdir(exist_ok=True)
    return ModelManager(tmp_path / "models", workbench=bench, seed=0)


def test_a_served_model_is_chosen_run_and_recorded(
    server: Peer, tmp_path: Path, profile: HardwareProfile
) -> None:
    """What a server lists is ranked, run and recorded under its runtime; it is no file of ours."""
    made = managed(tmp_path, profile, OllamaServer([Endpoint(server.port)]))
    run = made.run("text_generation", "What is the capital of France?")
    assert run.output == "The capital is Paris."
    assert run.model.name == f"tiny:1b@ollama:{server.port}"
    rows = made.sql("SELECT runtime, fingerprint, tokens_out, throughput FROM executions")
    assert rows.fetchall() == [("ollama", "ollama:sha-tiny:1b", 4, 40.0)]
    assert len(made.registry.available_models) == 0
    assert set(made.registry.candidates) == {
        f"tiny:1b@ollama:{server.port}", f"vectors:latest@ollama:{server.port}",
    }  # fmt: skip
    assert made.run("embedding", ["a", "b"]).output.shape == (2, 3)
    made.pool.close()
    assert server.loaded == set()


def test_a_served_model_cannot_be_trashed(
    server: Peer, tmp_path: Path, profile: HardwareProfile
) -> None:
    """Its name is unknown to whatever moves files."""
    made = managed(tmp_path, profile, OllamaServer([Endpoint(server.port)]))
    name = f"tiny:1b@ollama:{server.port}"
    assert made.registry.get(name).name == name
    with pytest.raises(UnknownModelError):
        made.registry.trash(name)
    made.pool.close()


def test_a_server_that_goes_away_is_a_classified_failure(
    server: Peer, tmp_path: Path, profile: HardwareProfile
) -> None:
    """A stream that breaks is recorded with its kind, and the error lists what was tried."""
    made = managed(tmp_path, profile, OpenAIServer([Endpoint(server.port)]))
    assert made.run("text_generation", "Hi").output
    server.mode = "broken"
    with pytest.raises(NoSuitableModelError, match="middle of the answer"):
        made.run("text_generation", "Hi")
    failures = made.sql("SELECT extra->>'failure' FROM executions WHERE NOT success").fetchall()
    assert ("runtime_error",) in failures
    made.pool.close()


def test_an_enabled_server_that_does_not_answer_is_a_message(
    tmp_path: Path, profile: HardwareProfile
) -> None:
    """The scan goes on without it, and says where nobody answered."""
    with peer() as server:
        port = server.port
    made = managed(tmp_path, profile, OllamaServer([Endpoint(port)]))
    assert dict(made.registry.candidates) == {}
    assert any(f"127.0.0.1:{port}" in message.text for message in made.messages)


def test_a_benchmark_compares_servers(
    server: Peer, tmp_path: Path, profile: HardwareProfile
) -> None:
    """Two servers' models stand side by side in one report."""
    endpoint = Endpoint(server.port)
    made = managed(tmp_path, profile, OllamaServer([endpoint]), OpenAIServer([endpoint]))
    report = made.benchmark("text_generation", inputs="Hi", repeats=2, progress=False)
    assert len(report.results) == 2
    assert all(item.success is not None and item.success.value == 1 for item in report.results)
    ollama = next(item for item in report.results if "ollama" in item.model)
    assert ollama.throughput is not None
    assert ollama.throughput.value == pytest.approx(40)
    made.pool.close()
