"""FREE SPACE: what holds a model's bytes, what would go with it, and a trash that can be undone.

Only this room moves or deletes a person's files. Everything that it is told comes from a look of
its own (``take_stock``), checked again right before anything moves.
"""

from __future__ import annotations

from ravenxterm_lab.trash.comparing import Comparison
from ravenxterm_lab.trash.holdings import Holding, Stock, take_stock
from ravenxterm_lab.trash.open_files import open_elsewhere
from ravenxterm_lab.trash.removal import Item, Plan, noted
from ravenxterm_lab.trash.trash import Trash, Trashed

__all__ = [
    "Comparison",
    "Holding",
    "Item",
    "Plan",
    "Stock",
    "Trash",
    "Trashed",
    "noted",
    "open_elsewhere",
    "take_stock",
]
