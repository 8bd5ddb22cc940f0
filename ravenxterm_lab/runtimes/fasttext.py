"""fastText: language identification and other text classification, in a worker process."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import HardwareType, ModelType
from ravenxterm_lab.runtimes.adapter import PackagedRuntime
from ravenxterm_lab.runtimes.inputs import as_texts, as_top_k
from ravenxterm_lab.runtimes.worker_model import WorkerModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions
    from ravenxterm_lab.runtimes.reports import RunResult

__all__ = ["FastTextRuntime"]

#: Packages that bring a module of this name, ours first: all of them predict alike.
_PACKAGES = ("fasttext-predict-v2", "fasttext-predict", "fasttext", "fasttext-wheel")
_PREFIX = "__label__"


class FastTextRuntime(PackagedRuntime):
    """Runs supervised fastText models through the module ``fasttext``.

    ``language_identification`` and ``text_classification`` take a text or a list of texts. A
    text gives a list of ``{"label": str, "probability": float}``, the likeliest first, as many
    as the parameter ``top_k`` says (1 by default) and as have a share of 0.00001 or more; a list
    of texts gives a list of such lists.
    Labels are the model's own without ``__label__``: a language is the code that the model was
    trained with, such as ``"fr"``. Line breaks count as spaces, so that a text is judged as a
    whole. A text without any word (empty, or only white space) gives an empty list; one of
    which the model knows nothing gives a guess of low probability.

    Examples
    --------
    >>> sorted(FastTextRuntime().tasks)
    ['language_identification', 'text_classification']
    """

    name = "fasttext"
    package = "fasttext"
    model_types = frozenset({ModelType.FASTTEXT})
    tasks = frozenset({"language_identification", "text_classification"})
    supports_batching = True
    overhead_bytes = 21 * 1024 * 1024

    def devices(self) -> tuple[HardwareType, ...]:
        """Return the CPU: fastText knows no other device."""
        return (HardwareType.CPU,)

    def version(self) -> str | None:
        """Return version and name of the installed package that brings the module.

        Each of them counts its versions for itself, so that a number alone says little.
        """
        for name in _PACKAGES:
            try:
                return f"{metadata.version(name)} ({name})"
            except metadata.PackageNotFoundError:
                continue
        return None

    def _load(self, model: ModelMetadata, options: LoadOptions) -> LoadedModel:
        return _FastTextModel(self, model, options)


class _FastTextModel(WorkerModel):
    engine = "ravenxterm_lab.runtimes.fasttext_engine:FastTextEngine"

    def _translate(
        self, task: str, inputs: Any, parameters: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        texts, many = as_texts(task, inputs)
        return {"texts": texts, "many": many, "top_k": as_top_k(task, parameters)}, {}

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        del arrays
        outputs = [
            [{"label": label.removeprefix(_PREFIX), "probability": p} for label, p in found]
            for found in values["outputs"]
        ]
        return replace(
            result,
            output=outputs if values["many"] else outputs[0],
            throughput=len(outputs) / result.latency,
        )
