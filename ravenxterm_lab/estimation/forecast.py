"""What a prediction of speed says: a value, its interval, and the evidence behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ravenxterm_lab.estimation.learning import Subject

__all__ = ["Forecast", "SpeedEstimate"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A predicted value, its interval, and where it comes from.

    Attributes
    ----------
    value, low, high : float
        In the unit of the quantity; the outcome lies between the ends as often as ``level``
        says.
    level : float
        0–1.
    tier : str
        The finest evidence: ``"measured"``, ``"scaled"``, ``"device"``, ``"roofline"``, or
        ``"none"``.
    runs : int
        Runs of that evidence.
    spread : float
        Standard deviation of ln(actual / value) before calibration.
    subject : Subject
        What it is about, for the store.
    """

    value: float
    low: float
    high: float
    level: float
    tier: str
    runs: int
    spread: float
    subject: Subject

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        many = f"{self.runs} run{'' if self.runs == 1 else 's'}"
        return {
            "measured": f"{many} of this model here",
            "scaled": f"{many} of these weights here with other settings or quantization",
            "device": f"{many} of other models on this device",
        }.get(self.tier, "bytes and operations ÷ speed of the device; nothing measured yet")


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Predicted speed of one model on one device.

    Attributes
    ----------
    decode : Forecast
        Tokens per second at the given context (items per second for a model that does not
        generate). Its tier is ``"none"`` when the bandwidth is not known and nothing was
        measured; it stands on an assumed one then, and is there to be learned from.
    first_token : Forecast or None
        Seconds from the request to the first token, the model resident; None for a model that
        does not generate.
    load : Forecast
        Seconds to make it resident.
    context_length, prompt_tokens : int
        What they hold for.
    missing : str
        What would be needed for what is None, in words.
    """

    decode: Forecast
    first_token: Forecast | None
    load: Forecast
    context_length: int
    prompt_tokens: int
    missing: str = ""

    @property
    def decode_rate(self) -> float | None:
        """Tokens (items) per second, or None."""
        return None if self.tier == "none" else self.decode.value

    @property
    def low(self) -> float | None:
        """The lower end of the interval of ``decode_rate``."""
        return None if self.tier == "none" else self.decode.low

    @property
    def high(self) -> float | None:
        """The upper end of the interval of ``decode_rate``."""
        return None if self.tier == "none" else self.decode.high

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds to the first token of a resident model, or None."""
        first = self.first_token
        return None if first is None or first.tier == "none" else first.value

    @property
    def load_seconds(self) -> float:
        """Seconds to make it resident."""
        return self.load.value

    @property
    def tier(self) -> str:
        """The tier of ``decode``."""
        return self.decode.tier

    @property
    def source(self) -> str:
        """Where ``decode`` comes from, in words."""
        return self.missing if self.tier == "none" else self.decode.source
