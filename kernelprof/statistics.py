"""Distribution-free statistics of small, noisy samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from kernelprof.results import Estimate

CONFIDENCE = 0.9


def median_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """The median, and order statistics that hold the true median with this confidence.

    The number of values below the true median is binomial(n, 1/2) whatever their distribution
    (Hahn & Meeker, Statistical Intervals, section 5.2).  With too few values for the confidence
    the interval is their whole range.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("no values, so no median")
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    lower = int(binom.ppf((1 - confidence) / 2, count, 0.5))
    lower = max(0, min(lower - 1, (count - 1) // 2))
    return float(np.median(ordered)), float(ordered[lower]), float(ordered[count - 1 - lower])


def estimate(seconds: Sequence[float]) -> Estimate:
    """The median of seconds with its interval."""
    return Estimate(*median_interval(seconds))


def half_width(values: Sequence[float]) -> float:
    """Half the width of the median's interval, relative to the median."""
    middle, low, high = median_interval(values)
    return (high - low) / 2 / middle if middle else float("inf")
