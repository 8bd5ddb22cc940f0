"""Which idle models go when room is needed: those whose loss is expected to cost the least.

How soon a model is likely to be needed again is learned from the order of uses: what usually
follows what (a first-order Markov chain), and, where little is known of that, how often and how
lately each was used (a decayed count, as in LRFU: Lee et al., "LRFU: A Spectrum of Policies",
IEEE Transactions on Computers 50(12), 2001). Where the hours of the day are known, they change
both: what is usual at this hour takes its part of what is not known of the order, and each step is
weighed by how usual a model is at this hour (Bayes' rule, as if hour and order were independent).
The expected number of a model's uses from here on, each step ahead counting less than the one
before, is the successor representation of the chain (Dayan, "Improving Generalization for Temporal
Difference Learning", Neural Computation 5, 1993).
``tests/benchmarks/bench_eviction.py`` holds it against LRU, LFU, GreedyDual-Size and the
offline optimum; the constants are the best of a coarse grid there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ravenxterm_lab.runtimes.budgets import Bytes
    from ravenxterm_lab.runtimes.hours import HoursOfUse

__all__ = ["Candidate", "Key", "UsePattern", "least_loss"]

#: Runtime, model and settings: what is loaded apart is counted apart.
Key = tuple[str, str, str]

#: What an earlier use still counts, by each use since.
_MEMORY = 0.7
#: What an earlier successor of a model still counts, by each further use of that model.
_ROW_MEMORY = 0.8
#: As many observed successors as this weigh as much as the decayed counts.
_BACKOFF = 1.0
#: The part of what is usual at this hour in what is expected where the order says nothing, and
#: the part that each step is weighed by the hour: the order alone always has a say.
_USUAL, _BY_HOUR = 0.25, 0.5
#: What a use one step later counts, and the steps that are looked ahead.
_DISCOUNT = 0.6
_STEPS = 8
#: Up to so many idle models the best choice is found by trying all; beyond, greedily.
_EXHAUSTIVE = 12


class UsePattern:
    """What was used in which order, with the past fading.

    Parameters
    ----------
    past : iterable of Key
        Earlier uses, oldest first.

    Examples
    --------
    >>> a, b, c = (("fake", name, "") for name in "abc")
    >>> expected = UsePattern([a, b, a, b, a, c, a]).expected()
    >>> expected[b] > expected[c]
    True
    """

    def __init__(self, past: Iterable[Key] = ()) -> None:
        self._counts: defaultdict[Key, float] = defaultdict(float)
        self._after: defaultdict[Key, defaultdict[Key, float]] = defaultdict(_zeros)
        self._last: Key | None = None
        for key in past:
            self.use(key)

    def use(self, key: Key) -> None:
        """Take note of one more use."""
        _add(self._counts, key, _MEMORY)
        # What is used several times on end is resident meanwhile: it says nothing of what goes.
        if self._last is not None and self._last != key:
            _add(self._after[self._last], key, _ROW_MEMORY)
        self._last = key

    def expected(self, hours: HoursOfUse | None = None, hour: int = 0) -> Mapping[Key, float]:
        """Return the expected discounted number of uses of each key, from the last use on.

        Parameters
        ----------
        hours : HoursOfUse, optional
            When each was used on earlier days.
        hour : int
            It is now (0–23, UTC).
        """
        expected: defaultdict[Key, float] = defaultdict(float)
        if self._last is None:
            return expected
        total = sum(self._counts.values())
        often = {key: count / total for key, count in self._counts.items()}
        usual = hours.usual(hour) if hours is not None else {}
        if usual:
            keys = often.keys() | usual.keys()
            often = {
                key: (1 - _USUAL) * often.get(key, 0.0) + _USUAL * usual.get(key, 0.0)
                for key in sorted(keys)
            }
        odds = hours.odds(hour) if hours is not None else {}
        state: Mapping[Key, float] = {self._last: 1.0}
        worth = 1.0
        for _ in range(_STEPS):
            state = self._step(state, often, odds)
            for key, chance in state.items():
                expected[key] += worth * chance
            worth *= _DISCOUNT
        return expected

    def _step(
        self, state: Mapping[Key, float], often: Mapping[Key, float], odds: Mapping[Key, float]
    ) -> dict[Key, float]:
        following: defaultdict[Key, float] = defaultdict(float)
        for here, chance in state.items():
            for there, share in _weighed(self._row(here, often), odds).items():
                following[there] += chance * share
        return following

    def _row(self, here: Key, often: Mapping[Key, float]) -> dict[Key, float]:
        """Return the chance of each to follow, by the order alone."""
        seen: Mapping[Key, float] = self._after.get(here, {})
        total = sum(seen.values()) + _BACKOFF
        row = {there: _BACKOFF * frequency / total for there, frequency in often.items()}
        for there, count in seen.items():
            row[there] = row.get(there, 0.0) + count / total
        return row


def _weighed(row: dict[Key, float], odds: Mapping[Key, float]) -> dict[Key, float]:
    """Return chances that add up to 1 with the hour taken into account."""
    if not odds:
        return row
    by_hour = {there: share * odds.get(there, 1.0) for there, share in row.items()}
    total = sum(by_hour.values())
    return {
        there: (1 - _BY_HOUR) * share + _BY_HOUR * by_hour[there] / total
        for there, share in row.items()
    }


@dataclass(frozen=True, slots=True)
class Candidate:
    """An idle model that could go.

    Attributes
    ----------
    key : Key
        Which.
    bytes : mapping of str to int
        What unloading it frees, by device.
    loss : float
        Seconds of reloading that are expected if it goes.
    """

    key: Key
    bytes: Bytes
    loss: float


def least_loss(idle: Sequence[Candidate], needed: Bytes) -> tuple[Candidate, ...]:
    """Return the idle models to unload, so that their bytes suffice and the loss is least.

    Parameters
    ----------
    idle : sequence of Candidate
        Of equal choices, the earlier ones go.
    needed : mapping of str to int
        Bytes to free, by device: on each of them enough.

    Raises
    ------
    ValueError
        If all of them together do not suffice.

    Examples
    --------
    >>> small = Candidate(("r", "small", ""), {"RAM": 10}, 1.0)
    >>> large = Candidate(("r", "large", ""), {"RAM": 20, "GPU 0": 90}, 1.5)
    >>> [item.key[1] for item in least_loss([small, large], {"GPU 0": 80})]
    ['large']
    """
    devices = [device for device, count in needed.items() if count > 0]
    wanted = [needed[device] for device in devices]
    if not _suffices(idle, devices, wanted):
        what = ", ".join(f"{needed[device]} bytes of {device}" for device in devices)
        raise ValueError(f"{what} cannot be freed by unloading {len(idle)} idle models.")
    if len(idle) <= _EXHAUSTIVE:
        choices = (
            chosen
            for count in range(len(idle) + 1)
            for chosen in combinations(idle, count)
            if _suffices(chosen, devices, wanted)
        )
        return min(choices, key=lambda chosen: (sum(item.loss for item in chosen), len(chosen)))
    return _greedily(idle, {device: needed[device] for device in devices})


def _greedily(idle: Sequence[Candidate], needed: Bytes) -> tuple[Candidate, ...]:
    """Choose by loss for what is freed where it is lacking, then spare whom nobody needs."""
    going: list[Candidate] = []
    lacking = dict(needed)
    left = list(idle)
    while lacking:
        best = min(left, key=lambda item: item.loss / max(_use(item, lacking, needed), 1e-12))
        left.remove(best)
        if _use(best, lacking, needed) <= 0:
            continue
        going.append(best)
        lacking = {
            device: count - best.bytes.get(device, 0)
            for device, count in lacking.items()
            if count > best.bytes.get(device, 0)
        }
    devices, wanted = list(needed), list(needed.values())
    for item in sorted(going, key=lambda item: item.loss, reverse=True):
        others = [other for other in going if other is not item]
        if _suffices(others, devices, wanted):
            going = others
    return tuple(going)


def _use(item: Candidate, lacking: Bytes, needed: Bytes) -> float:
    """Return how much of what is lacking one model frees, each device counting as one."""
    return sum(
        min(item.bytes.get(device, 0), count) / needed[device] for device, count in lacking.items()
    )


def _suffices(chosen: Sequence[Candidate], devices: list[str], wanted: list[int]) -> bool:
    return all(
        sum(item.bytes.get(device, 0) for item in chosen) >= count
        for device, count in zip(devices, wanted, strict=True)
    )


def _zeros() -> defaultdict[Key, float]:
    return defaultdict(float)


def _add(counts: defaultdict[Key, float], key: Key, memory: float) -> None:
    for other in counts:
        counts[other] *= memory
    counts[key] += 1.0
