"""Servers on this machine: what they list, stream and count, and every way in which they fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_peer import Peer, peer

from ravenxterm_lab.exceptions import (
    ConfigurationError,
    FailureKind,
    RequirementError,
    RuntimeFailureError,
)
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.base import LoadedModel
from ravenxterm_lab.runtimes.loopback import Endpoint
from ravenxterm_lab.runtimes.ollama import OllamaServer
from ravenxterm_lab.runtimes.openai_server import OpenAIServer
from ravenxterm_lab.runtimes.served import SERVERS_VARIABLE, ServerRuntime

PROTOCOLS: dict[str, type[ServerRuntime]] = {"ollama": OllamaServer, "openai": OpenAIServer}


@pytest.fixture
def server() -> Iterator[Peer]:
    with peer() as made:
        yield made


@pytest.fixture(params=sorted(PROTOCOLS))
def runtime(request: pytest.FixtureRequest, server: Peer) -> ServerRuntime:
    return PROTOCOLS[request.param]([Endpoint(server.port)])


@pytest.fixture
def loaded(runtime: ServerRuntime) -> Iterator[LoadedModel]:
    models, notes = runtime.served()
    assert notes == ()
    with runtime.load(models[0], LoadOptions(context_length=512)) as held:
        yield held


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nothing_is_asked_unless_it_is_enabled(
    server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable no connection is made; with it the named port is asked."""
    monkeypatch.setattr(OllamaServer, "usual_ports", (server.port,))
    monkeypatch.delenv(SERVERS_VARIABLE, raising=False)
    assert OllamaServer().served() == ((), ())
    assert server.asked == []
    monkeypatch.setenv(SERVERS_VARIABLE, "ollama")
    assert [m.name for m in OllamaServer().served()[0]] == [
        f"tiny:1b@ollama:{server.port}", f"vectors:latest@ollama:{server.port}",
    ]  # fmt: skip
    monkeypatch.setenv(SERVERS_VARIABLE, f"openai:{server.port}, ")
    assert OllamaServer().endpoints == ()
    assert len(OpenAIServer().served()[0]) == 1


