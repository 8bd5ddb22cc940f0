"""What a fastText classifier tells apart: languages, if its labels are language codes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ravenxterm_lab.readers.text import clean

__all__ = ["LabelTally", "without_prefix"]

#: fastText's default for ``-label``; the file does not say what was used.
_PREFIX = "__label__"
#: ISO 639-1, with ``bh`` and ``sh``, which were withdrawn and are still in use.
_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy
da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu
hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb
lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om
or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv
sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
_TWO_LETTERS = frozenset(_CODES.split())
# Language, script and region of a tag (RFC 5646), with the underscore that many write.
_TAG = re.compile(r"([a-z]{2,3})(?:[-_]([A-Z][a-z]{3}))?(?:[-_](?:[A-Z]{2}|\d{3}))?")
_FEWEST = 3
_SHOWN = 8


def without_prefix(label: str) -> str:
    """Return a label without the prefix that marks it in fastText's training data.

    Examples
    --------
    >>> without_prefix("__label__fr"), without_prefix("fr")
    ('fr', 'fr')
    """
    return label.removeprefix(_PREFIX)


@dataclass(slots=True)
class LabelTally:
    """Counts labels as they are read; of the labels themselves a few are kept.

    Attributes
    ----------
    count : int
        All of them.
    tags : int
        Those that have the form of a language tag.
    languages : int
        Those that certainly are one: the two letters are a language's, or three are followed
        by a script.
    first : list of str
        The first few, to be shown.

    Examples
    --------
    >>> tally = LabelTally()
    >>> for label in (b"__label__de", b"__label__fr", b"__label__gsw"):
    ...     tally.add(label)
    >>> tally.task
    'language_identification'
    """

    count: int = 0
    tags: int = 0
    languages: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, raw: bytes) -> None:
        """Count one label, as the file has it."""
        label = without_prefix(raw[:256].decode("utf-8", "replace"))
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(clean(label, 40))
        tag = _TAG.fullmatch(label)
        if tag is not None:
            self.tags += 1
            known = tag[1] in _TWO_LETTERS if len(tag[1]) == 2 else tag[2] is not None
            self.languages += known

    @property
    def task(self) -> str:
        """``language_identification`` or ``text_classification``.

        The first needs three labels or more, of which nine in ten look like language tags and
        half certainly are. ``pos``, ``neg`` and ``neu`` look like tags and are not.
        """
        languages = (
            self.count >= _FEWEST
            and 10 * self.tags >= 9 * self.count
            and 2 * self.languages >= self.count
        )
        return "language_identification" if languages else "text_classification"

    def describe(self) -> str:
        """Return one line, such as ``"176 labels: en, ru, de, …"``."""
        more = ", …" if self.count > len(self.first) else ""
        noun = "label" if self.count == 1 else "labels"
        return f"{self.count:,} {noun}: {', '.join(self.first)}{more}"
