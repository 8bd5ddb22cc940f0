"""A stand-in for ``pynvml`` that answers what a real machine answered.

The recording is a JSON file of ``tests/hardware/record_nvml.py``: for each function and its
arguments the answer with its type, or the error code.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["RecordedNvml"]

_FORMAT = 1
_INVALID_ARGUMENT, _UNINITIALIZED, _NOT_FOUND, _FUNCTION_NOT_FOUND = 2, 1, 6, 13


class RecordedNvml:
    """Answers from a recording; what was not recorded is an INVALID_ARGUMENT.

    Parameters
    ----------
    path : path
        The recording.
    state : str
        Which of its readings, such as ``"idle"`` or ``"busy"``.
    failures : dict of str to int, optional
        For a function's name, an error code to fail with in spite of the recording.

    Attributes
    ----------
    sessions : int
        ``nvmlInit`` calls that no ``nvmlShutdown`` has answered yet.
    about : dict of str to object
        What the recorder said of the machine, such as ``"driver_version"``.

    Raises
    ------
    ValueError
        If the file holds no such reading, or was written in another format.
    """

    def __init__(
        self, path: Path | str, state: str = "idle", failures: dict[str, int] | None = None
    ) -> None:
        import pynvml

        self.NVMLError = pynvml.NVMLError
        self.sessions = 0
        self.failures = dict(failures or {})
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values.get("format") != _FORMAT:
            raise ValueError(f"{path} is no recording of format {_FORMAT}; record it again.")
        readings = values["readings"]
        if state not in readings:
            raise ValueError(f"{path} holds no reading {state!r}, only {', '.join(readings)}.")
        self.about: dict[str, Any] = values["about"]
        self._system = readings[state]["system"]
        self._cards = readings[state]["cards"]

    def __getattr__(self, function: str) -> Any:
        # Only what the bindings of the recording had: older ones lack functions.
        if function.startswith("nvml"):
            return partial(self._call, function)
        raise AttributeError(function)

    def _call(self, function: str, *arguments: Any) -> Any:
        if function in self.failures:
            raise self.NVMLError(self.failures[function])
        if function == "nvmlInit":
            self.sessions += 1
            return None
        if not self.sessions:
            raise self.NVMLError(_UNINITIALIZED)
        if function == "nvmlShutdown":
            self.sessions -= 1
            return None
        if function == "nvmlDeviceGetHandleByIndex":
            if not 0 <= arguments[0] < len(self._cards):
                raise self.NVMLError(_INVALID_ARGUMENT)
            return (arguments[0], None)
        if function == "nvmlDeviceGetMigDeviceHandleByIndex":
            (card, _), index = arguments
            if str(index) not in self._cards[card]["instances"]:
                raise self.NVMLError(_NOT_FOUND)
            return (card, str(index))
        if arguments and isinstance(arguments[0], tuple):
            (card, instance), *rest = arguments
            found = self._cards[card]
            calls = found["calls"] if instance is None else found["instances"][instance]
            return self._replay(calls, function, rest)
        return self._replay(self._system, function, list(arguments))

    def _replay(self, calls: dict[str, Any], function: str, arguments: list[Any]) -> Any:
        for call in calls.get(function, ()):
            if call["arguments"] == arguments:
                if "error" in call:
                    raise self.NVMLError(call["error"])
                return _decoded(call["answer"])
        raise self.NVMLError(_INVALID_ARGUMENT if function in calls else _FUNCTION_NOT_FOUND)


def _decoded(answer: dict[str, Any]) -> Any:
    kind, value = answer["type"], answer["value"]
    if kind == "struct":
        return SimpleNamespace(**{name: _decoded(part) for name, part in value.items()})
    if kind == "list":
        return [_decoded(part) for part in value]
    if kind == "bytes":
        return value.encode("latin-1")
    return value
