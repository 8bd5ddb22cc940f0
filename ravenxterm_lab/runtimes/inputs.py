"""Inputs and parameters of a run, checked before anything is sent to an engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "TextRequest",
    "as_arrays",
    "as_text_request",
    "as_texts",
    "as_top_k",
    "check_timeout",
    "no_parameters",
]

_ROLES = ("system", "user", "assistant", "tool")
_DEFAULTS: dict[str, Any] = {
    "max_tokens": 128,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 40,
    "seed": None,
    "stop": (),
    "system": None,
    "raw": None,
}


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What ``text_generation`` takes.

    Attributes
    ----------
    prompts : tuple of str or of tuples of messages
        One generation each; a message has ``role`` and ``content``.
    many : bool
        Whether the caller gave a list, and gets a list.
    max_tokens : int
        Tokens to write, at most, for each prompt (128 by default).
    temperature : float
        0 (the default) always takes the likeliest token.
    top_p, top_k : float, int
        Sampling is kept to the likeliest tokens: this much probability, this many (0: all).
    seed : int or None
        For sampling; None takes the one that the model was loaded with.
    stop : tuple of str
        Texts that end the answer.
    system : str or None
        A system message that goes before each prompt.
    raw : bool or None
        True gives the prompt to the model as it stands, without its chat template; None does
        so only for a model that has none.
    """

    prompts: tuple[str | tuple[dict[str, str], ...], ...]
    many: bool
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    system: str | None
    raw: bool | None


def as_text_request(inputs: Any, parameters: Mapping[str, Any] | None) -> TextRequest:
    """Check what ``text_generation`` was given.

    Parameters
    ----------
    inputs : str, list of str, or list of messages
        A message is ``{"role": "user", "content": "…"}``.
    parameters : mapping, optional
        The fields of `TextRequest` from ``max_tokens`` on.

    Raises
    ------
    RequirementError
        On an unknown parameter (with a suggestion) or a bad value.

    Examples
    --------
    >>> as_text_request("Hello", {"max_tokens": 8}).max_tokens
    8
    """
    given = _known(parameters, _DEFAULTS, "text_generation")
    values = {**_DEFAULTS, **{key: value for key, value in given.items() if value is not None}}
    for key in ("max_tokens", "top_k", "seed"):
        _whole(key, values[key], 1 if key == "max_tokens" else 0)
    _real("temperature", values["temperature"], 0.0, 10.0)
    _real("top_p", values["top_p"], 0.0, 1.0)
    for key, kind in (("raw", bool), ("system", str)):
        if values[key] is not None and not isinstance(values[key], kind):
            raise RequirementError(f"{key} must be a {kind.__name__}, got {values[key]!r}.")
    stop = (values["stop"],) if isinstance(values["stop"], str) else values["stop"]
    if not isinstance(stop, Sequence) or not all(isinstance(text, str) and text for text in stop):
        raise RequirementError(f"stop must be texts that are not empty, got {values['stop']!r}.")
    stop = tuple(_encodable("stop", text) for text in stop)
    if values["system"] is not None:
        _encodable("system", values["system"])
    prompts, many = _prompts(inputs)
    if values["raw"] and (values["system"] or not all(isinstance(p, str) for p in prompts)):
        raise RequirementError(
            "raw=True takes a plain text: messages and a system text need the chat template. "
            "Leave raw out, or write everything into the text."
        )
    return TextRequest(prompts, many, **{**values, "stop": stop})


def as_texts(task: str, inputs: Any) -> tuple[list[str], bool]:
    """Check an input of one text or several; return the texts, and whether it was a list.

    Raises
    ------
    RequirementError
        If it is neither, or an empty list, or a text is no valid Unicode.
    """
    if isinstance(inputs, str):
        return [_encodable("The input", inputs)], False
    if isinstance(inputs, Sequence) and inputs and all(isinstance(text, str) for text in inputs):
        return [_encodable("The input", text) for text in inputs], True
    raise RequirementError(
        f"{task} takes a text or a list of texts that is not empty, got {_short(inputs)}."
    )


