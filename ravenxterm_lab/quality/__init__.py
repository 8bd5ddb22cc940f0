"""Small built-in question sets with known answers, and their graders.

They tell models apart that differ much, on this machine, in seconds. They are no benchmark of
the literature: a score here says how a model does on these items and nothing else.
"""

from __future__ import annotations

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict
from ravenxterm_lab.quality.checks import CHECKS, check_for
from ravenxterm_lab.quality.harness import HarnessScore, read_harness_results
from ravenxterm_lab.quality.intervals import LEVEL, Interval, median_interval, wilson

__all__ = [
    "CHECKS",
    "LEVEL",
    "HarnessScore",
    "Interval",
    "Item",
    "QualityCheck",
    "Verdict",
    "check_for",
    "median_interval",
    "read_harness_results",
    "wilson",
]
