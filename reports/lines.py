"""One line per case, for printing results as they come."""

from __future__ import annotations

from rich.text import Text

from kernelprof.results import CaseResult, FailureResult
from kernelprof.units import count, duration, magnitude, percent, times

from .derived import half_width, speedup

WIDTHS = {
    "network": -12,  # negative: aligned left
    "mode": -5,
    "batch": 6,
    "engine": -10,
    "threads": 7,
    "measured": 8,
    "±": 6,
    "predicted": 9,
    "error": 7,
    "x faster": 8,  # than the reference
}
WHERE = 5  # the first columns say which case it is, and failures have them too


def case_header() -> Text:
    """The heading of the lines."""
    return Text(_aligned(list(WIDTHS)), style="bold")


def case_line(case: CaseResult) -> Text:
    """A measured case."""
    faster = speedup(case.reference_s, case.measured.value_s)
    line = Text(
        _aligned(
            [
                *_where(case),
                duration(case.measured.value_s),
                magnitude(half_width(case.measured)),
                duration(case.predicted.value_s) if case.predicted else "-",
                percent(case.error) if case.error is not None else "-",
                times(faster) if faster else "-",
            ]
        )
    )
    return line if case.gpu is None else line.append(f"  {case.device}, {case.gpu.bound}-bound")


def failure_line(failure: FailureResult) -> Text:
    """A case that failed, and why."""
    line = Text(_aligned(_where(failure)) + "  ")
    return line.append("failed", style="bold red").append(
        f" ({failure.kind}): {printable(failure.reason)}"
    )


def printable(text: str) -> str:
    """The text on one line, without control characters that would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _where(case: CaseResult | FailureResult) -> list[str]:
    return [
        printable(case.network),
        case.mode,
        count(case.batch),
        printable(case.engine),
        str(case.threads),
    ]


def _aligned(cells: list[str]) -> str:
    return " ".join(
        cell.ljust(-width) if width < 0 else cell.rjust(width)
        for cell, width in zip(cells, WIDTHS.values(), strict=False)
    ).rstrip()
