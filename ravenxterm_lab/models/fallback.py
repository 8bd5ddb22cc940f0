"""What is tried next when a load or a run fails: a plan that is known beforehand.

For each candidate, in the order of the ranking: as asked, with a smaller context, with a quantised
KV cache, with fewer layers on the GPU, on the CPU; then the next candidate. Which of these follow
depends on the kind of the failure. A step that the estimator says cannot fit is not tried, and
none is tried twice, except once more in a new worker where the worker died.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import Verdict
from ravenxterm_lab.exceptions import FailureKind, RequirementError
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.runtimes.inputs import as_text_request
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.estimation import Estimator, MemoryEstimate
    from ravenxterm_lab.models.selector import Selection
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import LoadOptions
    from ravenxterm_lab.selection import Recommendation

__all__ = ["AS_ASKED", "FallbackPlan", "Planner", "Step", "Walk", "tokens_needed"]

#: The first step of each candidate.
AS_ASKED = "as asked"
#: Cells of a KV cache come in so many.
_CELLS = 256
#: What a chat template may add to a message, in tokens.
_TEMPLATE_TOKENS = 64
_QUANTISED = "q8_0"


@dataclass(frozen=True, slots=True)
class Step:
    """One way of loading one candidate.

    Attributes
    ----------
    item : Recommendation
        The candidate.
    options : LoadOptions
        How it is loaded.
    change : str
        What is different from what was asked, in words.
    memory : MemoryEstimate
        What it will take (bytes), estimated before.
    refused : str
        Why it is not tried, or an empty string.
    again : bool
        Whether it repeats a step whose worker died.
    """

    item: Recommendation
    options: LoadOptions
    change: str
    memory: MemoryEstimate
    refused: str = ""
    again: bool = False

    def __str__(self) -> str:
        return f"{self.item.model.name} ({self.change})"


@dataclass(frozen=True, slots=True)
class FallbackPlan(Displayed):
    """All steps for a task, in order; iterate over it for each `Step`.

    Attributes
    ----------
    task : str
        Normalised name.
    steps : tuple of Step
        Also those that will not be tried, with the reason.
    budget_bytes : int
        What a load may take now.
    least_context : int or None
        Tokens below which no context is made smaller; None where the input does not tell.
    """

    task: str
    steps: tuple[Step, ...]
    budget_bytes: int
    least_context: int | None

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def _card(self) -> Card:
        rows = [
            [
                step.item.model.name,
                step.change,
                step.options.settings,
                format_bytes(step.memory.total_bytes),
                step.refused or "is tried",
            ]
            for step in self.steps
        ]
        note = (
            f"{format_bytes(self.budget_bytes)} may be taken now. Smaller settings follow a lack "
            "of memory; after any other failure the next model does."
        )
        if not rows:
            why = f'No candidate: manager.get_model_recommendations("{self.task}") says why.'
            return Card(f"Plan · {self.task}", why)
        header = ["model", "step", "settings", "estimate", ""]
        return Card(f"Plan · {self.task}", note, [Table(header, rows)])


class Planner:
    """Says how else a candidate could be loaded.

    Parameters
    ----------
    selection : Selection
        The candidates, and how each would be loaded as asked.
    estimator : Estimator
        For what each step takes.
    budget : callable
        Returns the bytes that a load may take now.
    devices : callable
        Returns the devices that preferences and requirements allow.
    least_context : int or None
        Tokens that the input or the requirements need; None forbids smaller contexts.
    """

    def __init__(
        self,
        selection: Selection,
        estimator: Estimator,
        *,
        budget: Callable[[], int],
        devices: Callable[[], tuple[HardwareType, ...]],
        least_context: int | None,
    ) -> None:
        self._selection = selection
        self._estimator = estimator
        self._budget = budget
        self._devices = devices
        self.least_context = least_context

    def plan(self) -> FallbackPlan:
        """Return every step of every candidate."""
        ranked = self._selection.ranked
        steps = [step for item in ranked for step in (self.first(item), *self.further(item))]
        return FallbackPlan(ranked.task, tuple(steps), self._budget(), self.least_context)

    def first(self, item: Recommendation) -> Step:
        """Return a candidate as the selection would load it."""
        return Step(item, self._selection.options[item.model.name], AS_ASKED, item.memory)

    def further(self, item: Recommendation) -> list[Step]:
        """Return what takes less than the candidate as asked, each step less than the last."""
        first = self.first(item)
        budget = self._budget()
        steps = [first]
        for change, options in self._changes(item, first.options):
            memory = self._estimator.memory(item.model, options, budget_bytes=budget)
            moved = options.device is not first.options.device
            if not moved and not _less(memory, steps[-1].memory):
                continue
            steps.append(Step(item, options, change, memory, _refusal(memory, budget)))
        return steps[1:]

    def _changes(
        self, item: Recommendation, asked: LoadOptions
    ) -> Iterator[tuple[str, LoadOptions]]:
        smallest = asked
        # Only where there is a cache does a context take memory.
        if item.memory.kv_cache_bytes:
            for context in self._contexts(asked.context_length):
                smallest = replace(asked, context_length=context)
                yield f"context {context:,}", smallest
            if asked.kv_type in {"f16", "bf16", "f32"}:
                smallest = replace(smallest, kv_type=_QUANTISED)
                yield _named(smallest, asked), smallest
        if asked.device is HardwareType.CPU:
            return
        fewer = self._fewer_layers(item, smallest)
        if fewer is not None:
            yield f"{fewer.gpu_layers} GPU layers", fewer
        if (
            HardwareType.CPU in self._devices()
            and HardwareType.CPU in item.model.preferred_hardware
        ):
            yield "on the CPU", replace(asked, device=HardwareType.CPU, gpu_layers=0)

    def _contexts(self, asked: int | None) -> list[int]:
        """Return half of the context and the least that will do, where these are smaller."""
        if asked is None or self.least_context is None:
            return []
        least = _padded(self.least_context)
        wanted = (max(_padded(asked // 2), least), least)
        return sorted({context for context in wanted if context < asked}, reverse=True)

    def _fewer_layers(self, item: Recommendation, options: LoadOptions) -> LoadOptions | None:
        found = self._estimator.best_offload(item.model, self._budget(), options)
        if found is None or found.device is HardwareType.CPU or item.model.attention is None:
            return None
        every = item.model.attention.layers + 1
        now, most = options.gpu_layers or every, found.gpu_layers or every
        # Where the estimate said that all fit and they did not, half of them are tried.
        layers = min(most, now // 2) if most >= now else most
        return replace(options, gpu_layers=layers) if layers else None


class Walk:
    """The way through a plan: what is tried next, given what failed how.

    Parameters
    ----------
    planner : Planner
        Asked for a candidate's further steps only when it has failed.
    items : iterable of Recommendation
        The candidates, in order.

    Attributes
    ----------
    skipped : list of tuple of Recommendation and str
        Candidates that were not tried at all, and why.
    """

    def __init__(self, planner: Planner, items: Iterator[Recommendation]) -> None:
        self._planner = planner
        self._items = deque(items)
        self._left: list[Step] = []
        self._missing: set[str] = set()
        self.skipped: list[tuple[Recommendation, str]] = []

    def next(self) -> Step | None:
        """Return what is to be tried now; None when nothing is left."""
        if self._left:
            return self._left.pop(0)
        while self._items:
            item = self._items.popleft()
            runtime = item.model.runtimes[0]
            if runtime not in self._missing:
                return self._planner.first(item)
            self.skipped.append((item, f"not tried: the runtime {runtime} is missing"))
        return None

    def peek(self) -> Step | None:
        """Return what `next` will return, without taking it."""
        step = self.next()
        if step is not None:
            self._left.insert(0, step)
        return step

    def failed(self, step: Step, kind: FailureKind, *, died: bool) -> None:
        """Take note of a failure.

        Parameters
        ----------
        step : Step
            What was tried.
        kind : FailureKind
            How it failed.
        died : bool
            Whether the model was loaded and its worker ended by itself.
        """
        if kind is FailureKind.OUT_OF_MEMORY:
            if step.change == AS_ASKED:
                self._left = [one for one in self._planner.further(step.item) if not one.refused]
            return
        self._left = []
        if kind is FailureKind.MISSING_RUNTIME:
            self._missing.add(step.item.model.runtimes[0])
        elif kind is FailureKind.RUNTIME_ERROR and died and not step.again:
            self._left = [
                replace(step, change=f"{step.change}, in a new worker", again=True),
            ]


def tokens_needed(
    task: str, inputs: Any, parameters: Mapping[str, Any] | None, wanted: TaskRequirements
) -> int | None:
    """Return a context, in tokens, that surely suffices for an input and the requirements.

    A token stands for at least one byte of text, in every tokenizer that falls back to bytes.

    Parameters
    ----------
    task : str
        Normalised name.
    inputs, parameters
        As for ``ModelManager.run``; without inputs, only the requirements and the length of the
        answer count.
    wanted : TaskRequirements
        For ``min_context_length``.

    Returns
    -------
    int or None
        None where that cannot be said.
    """
    if task != "text_generation":
        return None
    try:
        request = as_text_request("" if inputs is None else inputs, parameters)
    except RequirementError:
        return None  # the runtime will refuse it, and say why
    longest = 0
    for prompt in request.prompts:
        texts = [prompt] if isinstance(prompt, str) else [one["content"] for one in prompt]
        if request.system:
            texts.append(request.system)
        longest = max(longest, sum(len(text.encode()) + _TEMPLATE_TOKENS for text in texts))
    return max(longest + request.max_tokens, wanted.min_context_length or 0)


def _padded(tokens: int) -> int:
    return max(_CELLS, -(-tokens // _CELLS) * _CELLS)


def _less(memory: MemoryEstimate, before: MemoryEstimate) -> bool:
    now, then = _where_it_is_tight(memory), _where_it_is_tight(before)
    return now is None or (then is not None and now < then)


def _where_it_is_tight(memory: MemoryEstimate) -> int | None:
    """Return the bytes on the GPUs, for a model that uses them: the first to run out."""
    on_gpus = sum(device.total_bytes for device in memory.devices[1:])
    return on_gpus or memory.total_bytes


def _refusal(memory: MemoryEstimate, budget: int) -> str:
    if memory.total_bytes is None:
        return f"not tried: what it takes is not known ({', '.join(memory.missing)})"
    if memory.verdict is Verdict.FITS:
        return ""
    needed = format_bytes(memory.total_bytes)
    return f"not tried: it needs about {needed}, and {format_bytes(budget)} may be taken"


def _named(options: LoadOptions, asked: LoadOptions) -> str:
    text = f"KV cache {options.kv_type}"
    if options.context_length == asked.context_length:
        return text
    return f"context {options.context_length:,}, {text}"
