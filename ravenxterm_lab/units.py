"""Bytes, seconds and rates as a person reads them: the only place that formats them."""

from __future__ import annotations

import math

__all__ = [
    "format_bytes",
    "format_count",
    "format_elapsed",
    "format_flops",
    "format_joules",
    "format_number",
    "format_rate",
    "format_rates",
    "format_seconds",
]

NOT_MEASURED = "not measured"
_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float | None) -> str:
    """Format a number of bytes with binary prefixes (IEC 80000-13).

    Examples
    --------
    >>> format_bytes(98_362_432), format_bytes(512), format_bytes(None)
    ('93.8 MiB', '512 B', 'not measured')
    """
    if count is None or not math.isfinite(count):
        return NOT_MEASURED
    value, sign = abs(float(count)), "-" if count < 0 else ""
    # The limits are where rounding would reach the next unit: 1023.95 KiB reads 1.0 MiB.
    if value < 1023.5:
        return f"{sign}{value:.0f} B"
    for unit in _BINARY[1:-1]:
        value /= 1024
        if value < 1023.95:
            return f"{sign}{value:.1f} {unit}"
    return f"{sign}{value / 1024:.1f} {_BINARY[-1]}"


def format_seconds(seconds: float | None) -> str:
    """Format a duration given in seconds.

    Examples
    --------
    >>> format_seconds(0.0123), format_seconds(3.2), format_seconds(190)
    ('12.3 ms', '3.20 s', '3 min 10 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOT_MEASURED
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    # The limits are where rounding would reach the next unit: 59.95 s reads 1 min 0 s.
    if seconds < 999.5e-6:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.09995 else f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_elapsed(seconds: float) -> str:
    """Format a duration that is still growing: one decimal, so that the digits stand still.

    Examples
    --------
    >>> format_elapsed(0.812), format_elapsed(1.4), format_elapsed(190), format_elapsed(0.0123)
    ('0.8 s', '1.4 s', '3 min 10 s', '12.3 ms')
    """
    return f"{seconds:.1f} s" if 0.05 <= seconds < 59.95 else format_seconds(seconds)


def format_rate(per_second: float | None, unit: str = "tok") -> str:
    """Format a rate given per second.

    Parameters
    ----------
    per_second : float or None
        The rate; None is "not measured".
    unit : str
        Of what, such as ``"tok"`` or ``"items"``.

    Examples
    --------
    >>> format_rate(79.31), format_rate(3.5), format_rate(None)
    ('79 tok/s', '3.5 tok/s', 'not measured')
    """
    if per_second is None or not math.isfinite(per_second):
        return NOT_MEASURED
    return f"{_rate(per_second)} {unit}/s"


def format_rates(low: float | None, high: float | None) -> str:
    """Format the ends of an interval of rates, whose unit stands beside it.

    Parameters
    ----------
    low, high : float or None
        Per second; None is "not measured".

    Examples
    --------
    >>> format_rates(0.62, 151.3), format_rates(1701.4, 5017.0), format_rates(None, 3.0)
    ('0.6 to 151', '1,701 to 5,017', 'not measured')
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NOT_MEASURED
    return f"{_rate(low)} to {_rate(high)}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.{0 if abs(per_second) >= 10 else 1}f}"


def format_flops(per_second: float | None) -> str:
    """Format floating-point operations per second with SI prefixes.

    Examples
    --------
    >>> format_flops(93.4e9), format_flops(989.4e12), format_flops(None)
    ('93.4 GFLOP/s', '989 TFLOP/s', 'not measured')
    """
    if per_second is None or not math.isfinite(per_second):
        return NOT_MEASURED
    limit, prefix = next(
        # Three digits: 999.5 G would be shown as 1000 G.
        ((limit, prefix) for limit, prefix in _SI if abs(per_second) >= 0.9995 * limit),
        (1.0, ""),
    )
    scaled = per_second / limit
    digits = max(0, 2 - math.floor(math.log10(max(1.0, abs(scaled)) * 1.0005)))
    return f"{scaled:.{digits}f} {prefix}FLOP/s"


def format_joules(joules: float | None) -> str:
    """Format an energy given in joules; 3,600 kJ are one kWh.

    Examples
    --------
    >>> format_joules(12.34), format_joules(45_600), format_joules(None)
    ('12.3 J', '45.6 kJ', 'not measured')
    """
    if joules is None or not math.isfinite(joules):
        return NOT_MEASURED
    return f"{joules:.1f} J" if abs(joules) < 9999.5 else f"{joules / 1000:,.1f} kJ"


def format_count(count: float | None) -> str:
    """Format a large count, such as a number of parameters, with SI suffixes.

    Examples
    --------
    >>> format_count(134_515_008), format_count(8_030_261_248), format_count(12)
    ('135M', '8.03B', '12')
    """
    if count is None or not math.isfinite(count):
        return "unknown"
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        # Three digits: 999,500 rounds up to 1M, and beyond 999T the digits are written out.
        if abs(count) >= 0.9995 * limit:
            scaled = count / limit
            return f"{scaled:.0f}{suffix}" if abs(scaled) >= 999.5 else f"{scaled:.3g}{suffix}"
    return f"{count:.0f}"


def format_number(count: int, noun: str) -> str:
    """Format how many there are of something, in the singular or with an s.

    Parameters
    ----------
    count : int
        How many.
    noun : str
        What, in the singular.

    Examples
    --------
    >>> format_number(1, "row"), format_number(3020, "row"), format_number(0, "row")
    ('1 row', '3,020 rows', '0 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
