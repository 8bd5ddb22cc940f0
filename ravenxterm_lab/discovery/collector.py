"""The collector of cyclic garbage, kept from looking at what a scan makes.

A scan makes hundreds of thousands of small objects that stay, and no cycles. The collector would
look at all of them again and again: 15% of the time for a thousand repositories.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["pause_collector"]


def pause_collector() -> Callable[[], None]:
    """Keep the collector from running; return what lets it run again, and may be called twice.

    What is there by then counts as old: the next full collection looks at it, and no earlier
    one. Nothing is done where the collector is off already, or where somebody froze objects.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        return lambda: None
    gc.disable()

    def resume() -> None:
        if not gc.isenabled():
            # Freezing puts everything aside and unfreezing makes it old, without a look at it.
            gc.freeze()
            gc.unfreeze()
            gc.enable()

    return resume
