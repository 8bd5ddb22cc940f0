"""What the toolkit adds to a generation: `manager.run` beside the runtime without it.

    python tests/benchmarks/bench_overhead.py [--rounds 15] [--tokens 32 128 256]

Three ways of one model, prompt, sampling, seed and number of threads, one after the other in each
round, in an order that is shuffled anew:

``server``
    xllamacpp's ``Server`` in this process, called directly, with the parameters that the worker
    gives it: what a person would write without this package.
``worker``
    ``LoadedModel.run`` of the same worker process that ``manager.run`` uses.
``manager``
    ``ModelManager.run``: choosing, running, recording.

Each way has the model loaded. The prompt of a round is the same for all three; before each,
another one is read, so that none finds it in the cache of the one before. What the manager adds
is the median of the differences within a round; where other programs run, its CPU time (the store's
thread included) says more than the clock. ``OMP_WAIT_POLICY`` is the worker's for all.
Scenes: an empty store; a store of 10,000 executions with their predictions, an hour old; 100
models that all could do it, of which 99 have done badly.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ravenxterm_lab.config import paths
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes import LoadOptions, usable_threads
from ravenxterm_lab.store import Store

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Round {}. Tell me a long story of a raven that learned to count, and why it did."
FORGET = "Something else."
SCENES = ("empty", "history", "models")
WAYS = ("server", "worker", "manager")
HOUR = 3600 * 10**9


class Timing(NamedTuple):
    """Seconds to the first text and in all; of CPU in this process likewise; tokens written."""

    first: float
    total: float
    cpu_first: float
    cpu: float
    tokens: int


Way = Callable[[str, int], Timing]


def timed(work: Callable[[Callable[[str], None]], int]) -> Timing:
    """Time one generation, which calls back with each text and returns its tokens."""
    first: list[tuple[float, float]] = []

    def seen(text: str) -> None:
        if text and not first:
            first.append((time.perf_counter(), time.process_time()))

    used, started = time.process_time(), time.perf_counter()
    tokens = work(seen)
    ended, spent = time.perf_counter(), time.process_time()
    [(begun, before)] = first
    return Timing(begun - started, ended - started, before - used, spent - used, tokens)


def sampling(tokens: int) -> dict[str, Any]:
    """Return the parameters that all ways share; no end of the text ends it early."""
    return {"max_tokens": tokens, "temperature": 0.0, "top_p": 1.0, "top_k": 40, "seed": 0}


def bare_server(path: Path, options: LoadOptions, directory: Path) -> Way:
    """Load the model into this process, as the worker does it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = options.context_length
    params.n_batch = params.n_ubatch = options.batch_size
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = usable_threads()
    params.n_gpu_layers = 0
    params.n_parallel = 1
    params.warmup = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
    params.fit_params = False
    params.verbosity = -1
    params.hostnames = [str(directory / "bare.sock")]
    params.n_threads_http = 1
    params.ui = params.endpoint_slots = False
    server = xllamacpp.Server(params)

    def way(prompt: str, tokens: int) -> Timing:
        def work(seen: Callable[[str], None]) -> int:
            written: list[int] = []

            def take(chunk: dict[str, Any]) -> bool:
                for choice in chunk.get("choices") or ():
                    seen((choice.get("delta") or {}).get("content") or "")
                if usage := chunk.get("usage"):
                    written.append(usage["completion_tokens"])
                return False

            server.handle_chat_completions(
                {
                    **sampling(tokens),
                    "min_p": 0.0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "messages": [{"role": "user", "content": prompt}],
                },
                take,
            )
            return written[-1]

        return timed(work)

    return way


def fill(store: Path, hardware: str, rows: int, real: str) -> None:
    """Record executions of an hour ago, with the two predictions that each has."""
    with Store(store, clock=lambda: time.time_ns() - HOUR, ingest=False) as past:
        for number in range(rows):
            key = real if number % 50 == 0 else f"fingerprint-{number % 50}"
            about = {
                "model": f"past-{number % 50}", "fingerprint": key, "task": "text_generation",
                "device": "cpu", "settings": "ctx=4096 kv=f16", "hardware": hardware,
            }  # fmt: skip
            speed, first = 40.0 + number % 7, 0.02 + number % 5 / 1000
            execution = past.record_execution(
                **about,
                runtime="llama_cpp",
                metrics={
                    "latency": 1.0, "throughput": speed, "time_to_first_token": first,
                    "tokens_in": 40, "tokens_out": 40, "peak_memory": 2 * 10**8,
                    "memory_efficiency": 0.8, "success": True,
                },
            )  # fmt: skip
            for quantity, actual, parts in (
                ("throughput", speed, {"steps": 0.004, "bytes": 0.02}),
                ("time_to_first_token", first, {"start": 0.01, "operations": 0.01}),
            ):
                past.record(
                    "predictions", **about, engine="llama_cpp", execution=str(execution),
                    quantity=quantity, tier="measured", predicted=actual * 1.05,
                    low=actual * 0.9, high=actual * 1.2, level=0.8, spread=0.1, actual=actual,
                    basis={"parts": parts, "model": key, "family": "past", "settings": "ctx=4096"},
                )  # fmt: skip
        past.ingest_now()


