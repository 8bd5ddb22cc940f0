"""The contract of a runtime: who owns what, which thread may call, what is raised.

A `Runtime` is a stateless adapter to one engine; making one costs nothing and imports no
engine. ``load`` returns a `LoadedModel`, which belongs to whoever loaded it (usually the
`ModelPool`) until ``unload``. Any thread may call ``run``; runs of one loaded model are
serialised. ``KeyboardInterrupt`` stops the generation, keeps the model and is raised again.

Every failure is a `RuntimeFailureError` with a `FailureKind`; input that no engine could
accept is a `RequirementError`, and the model stays usable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ravenxterm_lab.exceptions import (
    FailureKind,
    RequirementError,
    RuntimeFailureError,
    did_you_mean,
)
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.requirements import normalize_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from ravenxterm_lab.runtimes.reports import LoadReport, MemoryUse, RunResult

__all__ = [
    "DEFAULT_CONTEXT",
    "LoadOptions",
    "LoadedModel",
    "Runtime",
]

#: Tokens of context that are loaded when nobody asks for more: a KV cache is paid for up front.
DEFAULT_CONTEXT = 4096
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes
    ----------
    device : HardwareType
        Where it shall run.
    context_length : int or None
        Tokens to make room for; None means ``min(trained, 4096)``.
    threads : int or None
        Threads to compute with; None means every core this process may use.
    gpu_layers : int
        Layers to put on the GPU; 0 for a CPU.
    kv_type : str
        Element type of the KV cache, such as ``"f16"`` or ``"q8_0"``.
    batch_size : int
        Prompt tokens that are processed at a time.
    seed : int
        For sampling, where a run does not give its own.
    memory_limit : int or None
        Bytes of private memory that its process may take above its idle state, where the system
        can enforce it (see `limit_memory`); None for no limit. It is no part of the settings.
    in_process : bool
        Load into this process instead of a worker: sooner there, but a native crash ends this
        process, and no limit holds. ``RAVENXTERM_IN_PROCESS`` asks for it by runtime.

    Raises
    ------
    RequirementError
        If a value is not allowed; it names the field, the value and what is allowed.

    Examples
    --------
    >>> LoadOptions(context_length=2048).settings
    'ctx=2048 kv=f16'
    """

    device: HardwareType = HardwareType.CPU
    context_length: int | None = None
    threads: int | None = None
    gpu_layers: int = 0
    kv_type: str = "f16"
    batch_size: int = 512
    seed: int = 0
    memory_limit: int | None = field(default=None, compare=False)
    in_process: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("context_length", 1),
            ("threads", 1),
            ("gpu_layers", 0),
            ("batch_size", 1),
            ("seed", 0),
            ("memory_limit", 1),
        ):
            value = getattr(self, name)
            if value is None and name in {"context_length", "threads", "memory_limit"}:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequirementError(
                    f"{name} must be a whole number of at least {least}, got {value!r}."
                )
        if self.kv_type not in _KV_TYPES:
            raise RequirementError(
                f"Unknown kv_type {self.kv_type!r}.{did_you_mean(str(self.kv_type), _KV_TYPES)}"
            )
        try:
            object.__setattr__(self, "device", HardwareType(self.device))
        except ValueError:
            raise RequirementError(
                f"Unknown device {self.device!r}."
                f"{did_you_mean(str(self.device), [kind.value for kind in HardwareType])}"
            ) from None

    @property
    def settings(self) -> str:
        """A short stable text for the store: context and KV type, then what is not a default."""
        parts = [f"ctx={self.context_length or 'auto'}", f"kv={self.kv_type}"]
        if self.device is not HardwareType.CPU:
            parts.append(f"device={self.device.value}")
        if self.gpu_layers:
            parts.append(f"gpu_layers={self.gpu_layers}")
        if self.threads is not None:
            parts.append(f"threads={self.threads}")
        if self.batch_size != 512:
            parts.append(f"batch={self.batch_size}")
        if self.seed:
            parts.append(f"seed={self.seed}")
        if self.in_process:
            parts.append("in_process")
        return " ".join(parts)

    def resolved(self, model: ModelMetadata) -> LoadOptions:
        """Return the options with the context length that this model really gets.

        Raises
        ------
        RequirementError
            If more context is asked for than the model was trained for.
        """
        trained = model.context_length
        if self.context_length is None:
            return replace(self, context_length=min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT))
        if trained and self.context_length > trained:
            raise RequirementError(
                f"context_length={self.context_length} is more than the {trained} tokens that "
                f"{model.name} was trained for. Ask for at most {trained}."
            )
        return self


