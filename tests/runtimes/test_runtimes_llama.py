"""llama.cpp with a real model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata

pytestmark = pytest.mark.models
TASK = "text_generation"


@pytest.fixture(scope="module")
def loaded(smollm2: ModelMetadata) -> Iterator[LoadedModel]:
    with LlamaCppRuntime().load(smollm2, LoadOptions(context_length=512, threads=1)) as model:
        yield model


def test_the_load_reports_the_engine_s_own_buffers(loaded: LoadedModel) -> None:
    """The report has the sizes that llama.cpp logged: 22.5 KiB of f16 KV cache per token."""
    assert loaded.report.buffers["kv"] == 512 * 22.5 * 1024
    assert loaded.report.buffers["weights"] > 90e6
    assert loaded.report.buffers["compute"] > 0
    assert loaded.report.context_length == 512
    assert "listening on unix:" in loaded.report.log
    weights_and_kv = loaded.report.buffers["weights"] + loaded.report.buffers["kv"]
    assert weights_and_kv < loaded.report.memory_bytes < 2 * weights_and_kv
    # The weights are mapped, so they count as file-backed.
    assert loaded.report.file_bytes > 0.9 * loaded.report.buffers["weights"]


def test_streamed_pieces_are_the_answer(loaded: LoadedModel) -> None:
    """What on_token was given, joined, is the output, and the counters fit it."""
    pieces: list[str] = []
    result = loaded.run(
        TASK, "Name three colours.", parameters={"max_tokens": 12}, on_token=pieces.append
    )
    assert "".join(pieces) == result.output
    assert len(pieces) > 1
    assert result.tokens_out == 12
    assert result.finish_reason == "length"
    assert result.tokens_in is not None
    assert result.tokens_in > 5
    expected = 1000 * result.details["predicted_n"] / result.details["predicted_ms"]
    assert result.throughput == pytest.approx(expected)


def test_the_first_token_alone_has_no_speed(loaded: LoadedModel) -> None:
    """One token gives no decoding speed, because the prompt's pass makes it."""
    assert loaded.run(TASK, "Hi", parameters={"max_tokens": 1}).throughput is None


def test_raw_skips_the_chat_template(loaded: LoadedModel) -> None:
    """A raw prompt is read as it stands: fewer tokens than the chat template makes of it."""
    chat = loaded.run(TASK, "The capital of France is", parameters={"max_tokens": 2})
    raw = loaded.run(TASK, "The capital of France is", parameters={"max_tokens": 2, "raw": True})
    assert raw.tokens_in == 5
    assert chat.tokens_in is not None
    assert chat.tokens_in > 20
    assert "Paris" in str(raw.output)


def test_a_system_text_goes_before_the_prompt(loaded: LoadedModel) -> None:
    """The system parameter and a system message come to the same prompt."""
    parameters = {"max_tokens": 1}
    with_parameter = loaded.run(TASK, "Hi", parameters={**parameters, "system": "Be brief."})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert loaded.run(TASK, messages, parameters=parameters).tokens_in == with_parameter.tokens_in


def test_several_prompts_give_several_answers(loaded: LoadedModel) -> None:
    """A list of texts gives a list of answers, and the counters are their sums."""
    result = loaded.run(TASK, ["One", "Two", "Three"], parameters={"max_tokens": 2})
    assert isinstance(result.output, list)
    assert len(result.output) == 3
    assert result.tokens_out == 6


def test_a_stop_text_ends_the_answer(loaded: LoadedModel) -> None:
    """Generation ends before a stop text."""
    parameters = {"max_tokens": 30, "raw": True, "stop": ["5"]}
    result = loaded.run(TASK, "1, 2, 3,", parameters=parameters)
    assert result.output == " 4, "
    assert result.finish_reason == "stop"


def test_a_seed_repeats_a_sample(loaded: LoadedModel) -> None:
    """The same seed gives the same sample, and some other seed gives another one."""

    def sample(seed: int) -> str:
        parameters = {"max_tokens": 16, "temperature": 1.5, "seed": seed, "raw": True}
        return str(loaded.run(TASK, "Once upon a time", parameters=parameters).output)

    sample(1)  # from here on, the prompt is cached in each run alike
    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_a_prompt_that_is_too_long_says_so(loaded: LoadedModel) -> None:
    """A prompt beyond the context is the caller's error, names both lengths, and harms nothing."""
    with pytest.raises(RequirementError, match=r"\d+ tokens.*512 tokens.*context_length"):
        loaded.run(TASK, "word " * 800)
    assert loaded.run(TASK, "Hi", parameters={"max_tokens": 1}).tokens_out == 1


