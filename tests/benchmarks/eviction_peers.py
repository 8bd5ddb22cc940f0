"""What the pool's choice of victims is held against: LRU, LFU, GreedyDual-Size, the optimum."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eviction_traces import Item, Trace


class Peer:
    """A policy by credits: the idle model with the least credit goes, until there is room."""

    def __init__(self, items: Mapping[str, Item]) -> None:
        self.items = items
        self.credit: dict[str, float] = {}

    def use(self, name: str) -> None:
        """Take note of a use."""
        raise NotImplementedError

    def gone(self, name: str) -> None:
        """Take note of an eviction."""


class Lru(Peer):
    """Least recently used."""

    now = 0

    def use(self, name: str) -> None:
        """See `Peer`."""
        self.now += 1
        self.credit[name] = self.now


class Lfu(Peer):
    """Least frequently used, counted from the beginning."""

    def use(self, name: str) -> None:
        """See `Peer`."""
        self.credit[name] = self.credit.get(name, 0) + 1


class GreedyDualSize(Peer):
    """Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms" (USENIX 1997)."""

    inflation = 0.0

    def use(self, name: str) -> None:
        """See `Peer`."""
        item = self.items[name]
        self.credit[name] = self.inflation + item.seconds / item.bytes

    def gone(self, name: str) -> None:
        """See `Peer`."""
        self.inflation = max(self.inflation, self.credit[name])


PEERS: dict[str, Callable[[Mapping[str, Item]], Peer]] = {
    "LRU": Lru,
    "LFU": Lfu,
    "GreedyDual-Size": GreedyDualSize,
}


def replay(trace: Trace, make: Callable[[Mapping[str, Item]], Peer]) -> float:
    """Return the seconds of loading that a policy causes."""
    peer, resident, seconds = make(trace.items), set[str](), 0.0
    for name in trace.uses:
        item = trace.items[name]
        peer.use(name)
        if name in resident:
            continue
        seconds += item.seconds
        held = sum(trace.items[other].bytes for other in resident)
        for victim in sorted(resident, key=lambda other: peer.credit[other]):
            if held + item.bytes <= trace.budget:
                break
            resident.remove(victim)
            peer.gone(victim)
            held -= trace.items[victim].bytes
        resident.add(name)
    return seconds


def optimum(trace: Trace) -> float:
    """Return the least seconds of loading that are possible when all uses are known beforehand.

    Exact, by dynamic programming over the sets of resident models. Two facts keep the sets few:
    what is never used again need not be kept, and of two sets, one within the other, the larger
    is never worse (nothing must be loaded before it is used), so that only those are followed
    which cannot hold one model more.
    """
    number = {name: index for index, name in enumerate(trace.items)}
    sizes = [item.bytes for item in trace.items.values()]
    later = [0] * (len(trace.uses) + 1)
    for step in range(len(trace.uses) - 1, -1, -1):
        later[step] = later[step + 1] | 1 << number[trace.uses[step]]
    known: dict[tuple[int, int], list[int]] = {}
    costs: dict[int, float] = {0: 0.0}
    for step, name in enumerate(trace.uses):
        index, bit = number[name], 1 << number[name]
        reached: defaultdict[int, float] = defaultdict(lambda: float("inf"))
        for kept, cost in costs.items():
            if kept & bit:
                following, cost_now = [kept], cost
            else:
                key = (kept, index)
                if key not in known:
                    known[key] = _largest(kept, sizes, trace.budget - sizes[index])
                following = [subset | bit for subset in known[key]]
                cost_now = cost + trace.items[name].seconds
            for subset in following:
                needed = subset & later[step + 1]
                reached[needed] = min(reached[needed], cost_now)
        costs = dict(reached)
    return min(costs.values())


def _largest(kept: int, sizes: list[int], room: int) -> list[int]:
    """Return the subsets that fit and that no further member of the set would fit beside."""
    members = [index for index in range(len(sizes)) if kept >> index & 1]
    fitting = []
    subset = kept
    while True:
        size = sum(sizes[index] for index in members if subset >> index & 1)
        if size <= room and all(
            subset >> index & 1 or size + sizes[index] > room for index in members
        ):
            fitting.append(subset)
        if not subset:
            return fitting
        subset = (subset - 1) & kept
