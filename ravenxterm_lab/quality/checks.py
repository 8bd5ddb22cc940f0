"""Which check there is for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.quality.embedding import EMBEDDING
from ravenxterm_lab.quality.file_type import FILE_TYPE
from ravenxterm_lab.quality.language import LANGUAGE_IDENTIFICATION
from ravenxterm_lab.quality.text_generation import TEXT_GENERATION
from ravenxterm_lab.quality.voice_activity import VOICE_ACTIVITY
from ravenxterm_lab.requirements import normalize_task

if TYPE_CHECKING:
    from ravenxterm_lab.quality.base import QualityCheck

__all__ = ["CHECKS", "check_for"]

_ALL = (TEXT_GENERATION, EMBEDDING, FILE_TYPE, LANGUAGE_IDENTIFICATION, VOICE_ACTIVITY)
CHECKS: dict[str, QualityCheck] = {check.task: check for check in _ALL}


def check_for(task: str) -> QualityCheck | None:
    """Return the built-in check of a task; None where there is none.

    Raises
    ------
    RequirementError
        If no task has that name.
    """
    return CHECKS.get(normalize_task(task))
