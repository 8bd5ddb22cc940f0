"""Selection on a real quantization ladder and on a ruined model: dominated ones are left alone.

The fast tests replay runs that were measured once on a real machine (`ladder_runs.json`, made by
``python tests/models/record_ladder.py``); the slow ones make the variants and really run them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravenxterm_lab.demo import build_ladder, build_vad_ladder
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.selector import AdaptiveModelSelector
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.quality import Item, check_for
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection.policy import blend, weights_for

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "ladder_runs.json").read_text(encoding="utf-8")
)
TASK, VAD = "text_generation", "voice_activity_detection"
MODES = ("speed", "balanced", "memory")
RUNS = 60
GIB = 2**30
#: Small enough for a hundred MiB to matter in it.
BUDGET = 1 * GIB


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine(
    cpu_architecture="x86_64", cpu_name="made up", cpu_cores=2, cpu_threads=2,
    instruction_sets=("avx2",), total_memory=8 * GIB, available_memory=6 * GIB,
    memory_bandwidth=20e9,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What was measured of one variant.

    Scores are not touched by what else a machine does, speeds are: the machine was busy, so the
    least disturbed tenth of the runs stands for each variant's speed (tokens/s) and time to the
    first token (s).
    """

    name: str
    quality: float
    rate: float
    first_token: float
    memory: int

    def dominates(self, other: Variant) -> bool:
        """Say whether it is as good in everything, and better in something."""
        mine = (self.quality, self.rate, -self.memory)
        theirs = (other.quality, other.rate, -other.memory)
        return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def measured(name: str) -> Variant:
    told = RECORDED["models"][name]
    runs = told["answers"]
    return Variant(
        name,
        float(np.mean([run["quality"] for run in runs])),
        float(np.quantile([run["throughput"] for run in runs], 0.9)),
        float(np.quantile([run["time_to_first_token"] for run in runs], 0.1)),
        told["peak_memory"],
    )


VARIANTS = [measured(name) for name in RECORDED["models"]]


def dominated() -> set[str]:
    return {one.name for one in VARIANTS if any(other.dominates(one) for other in VARIANTS)}


def metadata(name: str, told: dict[str, Any]) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), told["size_bytes"],
        task_types=(TASK,), runtimes=("fake",), preferred_hardware=(HardwareType.CPU,),
        fingerprint=f"print-{name}", quantization=name,
        parameter_count=told["parameter_count"], context_length=told["context_length"],
        embedding_length=told["embedding_length"], vocabulary_size=told["vocabulary_size"],
        attention=AttentionGeometry(
            tuple(told["heads_kv"]), told["key_length"], told["value_length"]
        ),
    )  # fmt: skip


MODELS = {name: metadata(name, told) for name, told in RECORDED["models"].items()}


def learn(home: Path, mode: str, seed: int) -> tuple[Counter[str], dict[str, float], str]:
    """Know the benchmark, then choose, replay the recorded run of a question, learn.

    Returns
    -------
    (Counter, dict, str)
        Choices of the 60 executions, the probability with which each variant is chosen after
        them, and the first recommendation.
    """
    told = RECORDED["models"]
    runtime = FakeRuntime(
        "fake",
        memory_bytes=lambda model: told[model.name]["peak_memory"],
        load_seconds=float(np.median([one["load_seconds"] for one in told.values()])),
    )
    bench = Workbench(home, hardware=MACHINE, runtimes=[runtime])
    preferences = UserPreferences(
        performance_mode=mode, max_memory_usage=BUDGET / MACHINE.total_memory
    )
    selector = AdaptiveModelSelector(preferences, workbench=bench, seed=seed)
    rng = np.random.default_rng(seed)
    answers = {name: {run["question"]: run for run in one["answers"]} for name, one in told.items()}
    _, options = selector.candidates(list(MODELS.values()), TaskRequirements.parse(None, TASK))

    def answer(name: str, question: str, selection: str | None = None) -> None:
        run = answers[name][question]
        variant = next(one for one in VARIANTS if one.name == name)
        rate = variant.rate * float(np.exp(rng.normal(0, 0.1)))
        with bench.pool.acquire(runtime, MODELS[name], options[name]):
            pass  # it stays loaded, as after a real run
        bench.record_execution(
            metrics={
                "quality": run["quality"], "tokens_out": run["tokens_out"], "throughput": rate,
                "time_to_first_token": variant.first_token,
                "latency": variant.first_token + run["tokens_out"] / rate,
            },
            model=name, fingerprint=MODELS[name].fingerprint, task=TASK,
            device=options[name].device.value, runtime="fake", settings=options[name].settings,
            hardware=MACHINE.fingerprint, selection=selection,
        )  # fmt: skip

    for name in MODELS:
        for question in rng.permutation(sorted(answers[name])).tolist():
            answer(name, question)
        bench.pool.unload_idle()  # as a benchmark does
    questions = sorted(set.intersection(*(set(one) for one in answers.values())))
    choices: Counter[str] = Counter()
    for question in rng.permutation(questions).tolist()[:RUNS]:
        selection = selector.select(MODELS, TASK)
        name = selection.ranked[0].model.name
        choices[name] += 1
        answer(name, question, selection.id)
    after = selector.select(MODELS, TASK).ranked
    first = selector.get_recommended_models(MODELS, TASK)[0].model.name
    bench.pool.close()
    bench.store.close()
    return choices, {item.model.name: item.probability_chosen for item in after}, first


