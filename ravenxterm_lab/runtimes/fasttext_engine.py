"""fastText inside a worker process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.runtimes.engine import Engine, EngineError
from ravenxterm_lab.runtimes.failures import classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.runtimes.engine import Job

__all__ = ["FastTextEngine", "as_line"]

#: What fastText separates words by (``Dictionary::readWord``): ASCII white space and zero.
_SPACE = re.compile(r"[ \n\r\t\v\f\0]+")
#: Stands for the end of a line, and ends it, wherever it is read.
_END = "</s>"
#: Labels of one text, at most: fastText sets memory aside for as many as it is asked for, and
#: gives all that it has where these are fewer.
_MOST = 100_000


def as_line(text: str) -> str | None:
    r"""Return a text as the one line that fastText reads; None if there is no word in it.

    Only what would end the line early is changed: line breaks, and the word ``</s>``.

    Examples
    --------
    >>> as_line("Guten\nTag"), as_line("a </s> b"), as_line(" \n")
    ('Guten Tag\n', 'a b\n', None)
    """
    if _END in text or "\n" in text:
        text = " ".join(word for word in _SPACE.split(text) if word not in ("", _END))
    return None if _SPACE.fullmatch(text) or not text else f"{text}\n"


class FastTextEngine(Engine):
    """One supervised fastText model."""

    def prepare(self) -> None:
        """Import ``fasttext``."""
        import fasttext

        self._fasttext = fasttext

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Read the whole model into memory."""
        try:
            # The bindings themselves: what wraps them differs among the packages of this name.
            self._model = self._fasttext.load_model(request["path"]).f
        except MemoryError as error:
            raise EngineError("std::bad_alloc", FailureKind.OUT_OF_MEMORY) from error
        except (ValueError, RuntimeError) as error:
            kind = classify(str(error))
            damaged = kind is FailureKind.RUNTIME_ERROR
            raise EngineError(str(error), FailureKind.CORRUPT if damaged else kind) from error
        return {}

    def run(self, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
        """Classify each text, one after the other: a text takes microseconds."""
        most = min(int(job.request["top_k"]), _MOST)
        outputs = []
        for text in job.request["texts"]:
            if job.cancelled:
                raise EngineError("the run was cancelled")
            line = as_line(text)
            found = [] if line is None else self._model.predict(line, most, 0.0, "replace")
            # Rounding takes the sum of a softmax a little beyond 1.
            outputs.append([(label, min(1.0, probability)) for probability, label in found])
        return {"outputs": outputs, "many": job.request["many"]}, {}
