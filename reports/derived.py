"""What reports derive from the times of a run."""

from __future__ import annotations

from kernelprof.results import CaseResult, Estimate
from kernelprof.units import TimeUnit, column_unit


def half_width(estimate: Estimate) -> float:
    """Half of the interval, as a share of the value."""
    return (estimate.high_s - estimate.low_s) / 2 / estimate.value_s


def speedup(reference_s: float | None, engine_s: float | None) -> float | None:
    """How many times faster than the reference; below 1 is slower."""
    return reference_s / engine_s if reference_s and engine_s else None


def flop_per_s(flop: int, seconds: float | None) -> float | None:
    """The rate of arithmetic, where there is any."""
    return flop / seconds if flop and seconds else None


def predicted_share(case: CaseResult, seconds: float | None) -> float | None:
    """A part of the predicted time of a case."""
    return seconds / case.predicted.value_s if case.predicted and seconds is not None else None


def layers_unit(case: CaseResult) -> TimeUnit:
    """The unit for the times of a case's layers and their sum."""
    return column_unit([*(layer.engine_s for layer in case.layers), case.measured.value_s])
