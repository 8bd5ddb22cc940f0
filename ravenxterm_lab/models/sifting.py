"""Sift the candidates: place each on a device, drop those that break a constraint, say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ravenxterm_lab.estimation import MemoryForecast, model_key
from ravenxterm_lab.estimation.parts import Same
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.base import DEFAULT_CONTEXT
from ravenxterm_lab.selection import Arm, Engine, Rejection, Violation, assess, relax
from ravenxterm_lab.selection.constraints import usable_devices

if TYPE_CHECKING:
    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.metadata import HardwareType, ModelMetadata
    from ravenxterm_lab.models.failing import Failing
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import Runtime
    from ravenxterm_lab.selection import Assessment, Evidence, Machine, Relaxation

__all__ = ["Measure", "Sieve", "Sifted"]

#: What each of some arms breaks of the limits on measurements, by the model's name.
Measure = Callable[[list[Arm]], Mapping[str, tuple[Violation, ...]]]

# Where neither a bandwidth nor a run says anything: tokens/s, and seconds (a model that does
# not generate has no first token, only the overhead of a request).
_UNKNOWN_RATE = 10.0
_UNKNOWN_FIRST_TOKEN = 0.05
_FINAL = frozenset({"problems", "task_type", "runtime"})
#: Sets of requirements, or budgets, of which what was found is kept for the next ranking.
_MOST_KEPT = 8
#: Candidates of each: one that is scanned anew is another.
_MOST_MODELS = 8192


@dataclass(slots=True)
class Sifted:
    """What is left, and what fell out.

    Attributes
    ----------
    arms : list of Arm
        Feasible candidates, in the order given.
    beside : list of Arm
        Models that fell out, but whose history counts.
    rejected : list of Rejection
        With the reasons, in the order given.
    options : dict of str to LoadOptions
        How each would be loaded, by model name.
    memory : dict of str to MemoryForecast
        What each would take (bytes), by model name.
    """

    arms: list[Arm] = field(default_factory=list)
    beside: list[Arm] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    options: dict[str, LoadOptions] = field(default_factory=dict)
    memory: dict[str, MemoryForecast] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """What was found of a candidate that fits where it would first be tried."""

    found: Assessment
    options: LoadOptions
    truths: object
    # With the state of the history that its speeds follow from, as one: any thread may ask.
    arm: tuple[Arm, object] | None = None


_Candidates = dict[Same["ModelMetadata"], _Known]
# By the state of the history on memory, and then by all else that it follows from.
_KEPT: WeakKeyDictionary[object, dict[tuple[object, ...], _Candidates]] = WeakKeyDictionary()


class Sieve:
    """Holds candidates against requirements, devices, memory and what was measured.

    Parameters
    ----------
    bench : Workbench
        For the runtimes.
    estimator : Estimator
        One snapshot for the whole decision.
    machine : Machine
        Devices and memory (bytes).
    wanted : TaskRequirements
        Hard constraints.
    evidence : Evidence
        What was measured.
    loaded : frozenset of str
        Names of resident models.
    failing : Failing
        What speaks against loads that failed before.
    runs_per_load : float
        Executions of the task that a load is expected to serve.
    """

    def __init__(
        self,
        bench: Workbench,
        estimator: Estimator,
        machine: Machine,
        wanted: TaskRequirements,
        evidence: Evidence,
        loaded: frozenset[str],
        failing: Failing,
        runs_per_load: float = 1.0,
    ) -> None:
        self._runtimes = {runtime.name: runtime for runtime in bench.runtimes}
        self._estimator = estimator
        self._machine = machine
        self._wanted = wanted
        self._seen = {key for key, _ in evidence.cells}
        self._loaded = loaded
        self._failing = failing
        self._runs_per_load = runs_per_load
        self._limits = any(
            limit is not None
            for limit in (wanted.max_latency, wanted.min_throughput, wanted.min_quality)
        )
        self._history = estimator.known
        self._kept: _Candidates | None = None
        # A load that failed speaks against a candidate for some time only.
        if not failing.any:
            kept = _KEPT.setdefault(self._history.memory_state, {})
            place = (
                Same(bench), Same(estimator.hardware), wanted, machine.limit,
                replace(machine, available=0),
            )  # fmt: skip
            if place not in kept and len(kept) >= _MOST_KEPT:
                kept.clear()
            self._kept = kept.setdefault(place, {})

    def sift(self, models: Sequence[ModelMetadata], measure: Measure) -> Sifted:
        """Return what is feasible, and why the rest is not.

        Parameters
        ----------
        models : sequence of ModelMetadata
            The candidates, each name once.
        measure : callable
            Returns what each of some arms breaks of the limits on measurements, by name.
        """
        out = Sifted()
        found = {model.name: self._assess(model, out) for model in models}
        known = [model for model in models if self._matters(model, found[model.name])]
        self._estimator.expect((model, out.options[model.name]) for model in known)
        arms = [self._arm(one, out.memory[one.name], out.options[one.name]) for one in known]
        slow = measure(arms) if self._limits and arms else {}
        for arm in arms:
            name = arm.model.name
            (out.beside if found[name].violations or slow.get(name) else out.arms).append(arm)
        for model in models:
            against = found[model.name].violations
            late = slow.get(model.name, ())
            if against or late:
                out.rejected.append(self._reject(model, found[model.name], late, arms, measure))
        return out

    def _assess(self, model: ModelMetadata, out: Sifted) -> Assessment:
        known = self._known(model)
        if known is None:
            found = assess(model, self._wanted, self._machine, partial(self._place, model))
            options = self._options(model, self._wanted, found.device)
            if self._kept is not None and self._lasts(model, found):
                truths = self._history.loads_of(model_key(model))
                if len(self._kept) >= _MOST_MODELS:
                    self._kept.clear()
                self._kept[Same(model)] = _Known(found, options, truths)
        else:
            found, options = known.found, known.options
        out.options[model.name] = options
        out.memory[model.name] = _forecast(found)
        return found

    def _known(self, model: ModelMetadata) -> _Known | None:
        """Return what an earlier ranking found, where nothing that matters has changed since."""
        known = self._kept.get(Same(model)) if self._kept else None
        if known is None or known.truths != self._history.loads_of(model_key(model)):
            return None
        needed = known.found.memory.needed_bytes
        return known if needed is not None and needed <= self._machine.available else None

    def _lasts(self, model: ModelMetadata, found: Assessment) -> bool:
        """Say whether only what is free could change it, by becoming less than it needs."""
        devices = usable_devices(model, self._wanted, self._machine)
        return not found.violations and devices[:1] == [found.device]

    def _place(
        self,
        model: ModelMetadata,
        wanted: TaskRequirements,
        machine: Machine,
        device: HardwareType,
    ) -> tuple[MemoryForecast, tuple[Violation, ...]]:
        options = self._options(model, wanted, device)
        memory = self._estimator.memory(model, options, budget_bytes=machine.limit)
        return memory, self._failing.against(model, options)

    def _options(
        self, model: ModelMetadata, wanted: TaskRequirements, device: HardwareType
    ) -> LoadOptions:
        asked = wanted.min_context_length
        if asked is not None and model.context_length:
            asked = min(asked, model.context_length)
        context = None if asked is None or asked <= DEFAULT_CONTEXT else asked
        runtime = self._runtimes.get(model.runtimes[0]) if model.runtimes else None
        return _resolved(Same(model), runtime, device, context)

    def _matters(self, model: ModelMetadata, found: Assessment) -> bool:
        """Say whether a belief about a model is needed, or its history tells of others."""
        if not found.violations:
            return True
        if found.memory.total_bytes is None:
            return False
        if self._limits and not {one.constraint for one in found.violations} & _FINAL:
            return True
        return model_key(model) in self._seen

    def _arm(self, model: ModelMetadata, memory: MemoryForecast, options: LoadOptions) -> Arm:
        known = self._known(model)
        if known is None or known.found.memory is not memory:
            return self._made(model, memory, options)
        resident, state = model.name in self._loaded, self._history.state
        arm, made_of = known.arm or (None, None)
        if arm is None or made_of is not state:
            arm = self._made(model, memory, options)
            known.arm = arm, state
        elif (arm.resident, arm.runs_per_load) != (resident, self._runs_per_load):
            arm = replace(arm, resident=resident, runs_per_load=self._runs_per_load)
            known.arm = arm, state
        return arm

    def _made(self, model: ModelMetadata, memory: MemoryForecast, options: LoadOptions) -> Arm:
        speed = self._estimator.speed(model, options)
        assert memory.total_bytes is not None  # the filter rejected what is unknown
        # A server that does not tell a model's size leaves nothing to predict its speed from.
        unknown = not model.size_bytes and not speed.decode.runs
        return Arm(
            model=model,
            memory_bytes=memory.total_bytes,
            decode_rate=(None if unknown else speed.decode_rate) or _UNKNOWN_RATE,
            first_token_seconds=speed.time_to_first_token or _UNKNOWN_FIRST_TOKEN,
            load_seconds=speed.load_seconds,
            resident=model.name in self._loaded,
            speed_source=speed.source,
            engine=Engine.of(model.runtimes[0], options.device.value, options.settings)
            if model.runtimes
            else None,
            runs_per_load=self._runs_per_load,
        )

    def _reject(
        self,
        model: ModelMetadata,
        found: Assessment,
        late: Sequence[Violation],
        arms: list[Arm],
        measure: Measure,
    ) -> Rejection:
        against = (*found.violations, *late)
        if found.violations[:1] and found.violations[0].constraint in _FINAL:
            return Rejection.of(model, found.violations, {})
        way: Relaxation | None = None
        if found.violations:
            place = partial(self._place, model)
            way = relax(model, self._wanted, self._machine, place, DEFAULT_CONTEXT)
            if way is None:
                return Rejection.of(model, against, {})
            if self._limits:
                late = measure(self._moved(model, way, arms)).get(model.name, ())
        change = dict(way.change) if way else {}
        for one in late:
            change.update(one.change)
        return Rejection.of(model, against, change)

    def _moved(self, model: ModelMetadata, way: Relaxation, arms: list[Arm]) -> list[Arm]:
        """Return the arms with this model placed as a change says."""
        options = self._options(model, way.wanted, way.assessment.device)
        moved = self._arm(model, _forecast(way.assessment), options)
        return [*(arm for arm in arms if arm.model.name != model.name), moved]


# Each ranking asks for the same again; what a runtime chooses for a model stays.
@lru_cache(maxsize=8192)
def _resolved(
    model: Same[ModelMetadata], runtime: Runtime | None, device: HardwareType, context: int | None
) -> LoadOptions:
    options = LoadOptions(device=device, context_length=context)
    if runtime is None:
        return options
    # Resolved, so that a peak is found again under the settings that it was measured with.
    return runtime.resolve(model.value, options)


def _forecast(found: Assessment) -> MemoryForecast:
    memory = found.memory
    assert isinstance(memory, MemoryForecast)  # the estimator makes no other
    return memory
