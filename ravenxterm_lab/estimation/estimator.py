"""The one estimator: formulas and physics, bound to a machine and to what was measured on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ravenxterm_lab.estimation.conformal import DEFAULT_LEVEL, Group, normal_interval
from ravenxterm_lab.estimation.history import History
from ravenxterm_lab.estimation.memory import MemoryEstimate, estimate_memory
from ravenxterm_lab.estimation.parts import Same
from ravenxterm_lab.estimation.search import best_offload, largest_context
from ravenxterm_lab.estimation.speed import estimate_speed, expect_speed, model_key
from ravenxterm_lab.estimation.verdict import SAFETY_FACTOR, judge
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.runtimes.base import LoadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ravenxterm_lab.estimation.forecast import SpeedEstimate
    from ravenxterm_lab.estimation.history import Truth
    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Estimator", "MemoryForecast"]

#: Repeated loads of one model with one set of settings differ by about this (ln).
_MEASURED_SPREAD = 0.02
#: Of a formula that states no interval, and of the difference between two of its answers.
_FORMULA_SPREAD = 0.1
#: Answers of the formula that are kept: a budget that moves would make ever more.
_MOST_FORMULAS = 8192


_FACTS = tuple(field.name for field in fields(MemoryEstimate))
_FACTS_OF = attrgetter(*_FACTS)


@dataclass(frozen=True, slots=True)
class MemoryForecast(MemoryEstimate):
    """A `MemoryEstimate` with the evidence behind it; its interval is calibrated.

    Attributes
    ----------
    tier : str
        ``"measured"`` (a peak of this model with these settings here), ``"interpolated"`` (a
        peak with other settings, moved by the difference of the formula) or ``"formula"``.
    level : float
        Share of the outcomes that the interval shall hold (0–1).
    below, above : float
        Standard deviation of ln(actual / total) before calibration, on either side.
    runs : int
        Measurements behind it.
    """

    tier: str = "formula"
    level: float = DEFAULT_LEVEL
    below: float = _FORMULA_SPREAD
    above: float = _FORMULA_SPREAD
    runs: int = 0


class Estimator:
    """Says what models take on one machine, and how fast they are there.

    Parameters
    ----------
    hardware : HardwareProfile
        The machine; a simulated one will do.
    history : callable, optional
        Returns the history of that machine, such as `HistoryReader.read`; without it only
        formulas and physics speak.
    level : float
        Share of the outcomes that the intervals shall hold.

    Examples
    --------
    >>> from pathlib import Path
    >>> from ravenxterm_lab.hardware import HardwareProfile
    >>> from ravenxterm_lab.metadata import ModelMetadata, ModelType
    >>> machine = HardwareProfile.detect(measure_bandwidth=False)
    >>> model = ModelMetadata("m", ModelType.ONNX, Path("m.onnx"), 10_000_000)
    >>> Estimator(machine).memory(model).tier
    'formula'
    """

    def __init__(
        self,
        hardware: HardwareProfile,
        history: Callable[[], History] | None = None,
        *,
        level: float = DEFAULT_LEVEL,
    ) -> None:
        self.hardware = hardware
        self.level = level
        nothing = History()
        self._history = history or (lambda: nothing)
        # Rankings ask for the same again and again; an answer holds for the state of its history,
        # and one on memory for that of the outcomes on memory and for the model's own truths.
        self._speeds: WeakKeyDictionary[object, dict[tuple[object, ...], SpeedEstimate]]
        self._speeds = WeakKeyDictionary()
        self._memories: WeakKeyDictionary[
            object, dict[tuple[object, ...], tuple[object, MemoryForecast]]
        ]
        self._memories = WeakKeyDictionary()
        self._facts: WeakKeyDictionary[History, History] = WeakKeyDictionary()
        # What the formula says holds for every history.
        self._formulas: dict[tuple[object, ...], MemoryEstimate] = {}

    @property
    def known(self) -> History:
        """What was measured, as far as it is known now."""
        return self._history()

    def frozen(self) -> Estimator:
        """Return an estimator that keeps to what is known now, whatever is recorded later."""
        known = self._history()
        frozen = Estimator(self.hardware, lambda: known, level=self.level)
        frozen._speeds, frozen._memories = self._speeds, self._memories
        frozen._formulas, frozen._facts = self._formulas, self._facts
        return frozen

    def unlearned(self) -> Estimator:
        """Return an estimator that knows what loads took, and has learned nothing else.

        A measured peak is a fact, as the size of a file is; how fast a model was is history.
        """
        known = self._history()
        facts = self._facts.get(known)
        if facts is None:
            facts = self._facts[known] = History((), known.truths)
        bare = Estimator(self.hardware, lambda: facts, level=self.level)
        bare._speeds, bare._memories = self._speeds, self._memories
        bare._formulas = self._formulas
        return bare

    def memory(
        self,
        model: ModelMetadata,
        options: LoadOptions | None = None,
        *,
        engine: str | None = None,
        budget_bytes: int | None = None,
    ) -> MemoryForecast:
        """Say what loading and running a model takes, and whether that fits.

        A peak that was measured with these settings is the answer; one measured with another
        context is moved by the difference of the formula between the two.

        Parameters
        ----------
        model : ModelMetadata
            The model.
        options : LoadOptions, optional
            How it would be loaded; by default as the runtime would.
        engine : str, optional
            By default the first of its runtimes.
        budget_bytes : int, optional
            Held against the total for the verdict.
        """
        options = (options or LoadOptions()).resolved(model)
        engine = engine or (model.runtimes[0] if model.runtimes else None)
        history = self._history()
        kept = self._memories.setdefault(history.memory_state, {})
        key = (Same(model), options, engine)
        truths, known = kept.get(key, (None, None))
        now = history.loads_of(model_key(model))
        if known is None or truths != now or known.budget_bytes != budget_bytes:
            known = self._memory(model, options, engine, budget_bytes, history)
            kept[key] = now, known
        return known

    def _memory(
        self,
        model: ModelMetadata,
        options: LoadOptions,
        engine: str | None,
        budget_bytes: int | None,
        history: History,
    ) -> MemoryForecast:
        place = (engine or "", options.device.value)
        group = Group("peak_memory", "formula", *place)
        # What a process holds resident says nothing of a card's own memory.
        measurable = self.hardware.shares_memory(options.device)
        truth = history.truths.get((model_key(model), *place, options.settings))
        if truth is not None and measurable:
            base = self._formula(model, options, engine, budget_bytes, truth.peak_bytes)
            group = replace(group, tier="measured")
            return self._judged(base, history, group, _MEASURED_SPREAD, truth.runs)
        base = self._formula(model, options, engine, budget_bytes)
        near = self._nearest(model, options, place, history) if measurable else None
        if near is None or base.total_bytes is None:
            return self._judged(base, history, group)
        measured_with, truth = near
        there = self._formula(model, measured_with, engine).total_bytes
        if there is None:
            return self._judged(base, history, group)
        total = max(truth.peak_bytes + base.total_bytes - there, 1)
        # The formula may be off by its usual share of what it adds.
        share = abs(base.total_bytes - there) / total
        many = f"{truth.runs} run{'' if truth.runs == 1 else 's'}"
        mapped = (base.weights_bytes or 0) if base.kv_cache_bytes else 0
        base = replace(
            base,
            total_bytes=total,
            source=f"peak of {many} here with another context, and the formula between the two",
            verdict=judge(total, budget_bytes, pageable_bytes=mapped),
            needed_bytes=math.ceil(total * SAFETY_FACTOR),
        )
        spread = math.hypot(_MEASURED_SPREAD, _FORMULA_SPREAD * share)
        group = replace(group, tier="interpolated")
        return self._judged(base, history, group, spread, truth.runs)

    def speed(
        self,
        model: ModelMetadata,
        options: LoadOptions | None = None,
        *,
        engine: str | None = None,
        context_length: int | None = None,
        prompt_tokens: int | None = None,
        cached: float | None = None,
    ) -> SpeedEstimate:
        """Say how long a load, the first token and each further token take.

        Parameters
        ----------
        model, options, engine
            As for `memory`.
        context_length : int, optional
            Tokens in the KV cache while decoding; by default those of the prompt.
        prompt_tokens : int, optional
            Tokens to read before the first one.
        cached : float, optional
            Share of the file in the page cache (see `cached_share`).
        """
        options = (options or LoadOptions()).resolved(model)
        history = self._history()
        known = self._speeds.setdefault(history.state, {})
        key = (Same(model), options, engine, context_length, prompt_tokens, cached)
        if key not in known:
            known[key] = estimate_speed(
                model,
                engine=engine,
                context_length=context_length,
                prompt_tokens=prompt_tokens,
                cached=cached,
                history=history,
                level=self.level,
                **self._how(options),
            )
        return known[key]

    def expect(self, asked: Iterable[tuple[ModelMetadata, LoadOptions]]) -> None:
        """Say whose speed will be asked for: a thousand in one go take little longer than ten.

        Parameters
        ----------
        asked : iterable of (ModelMetadata, LoadOptions)
            As for `speed`.
        """
        history = self._history()
        known = self._speeds.setdefault(history.state, {})
        for model, given in asked:
            options = given.resolved(model)
            if (Same(model), options, None, None, None, None) not in known:
                expect_speed(model, history, **self._how(options))

    def _how(self, options: LoadOptions) -> dict[str, Any]:
        return {
            "hardware": self.hardware,
            "device": options.device,
            "kv_type": options.kv_type,
            "batch_size": options.batch_size,
            "gpu_layers": options.gpu_layers or None,
            "settings": options.settings,
            # The engines that can be installed beside this package are of 2026.
            "recent": True,
        }

    def largest_context(
        self,
        model: ModelMetadata,
        budget_bytes: int,
        options: LoadOptions | None = None,
        *,
        engine: str | None = None,
    ) -> int | None:
        """Return the longest context with which a model fits, in tokens.

        Parameters
        ----------
        model, options, engine
            As for `memory`; the context of the options is not looked at.
        budget_bytes : int
            What it must fit into.

        Returns
        -------
        int or None
            At most what the model was trained for, else a multiple of 256, and 0 when not even
            256 tokens fit; None when that cannot be said, or the model has no context.
        """
        if model.context_length is None or model.attention is None:
            return None

        def estimate(
            model: ModelMetadata, context_length: int, budget_bytes: int
        ) -> MemoryEstimate:
            asked = replace(options or LoadOptions(), context_length=context_length)
            return self.memory(model, asked, engine=engine, budget_bytes=budget_bytes)

        return largest_context(model, budget_bytes=budget_bytes, estimate=estimate)

    def best_offload(
        self,
        model: ModelMetadata,
        budget_bytes: int,
        options: LoadOptions,
        *,
        engine: str | None = None,
    ) -> LoadOptions | None:
        """Return the options with as many layers on the device as its memory holds.

        Parameters
        ----------
        model, options, engine
            As for `memory`; the layers of the options are not looked at.
        budget_bytes : int
            What the CPU's share must fit into; each GPU has its own memory.

        Returns
        -------
        LoadOptions or None
            With ``gpu_layers`` 0 where all fit, which is the default; those of the CPU where
            none does; None where it cannot be said, or the machine has no such device.
        """
        gpus = tuple(gpu for gpu in self.hardware.gpu_devices if gpu.hardware is options.device)
        if not gpus:
            return None

        def estimate(model: ModelMetadata, gpu_layers: int, **_: object) -> MemoryEstimate:
            return self._formula(model, options, engine, budget_bytes, gpu_layers=gpu_layers)

        found = best_offload(model, gpus, estimate=estimate)
        if found is None:
            return None
        if not found.gpu_layers:
            return replace(options, device=HardwareType.CPU, gpu_layers=0)
        return replace(options, gpu_layers=0 if found.whole else found.gpu_layers)

    def _formula(
        self,
        model: ModelMetadata,
        options: LoadOptions,
        engine: str | None,
        budget_bytes: int | None = None,
        measured_bytes: int | None = None,
        gpu_layers: int | None = None,
    ) -> MemoryEstimate:
        key = (Same(model), options, engine, budget_bytes, measured_bytes, gpu_layers)
        known = self._formulas.get(key)
        if known is not None:
            return known
        gpus = self.hardware.gpu_devices
        if len(self._formulas) >= _MOST_FORMULAS:
            self._formulas.clear()
        known = self._formulas[key] = estimate_memory(
            model,
            engine=engine,
            context_length=options.context_length,
            batch_size=options.batch_size,
            kv_type=options.kv_type,
            gpu_layers=gpu_layers if gpu_layers is not None else options.gpu_layers or None,
            devices=tuple(gpu for gpu in gpus if gpu.hardware is options.device),
            instruction_sets=self.hardware.instruction_sets,
            budget_bytes=budget_bytes,
            measured_bytes=measured_bytes,
        )
        return known

    def _nearest(
        self,
        model: ModelMetadata,
        options: LoadOptions,
        place: tuple[str, str],
        history: History,
    ) -> tuple[LoadOptions, Truth] | None:
        """Return the measured load whose context is nearest in ratio, other settings equal."""
        wanted = options.context_length
        if wanted is None:
            return None
        best: tuple[float, LoadOptions, Truth] | None = None
        for (_, engine, device, settings), truth in history.loads_of(model_key(model)):
            if (engine, device) != place:
                continue
            context = _context_of(settings)
            if context is None:
                continue
            there = replace(options, context_length=context)
            distance = abs(math.log(context / wanted))
            if there.settings == settings and (best is None or distance < best[0]):
                best = (distance, there, truth)
        return None if best is None else best[1:]

    def _judged(
        self,
        base: MemoryEstimate,
        history: History,
        group: Group,
        spread: float | None = None,
        runs: int = 0,
    ) -> MemoryForecast:
        """Add the evidence, and an interval that is calibrated."""
        facts: dict[str, Any] = dict(zip(_FACTS, _FACTS_OF(base), strict=True))
        below, above = _sides(base) if spread is None else (spread, spread)
        facts.update(tier=group.tier, level=self.level, below=below, above=above, runs=runs)
        if base.total_bytes is not None:
            low, high = history.calibrator.quantiles(group, self.level)
            facts["low_bytes"] = round(base.total_bytes * math.exp(low * below))
            facts["high_bytes"] = round(base.total_bytes * math.exp(high * above))
        return MemoryForecast(**facts)


def _sides(base: MemoryEstimate) -> tuple[float, float]:
    """Return the spread on either side, from the interval that the formula states."""
    if not (base.total_bytes and base.low_bytes and base.high_bytes):
        return _FORMULA_SPREAD, _FORMULA_SPREAD
    end = normal_interval(DEFAULT_LEVEL)[1]
    below = math.log(base.total_bytes / base.low_bytes) / end
    above = math.log(base.high_bytes / base.total_bytes) / end
    return below or _FORMULA_SPREAD, above or _FORMULA_SPREAD


def _context_of(settings: str) -> int | None:
    """Return the context that a text of settings names (see `LoadOptions.settings`)."""
    for part in settings.split():
        name, _, value = part.partition("=")
        if name == "ctx" and value.isdigit():
            return int(value)
    return None