def test_no_port_is_opened(loaded: LoadedModel) -> None:
    """Neither when loaded nor while it runs does the worker have an internet socket."""
    seen: list[object] = []
    worker = psutil.Process(loaded.pid)  # type: ignore[attr-defined]
    loaded.run(
        TASK,
        "Hello",
        parameters={"max_tokens": 2},
        on_token=lambda _: seen.extend(worker.net_connections("inet")),
    )
    seen.extend(worker.net_connections("inet"))
    assert seen == []


def test_an_error_in_on_token_reaches_the_caller(loaded: LoadedModel) -> None:
    """An exception in on_token stops the run and is raised; the next run works."""

    def break_down(text: str) -> None:
        raise TimeoutError(text)

    with pytest.raises(TimeoutError):
        loaded.run(TASK, ["Tell me a story."] * 50, on_token=break_down)
    assert loaded.alive
    assert loaded.run(TASK, "Hi", parameters={"max_tokens": 1}).tokens_out == 1


def test_on_token_cannot_run_the_same_model(loaded: LoadedModel) -> None:
    """A run inside on_token of the same model is refused instead of waiting for itself."""
    with pytest.raises(RuntimeFailureError, match="already running in this thread"):
        loaded.run(TASK, "Hi", on_token=lambda _: loaded.run(TASK, "Hi"))  # type: ignore[arg-type,return-value]
    assert loaded.run(TASK, "Hi", parameters={"max_tokens": 1}).tokens_out == 1


def test_a_timeout_keeps_a_model_that_stops(loaded: LoadedModel) -> None:
    """A run that is too slow fails with TIMEOUT, and the model is still there."""
    with pytest.raises(RuntimeFailureError, match=r"did not finish within.*still loaded") as caught:
        loaded.run(TASK, ["Tell me a story."] * 200, timeout=0.05)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert loaded.run(TASK, "Hi", parameters={"max_tokens": 1}).tokens_out == 1


def test_a_quantised_cache_takes_less(smollm2: ModelMetadata, loaded: LoadedModel) -> None:
    """A q8_0 KV cache takes 34/64 of the f16 one's bytes (8.5 bits for each element)."""
    options = LoadOptions(context_length=512, threads=1, kv_type="q8_0")
    with LlamaCppRuntime().load(smollm2, options) as small:
        ratio = small.report.buffers["kv"] / loaded.report.buffers["kv"]
        assert ratio == pytest.approx(34 / 64, rel=0.01)
        assert small.run(TASK, "Hi", parameters={"max_tokens": 1}).tokens_out == 1


def test_a_model_without_a_template_runs_raw(smollm2: ModelMetadata, tmp_path: Path) -> None:
    """A base model takes plain text as it stands, and says so when it is given messages."""
    path = tmp_path / "base.gguf"
    data = smollm2.path.read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    path.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.some_template"))
    base = replace(smollm2, path=path, name="base")
    with LlamaCppRuntime().load(base, LoadOptions(context_length=256, threads=1)) as model:
        result = model.run(TASK, "The capital of France is", parameters={"max_tokens": 1})
        assert result.tokens_in == 5
        with pytest.raises(RequirementError, match="no chat template"):
            model.run(TASK, [{"role": "user", "content": "Hi"}])


def _bytes_of(path: Path, kind: str, tmp_path: Path) -> Path:
    target = tmp_path / f"{kind}.gguf"
    if kind == "noise":
        target.write_bytes(bytes(range(256)) * 40)
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "cut in the header":
        target.write_bytes(path.read_bytes()[:300])
    else:
        target.write_bytes(path.read_bytes()[:20_000_000])
    return target


@pytest.mark.parametrize("kind", ["noise", "empty", "cut in the header", "cut in the weights"])
def test_a_broken_file_is_corrupt(smollm2: ModelMetadata, tmp_path: Path, kind: str) -> None:
    """A file that is not whole fails as CORRUPT, with the engine's log, and leaves no process."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    model = replace(smollm2, path=_bytes_of(smollm2.path, kind, tmp_path))
    with pytest.raises(RuntimeFailureError, match="smollm2 could not be loaded") as caught:
        LlamaCppRuntime().load(model)
    assert caught.value.kind is FailureKind.CORRUPT
    assert caught.value.log
    assert "check the input params" not in str(caught.value)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_an_unknown_architecture_is_unsupported(smollm2: ModelMetadata, tmp_path: Path) -> None:
    """A sound GGUF file of an architecture that llama.cpp does not know is UNSUPPORTED."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "an_architecture_of_nobody")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(RuntimeFailureError, match="an_architecture_of_nobody") as caught:
        LlamaCppRuntime().load(replace(smollm2, path=path))
    assert caught.value.kind is FailureKind.UNSUPPORTED
