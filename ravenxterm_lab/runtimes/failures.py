"""From an engine's own words, or the way its process died, to a classified failure."""

from __future__ import annotations

import re
import signal

from ravenxterm_lab.exceptions import FailureKind

__all__ = ["classify", "describe_exit", "reason_in_log"]

# Ordered: an engine that runs out of memory also says that it "failed to load the model".
_SIGNS: tuple[tuple[FailureKind, re.Pattern[str]], ...] = (
    (
        FailureKind.OUT_OF_MEMORY,
        re.compile(
            r"out of memory|bad_alloc|MemoryError|cannot allocate memory|"
            r"failed to allocate|unable to allocate|insufficient memory|mem_buffer != NULL|"
            r"failed to create.context with model|Resource temporarily unavailable",
            re.IGNORECASE,
        ),
    ),
    (
        FailureKind.UNSUPPORTED,
        re.compile(
            r"unknown (model )?(architecture|pre-tokenizer)|unsupported|not supported|"
            r"NOT_IMPLEMENTED|NotImplemented|not a registered function|No Op registered|"
            r"Unknown model file format version|unknown type",
            re.IGNORECASE,
        ),
    ),
    (
        FailureKind.CORRUPT,
        re.compile(
            r"corrupt|incomplete|not within the file bounds|invalid magic|protobuf|"
            r"gguf_init|failed to read|invalid (model|graph)|INVALID_GRAPH|missing tensor|"
            r"wrong number of tensors|unexpectedly reached end|No such file|NO_SUCHFILE|"
            r"does not exist|error loading vocabulary|error loading model|wrong shape|"
            r"failed to (open|mmap)|external data|deserialize",
            re.IGNORECASE,
        ),
    ),
)
_LLAMA_ERROR = re.compile(r"^\S+ E (?P<text>.+)$")
_NO_REASON = re.compile(
    r"failed to (load model|create.context with model|initialize the context$)|exiting due to"
)


def classify(text: str) -> FailureKind:
    """Return the kind of failure that an engine's message speaks of.

    Examples
    --------
    >>> classify("unknown model architecture: 'x'"), classify("segfault")
    (<FailureKind.UNSUPPORTED: 'unsupported'>, <FailureKind.RUNTIME_ERROR: 'runtime_error'>)
    """
    for kind, pattern in _SIGNS:
        if pattern.search(text):
            return kind
    return FailureKind.RUNTIME_ERROR


def reason_in_log(lines: list[str]) -> str:
    """Return the line of llama.cpp's log that says why it failed; empty when none does."""
    errors = [match["text"].strip() for line in lines if (match := _LLAMA_ERROR.match(line))]
    telling = [text for text in errors if not _NO_REASON.search(text)]
    chosen = (telling or errors)[-1:]
    return chosen[0].partition(": ")[2].strip() or chosen[0] if chosen else ""


def describe_exit(returncode: int, log: str, *, starved: bool = True) -> tuple[FailureKind, str]:
    """Classify the end of a worker process that nobody asked to end.

    Parameters
    ----------
    returncode : int
        As `subprocess` reports it: negative for a signal.
    log : str
        The last lines that the worker printed.
    starved : bool
        Whether the system may have killed it for want of memory.

    Returns
    -------
    tuple of FailureKind and str
        The kind, and a phrase such as ``"was killed by SIGSEGV"``.
    """
    if returncode >= 0:
        return classify(log), f"ended with exit status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL" and not starved:
        return FailureKind.RUNTIME_ERROR, (
            "was killed by SIGKILL, by a person or a service: the kernel counts no kill for want "
            "of memory"
        )
    if name == "SIGKILL":
        return FailureKind.OUT_OF_MEMORY, (
            "was killed by SIGKILL, which is what a system does that runs out of memory"
        )
    kind = classify(log)
    return (
        kind if kind is FailureKind.OUT_OF_MEMORY else FailureKind.RUNTIME_ERROR,
        f"crashed with {name}",
    )