@contextmanager
def managed(
    scene: str, path: Path, directory: Path, executions: int, models: int
) -> Iterator[ModelManager]:
    """Yield a manager whose first choice is the real model."""
    place, home = directory / "models", directory / scene
    if not place.exists():
        place.mkdir()
        (place / MODEL).symlink_to(path)
    bench = Workbench(home, hardware=HardwareProfile.detect(cache_dir=directory / "cache"))
    manager = ModelManager(place, workbench=bench, seed=0)
    (real,) = manager.registry.available_models.values()
    if scene == "history":
        fill(bench.paths.store, bench.hardware.fingerprint, executions, real.fingerprint)
    if scene == "models":
        for number in range(models - 1):
            name = f"other-{number}"
            other = dataclasses.replace(real, name=name, fingerprint=name)
            manager.registry._models[name] = other  # type: ignore[index]
        bad = {"latency": 60.0, "throughput": 0.5, "quality": 0.0, "success": False}
        good = {"latency": 1.0, "throughput": 50.0, "quality": 1.0, "success": True}
        for model in manager.registry.available_models.values():
            for _ in range(20):
                manager.record_execution_metrics(model, good if model is real else bad)
        bench.store.ingest_now()
    try:
        yield manager
    finally:
        manager.pool.close()
        # Its thread would write on while the directory is removed.
        bench.store.close()


def ways_of(manager: ModelManager, server: Way) -> dict[str, Way]:
    """Return the three ways, with the model loaded in each."""
    (name,) = (one for one in manager.registry.available_models if not one.startswith("other-"))
    report = manager.run("text_generation", "Hello", parameters=sampling(4))

    def run(prompt: str, tokens: int) -> Timing:
        def work(seen: Callable[[str], None]) -> int:
            report = manager.run(
                "text_generation", prompt, parameters=sampling(tokens), on_token=seen
            )
            if report.model.name != name or report.cold:
                raise LookupError(f"{report.model.name} was chosen, or loaded anew")
            return report.result.tokens_out or 0

        return timed(work)

    options = manager._bench.runtime("llama_cpp").resolve(report.model, LoadOptions())

    def worker(prompt: str, tokens: int) -> Timing:
        def work(seen: Callable[[str], None]) -> int:
            runtime = manager._bench.runtime("llama_cpp")
            model = manager.registry.available_models[name]
            with manager.pool.acquire(runtime, model, options) as (loaded, _):
                result = loaded.run(
                    "text_generation", prompt, parameters=sampling(tokens), on_token=seen
                )
            return result.tokens_out or 0

        return timed(work)

    return {"server": server, "worker": worker, "manager": run}


def show(scene: str, tokens: int, rounds: list[dict[str, Timing]]) -> None:
    """Print a line for each way, and what the manager adds to the others."""
    counts = sorted({timing.tokens for one in rounds for timing in one.values()})
    wrote = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    print(f"\n{scene}, {tokens} tokens asked for, {wrote} written, {len(rounds)} rounds")
    for way in WAYS:
        total = statistics.median(one[way].total for one in rounds)
        first = statistics.median(one[way].first for one in rounds)
        print(f"  {way:<9} total {1e3 * total:8.1f} ms   first token {1e3 * first:7.1f} ms")
    for other in ("worker", "server"):
        base = statistics.median(one[other].total for one in rounds)
        more = statistics.median(one["manager"].total - one[other].total for one in rounds)
        first = statistics.median(one["manager"].first - one[other].first for one in rounds)
        print(
            f"  manager over {other}: total {1e3 * more:+7.1f} ms ({more / base:+.1%}), "
            f"first token {1e3 * first:+6.1f} ms"
        )
    cpu = statistics.median(one["manager"].cpu - one["worker"].cpu for one in rounds)
    before = statistics.median(one["manager"].cpu_first - one["worker"].cpu_first for one in rounds)
    print(
        f"  CPU in this process, manager over worker: {1e3 * cpu:+.1f} ms, "
        f"{1e3 * before:+.1f} ms of it before the first token"
    )


def main() -> None:
    """Measure each scene and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--model", type=Path, help="by default the demo's SmolLM2 Q4_1")
    parser.add_argument("--directory", type=Path, help="where the stores are made and removed")
    options = parser.parse_args()
    # As the worker has it, and before anything reads it: waiting threads do not spin.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    path = options.model or paths().models / "demo" / "smollm2-135m-instruct" / MODEL
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        server = bare_server(path, LoadOptions(context_length=4096), directory)
        order = random.Random(0)
        for scene in options.scenes:
            with managed(scene, path, directory, options.executions, options.models) as manager:
                ways = ways_of(manager, server)
                for tokens in options.tokens:
                    rounds = []
                    for number in range(-1, options.rounds):
                        prompt = PROMPT.format(f"{scene} {tokens} {number}")
                        turn = order.sample(WAYS, len(WAYS))
                        gc.collect()
                        done = {}
                        for way in turn:
                            for other in ("server", "worker"):
                                ways[other](FORGET, 1)
                            done[way] = ways[way](prompt, tokens)
                        if number >= 0:  # the first of each is a warm-up
                            rounds.append(done)
                    show(scene, tokens, rounds)


if __name__ == "__main__":
    main()