def oracle(mode: str) -> dict[str, float]:
    """Return what each variant is truly worth in a mode: the utility at what was measured."""
    weights = weights_for(UserPreferences(performance_mode=mode))
    told = RECORDED["models"]
    tokens = [np.mean([run["tokens_out"] for run in told[one.name]["answers"]]) for one in VARIANTS]
    seconds = np.array(
        [one.first_token + t / one.rate for one, t in zip(VARIANTS, tokens, strict=True)]
    )
    worth = blend(
        np.array([weights.quality, weights.latency, weights.memory]),
        np.array([one.quality for one in VARIANTS]),
        seconds,
        weights.patience * float(np.median(seconds)),
        np.array([one.memory for one in VARIANTS]) / BUDGET,
    )
    return {one.name: float(value) for one, value in zip(VARIANTS, worth, strict=True)}


def test_f16_and_q8_0_are_dominated_by_what_was_measured() -> None:
    """Made from a 4-bit file, they are no better than it, and bigger and slower."""
    assert {"F16", "Q8_0"} <= dominated()
    assert len(dominated()) < len(MODELS)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return what three selectors learned in each mode."""
    home = tmp_path_factory.mktemp("ladder")
    return {
        mode: [learn(home / f"{mode}{seed}", mode, seed) for seed in range(3)] for mode in MODES
    }


@pytest.mark.parametrize("mode", MODES)
def test_after_sixty_runs_the_dominated_variants_are_left_alone(
    learned: dict[str, list[Any]], mode: str
) -> None:
    """F16 and Q8_0 get under 5% of the choices that follow, on the mean of three histories."""
    left = [after.get("F16", 0.0) + after.get("Q8_0", 0.0) for _, after, _ in learned[mode]]
    assert np.mean(left) < 0.05, left


def test_every_mode_ends_where_the_frontier_says(learned: dict[str, list[Any]]) -> None:
    """None ends on a dominated variant, and each loses next to nothing to the best in its mode.

    Here the 4-bit file that all were made from is the best in every mode: the fastest one is
    less good, and the smallest one both slower and less good, by more than they save.
    """
    frontier = set(MODELS) - dominated()
    ends = {mode: Counter(first for _, _, first in learned[mode]) for mode in MODES}
    assert all(set(found) <= frontier for found in ends.values()), ends
    for mode in MODES:
        worth = oracle(mode)
        lost = [max(worth.values()) - worth[first] for _, _, first in learned[mode]]
        assert np.mean(lost) < 0.02, (mode, ends[mode], worth)


@pytest.fixture
def vad(demo_directory: Path, tmp_path: Path, profile: HardwareProfile) -> Iterator[ModelManager]:
    directory = tmp_path / "vad"
    directory.mkdir()
    source = directory / "silero_vad_16k.onnx"
    source.symlink_to(demo_directory / "silero-vad-16k" / source.name)
    build_vad_ladder(source)
    made = ModelManager(directory, workbench=Workbench(tmp_path / "home", hardware=profile), seed=0)
    yield made
    made.pool.close()
    made.store.close()


def labelled(manager: ModelManager, item: Item, model: ModelMetadata | None = None) -> str:
    """Run the chosen model (or one) on a signal, record it with its label, return its name."""
    selection = manager.selector.select(manager.registry.candidates, VAD)
    model = model or selection.ranked[0].model
    seconds: list[float] = []
    runtime = manager._bench.runtime(model.runtimes[0])
    with manager.pool.acquire(runtime, model, selection.options[model.name]) as (loaded, _):

        def run(inputs: Any) -> Any:
            result = loaded.run(VAD, inputs)
            seconds.append(result.latency)
            return result.output

        verdict = item.grade(run)
    metrics = {"latency": sum(seconds), "throughput": len(seconds) / sum(seconds)}
    manager.record_execution_metrics(model, {**metrics, "quality": verdict.score}, task_type=VAD)
    return model.name


@pytest.mark.models
@pytest.mark.parametrize("every", [4, 2])
def test_the_ruined_model_is_left_alone_within_five_labelled_runs(
    vad: ModelManager, every: int
) -> None:
    """Tried first and so resident; every fourth or second signal holds no voice.

    It is right about those: with every second one it is as good as a model is taken to be that
    was never run, and only who looks at the others learns that they are better.
    """
    check = check_for(VAD)
    assert check is not None
    name = "silero_vad_16k.int8"
    voices = [item for item in check.items if "voice" in item.name]
    others = [item for item in check.items if "voice" not in item.name]
    rng = np.random.default_rng(0)
    chosen = [labelled(vad, check.item("voice-low"), vad.registry.get(name))]
    for number in range(15):
        pool = others if number % every == every - 1 else voices
        chosen.append(labelled(vad, pool[int(rng.integers(len(pool)))]))
    print("chosen:", " ".join(one.removeprefix("silero_vad_16k") or ".f32" for one in chosen))
    assert chosen.count(name) <= 5
    assert name not in chosen[5:]


@pytest.fixture(scope="module")
def ladder(
    demo_directory: Path, tmp_path_factory: pytest.TempPathFactory, profile: HardwareProfile
) -> tuple[Path, Path]:
    """Make the ladder, benchmark it with its quality; return its directory and the home."""
    place = tmp_path_factory.mktemp("ladder")
    (place / "models").mkdir()
    [source] = (demo_directory / "smollm2-135m-instruct").glob("*.Q4_1.gguf")
    link = place / "models" / source.name
    link.symlink_to(source)
    build_ladder(link, ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_0"), progress=False)
    bench = Workbench(place / "home", hardware=profile)
    manager = ModelManager(place / "models", workbench=bench, seed=0)
    print(manager.benchmark(TASK, repeats=1, quality=True, progress=False))
    manager.close()
    manager.store.close()
    return place / "models", place / "home"


#: What this machine measured today, of the benchmark and of the choices together. Where a machine
#: decodes Q8_0 as fast as four bits, nothing dominates it, however it is elsewhere.
MEASURED = """
SELECT model, avg(coalesce(judged, quality)), exp(avg(ln(throughput))), avg(time_to_first_token),
    max(peak_memory)
