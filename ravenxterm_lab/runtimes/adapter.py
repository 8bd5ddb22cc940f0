"""What the runtimes that come as a Python package have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab._imports import is_installed
from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.runtimes.base import LoadOptions, Runtime
from ravenxterm_lab.runtimes.inline import in_process

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel

__all__ = ["PackagedRuntime"]


class PackagedRuntime(Runtime):
    """A runtime whose engine is an optional Python package.

    Attributes
    ----------
    package : str
        The package to import, and its name on the package index.
    needs : tuple of str
        Further packages that it cannot do without.
    """

    package: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def _load(self, model: ModelMetadata, options: LoadOptions) -> LoadedModel:
        """Load a model that has no gap, with options that suit it."""

    def missing_package(self) -> str | None:
        """Return the first package that is not installed; None when all are."""
        return next((name for name in (self.package, *self.needs) if not is_installed(name)), None)

    def version(self) -> str | None:
        """Return the installed version of the package, without importing it."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def gap(self, model: ModelMetadata) -> str | None:
        """Say why this runtime cannot run a model, and the remedy; None when it can."""
        if model.model_type not in self.model_types:
            reads = ", ".join(sorted(kind.name for kind in self.model_types))
            return (
                f"no runtime installed for {model.model_type.name}; {self.name} reads {reads}: "
                "get the model in that format"
            )
        if model.problems:
            return f"the model is damaged: {'; '.join(model.problems)}"
        if not self.tasks_of(model):
            return (
                f"{self.name} does not run {', '.join(model.task_types)}; "
                f"it runs {', '.join(sorted(self.tasks))}"
            )
        missing = self.missing_package()
        if missing:
            return f'{missing} is not installed: pip install "ravenxterm-lab[runtimes]"'
        return None

    def resolve(self, model: ModelMetadata, options: LoadOptions) -> LoadOptions:
        """Return the options with every automatic choice made; see `Runtime.resolve`.

        Raises
        ------
        ConfigurationError
            If ``RAVENXTERM_IN_PROCESS`` names what is no runtime.
        """
        resolved = super().resolve(model, options)
        return replace(resolved, in_process=True) if in_process(self.name) else resolved

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        """Load a model; see `Runtime.load`."""
        asked = options or LoadOptions()
        gap = self.gap(model)
        if gap is not None:
            if model.problems:
                kind = FailureKind.CORRUPT
            elif self.missing_package():
                kind = FailureKind.MISSING_RUNTIME
            else:
                kind = FailureKind.UNSUPPORTED
            raise RuntimeFailureError(f"{model.name} cannot be loaded by {self.name}: {gap}.", kind)
        if asked.device not in self.devices() or asked.gpu_layers:
            able = ", ".join(device.value for device in self.devices())
            raise RuntimeFailureError(
                f"{model.name} cannot be loaded on {asked.device.value} with "
                f"{asked.gpu_layers} GPU layers: {self.name} as installed here can use {able}. "
                "Load it with device='cpu' and gpu_layers=0.",
                FailureKind.UNSUPPORTED,
            )
        if not model.path.exists():
            raise RuntimeFailureError(
                f"{model.name} cannot be loaded: there is no {model.path} any more. "
                "Scan again, or bring the file back.",
                FailureKind.CORRUPT,
            )
        return self._load(model, self.resolve(model, asked))