class LoadedModel(ABC):
    """A model in memory. Use it as a context manager, or call ``unload`` yourself.

    Attributes
    ----------
    model : ModelMetadata
        What was loaded.
    options : LoadOptions
        How, with every automatic choice made.
    report : LoadReport
        What the load took.
    runtime : str
        Name of the runtime.
    """

    model: ModelMetadata
    options: LoadOptions
    report: LoadReport
    runtime: str

    @abstractmethod
    def run(
        self,
        task: str,
        inputs: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_token: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        """Run one task.

        Parameters
        ----------
        task : str
            Such as ``"text_generation"`` or ``"embedding"``.
        inputs : str, list of str, list of chat messages, or mapping of str to array
            As the task takes them.
        parameters : mapping, optional
            Such as ``{"max_tokens": 64}``.
        on_token : callable, optional
            Called in this thread with each piece of text as it comes.
        timeout : float, optional
            Seconds after which the run is stopped, the wait for an earlier run included.

        Raises
        ------
        RequirementError
            On an unknown task or parameter, or input of the wrong kind; nothing was run.
        RuntimeFailureError
            If the engine fails, stops or is too slow; ``kind`` classifies it.
        """

    @abstractmethod
    def memory(self) -> MemoryUse:
        """Return what it holds now: all resident memory of its worker process."""

    @abstractmethod
    def unload(self) -> int:
        """Free it and return the bytes of resident memory that really came back.

        A second call returns 0. A run in progress in another thread fails.
        """

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it can still run: not unloaded, and its process has not died."""

    @property
    def pid(self) -> int | None:
        """The process that holds it; None where that is none of ours."""
        return None

    def limit_growth(self, extra: int) -> bool:
        """Let it take only so many more bytes of private memory, from what it holds now.

        Parameters
        ----------
        extra : int
            Bytes.

        Returns
        -------
        bool
            Whether that is enforced: an allocation beyond it fails as ``OUT_OF_MEMORY``.
        """
        del extra
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unload()


class Runtime(ABC):
    """An adapter to one engine. Stateless, and safe to use from any thread.

    Attributes
    ----------
    name : str
        Its name in the store and on the command line.
    model_types : frozenset of ModelType
        Formats that it reads.
    tasks : frozenset of str
        Tasks that it knows how to run.
    supports_batching : bool
        Whether several inputs may go into one run.
    package : str or None
        The Python package that brings the engine, if it comes as one.
    overhead_bytes : int
        Resident memory of its worker process before a model is in it, as measured (bytes).
    """

    name: str
    model_types: frozenset[ModelType]
    tasks: frozenset[str]
    supports_batching: bool
    package: ClassVar[str | None] = None
    overhead_bytes: ClassVar[int] = 0

    @abstractmethod
    def devices(self) -> tuple[HardwareType, ...]:
        """Return the devices that the engine, as installed here, could use, best first."""

    @abstractmethod
    def gap(self, model: ModelMetadata) -> str | None:
        """Say why this runtime cannot run a model, and the remedy; None when it can."""

    @abstractmethod
    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        """Load a model.

        Parameters
        ----------
        model : ModelMetadata
            What to load.
        options : LoadOptions, optional
            How; what is left open is resolved as ``resolve`` does.

        Raises
        ------
        RequirementError
            If the options do not suit the model.
        RuntimeFailureError
            If there is a ``gap``, or the engine cannot load it; ``kind`` classifies it.
        """

    @abstractmethod
    def version(self) -> str | None:
        """Return the installed version of the engine, without importing it; None without one."""

    def resolve(self, model: ModelMetadata, options: LoadOptions) -> LoadOptions:
        """Return the options with every automatic choice made for this model.

        Parameters
        ----------
        model : ModelMetadata
            Whose trained context bounds the choice.
        options : LoadOptions
            What was asked for.

        Raises
        ------
        RequirementError
            If more context is asked for than the model was trained for.
        """
        return options.resolved(model)

    def tasks_of(self, model: ModelMetadata) -> frozenset[str]:
        """Return the tasks that this runtime can run with this model.

        A model that states no task is taken to be for any task of the runtime.
        """
        return self.tasks & set(model.task_types) if model.task_types else self.tasks

    def check_task(self, model: ModelMetadata, task: str) -> str:
        """Return our name for a task that this runtime can run with this model.

        Parameters
        ----------
        model : ModelMetadata
            Which states the tasks that it is for.
        task : str
            Our name or the Hugging Face spelling.

        Raises
        ------
        RequirementError
            If no task has that name.
        RuntimeFailureError
            (``UNSUPPORTED``) if this model, or this runtime, is not made for it.
        """
        name = normalize_task(task)
        able = self.tasks_of(model)
        if name not in able:
            raise RuntimeFailureError(
                f"{self.name} cannot run the task {name!r} with {model.name}; with this model "
                f"it can run: {', '.join(sorted(able)) or 'nothing'}.",
                FailureKind.UNSUPPORTED,
            )
        return name
