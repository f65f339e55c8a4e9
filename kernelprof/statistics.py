"""Distribution-free statistics of small, noisy samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kernelprof.results import Estimate, Ratio

CONFIDENCE = 0.9
LEAST_PROCESSES = 3  # of which one may tell whether they differ
RESAMPLES = 2000
SEED = 1  # of the bootstrap: a report says the same each time it is made


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
    lower = _lower_rank(len(ordered), confidence)
    return _middle(ordered), float(ordered[lower]), float(ordered[-1 - lower])


@cache
def _lower_rank(count: int, confidence: float) -> int:
    """The rank, from 0, of the value that is the lower end of the median's interval."""
    lower = int(stats.binom.ppf((1 - confidence) / 2, count, 0.5))
    return max(0, min(lower - 1, (count - 1) // 2))


def _middle(ordered: NDArray[np.float64]) -> float:
    """The median of sorted values, without what `numpy.median` spends on general arrays."""
    count = len(ordered)
    return float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)


def estimate(seconds: Sequence[float], processes: Sequence[int] = ()) -> Estimate:
    """The median of seconds with its interval, their median absolute deviation and the least.

    ``processes`` tells which process took each value.  Between processes more differs than within
    one (where memory lies, for one), so the interval also holds the median of each.
    """
    value, low, high = median_interval(seconds)
    medians = _medians(seconds, processes)
    deviations = np.sort(np.abs(np.asarray(seconds, dtype=float) - value))
    return Estimate(
        value,
        min([low, *medians]),
        max([high, *medians]),
        mad_s=_middle(deviations),
        least_s=float(min(seconds)),
    )


def _medians(values: Sequence[float], processes: Sequence[int]) -> list[float]:
    """The median of each process; none where there is but one."""
    by_process: dict[int, list[float]] = defaultdict(list)
    for process, value in zip(processes, values, strict=False):
        by_process[process].append(value)
    return [_middle(np.sort(own)) for own in by_process.values()] if len(by_process) > 1 else []


def ratio_interval(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """The median of ratios that are paired by round, with a percentile bootstrap interval.

    (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13.)

    Raises:
        ValueError: no ratios.
    """
    if not len(ratios):
        raise ValueError("no ratios, so no median")
    middle = float(np.median(ratios))
    if len(ratios) == 1:
        return Ratio(middle, middle, middle)
    found = stats.bootstrap(
        (np.asarray(ratios, dtype=float),),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Ratio(middle, float(found.low), float(found.high))


@dataclass(frozen=True)
class Comparison:
    """A ratio of two times with its interval, and how surprising it would be if they were equal.

    ``p`` is the probability of a ratio this far from 1 or farther.
    """

    ratio: Ratio
    p: float

    def differs(self, level: float) -> bool:
        """Whether the two are called different at this level."""
        return self.p < level


def compare(ratios_by_process: Sequence[Sequence[float]], level: float) -> Comparison:
    """Whether two things differ that several pairs of processes timed, paired by round.

    A pair of processes counts as one observation, the median of its rounds: rounds of one process
    share where its memory lies, and would make chance look certain.  Of the logarithms of these
    medians a t-test (Hoefler & Belli, SC'15, rules 4 to 7).  ``level`` sets the interval too.

    Raises:
        ValueError: fewer than 3 pairs of processes.
    """
    if len(ratios_by_process) < LEAST_PROCESSES:
        raise ValueError(f"{len(ratios_by_process)} pairs of processes; {LEAST_PROCESSES} needed")
    logs = [float(np.log(np.median(ratios))) for ratios in ratios_by_process]
    test = stats.ttest_1samp(logs, 0.0)
    low, high = test.confidence_interval(1 - level)
    middle = float(np.mean(logs))
    ratio = Ratio(math.exp(middle), math.exp(low), math.exp(high))
    return Comparison(ratio, float(test.pvalue))


def half_width(values: Sequence[float]) -> float:
    """Half the width of the median's interval, relative to the median."""
    middle, low, high = median_interval(values)
    return (high - low) / 2 / middle if middle else float("inf")
