"""What a quality check is: items, each of which asks the model and grades what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Item", "QualityCheck", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one item went.

    Attributes
    ----------
    score : float
        0 (wrong) or 1 (right).
    answer : str
        What the model answered, in short.
    """

    score: float
    answer: str


@dataclass(frozen=True, slots=True)
class Item:
    """One question with a known answer.

    Attributes
    ----------
    name : str
        Unique within its check; it stands in the store beside the score.
    grade : callable
        Takes a function that runs the model on one input and returns the output, asks it as
        often as it needs, and returns the `Verdict`. The same outputs get the same verdict.
    """

    name: str
    grade: Callable[[Callable[[Any], Any]], Verdict]


@dataclass(frozen=True, slots=True)
class QualityCheck:
    """All items of a task.

    Attributes
    ----------
    task : str
        Which.
    version : int
        Raised when an item or a grader changes, since scores of two versions do not compare.
    measures : str
        One sentence: what the score says, and what it does not.
    items : tuple of Item
        The questions.
    samples : callable
        Makes the inputs to measure speed with, when a person gives none.
    parameters : mapping
        Of each run of an item.
    sample_parameters : mapping
        Of each run of a sample.
    """

    task: str
    version: int
    measures: str
    items: tuple[Item, ...]
    samples: Callable[[], tuple[Any, ...]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sample_parameters: Mapping[str, Any] = field(default_factory=dict)

    def item(self, name: str) -> Item:
        """Return an item by its name.

        Raises
        ------
        KeyError
            If there is none.
        """
        found = next((item for item in self.items if item.name == name), None)
        if found is None:
            raise KeyError(name)
        return found
