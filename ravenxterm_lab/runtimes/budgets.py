"""Bytes by device: what a load needs, what is held, and where room is lacking.

Host memory is one device, `RAM`; each GPU with memory of its own is another. A GPU that shares
the system's memory is none: what lies there is counted once, as `RAM`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["RAM", "Bytes", "added", "shortage"]

#: The name of the host memory among the devices.
RAM = "RAM"

#: Bytes by the name of a device; one that is not named has none.
Bytes: TypeAlias = "Mapping[str, int]"


def added(amounts: Iterable[Bytes]) -> dict[str, int]:
    """Return the sum, device by device.

    Examples
    --------
    >>> added([{"RAM": 1}, {"RAM": 2, "GPU 0": 5}])
    {'RAM': 3, 'GPU 0': 5}
    """
    total: dict[str, int] = {}
    for amount in amounts:
        for device, count in amount.items():
            total[device] = total.get(device, 0) + count
    return total


def shortage(budget: Bytes, held: Bytes, wanted: Bytes) -> dict[str, int]:
    """Return the devices on which something does not fit, with the bytes that it lacks there.

    Parameters
    ----------
    budget : mapping of str to int
        The bytes that everything together may hold; a device without a budget has no limit.
    held : mapping of str to int
        What is taken already.
    wanted : mapping of str to int
        What is to come. A device that it does not need cannot be short.

    Examples
    --------
    >>> shortage({"RAM": 10, "GPU 0": 10}, {"RAM": 12, "GPU 0": 6}, {"GPU 0": 7})
    {'GPU 0': 3}
    """
    lacking = {
        device: held.get(device, 0) + need - budget[device]
        for device, need in wanted.items()
        if need > 0 and device in budget
    }
    return {device: count for device, count in lacking.items() if count > 0}
