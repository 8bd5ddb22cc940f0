"""A physical law whose constants are learned from runs, and what each model adds to it.

The time of something is the sum of a few parts that physics gives (bytes over bandwidth,
operations over matrix speed, fixed steps). What is learned is, in ln of seconds,

    ln t = ln sum_k c_k part_k  +  machine  +  family  +  model  +  settings  +  noise

where each ln c_k and each effect has a normal prior around 0. Linearised around the prior, that
is one Gaussian process over the measured cells (J. Rasmussen and C. Williams, "Gaussian
Processes for Machine Learning", 2006, sections 2.2 and 2.7): the same solve gives a model that
was measured, one that was measured with other settings or in another quantization, one of which
only neighbours were measured, and one on a machine where nothing was, without a step between
them. Cells that lie far from the others lose weight (Huber's weights on the leave-one-out
residuals, which follow from the same inverse: equations 5.10 to 5.12 there).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Cell", "Law", "Learned", "Prediction", "Subject"]

#: Most cells that one solve holds; the latest ones count (a solve of 300 takes about 10 ms).
MOST_CELLS = 300
_HUBER = 2.0


@dataclass(frozen=True, slots=True)
class Law:
    """Standard deviations of the priors, in ln.

    Attributes
    ----------
    parts : mapping of str to float
        Of each part's constant.
    machine, family, model, settings : float
        Of the effects: what the machine adds to all, the same weights in any quantization, one
        file, and one file with one set of settings.
    noise : float
        Of a single run around its cell.
    """

    parts: Mapping[str, float]
    machine: float
    family: float
    model: float
    settings: float
    noise: float


@dataclass(frozen=True, slots=True)
class Subject:
    """What a prediction is for.

    Attributes
    ----------
    parts : mapping of str to float
        Seconds by part, with the constants of the prior.
    model, family, settings : str
        Keys of the file, of the weights whatever their quantization, and of the settings.
    """

    parts: Mapping[str, float]
    model: str = ""
    family: str = ""
    settings: str = ""

    @property
    def seconds(self) -> float:
        """The sum of the parts (s)."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Cell:
    """Runs of one model with one set of settings.

    Attributes
    ----------
    subject : Subject
        What was run.
    ln_seconds : float
        Their typical ln of seconds.
    n : float
        What they weigh, in runs; older ones count less.
    runs : int
        How many they are.
    """

    subject: Subject
    ln_seconds: float
    n: float
    runs: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction in ln seconds.

    Attributes
    ----------
    ln_seconds, spread : float
        Mean, and the standard deviation of the next run around it.
    tier : str
        The finest evidence behind it: ``"measured"`` (this file, these settings),
        ``"scaled"`` (this file with other settings, or the same weights in another
        quantization), ``"device"`` (other models on this device), ``"roofline"`` (none).
    runs : int
        Runs of that evidence.
    """

    ln_seconds: float
    spread: float
    tier: str
    runs: int


class Learned:
    """What the cells of one quantity, engine and device say.

    Parameters
    ----------
    law : Law
        The priors.
    cells : sequence of Cell
        Latest last.
    """

    def __init__(self, law: Law, cells: Sequence[Cell] = ()) -> None:
        self._law = law
        self._names = tuple(law.parts)
        self._variances = np.array([law.parts[name] ** 2 for name in self._names])
        self._cells = list(cells)[-MOST_CELLS:]
        subjects = [cell.subject for cell in self._cells]
        # Numbers compare faster than texts; a text that no cell has gets none.
        self._codes: dict[str, int] = {}
        for subject in subjects:
            for text in (subject.model, subject.family, subject.settings):
                self._codes.setdefault(text, len(self._codes))
        self._model = np.array([self._codes[s.model] for s in subjects])
        self._family = np.array([self._codes[s.family] for s in subjects])
        self._settings = np.array([self._codes[s.settings] for s in subjects])
        self._n = np.array([cell.n for cell in self._cells])
        self._runs = np.array([cell.runs for cell in self._cells])
        self._shares = np.array([self._share(s) for s in subjects]).reshape(-1, len(self._names))
        if self._cells:
            self._solve()

    def _share(self, subject: Subject) -> NDArray[np.float64]:
        values = [subject.parts.get(name, 0.0) for name in self._names]
        total = sum(values) or 1.0
        return np.array([value / total for value in values])

    def _covariance(self, subject: Subject) -> tuple[NDArray[np.float64], float]:
        law = self._law
        share = self._share(subject)
        same, related, exact = self._relatives(subject)
        row = self._shares @ (share * self._variances) + law.machine**2
        row += law.family**2 * related + law.model**2 * same + law.settings**2 * exact
        return row, self._own(share)

    def _own(self, share: NDArray[np.float64]) -> float:
        law = self._law
        effects = law.machine**2 + law.family**2 + law.model**2 + law.settings**2
        return float(share @ (share * self._variances)) + effects

    def _relatives(
        self, subject: Subject
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the cells of the same file, of the same weights, and of the same settings."""
        code = self._codes.get
        same = self._model == code(subject.model, -1)
        exact = same & (self._settings == code(subject.settings, -1))
        return same, self._family == code(subject.family, -1), exact

    def _solve(self) -> None:
        law = self._law
        residual = np.array(
            [cell.ln_seconds - math.log(cell.subject.seconds) for cell in self._cells]
        )
        kernel = np.array([self._covariance(cell.subject)[0] for cell in self._cells])
        noise = law.noise**2 / np.maximum(self._n, 1e-3)
        for _ in range(3):
            inverse = np.linalg.inv(kernel + np.diag(noise))
            weights = inverse @ residual
            surprise = np.abs(weights) / np.sqrt(np.diag(inverse))
            far = surprise > _HUBER
            if not far.any():
                break
            noise = np.where(far, noise + (surprise / _HUBER - 1) / np.diag(inverse), noise)
        self._inverse, self._weights = inverse, weights

    def predict(self, subject: Subject) -> Prediction:
        """Predict the next run.

        Parameters
        ----------
        subject : Subject
            With parts that sum to more than 0 seconds.
        """
        prior = math.log(subject.seconds)
        if not self._cells:
            own = self._own(self._share(subject))
            return Prediction(prior, math.sqrt(own + self._law.noise**2), "roofline", 0)
        row, own = self._covariance(subject)
        mean = prior + float(row @ self._weights)
        variance = max(own - float(row @ self._inverse @ row), 0.0) + self._law.noise**2
        tier, among = self._evidence(subject)
        return Prediction(mean, math.sqrt(variance), tier, int(self._runs[among].sum()))

    def _evidence(self, subject: Subject) -> tuple[str, NDArray[np.bool_]]:
        same, related, exact = self._relatives(subject)
        if exact.any():
            return "measured", exact
        related = same | related
        if related.any():
            return "scaled", related
        return "device", np.ones(len(self._cells), dtype=np.bool_)
