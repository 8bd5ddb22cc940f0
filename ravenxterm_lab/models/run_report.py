"""What came of a run: the answer, the counters, and everything that was tried for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError
from ravenxterm_lab.models.fallback import AS_ASKED
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_joules, format_rate, format_seconds

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes import RunResult
    from ravenxterm_lab.selection import Recommendation, Recommendations
    from ravenxterm_lab.store import ExecutionId

__all__ = ["Attempt", "RunReport", "no_suitable_model"]

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One step of the plan that was tried (see `FallbackPlan`).

    Attributes
    ----------
    model : str
        Name of the candidate.
    failure : FailureKind or None
        None when it worked.
    message : str
        What went wrong, or an empty string.
    step : str
        What was different from what was asked, in words.
    settings : str
        How it was loaded; see `LoadOptions.settings`.
    seconds : float
        What the attempt took, its load included (s).
    """

    model: str
    failure: FailureKind | None
    message: str = ""
    step: str = AS_ASKED
    settings: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunReport(Displayed):
    """An execution: the answer, the counters, and how it came about.

    Attributes
    ----------
    output : str, list of str, numpy.ndarray or dict of str to numpy.ndarray
        The answer.
    model : ModelMetadata
        What ran.
    task : str
        Normalised task name.
    result : RunResult
        Counters of the engine (seconds, tokens, tokens/s, bytes).
    cold : bool
        Whether the model had to be loaded first.
    load_seconds : float
        Seconds of that load; 0 when it was resident.
    execution : ExecutionId or None
        Its key in the store; None when recording is off.
    recommendation : Recommendation
        Why this model.
    ranked : Recommendations
        All candidates, in the order in which they were to be tried.
    attempts : tuple of Attempt
        Everything that was tried, the last one successful.
    energy : float or None
        Joules that the device took meanwhile; None where nothing tells it.
    """

    output: Any
    model: ModelMetadata
    task: str
    result: RunResult
    cold: bool
    load_seconds: float
    execution: ExecutionId | None
    recommendation: Recommendation
    ranked: Recommendations
    attempts: tuple[Attempt, ...]
    energy: float | None = None

    def _card(self) -> Card:
        result = self.result
        unit = "tok" if result.tokens_out else "items"
        counters = [
            ("latency", format_seconds(result.latency)),
            ("time to first token", format_seconds(result.time_to_first_token)),
            ("throughput", format_rate(result.throughput, unit)),
            ("tokens in / out", f"{result.tokens_in or 0:,} / {result.tokens_out or 0:,}"),
            ("peak memory", format_bytes(result.peak_memory or None)),
            ("load", format_seconds(self.load_seconds) if self.cold else "resident already"),
        ]
        if self.energy is not None:
            counters.append(("energy", format_joules(self.energy)))
        tables = [Table([name for name, _ in counters], [[value for _, value in counters]])]
        failed = [attempt for attempt in self.attempts if attempt.failure]
        if failed:
            rows = [
                [
                    item.model, item.step, item.settings, format_seconds(item.seconds),
                    str(item.failure), item.message,
                ]
                for item in failed
            ]  # fmt: skip
            header = ["tried before", "step", "settings", "took", "failure", "what happened"]
            tables.append(Table(header, rows))
        return Card(f"{self.model.name} · {self.task}", "", tables, body=_shown(self.output))


def _shown(output: Any) -> str:
    if isinstance(output, str):
        cut = len(output) > _SHOWN_CHARACTERS
        return output[:_SHOWN_CHARACTERS] + ("…" if cut else "")
    if hasattr(output, "shape"):
        return f"array of {output.dtype}, shape {tuple(output.shape)}"
    if isinstance(output, dict):
        if output.keys() == {"label", "probability"}:
            return f"{output['label']} ({output['probability']:.0%})"
        return "; ".join(f"{name}: {_shown(value)}" for name, value in output.items())
    if output and isinstance(output[0], dict):  # the labels of one text
        return ", ".join(_shown(label) for label in output)
    return f"{len(output)} answers, the first: {_shown(output[0])}" if output else "no answers"


def no_suitable_model(ranked: Recommendations, tried: list[Attempt]) -> NoSuitableModelError:
    """Return the error that lists every candidate and why it fell out."""
    reasons = {item.model.name: str(item) for item in ranked.rejected}
    for name in dict.fromkeys(item.model for item in tried):
        reasons[name] = "; ".join(
            f"{item.step}: {item.failure}: {item.message}" for item in tried if item.model == name
        )
    if not reasons:
        return NoSuitableModelError(ranked.hint)
    lines = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
    return NoSuitableModelError(
        f"No model can do {ranked.task} under these requirements and preferences. "
        f"{len(reasons)} candidates fell out:\n{lines}",
        reasons,
    )
