"""The ranking as a table of HTML."""

from __future__ import annotations

import re

from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.widgets.ranking import ranking_html


def test_a_number_stays_with_its_unit(manager: ModelManager) -> None:
    """On a narrow page a cell is broken between facts, and not before "MiB" or "tok/s"."""
    table = ranking_html(manager.get_model_recommendations("text_generation"))
    for number in (r"[\d.]+\N{NO-BREAK SPACE}[KMG]iB", r"[\d,]+\N{NO-BREAK SPACE}tok/s"):
        assert re.search(number, table)
    assert not re.search(r"\d (MiB|GiB|tok/s|m?s)\b", table)
    assert "\N{REPLACEMENT CHARACTER}" not in table
