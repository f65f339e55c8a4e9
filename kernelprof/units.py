"""How numbers are written for people: the only formats of tables, pages and messages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

BINARY_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti")


@dataclass(frozen=True)
class TimeUnit:
    """A unit that durations are written in."""

    symbol: str
    seconds: float


SECOND = TimeUnit("s", 1.0)
TIME_UNITS = (SECOND, TimeUnit("ms", 1e-3), TimeUnit("µs", 1e-6), TimeUnit("ns", 1e-9))


def significant(value: float, digits: int = 3) -> str:
    """At least that many significant figures, thousands separated, never an exponent.

    >>> significant(0.012345), significant(9.996), significant(1234.5)
    ('0.0123', '10.0', '1,234')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(decimals, 0)}f}"


def time_unit(seconds: float) -> TimeUnit:
    """The largest unit in which the duration is at least 1 once it is rounded.

    >>> time_unit(0.0009999).symbol
    'ms'
    """
    rounded = float(f"{seconds:.3g}")
    return next((unit for unit in TIME_UNITS[:-1] if rounded >= unit.seconds), TIME_UNITS[-1])


def column_unit(durations_s: Iterable[float | None]) -> TimeUnit:
    """The one unit for a column of durations: the unit of its median."""
    known = [seconds for seconds in durations_s if seconds is not None and seconds > 0]
    return time_unit(median(known)) if known else SECOND


def in_unit(seconds: float, unit: TimeUnit) -> str:
    """A duration without its symbol, which the column's heading carries.

    >>> in_unit(0.0412, TimeUnit("ms", 1e-3))
    '41.2'
    """
    return significant(seconds / unit.seconds)


def duration(seconds: float, unit: TimeUnit | None = None) -> str:
    """A duration with its unit: the one asked for, or the one that suits it.

    >>> duration(0.0412), duration(3.2e-7), duration(0), duration(0.0412, SECOND)
    ('41.2 ms', '320 ns', '0 s', '0.0412 s')
    """
    unit = unit or (time_unit(seconds) if seconds else SECOND)
    return f"{in_unit(seconds, unit)} {unit.symbol}"


def gflop(flop_per_s: float) -> str:
    """A rate in GFLOP/s without its symbol.

    >>> gflop(123.4e9)
    '123'
    """
    return significant(flop_per_s / 1e9)


def rate(flop_per_s: float) -> str:
    """A rate of arithmetic.

    >>> rate(1.234e9)
    '1.23 GFLOP/s'
    """
    return f"{gflop(flop_per_s)} GFLOP/s"


def bandwidth(bytes_per_s: float) -> str:
    """A rate of memory traffic, in powers of ten as memory is sold.

    >>> bandwidth(17e9)
    '17.0 GB/s'
    """
    return f"{significant(bytes_per_s / 1e9)} GB/s"


def size(size_bytes: int) -> str:
    """A size in bytes, in powers of 1024.

    >>> size(512), size(33554432)
    ('512 B', '32.0 MiB')
    """
    step = min(max(size_bytes.bit_length() - 1, 0) // 10, len(BINARY_PREFIXES) - 1)
    number = count(size_bytes) if step == 0 else significant(size_bytes / 1024**step)
    return f"{number} {BINARY_PREFIXES[step]}B"


def moment(iso: str) -> str:
    """A time of ISO 8601 to the minute, in UTC.

    >>> moment("2025-11-22T09:14:31+01:00")
    '2025-11-22 08:14 UTC'
    """
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def count(number: int) -> str:
    """A whole number with thousands separators.

    >>> count(62378344)
    '62,378,344'
    """
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "thread"), counted(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def percent(fraction: float) -> str:
    """A difference as a percentage with its sign.

    >>> percent(0.0193), percent(-0.078), percent(-0.0001), percent(4.2)
    ('+1.9 %', '-7.8 %', '+0.0 %', '+420 %')
    """
    decimals = _percent_decimals(fraction)
    rounded = round(100 * fraction, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:+,.{decimals}f} %"


def magnitude(fraction: float) -> str:
    """The size of a difference as a percentage.

    >>> magnitude(-0.078)
    '7.8 %'
    """
    return f"{100 * abs(fraction):,.{_percent_decimals(fraction)}f} %"


def share(fraction: float) -> str:
    """A part of a whole as a percentage; only the whole is 100 %, and only nothing is 0 %.

    >>> share(0.4321), share(0.99999), share(1.0), share(0.00001), share(0.0)
    ('43.2 %', '99.9 %', '100 %', '<0.1 %', '0 %')
    """
    if fraction in {0.0, 1.0}:
        return f"{fraction:.0%}".replace("%", " %")
    if 0 < fraction < 0.0005:
        return "<0.1 %"
    return magnitude(min(fraction, 0.999) if fraction < 1 else fraction)


def times(ratio: float) -> str:
    """A ratio of speeds.

    >>> times(4.123), times(0.55)
    ('4.12x', '0.550x')
    """
    return f"{significant(ratio)}x"


def versus(ratio: float) -> str:
    """A ratio of speeds in words.

    >>> versus(4.123), versus(0.5), versus(0.999)
    ('4.12x faster', '2.00x slower', 'as fast')
    """
    factor = significant(max(ratio, 1 / ratio))
    if factor == "1.00":
        return "as fast"
    return f"{factor}x {'faster' if ratio > 1 else 'slower'}"


def _percent_decimals(fraction: float) -> int:
    return 1 if round(100 * abs(fraction), 1) < 100 else 0
