"""How well earlier estimates came out: the toolkit's own track record."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import NOT_MEASURED, format_number

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from ravenxterm_lab.store import QueryResult, Store

__all__ = ["Calibration", "CalibrationRow", "read_calibration"]

_LATEST = 20
_ROWS_SQL = "FROM calibration ORDER BY quantity, predictions DESC, tier, engine, device"
_LATEST_SQL = f"""
SELECT abs(ln(actual / predicted)), actual BETWEEN low AND high
FROM predictions
WHERE actual > 0 AND predicted > 0
ORDER BY ts DESC, session DESC, seq DESC
LIMIT {_LATEST}
"""  # noqa: S608 - a constant
_NAMES = {
    "peak_memory": "peak memory",
    "load_seconds": "load time",
    "time_to_first_token": "time to first token",
    "throughput": "decode speed",
}


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Errors of one quantity, tier of evidence, engine and device; shares are 0–1.

    Attributes
    ----------
    quantity, tier, engine, device : str
        As in the table ``predictions``; an empty string where it was not recorded.
    predictions : int
        How many were followed by a load or a run.
    median_error : float or None
        ``exp(median |ln(actual / predicted)|) − 1``: half of them were off by less.
    bias : float or None
        ``exp(median ln(actual / predicted)) − 1``: above 0, more was measured than predicted.
    coverage : float or None
        Share of the outcomes that lay in their interval.
    level : float or None
        What that share shall be.
    failures, wrongly_said_to_fit : int
        Loads that failed; those among them that were said to fit and ran out of memory.
    """

    quantity: str
    tier: str
    engine: str
    device: str
    predictions: int
    median_error: float | None
    bias: float | None
    coverage: float | None
    level: float | None
    failures: int
    wrongly_said_to_fit: int


@dataclass(frozen=True, slots=True)
class Calibration(Displayed):
    """The track record of the estimates of this home.

    Attributes
    ----------
    rows : tuple of CalibrationRow
        By quantity, the most frequent first.
    latest : int
        How many of the last twenty predictions there are.
    latest_error : float or None
        Their median error, as a share of what was predicted.
    latest_held : int
        How many of them lay in their interval.
    """

    rows: tuple[CalibrationRow, ...]
    latest: int
    latest_error: float | None
    latest_held: int
    _result: QueryResult
    _next_step: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def pl(self) -> pl.DataFrame:
        """Return the rows as a polars frame (columns of the view ``calibration``)."""
        return self._result.pl()

    def df(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        return self._result.df()

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._result.to_arrow_table()

    @property
    def summary(self) -> str:
        """The last twenty predictions in one sentence."""
        if not self.latest or self.latest_error is None:
            return "no prediction has been followed by a load or a run yet"
        levels = {round(row.level, 6) for row in self.rows if row.level is not None}
        what = f"{next(iter(levels)):.0%} interval" if len(levels) == 1 else "interval"
        return (
            f"last {format_number(self.latest, 'prediction')}: median error "
            f"{self.latest_error:.0%}, {what} held {self.latest_held} of {self.latest}"
        )

    def _card(self) -> Card:
        if not self.rows:
            return Card(
                "Track record of the estimates",
                f"No predictions with an outcome yet: {self._next_step}. Each load and each run is "
                "compared with what was predicted of it.",
            )
        rows = [
            [
                _NAMES.get(row.quantity, row.quantity),
                row.tier,
                " on ".join(part for part in (row.engine, row.device) if part),
                str(row.predictions),
                _percent(row.median_error),
                _percent(row.bias, sign=True),
                _percent(row.coverage),
                _failures(row),
            ]
            for row in self.rows
        ]
        header = ["quantity", "evidence", "engine", "predictions", "median error", "bias"]
        numeric = [False, False, False, True, True, True, True, False]
        return Card(
            "Track record of the estimates",
            self.summary,
            [Table([*header, "interval held", "failed loads"], rows, numeric)],
        )

    def __repr__(self) -> str:
        return f"<Calibration: {self.summary}>"


def read_calibration(
    store: Store, next_step: Callable[[], str] = lambda: "run a model"
) -> Calibration:
    """Read how the predictions came out, from the view ``calibration``.

    Parameters
    ----------
    store : Store
        Where the predictions are.
    next_step : callable
        Returns what to do where there are none.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    result = store.sql(_ROWS_SQL)
    names = [name for name in result.columns if name != "last_prediction"]
    rows = []
    for values in result:
        row = dict(zip(result.columns, values, strict=True))
        texts = {name: row[name] or "" for name in ("quantity", "tier", "engine", "device")}
        rows.append(CalibrationRow(**{**{name: row[name] for name in names}, **texts}))
    latest = store.sql(_LATEST_SQL).fetchall()
    return Calibration(
        rows=tuple(rows),
        latest=len(latest),
        latest_error=_off_by([error for error, _ in latest]),
        latest_held=sum(bool(held) for _, held in latest),
        _result=result,
        _next_step="" if rows else next_step(),
    )


def _off_by(errors: list[float]) -> float | None:
    return math.expm1(statistics.median(errors)) if errors else None


def _percent(share: float | None, *, sign: bool = False) -> str:
    if share is None:
        return NOT_MEASURED
    return f"{share:+.1%}" if sign else f"{share:.1%}"


def _failures(row: CalibrationRow) -> str:
    if not row.failures:
        return "none"
    wrong = f", {row.wrongly_said_to_fit} said to fit" if row.wrongly_said_to_fit else ""
    return f"{row.failures}{wrong}"
