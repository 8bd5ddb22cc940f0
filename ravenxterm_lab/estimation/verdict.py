"""Does it fit: three answers kept apart, and a fourth for when a needed fact is missing."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SAFETY_FACTOR", "Verdict", "judge"]

#: A predicted need is multiplied by this before it is held against the budget. At an 8%
#: estimation error it lets 0.2% of first loads run out of memory and excludes 5% of those
#: that fit (design page on selection, "Fit mask").
SAFETY_FACTOR = 1.10


class Verdict(StrEnum):
    """Whether a model fits the memory budget."""

    FITS = "fits"
    #: Its mapped weights would be paged from disk: slow, not impossible.
    PAGES = "pages"
    CANNOT = "cannot"
    #: A needed fact is missing; never turned into yes or no.
    UNKNOWN = "unknown"


def judge(
    total_bytes: int | None,
    budget_bytes: int | None,
    *,
    pageable_bytes: int = 0,
    measured: bool = False,
) -> Verdict:
    """Hold a need against a budget.

    Parameters
    ----------
    total_bytes : int or None
        Predicted or measured bytes.
    budget_bytes : int or None
        Bytes that may be used.
    pageable_bytes : int
        How much of the total is file-backed and read-only, so that the system can drop it.
    measured : bool
        A measured peak needs no safety factor.
    """
    if total_bytes is None or budget_bytes is None:
        return Verdict.UNKNOWN
    factor = 1.0 if measured else SAFETY_FACTOR
    if total_bytes * factor <= budget_bytes:
        return Verdict.FITS
    if pageable_bytes and (total_bytes - pageable_bytes) * factor <= budget_bytes:
        return Verdict.PAGES
    return Verdict.CANNOT