def as_top_k(task: str, parameters: Mapping[str, Any] | None) -> int:
    """Check the parameters of a classifier: how many labels it shall give for each text.

    Parameters
    ----------
    task : str
        For the message.
    parameters : mapping, optional
        ``top_k`` alone, 1 by default.

    Raises
    ------
    RequirementError
        On another parameter (with a suggestion), or a number below 1.

    Examples
    --------
    >>> as_top_k("language_identification", {"top_k": 3})
    3
    """
    value = _known(parameters, {"top_k": 1}, task).get("top_k")
    most = 1 if value is None else value
    _whole("top_k", most, 1)
    return int(most)


def as_arrays(task: str, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Check an input of named arrays and return them as NumPy arrays.

    Parameters
    ----------
    task : str
        For the message.
    inputs : mapping of str to array
        Anything that NumPy makes an array of numbers or booleans from.

    Raises
    ------
    RequirementError
        If it is something else.
    """
    import numpy as np

    if not isinstance(inputs, Mapping) or not inputs:
        raise RequirementError(
            f"{task} takes a mapping of the model's input names to arrays, got {_short(inputs)}."
        )
    arrays = {}
    for name, value in inputs.items():
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise RequirementError(f"The input {name!r} is no array: {error}.") from None
        if array.dtype.kind not in "biufc":
            raise RequirementError(
                f"The input {name!r} must be an array of numbers, got {_short(value)}."
            )
        arrays[str(name)] = array
    return arrays


def check_timeout(timeout: Any) -> float:
    """Return a timeout (s) that is a finite number above 0.

    Raises
    ------
    RequirementError
        If it is something else.
    """
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not math.isfinite(timeout) or timeout <= 0:
        raise RequirementError(f"timeout must be a number of seconds above 0, got {timeout!r}.")
    return float(timeout)


def no_parameters(task: str, parameters: Mapping[str, Any] | None) -> None:
    """Refuse every parameter, for a task that has none.

    Raises
    ------
    RequirementError
        If one is given.
    """
    _known(parameters, {}, task)


def _known(
    parameters: Mapping[str, Any] | None, known: Mapping[str, Any], task: str
) -> dict[str, Any]:
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequirementError(
            f"The parameters must be a mapping such as {{'max_tokens': 64}}, "
            f"got {_short(parameters)}."
        )
    given = dict(parameters or {})
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known) or " It takes none."
            raise RequirementError(f"Unknown parameter {key!r} for {task}.{hint}")
    return given


def _prompts(inputs: Any) -> tuple[tuple[Any, ...], bool]:
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], Mapping):
        return (tuple(_message(item) for item in inputs),), False
    texts, many = as_texts("text_generation", inputs)
    return tuple(texts), many


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, Mapping) or set(item) != {"role", "content"}:
        raise RequirementError(
            f"A chat message has 'role' and 'content' and nothing else, got {_short(item)}."
        )
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise RequirementError(f"Unknown role {role!r}.{did_you_mean(str(role), _ROLES)}")
    if not isinstance(content, str):
        raise RequirementError(f"A message's content must be a text, got {_short(content)}.")
    return {"role": role, "content": _encodable("A message's content", content)}


def _encodable(what: str, text: str) -> str:
    # Refused here: an engine's own refusal would be held against every model in turn.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequirementError(
            f"{what} holds a lone surrogate, which is no valid Unicode text, got {_short(text)}. "
            "Decode the text again, with errors='replace'."
        ) from None
    return text


def _whole(name: str, value: Any, least: int) -> None:
    if value is None and name == "seed":
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RequirementError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def _real(name: str, value: Any, least: float, most: float) -> None:
    fits = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    if not fits or not least <= value <= most:
        raise RequirementError(f"{name} must be between {least:g} and {most:g}, got {value!r}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:60]}…"
