"""RANK and LEARN: constraints first, then Thompson sampling on what history says."""

from __future__ import annotations

from ravenxterm_lab.selection.constraints import (
    Machine,
    Rejection,
    Violation,
    facts_against,
)
from ravenxterm_lab.selection.evidence import CellEvidence, Engine, Evidence
from ravenxterm_lab.selection.explain import Part, Recommendation, Recommendations
from ravenxterm_lab.selection.failing import LONGEST_WAIT, FailedLoads, failures_against
from ravenxterm_lab.selection.limits import measurements_against, memory_against
from ravenxterm_lab.selection.policy import Arm, Decision, Weights, decide, weights_for
from ravenxterm_lab.selection.recommending import recommend
from ravenxterm_lab.selection.relaxing import Assessment, Place, Relaxation, assess, relax, relaxed
from ravenxterm_lab.selection.why_not import Asked, WhyNot

__all__ = [
    "LONGEST_WAIT",
    "Arm",
    "Asked",
    "Assessment",
    "CellEvidence",
    "Decision",
    "Engine",
    "Evidence",
    "FailedLoads",
    "Machine",
    "Part",
    "Place",
    "Recommendation",
    "Recommendations",
    "Rejection",
    "Relaxation",
    "Violation",
    "Weights",
    "WhyNot",
    "assess",
    "decide",
    "facts_against",
    "failures_against",
    "measurements_against",
    "memory_against",
    "recommend",
    "relax",
    "relaxed",
    "weights_for",
]
