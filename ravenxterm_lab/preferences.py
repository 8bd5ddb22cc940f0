"""The person's preferences: validated as they are set, kept as TOML, effective at once."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ravenxterm_lab.exceptions import PreferenceError, did_you_mean
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes

__all__ = ["AccuracyPreference", "PerformancePreference", "UserPreferences"]


class PerformancePreference(StrEnum):
    """What to favour when models differ: answers per second, a balance, or a small footprint."""

    SPEED = "speed"
    BALANCED = "balanced"
    MEMORY = "memory"


class AccuracyPreference(StrEnum):
    """How much measured quality weighs against everything else."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


_UNITS = {"keep_alive_seconds": "s", "history_window_days": "days"}

Weight = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class UserPreferences(Displayed, BaseModel):
    """What a person wants from their machine.

    Every field is validated when it is set, also by assignment; nothing is clamped.

    Attributes
    ----------
    performance_mode : PerformancePreference
        ``"speed"``, ``"balanced"`` (default) or ``"memory"``.
    accuracy_preference : AccuracyPreference
        ``"low"``, ``"medium"`` (default) or ``"high"``.
    max_memory_usage : float
        Fraction (0.05–1.0) of the memory that this process may really use.
    preferred_devices : list of HardwareType
        Tried in this order.
    enable_adaptive_selection : bool
        Learn from history; off means a deterministic ranking from priors and hard facts.
    model_weights : dict of str to float
        A multiplier (above 0, at most 100) on the score of a model, by name.
    auto_cleanup_threshold_bytes : int
        Caches above this size (bytes) are pruned by ``cleanup_resources()``.
    keep_alive_seconds : float
        An idle model is unloaded after this long; 0 unloads it after each run.
    history_window_days : int
        How far back the history views look (days).

    Raises
    ------
    PreferenceError
        On an unknown field or a bad value; it names the field, the value and what is allowed.

    Examples
    --------
    >>> UserPreferences(performance_mode="speed").performance_mode
    <PerformancePreference.SPEED: 'speed'>
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    performance_mode: PerformancePreference = PerformancePreference.BALANCED
    accuracy_preference: AccuracyPreference = AccuracyPreference.MEDIUM
    max_memory_usage: float = Field(default=0.7, ge=0.05, le=1.0, allow_inf_nan=False)
    preferred_devices: list[HardwareType] = Field(
        default=[HardwareType.CUDA, HardwareType.CPU], min_length=1
    )
    enable_adaptive_selection: bool = True
    model_weights: dict[str, Weight] = Field(default_factory=dict)
    auto_cleanup_threshold_bytes: int = Field(default=2 * 1024**3, ge=0)
    keep_alive_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    history_window_days: int = Field(default=30, ge=1, le=3650)

    @field_validator("performance_mode", "accuracy_preference", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("preferred_devices", mode="before")
    @classmethod
    def _lower_case_list(cls, value: Any) -> Any:
        if isinstance(value, (str, HardwareType)):
            value = [value]
        if isinstance(value, (list, tuple)):
            return [item.strip().lower() if isinstance(item, str) else item for item in value]
        return value

    @field_validator("preferred_devices", mode="after")
    @classmethod
    def _no_device_twice(cls, value: list[HardwareType]) -> list[HardwareType]:
        if len(set(value)) != len(value):
            raise ValueError("each device may stand there once")
        return value

    @field_validator(
        "max_memory_usage",
        "keep_alive_seconds",
        "auto_cleanup_threshold_bytes",
        "history_window_days",
        mode="before",
    )
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a number is needed, not True or False")  # noqa: TRY004 - pydantic collects ValueError
        return value

    @field_validator("model_weights", mode="before")
    @classmethod
    def _no_bool_or_broken_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for name, weight in value.items():
                cls._no_bool(weight)
                # TOML is UTF-8, so that such a name could be set and never be saved.
                if isinstance(name, str) and _lone_surrogate(name):
                    raise ValueError(f"the name {name!r} is not valid Unicode")
        return value

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise _explain(error) from None

    @classmethod
    def get_defaults(cls) -> Self:
        """Return the defaults."""
        return cls()

    def updated(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, all of it validated.

        Raises
        ------
        PreferenceError
            As the constructor does; the original is untouched.
        """
        return type(self)(**{**self.model_dump(), **changes})

    def diff(self, other: UserPreferences) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, as ``{field: (here, there)}``."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}

    def _card(self) -> Card:
        default = type(self).get_defaults()
        rows = [[name, _told(self, name), _told(default, name)] for name in type(self).model_fields]
        changed = len(self.diff(default))
        note = f"{changed} of {len(rows)} differ from the defaults" if changed else "all defaults"
        return Card("Preferences", note, [Table(["preference", "value", "default"], rows)])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read preferences from a TOML file.

        Raises
        ------
        PreferenceError
            If the file cannot be read, is not TOML, or holds a bad field; it names the file.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PreferenceError(f"There is no preferences file {path}.") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PreferenceError(
                f"Cannot read the preferences in {path}: {error}. "
                "Mend or remove the file; the defaults apply without it."
            ) from error
        try:
            return cls(**values)
        except PreferenceError as error:
            raise PreferenceError(f"In {path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the preferences to a TOML file, whole or not at all.

        Raises
        ------
        PreferenceError
            If the place cannot be written; an existing file is left as it was.
        """
        target = Path(path)
        body = tomli_w.dumps(self.model_dump(mode="json"))
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".preferences-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise PreferenceError(
                f"Cannot save the preferences to {target}: {error}. "
                "Make the place writable, or point RAVENXTERM_HOME elsewhere."
            ) from error
        return target


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _explain(error: ValidationError) -> PreferenceError:
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] in {"extra_forbidden", "no_such_attribute"}:
            hint = did_you_mean(path, UserPreferences.model_fields)
            lines.append(f"Unknown preference {path!r}.{hint}")
        else:
            lines.append(f"{path}={item['input']!r}: {item['msg'].removeprefix('Value error, ')}")
    return PreferenceError("; ".join(lines))


def _told(preferences: UserPreferences, name: str) -> str:
    """Return a field as one would say it, with its unit."""
    value = getattr(preferences, name)
    if name == "max_memory_usage":
        return f"{value:.0%} of the memory"
    if name == "auto_cleanup_threshold_bytes":
        return format_bytes(value)
    if name in _UNITS:
        return f"{value:g} {_UNITS[name]}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{model} = {weight:g}" for model, weight in value.items()) or "none"
    return ", ".join(value) if isinstance(value, list) else str(value)