@pytest.mark.parametrize("value", ["ollma", "openai:http", "ollama:0", "openai:8080:1", "a.b:80"])
def test_a_bad_variable_says_what_is_allowed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, another machine or no port is an error that names the form."""
    monkeypatch.setenv(SERVERS_VARIABLE, value)
    with pytest.raises(ConfigurationError, match=r"PORT|1 to 65535"):
        _ = OllamaServer().endpoints + OpenAIServer().endpoints


@pytest.mark.parametrize(
    "host", ["example.org", "10.0.0.1", "0.0.0.0", "::", "192.168.1.5", "127.0.0.1.nip.io", ""]
)
def test_an_address_that_is_not_of_this_machine_is_refused(host: str) -> None:
    """Whatever is no loopback address is refused before anything is looked up or sent."""
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1"):
        Endpoint(8080, host)
    assert Endpoint(8080, "localhost").host == "127.0.0.1"
    assert Endpoint(8080, "::1").url == "http://[::1]:8080"


def test_a_proxy_of_the_environment_is_not_used(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that nobody listens at changes nothing."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert loaded.run("text_generation", "Hi").output == "The capital is Paris."


def test_a_redirect_is_not_followed(server: Peer, runtime: ServerRuntime) -> None:
    """A server that points elsewhere is taken at its word as little as one that errs."""
    server.mode = "moved"
    models, notes = runtime.served()
    assert models == ()
    assert "302" in notes[0]


def test_listed_models_are_candidates_with_their_facts(server: Peer) -> None:
    """Ollama tells size, quantization, context and what a model can do; all of it is kept."""
    text, vectors = OllamaServer([Endpoint(server.port)]).served()[0]
    assert text.task_types == ("text_generation",)
    assert vectors.task_types == ("embedding",)
    assert (text.size_bytes, text.quantization, text.context_length) == (1_000_000, "Q4_0", 2048)
    assert text.fingerprint == "ollama:sha-tiny:1b"
    assert text.runtimes == ("ollama",)


def test_an_answer_is_streamed_and_counted(server: Peer, loaded: LoadedModel) -> None:
    """The pieces come one by one, and the counters are those of the server."""
    pieces: list[str] = []
    result = loaded.run(
        "text_generation", "What is the capital?", parameters={"max_tokens": 9, "stop": ["\n"]},
        on_token=pieces.append,
    )  # fmt: skip
    assert pieces == server.words
    assert result.output == "".join(pieces)
    assert (result.tokens_in, result.tokens_out, result.finish_reason) == (11, 4, "stop")
    assert result.time_to_first_token is not None
    assert 0 < result.time_to_first_token <= result.latency
    path, body = server.asked[-1]
    assert body["messages"] == [{"role": "user", "content": "What is the capital?"}]
    assert body["model"] == loaded.model.name.rpartition("@")[0]
    if loaded.runtime == "ollama":
        assert path == "/api/chat"
        assert body["options"]["num_predict"] == 9
        assert body["options"]["num_ctx"] == 512
        assert body["options"]["stop"] == ["\n"]
        assert result.throughput == pytest.approx(4 / 0.1)  # eval_count / eval_duration
        assert result.details["prompt_ms"] == 20
    else:
        assert (path, body["max_tokens"], body["stop"]) == ("/v1/chat/completions", 9, ["\n"])


def test_many_prompts_get_as_many_answers(loaded: LoadedModel) -> None:
    """A list gives a list, and the counters add up."""
    result = loaded.run("text_generation", ["one", "two"])
    assert result.output == ["The capital is Paris."] * 2
    assert (result.tokens_in, result.tokens_out) == (22, 8)


def test_raw_text_goes_without_a_template(server: Peer, loaded: LoadedModel) -> None:
    """raw=True sends the text as it stands to the endpoint that takes such."""
    loaded.run("text_generation", "Once upon", parameters={"raw": True})
    path, body = server.asked[-1]
    assert path in ("/api/generate", "/v1/completions")
    assert body["prompt"] == "Once upon"


def test_vectors_come_in_order_and_of_unit_length(server: Peer) -> None:
    """Embeddings are float32 rows of length 1, in the order of the texts."""
    endpoint = Endpoint(server.port)
    ollama = OllamaServer([endpoint])
    openai = OpenAIServer([endpoint])
    (plain,) = openai.served()[0]
    cases = [
        (ollama, ollama.served()[0][1]),
        (openai, replace(plain, task_types=("embedding",))),
    ]
    for runtime, model in cases:
        with runtime.load(model) as held:
            rows = held.run("embedding", ["a", "four"]).output
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
        assert rows[1][0] > rows[0][0]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("broken", FailureKind.RUNTIME_ERROR),
        ("nonsense", FailureKind.RUNTIME_ERROR),
        (500, FailureKind.OUT_OF_MEMORY),
        ("error", FailureKind.OUT_OF_MEMORY),
        (404, FailureKind.UNSUPPORTED),
        (401, FailureKind.UNSUPPORTED),
    ],
)
def test_failures_are_classified_and_the_next_run_works(
    server: Peer, loaded: LoadedModel, mode: str | int, kind: FailureKind
) -> None:
    """A broken stream, nonsense and refusals each get their kind; a good answer comes after."""
    if mode in (500, "error"):
        server.error = {"message": "cudaMalloc failed: out of memory", "type": "server_error"}
    elif isinstance(mode, int):
        server.error = {"message": "no such thing", "type": "x"}
    server.mode = mode
    with pytest.raises(RuntimeFailureError) as caught:
        loaded.run("text_generation", "Hi")
    assert caught.value.kind is kind
    assert loaded.model.name in str(caught.value)
    server.mode = "good"
    assert loaded.run("text_generation", "Hi").output == "The capital is Paris."


def test_a_request_that_it_refuses_is_the_callers(server: Peer, loaded: LoadedModel) -> None:
    """Status 400 is a RequirementError, which nothing holds against the model."""
    server.mode = 400
    server.error = {"message": "the request exceeds the context size", "type": "invalid"}
    with pytest.raises(RequirementError, match="exceeds the context size"):
        loaded.run("text_generation", "Hi")


@pytest.mark.parametrize("mode", ["slow", "dribble"])
def test_a_slow_answer_meets_the_timeout(server: Peer, loaded: LoadedModel, mode: str) -> None:
    """Silence and a line that never ends are both stopped, and the server sees us hang up."""
    server.mode = mode
    server.words = ["word "] * 400
    started = time.monotonic()
    with pytest.raises(RuntimeFailureError) as caught:
        loaded.run("text_generation", "Hi", timeout=0.4)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert 0.4 <= time.monotonic() - started < 5
    assert server.gone.wait(5)
    server.mode, server.words = "good", ["fine"]
    assert loaded.run("text_generation", "Hi").output == "fine"


def test_an_interrupt_hangs_up_at_once(server: Peer, loaded: LoadedModel) -> None:
    """KeyboardInterrupt in the middle closes the connection, and the model stays usable."""
    server.words, server.pause = ["word "] * 500, 0.01
    seen: list[str] = []

    def stop(piece: str) -> None:
        seen.append(piece)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loaded.run("text_generation", "Hi", on_token=stop)
    assert server.gone.wait(5)
    assert server.sent < 500
    server.words, server.pause = ["fine"], 0.0
    assert loaded.run("text_generation", "Hi").output == "fine"


def test_a_server_that_is_gone_is_no_longer_alive(runtime: ServerRuntime, server: Peer) -> None:
    """After a refused connection the model counts as dead, so that a pool drops it."""
    model = runtime.served()[0][0]
    held = runtime.load(model)
    held.endpoint = Endpoint(free_port())  # type: ignore[attr-defined]
    assert held.alive
    with pytest.raises(RuntimeFailureError) as caught:
        held.run("text_generation", "Hi")
    assert caught.value.kind is FailureKind.RUNTIME_ERROR
    assert not held.alive
    missing = type(runtime)([Endpoint(free_port())])
    models, notes = missing.served()
    assert models == ()
    assert "no " in notes[0]
    assert len(notes) == 1
    with pytest.raises(RuntimeFailureError, match=SERVERS_VARIABLE) as refused:
        missing.load(model)
    assert refused.value.kind is FailureKind.MISSING_RUNTIME


def test_ollama_lets_go_only_of_what_we_loaded(server: Peer) -> None:
    """A model that somebody else had in memory stays there; ours is unloaded."""
    runtime = OllamaServer([Endpoint(server.port)])
    model = runtime.served()[0][0]
    held = runtime.load(model)
    assert server.loaded == {"tiny:1b"}
    assert held.memory().total == 1_300_000
    assert held.unload() == 1_300_000
    assert server.loaded == set()
    server.loaded.add("tiny:1b")
    runtime.load(model).unload()
    assert server.loaded == {"tiny:1b"}


_SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.cache_ram_mib = 512, 1, False, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.api_keys = ["sesame"]
params.ui = params.endpoint_slots = False
server = xllamacpp.Server(params)
print("ready", server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.mark.models
def test_a_real_llama_cpp_server_is_a_peer(demo_directory: Path, tmp_path: Path) -> None:
    """llama.cpp's own server lists, streams, counts, refuses and can be interrupted."""
    port = free_port()
    path = demo_directory / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(path), str(port)],
            stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline(), (tmp_path / "log").read_text()[-2000:]
        runtime = OpenAIServer([Endpoint(port, key="sesame")])
        (model,) = runtime.served()[0]
        assert model.context_length == 8192
        assert model.size_bytes > 80_000_000
        question = "What is the capital of France? Answer with one word."
        with runtime.load(model) as held:
            pieces: list[str] = []
            parameters = {"max_tokens": 8, "temperature": 0.0}
            result = held.run(
                "text_generation", question, parameters=parameters, on_token=pieces.append
            )
            assert "Paris" in result.output
            assert "".join(pieces) == result.output
            assert result.tokens_out is not None
            assert 0 < result.tokens_out <= 8
            assert result.details["predicted_n"] == result.tokens_out
            assert result.throughput is not None
            with pytest.raises(RequirementError, match="context"):
                held.run("text_generation", "word " * 2000)

            def stop(_: str) -> None:
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                held.run("text_generation", "Tell a long story.", on_token=stop)
            again = held.run("text_generation", question, parameters=parameters)
            assert again.output == result.output
        with pytest.raises(RuntimeFailureError, match="key") as caught:
            OpenAIServer([Endpoint(port)]).load(model).run("text_generation", "Hi")
        assert caught.value.kind is FailureKind.UNSUPPORTED
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_the_body_never_holds_what_json_cannot(loaded: LoadedModel) -> None:
    """A lone surrogate is refused here, as by every runtime, before anything is sent."""
    with pytest.raises(RequirementError, match="surrogate"):
        loaded.run("text_generation", "\ud800")


def test_what_the_contract_promises(loaded: LoadedModel) -> None:
    """Unknown tasks and parameters are refused, a second unload returns 0, then no run."""
    with pytest.raises(RequirementError, match="max_tokens"):
        loaded.run("text_generation", "Hi", parameters={"max_token": 1})
    with pytest.raises(RuntimeFailureError, match="cannot run the task"):
        loaded.run("ocr", "Hi")
    for timeout in (0, -1, True, "soon"):
        with pytest.raises(RequirementError, match="timeout"):
            loaded.run("text_generation", "Hi", timeout=timeout)  # type: ignore[arg-type]
    held: Any = loaded.memory()
    assert loaded.unload() == held.total
    assert loaded.unload() == 0
    with pytest.raises(RuntimeFailureError, match="was unloaded"):
        loaded.run("text_generation", "Hi")
