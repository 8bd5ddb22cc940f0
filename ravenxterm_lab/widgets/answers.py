"""What came of an execution or a load, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ravenxterm_lab.models import LoadedReport, RunReport
    from ravenxterm_lab.models.run_report import Attempt

__all__ = ["counters", "described", "loaded"]


def counters(report: RunReport) -> str:
    """Return the model and the counters of an execution, and what was tried before it."""
    result = report.result
    said = [report.model.name]
    if result.tokens_out:
        said += [
            f"{result.tokens_out:,} tokens",
            f"first token {format_seconds(result.time_to_first_token)}",
        ]
    said += [
        format_rate(result.throughput, "tok" if result.tokens_out else "items"),
        f"latency {format_seconds(result.latency)}",
        f"peak {format_bytes(result.peak_memory or None)}",
        f"loaded in {format_seconds(report.load_seconds)}" if report.cold else "resident already",
    ]
    return " · ".join(said) + "." + _tried(report.attempts)


def loaded(report: LoadedReport) -> str:
    """Return what is resident now, and what was tried before it."""
    return report.summary + _tried(report.attempts)


def described(report: RunReport) -> str:
    """Return an output that is no text in a few lines."""
    output = report.output
    if hasattr(output, "shape"):
        head = ", ".join(f"{value:.3f}" for value in output.reshape(-1)[:6])
        return f"array of {output.dtype}, shape {tuple(output.shape)}: {head}, …"
    if isinstance(output, list) and all(isinstance(labels, list) for labels in output):
        return "\n".join(
            ", ".join(f"{one['label']} ({one['probability']:.0%})" for one in labels) or "no label"
            for labels in output
        )
    return str(output)


def _tried(attempts: Iterable[Attempt]) -> str:
    failed = [f"{item.model} ({item.failure})" for item in attempts if item.failure]
    return f" Tried before: {', '.join(failed)}; see the messages." if failed else ""