FROM executions LEFT JOIN (SELECT session, seq, judged FROM judgements) USING (session, seq)
WHERE success GROUP BY model
"""


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("mode", MODES)
def test_sixty_real_executions_leave_the_dominated_variants_alone(
    mode: str, ladder: tuple[Path, Path], tmp_path: Path, profile: HardwareProfile
) -> None:
    """After the benchmark, 60 questions are really asked, and each answer is judged."""
    check = check_for(TASK)
    assert check is not None
    shutil.copytree(ladder[1], tmp_path / "home")
    share = max(BUDGET / profile.total_memory, 0.05)
    manager = ModelManager(
        ladder[0], workbench=Workbench(tmp_path / "home", hardware=profile), seed=0,
        preferences=UserPreferences(performance_mode=mode, max_memory_usage=share),
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(check.items))[:RUNS]
    choices: Counter[str] = Counter()
    late: Counter[str] = Counter()
    for number, index in enumerate(order):
        reports = []

        def ask(prompt: Any, reports: list[Any] = reports) -> Any:
            reports.append(manager.run(TASK, prompt, parameters=check.parameters))
            return reports[-1].output

        verdict = check.items[int(index)].grade(ask)
        for report in reports:
            manager.feedback(report, verdict.score)
            choices[str(report.model.quantization)] += 1
            if number >= len(order) - 20:
                late[str(report.model.quantization)] += 1
    ranked = manager.selector.select(manager.registry.candidates, TASK).ranked
    after = {str(item.model.quantization): item.probability_chosen for item in ranked}
    candidates = manager.registry.candidates.values()
    names = {model.name: str(model.quantization) for model in candidates}
    variants = [
        Variant(names[name], quality, rate, first_token, memory)
        for name, quality, rate, first_token, memory in manager.sql(MEASURED).fetchall()
    ]
    beaten = {one.name for one in variants if any(other.dominates(one) for other in variants)}
    first = manager.get_model_recommendations(TASK)[0].model.quantization
    print(
        f"{mode}: chosen {dict(choices)}, of the last 20 {dict(late)}; "
        f"P(chosen) after them {after}; first {first}; dominated {sorted(beaten)} of {variants}"
    )
    manager.close()
    manager.store.close()
    assert sum(choices.values()) >= RUNS
    assert beaten
    assert sum(after.get(name, 0.0) for name in beaten) < 0.05
