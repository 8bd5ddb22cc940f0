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

from ravenxterm_lab.estimation.matrices import product, solve_covariance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Cell", "Law", "Learned", "Prediction", "Subject"]

#: Most cells that one solve holds; the latest ones count.
MOST_CELLS = 300
_HUBER = 2.0
#: Subjects that are remembered as asked for.
_MOST_ASKED = 2048


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
    expected : iterable of Subject
        What is likely to be asked for, these very objects: all of them are predicted in one go
        when the first is, which for a hundred takes little longer than for one.

    Attributes
    ----------
    asked : dict of int to Subject
        What was predicted so far, by identity.
    """

    def __init__(
        self, law: Law, cells: Sequence[Cell] = (), expected: Iterable[Subject] = ()
    ) -> None:
        self._law = law
        self.asked: dict[int, Subject] = {}
        self._expected = list(expected)
        # By identity, with the subject, whose number no other can get meanwhile.
        self._predicted: dict[int, tuple[Subject, Prediction]] = {}
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
        self._shares = self._share_out(subjects)
        if self._cells:
            self._solve()

    def _share_out(self, subjects: Sequence[Subject]) -> NDArray[np.float64]:
        """Return the share of each part in the seconds (subjects × parts)."""
        values = np.array(
            [[subject.parts.get(name, 0.0) for name in self._names] for subject in subjects]
        ).reshape(-1, len(self._names))
        totals = values.sum(axis=1, keepdims=True)
        return values / np.where(totals == 0, 1.0, totals)

    def _relatives(
        self, subjects: Sequence[Subject]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the cells of the same file, of the same weights, and of the same settings."""
        code = self._codes.get

        def equal(texts: list[str], cells: NDArray[np.intp]) -> NDArray[np.bool_]:
            codes = np.array([code(text, -1) for text in texts])
            found: NDArray[np.bool_] = codes[:, None] == cells[None, :]
            return found

        same = equal([subject.model for subject in subjects], self._model)
        exact = same & equal([subject.settings for subject in subjects], self._settings)
        return same, equal([subject.family for subject in subjects], self._family), exact

    def _covariance(
        self,
        shares: NDArray[np.float64],
        relatives: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]],
    ) -> NDArray[np.float64]:
        """Return the prior covariance with the cells (subjects × cells)."""
        law = self._law
        same, related, exact = relatives
        rows: NDArray[np.float64] = (shares * self._variances) @ self._shares.T + law.machine**2
        rows += law.family**2 * related + law.model**2 * same + law.settings**2 * exact
        return rows

    def _own(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prior variance of each subject."""
        law = self._law
        effects = law.machine**2 + law.family**2 + law.model**2 + law.settings**2
        own: NDArray[np.float64] = (shares * shares) @ self._variances + effects
        return own

    def _solve(self) -> None:
        law = self._law
        residual = np.array(
            [cell.ln_seconds - math.log(cell.subject.seconds) for cell in self._cells]
        )
        relatives = self._relatives([cell.subject for cell in self._cells])
        kernel = self._covariance(self._shares, relatives)
        noise = law.noise**2 / np.maximum(self._n, 1e-3)
        for _ in range(3):
            inverse = solve_covariance(kernel + np.diag(noise), np.eye(len(noise)))
            weights = inverse @ residual
            surprise = np.abs(weights) / np.sqrt(np.diag(inverse))
            far = surprise > _HUBER
            if not far.any():
                break
            noise = np.where(far, noise + (surprise / _HUBER - 1) / np.diag(inverse), noise)
        self._inverse, self._weights = inverse, weights

    def expect(self, subject: Subject) -> None:
        """Predict it in one go with what else is expected, when the first is asked for."""
        if id(subject) not in self._predicted:
            self._expected.append(subject)

    def predict(self, subject: Subject) -> Prediction:
        """Predict the next run.

        Parameters
        ----------
        subject : Subject
            With parts that sum to more than 0 seconds.
        """
        known = self._predicted.get(id(subject))
        if known is None:
            wanted = {id(subject): subject} | {id(one): one for one in self._expected}
            self._expected = []
            predictions = self._predict(list(wanted.values()))
            for key, one, prediction in zip(wanted, wanted.values(), predictions, strict=True):
                self._predicted[key] = one, prediction
            known = self._predicted[id(subject)]
        if len(self.asked) < _MOST_ASKED:
            self.asked[id(subject)] = subject
        return known[1]

    def _predict(self, subjects: Sequence[Subject]) -> list[Prediction]:
        priors = [math.log(subject.seconds) for subject in subjects]
        shares, noise = self._share_out(subjects), self._law.noise**2
        if not self._cells:
            spreads = np.sqrt(self._own(shares) + noise).tolist()
            return [
                Prediction(prior, spread, "roofline", 0)
                for prior, spread in zip(priors, spreads, strict=True)
            ]
        same, related, exact = self._relatives(subjects)
        rows = self._covariance(shares, (same, related, exact))
        means = (np.array(priors) + rows @ self._weights).tolist()
        explained = (product(rows, self._inverse) * rows).sum(axis=1)
        spreads = np.sqrt(np.maximum(self._own(shares) - explained, 0.0) + noise).tolist()
        related |= same
        runs_exact = (exact @ self._runs).tolist()
        runs_related = (related @ self._runs).tolist()
        every = int(self._runs.sum())
        found = []
        for place, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
            if runs_exact[place]:
                tier, runs = "measured", runs_exact[place]
            elif runs_related[place]:
                tier, runs = "scaled", runs_related[place]
            else:
                tier, runs = "device", every
            found.append(Prediction(mean, spread, tier, runs))
        return found
