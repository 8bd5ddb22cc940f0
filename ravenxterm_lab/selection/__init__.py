"""RANK and LEARN: constraints first, then Thompson sampling on what history says."""

from __future__ import annotations

from ravenxterm_lab.selection.constraints import (
    Machine,
    Rejection,
    reject_by_facts,
    reject_by_measurement,
)
from ravenxterm_lab.selection.evidence import CellEvidence, Evidence
from ravenxterm_lab.selection.explain import (
    Part,
    Recommendation,
    Recommendations,
    WhyNot,
    recommend,
)
from ravenxterm_lab.selection.policy import Arm, Decision, Weights, decide, weights_for

__all__ = [
    "Arm",
    "CellEvidence",
    "Decision",
    "Evidence",
    "Machine",
    "Part",
    "Recommendation",
    "Recommendations",
    "Rejection",
    "Weights",
    "WhyNot",
    "decide",
    "recommend",
    "reject_by_facts",
    "reject_by_measurement",
    "weights_for",
]
