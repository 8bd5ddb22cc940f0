"""What the manager says of estimates: one model, all models, and how earlier ones came out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation import (
    SAFETY_FACTOR,
    Calibration,
    Estimator,
    Verdict,
    read_calibration,
)
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import HardwareType, ModelMetadata
from ravenxterm_lab.models.estimate import Estimate, Estimates
from ravenxterm_lab.models.recording import check_model
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from ravenxterm_lab.estimation import MemoryForecast
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences

__all__ = ["Estimating"]


class Estimating:
    """The part of `ModelManager` that estimates."""

    _bench: Workbench
    _preferences: UserPreferences
    registry: ModelRegistry

    def estimate(
        self,
        model: ModelMetadata | str,
        *,
        hardware: HardwareProfile | str | None = None,
        context_length: int | None = None,
        prompt_tokens: int | None = None,
        device: HardwareType | str | None = None,
        gpu_layers: int | None = None,
        kv_type: str = "f16",
        engine: str | None = None,
    ) -> Estimate:
        """Say what a model will take and how fast it will be, before a byte is loaded.

        Parameters
        ----------
        model : ModelMetadata or str
            A model, or the name of a registered one.
        hardware : HardwareProfile or str, optional
            Another machine than this one, such as
            ``HardwareProfile.simulate("RTX 4090 24GB, 64 GiB RAM")`` or just that text.
        context_length : int, optional
            Tokens to make room for; by default ``min(trained, 4096)``.
        prompt_tokens : int, optional
            Tokens of a prompt, for the time to the first token; by default 64.
        device : HardwareType or str, optional
            Where it shall run; by default the first of the preferred devices that the machine
            has (and, on this machine, that its runtime can use).
        gpu_layers : int, optional
            Layers on the GPU, the output counted as one; by default all, or as many as fit.
        kv_type : str
            Type of the KV cache, such as ``"f16"`` or ``"q8_0"``.
        engine : str, optional
            By default its runtime here, else the engine that its format is made for.

        Returns
        -------
        Estimate
            Memory by item and device, load time, time to first token, decode speed, each with
            an interval and its evidence; and what would make it fit.

        Raises
        ------
        UnknownModelError
            If no registered model has that name; it suggests the nearest.
        RequirementError
            On an option that is not allowed, such as more context than the model was trained
            for.
        HardwareError
            If the description of the machine names a part that is not known.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab.models import ModelManager, ModelType
        >>> from pathlib import Path
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> model = ModelMetadata("m", ModelType.ONNX, Path("m.onnx"), 10_000_000)
        >>> str(manager.estimate(model, hardware="RTX 4090 24GB, 64 GiB RAM").memory.verdict)
        'fits'
        """
        found = self._model(model)
        machine, estimator = self._machine(hardware)
        options = LoadOptions(
            device=self._device(found, machine, device, here=hardware is None),
            context_length=context_length,
            gpu_layers=gpu_layers or 0,
            kv_type=kv_type,
        ).resolved(found)
        budget = self._budget(machine)
        if gpu_layers is None and options.device is not HardwareType.CPU:
            options = estimator.best_offload(found, budget, options, engine=engine) or options
        memory = estimator.memory(found, options, engine=engine, budget_bytes=budget)
        largest = estimator.largest_context(found, budget, options, engine=engine)
        return Estimate(
            model=found,
            hardware=machine,
            here=hardware is None,
            options=options,
            memory=memory,
            speed=estimator.speed(found, options, engine=engine, prompt_tokens=prompt_tokens),
            speed_full=estimator.speed(
                found, options, engine=engine, context_length=options.context_length
            ),
            largest_context=largest,
            remedies=_remedies(estimator, found, options, memory, engine, budget, largest),
        )

    def estimates(
        self,
        *,
        hardware: HardwareProfile | str | None = None,
        context_length: int | None = None,
    ) -> Estimates:
        """Say of every registered model what `estimate` says of one, in a table.

        Parameters
        ----------
        hardware : HardwareProfile or str, optional
            Another machine than this one, as for `estimate`.
        context_length : int, optional
            Tokens to make room for, where the model was trained for as many.

        Raises
        ------
        HardwareError
            If the description of the machine names a part that is not known.
        """
        machine, estimator = self._machine(hardware)
        budget, here = self._budget(machine), hardware is None
        rows = []
        for model in self.registry.available_models.values():
            length = context_length
            if length is not None and model.context_length:
                length = min(length, model.context_length)
            options = LoadOptions(
                device=self._device(model, machine, None, here=here), context_length=length
            ).resolved(model)
            if options.device is not HardwareType.CPU:
                options = estimator.best_offload(model, budget, options) or options
            memory = estimator.memory(model, options, budget_bytes=budget)
            rows.append((model, options, memory, estimator.speed(model, options)))
        hint = "" if rows else f"No models yet: {self.registry.next_step}."
        return Estimates(tuple(rows), machine, here, hint)

    def calibration(self) -> Calibration:
        """Say how earlier estimates came out: error and coverage by quantity and evidence.

        Raises
        ------
        StoreError
            If the store cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab.models import ModelManager
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> manager.calibration().summary
        'no prediction has been followed by a load or a run yet'
        """
        return read_calibration(self._bench.store, lambda: self.registry.next_step)

    def _model(self, model: ModelMetadata | str) -> ModelMetadata:
        check_model(model)
        if isinstance(model, ModelMetadata):
            return model
        return self.registry.get(model)

    def _machine(self, hardware: HardwareProfile | str | None) -> tuple[HardwareProfile, Estimator]:
        if hardware is None:
            return self._bench.hardware.refreshed(), self._bench.estimator.frozen()
        machine = HardwareProfile.simulate(hardware) if isinstance(hardware, str) else hardware
        there = machine.fingerprint
        return machine, Estimator(machine, lambda: self._bench.history.read(there))

    def _budget(self, machine: HardwareProfile) -> int:
        budget = int(machine.total_memory * self._preferences.max_memory_usage)
        return min(budget, machine.available_memory)

    def _device(
        self,
        model: ModelMetadata,
        machine: HardwareProfile,
        asked: HardwareType | str | None,
        *,
        here: bool,
    ) -> HardwareType:
        if asked is not None:
            # LoadOptions names what is allowed where it is no device.
            return LoadOptions(device=asked).device  # type: ignore[arg-type]
        usable = machine.devices
        if here and model.preferred_hardware:
            usable = tuple(one for one in usable if one in model.preferred_hardware)
        preferred = [one for one in self._preferences.preferred_devices if one in usable]
        if not here and set(preferred) <= {HardwareType.CPU}:
            # Who thinks of buying a GPU wants to know what it does, preferred so far or not.
            return usable[0]
        return preferred[0] if preferred else HardwareType.CPU


def _remedies(
    estimator: Estimator,
    model: ModelMetadata,
    options: LoadOptions,
    memory: MemoryForecast,
    engine: str | None,
    budget: int,
    largest: int | None,
) -> tuple[str, ...]:
    """Say what makes it fit, each tried, and what is lacking."""
    if memory.verdict is Verdict.FITS or memory.total_bytes is None:
        return ()
    found = []
    if largest and largest < (memory.context_length or 0):
        found.append(f"context_length={largest} fits, and is the most that does")
    others = []
    if memory.kv_cache_bytes and options.kv_type == "f16":
        others.append(("kv_type='q8_0' fits", replace(options, kv_type="q8_0")))
    if options.device is not HardwareType.CPU:
        on_cpu = replace(options, device=HardwareType.CPU, gpu_layers=0)
        others.append(("device='cpu' fits", on_cpu))
    for text, changed in others:
        tried = estimator.memory(model, changed, engine=engine, budget_bytes=budget)
        if tried.verdict is Verdict.FITS:
            found.append(text)
    for one in memory.devices:
        needed = math.ceil(one.total_bytes * SAFETY_FACTOR)
        if one.budget_bytes is not None and needed > one.budget_bytes:
            gap = format_bytes(needed - one.budget_bytes)
            found.append(f"{one.name} lacks {gap}, the safety margin included")
    return tuple(found)
