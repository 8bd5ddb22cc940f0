"""Every error that RavenXTerm Lab raises on purpose.

One root, and a second base from the standard library, so that code which knows
nothing of us still catches the right thing::

    RavenXTermError
    ├── ConfigurationError        (ValueError)     a path or an environment variable is unusable
    ├── PreferenceError           (ValueError)     a preference has a bad name or value
    ├── RequirementError          (ValueError)     a task requirement has a bad name or value
    ├── HardwareError             (ValueError)     a simulated machine or an interval is unusable
    ├── MetricError               (ValueError)     a metric has a bad value; nothing was written
    ├── ModelFileError            (ValueError)     a file is not what its format says it is
    ├── UnknownModelError         (LookupError)    no model, and no history, of that name
    ├── NoSuitableModelError      (LookupError)    every candidate fell out; each reason is listed
    ├── MissingPackageError       (ImportError)    an optional package; the message says which extra
    ├── RuntimeFailureError       (RuntimeError)   a load or a run failed; ``kind`` classifies it
    ├── StoreError                (RuntimeError)   the metric store cannot be written or read
    │   └── StoreVersionError                      it was made by a newer version of this package
    ├── TrashError                (RuntimeError)   files cannot be moved to or from the trash
    └── QueryError                (ValueError)     a SQL query is not one read-only statement
"""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ConfigurationError",
    "FailureKind",
    "HardwareError",
    "MetricError",
    "MissingPackageError",
    "ModelFileError",
    "NoSuitableModelError",
    "PreferenceError",
    "QueryError",
    "RavenXTermError",
    "RequirementError",
    "RuntimeFailureError",
    "StoreError",
    "StoreVersionError",
    "TrashError",
    "UnknownModelError",
    "did_you_mean",
]


class RavenXTermError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigurationError(RavenXTermError, ValueError):
    """A path or an environment variable cannot be used as it stands."""


class PreferenceError(RavenXTermError, ValueError):
    """A preference has an unknown name or a value that is not allowed."""


class RequirementError(RavenXTermError, ValueError):
    """A task or one of its requirements has an unknown name or a bad value."""


class HardwareError(RavenXTermError, ValueError):
    """A machine to simulate cannot be understood, or a monitor cannot be set up as asked."""


class MetricError(RavenXTermError, ValueError):
    """A metric has a value that cannot be recorded; nothing was written."""


class ModelFileError(RavenXTermError, ValueError):
    """A file is truncated, hostile, or not of the format that it claims."""


class UnknownModelError(RavenXTermError, LookupError):
    """Neither the registry nor the history knows a model of that name."""


class NoSuitableModelError(RavenXTermError, LookupError):
    """No candidate is left.

    Attributes
    ----------
    reasons : dict of str to str
        For each candidate, by name, the constraint that binds.
    """

    def __init__(self, message: str, reasons: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class MissingPackageError(RavenXTermError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class FailureKind(StrEnum):
    """What kind of failure ended a load or a run (see ``RuntimeFailureError.kind``)."""

    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"
    CORRUPT = "corrupt"
    MISSING_RUNTIME = "missing_runtime"
    RUNTIME_ERROR = "runtime_error"
    TIMEOUT = "timeout"


class RuntimeFailureError(RavenXTermError, RuntimeError):
    """A model could not be loaded or run.

    Attributes
    ----------
    kind : FailureKind
        The classified cause, which decides what is tried next.
    log : str
        The last lines that the engine itself printed, for a bug report.
    """

    def __init__(self, message: str, kind: FailureKind, log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log = log

    def __reduce__(self) -> tuple[type[Self], tuple[str, FailureKind, str]]:
        # Exceptions are rebuilt from ``args``, which hold the message only; a failure crosses
        # from the worker's process to ours.
        return type(self), (str(self), self.kind, self.log)


class StoreError(RavenXTermError, RuntimeError):
    """The metric store cannot be written or read; the message says why and what to do."""


class StoreVersionError(StoreError):
    """The store was made by a newer version of this package and was left untouched."""


class TrashError(RavenXTermError, RuntimeError):
    """A model cannot be moved to the trash, out of it, or emptied; the message says what is left.

    Whatever was moved before the error is back in its place, unless the message names the id
    that ``restore`` takes.
    """


class QueryError(RavenXTermError, ValueError):
    """A query is not one read-only statement, or DuckDB refused it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to an error message.

    Parameters
    ----------
    name : str
        What was written.
    known : iterable of str
        What would have been accepted.

    Returns
    -------
    str
        ``" Did you mean 'x'?"`` when something is near, else the known names
        (at most twelve of them), else an empty string.

    Examples
    --------
    >>> did_you_mean("max_size", ["max_size_bytes", "license"])
    " Did you mean 'max_size_bytes'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:12])
    return f" Known: {shown}{', …' if len(names) > 12 else ''}."
