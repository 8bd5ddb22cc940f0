"""What the manager measures on purpose: benchmarks, and quality that others measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import NoSuitableModelError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.benchmarking import choose_models, run_benchmark
from ravenxterm_lab.models.importing import ImportedQuality, import_quality
from ravenxterm_lab.requirements import normalize_task

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from ravenxterm_lab.models.benchmark_report import BenchmarkReport
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.selector import AdaptiveModelSelector
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["Measuring"]


class Measuring:
    """The part of `ModelManager` that measures on purpose."""

    _bench: Workbench
    registry: ModelRegistry
    selector: AdaptiveModelSelector

    def benchmark(
        self,
        task: str,
        models: ModelMetadata | str | Sequence[ModelMetadata | str] | None = None,
        inputs: Any = None,
        repeats: int = 3,
        *,
        quality: bool = False,
        parameters: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
        seed: int = 0,
        timeout: float | None = None,
        progress: bool = True,
    ) -> BenchmarkReport:
        """Run models side by side: in rounds, in a random order, each freshly loaded in each.

        The first run after a load is kept out of the warm numbers. Every run is recorded as an
        ordinary execution, a failure too. Interrupted, it keeps what is done, and the same call
        goes on from there; finished, the same call measures anew. Idle models are unloaded.

        Parameters
        ----------
        task : str
            Such as ``"text_generation"``.
        models : name, ModelMetadata or sequence of them, optional
            By default every registered model that can do the task here.
        inputs : object, optional
            One input or a list of them, as ``run`` takes them; a built-in few by default.
        repeats : int
            Rounds.
        quality : bool
            Ask the built-in questions of the task too, once a model (see
            ``ravenxterm_lab.quality``); their scores are what selection learns from.
        parameters : mapping, optional
            For the engine, such as ``{"max_tokens": 64}``.
        executor : concurrent.futures.Executor, optional
            Runs the visits to the models, several at a time if it has several workers (which
            disturb each other on one machine): threads, processes, or
            ``dask.distributed.Client(…).get_executor()``. Its workers need this package, and
            the models under the same paths.
        seed : int
            Of the order.
        timeout : float, optional
            Seconds for each run.
        progress : bool
            Show a progress bar.

        Returns
        -------
        BenchmarkReport
            Medians with intervals, scores, failures; ``.pl()``, ``.df()``.

        Raises
        ------
        NoSuitableModelError
            If no model can do the task here.
        RequirementError
            On an unknown task or parameter, or inputs of the wrong kind.
        UnknownModelError
            If no model has a name that was given.
        """
        task = normalize_task(task)
        if isinstance(models, str):
            models = self.registry.get(models)
        elif models is not None and not isinstance(models, ModelMetadata):
            models = [self.registry.get(m) if isinstance(m, str) else m for m in models]
        if models is None and not self.registry.candidates:
            raise NoSuitableModelError(f"No models yet: {self.registry.next_step}.")
        chosen, left_out = choose_models(self.selector, self.registry.candidates, task, models)
        return run_benchmark(
            self._bench, task, chosen, left_out,
            inputs=inputs, repeats=repeats, quality=quality, parameters=parameters,
            executor=executor, seed=seed, timeout=timeout, progress=progress,
        )  # fmt: skip

    def import_quality(
        self,
        path: str | os.PathLike[str],
        model: ModelMetadata | str,
        *,
        task_type: str = "text_generation",
    ) -> ImportedQuality:
        """Take over the scores of a results file of lm-evaluation-harness.

        Each of its tasks becomes one execution that has a quality and nothing else, marked as
        having run elsewhere. A file that was imported before adds nothing.

        Parameters
        ----------
        path : path
            The ``results_….json`` that its ``--output_path`` wrote.
        model : ModelMetadata or str
            Whose scores they are; a name that is not registered is marked as external.
        task_type : str
            On which of our tasks they count.

        Raises
        ------
        RequirementError
            If the file is none, holds a score outside 0–1 or none at all, or on an unknown
            task; nothing is recorded.
        """
        return import_quality(self._bench, self.registry.candidates, path, model, task_type)
