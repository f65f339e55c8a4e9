"""Laws of scaling, and how they are fitted: time over threads, and time over the batch.

Amdahl's law (1967): a share ``serial`` of the work is done by one thread whatever their number,
    t(T) = t(1) (serial + (1 - serial) / T).
The Universal Scalability Law (Gunther 2007, chapter 4) adds what threads do to each other:
    t(T) = t(1) (1 + contention (T - 1) + coherence T (T - 1)) / T,
where ``contention`` is the serial share again and ``coherence`` the cost of each pair of threads.
Time over the batch follows Hockney's law of vectors (1982),
    t(b) = marginal (b + half_batch):
a call costs as much as ``half_batch`` samples, and so reaches half of the highest throughput there.

All are fitted to logarithms of times by least squares: errors of times are relative ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares

from kernelprof.errors import KernelprofError
from kernelprof.statistics import CONFIDENCE

FEWEST_POINTS = 5  # of which a law may be fitted: with fewer it says what it was told
LEAST_S = 1e-30  # where a law has no logarithm

Numbers = NDArray[np.float64]
Law = Callable[..., Any]


@dataclass(frozen=True)
class Range:
    """A fitted number with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A law fitted to times: its parameters by name, the first of them a time."""

    law: Law
    parameters: dict[str, Range]
    covariance: Numbers  # of the logarithm of the first parameter, and of the others
    quantile: float  # of Student's distribution, for the interval

    def seconds(self, at: float) -> Range:
        """The time at a thread count or batch, with the interval that the parameters imply.

        (By the delta method, of the logarithm of the time.)
        """
        found = [one.value for one in self.parameters.values()]
        here = self._log(at, found)
        slopes = np.array([1.0, *(self._slope(at, found, n) for n in range(1, len(found)))])
        half = self.quantile * math.sqrt(max(float(slopes @ self.covariance @ slopes), 0.0))
        return Range(*(math.exp(here + sign * half) for sign in (0, -1, 1)))

    def _log(self, at: float, parameters: Sequence[float]) -> float:
        return math.log(max(float(self.law(at, *parameters)), LEAST_S))

    def _slope(self, at: float, parameters: Sequence[float], place: int) -> float:
        step = 1e-6 * max(abs(parameters[place]), 1e-3)
        moved = [*parameters]
        moved[place] += step
        return (self._log(at, moved) - self._log(at, parameters)) / step

    def __getitem__(self, name: str) -> Range:
        """A parameter."""
        return self.parameters[name]


def amdahl(threads: Numbers, one_s: float, serial: float) -> Numbers:
    """Time with so many threads where a share of the work is serial.

    >>> amdahl(np.array([1.0, 2.0]), 1.0, 0.5)
    array([1.  , 0.75])
    """
    return one_s * (serial + (1 - serial) / threads)


def usl(threads: Numbers, one_s: float, contention: float, coherence: float) -> Numbers:
    """Time with so many threads that wait for, and talk to, each other.

    >>> usl(np.array([1.0, 2.0]), 1.0, 0.5, 0.0)
    array([1.  , 0.75])
    """
    pairs = contention * (threads - 1) + coherence * threads * (threads - 1)
    return one_s * (1 + pairs) / threads


def hockney(batch: Numbers, marginal_s: float, half_batch: float) -> Numbers:
    """Time of a batch: that of its samples, and a fixed part as long as ``half_batch`` samples.

    >>> hockney(np.array([0.0, 8.0]), 0.5, 4.0)
    array([2., 6.])
    """
    return marginal_s * (batch + half_batch)


def most_useful_threads(contention: float, coherence: float) -> float:
    """The thread count beyond which more threads are slower; infinite without coherence cost."""
    return math.sqrt((1 - contention) / coherence) if coherence > 0 else math.inf


def fit_amdahl(threads: Sequence[int], seconds: Sequence[float]) -> Fit:
    """Amdahl's law through times.

    Raises:
        KernelprofError: fewer than 5 thread counts.
    """
    start = [seconds[0] * threads[0], 0.1]
    return _fit(amdahl, ("one_s", "serial"), threads, seconds, start, [0.0], [1.0])


def fit_usl(threads: Sequence[int], seconds: Sequence[float]) -> Fit:
    """The Universal Scalability Law through times.

    Raises:
        KernelprofError: fewer than 5 thread counts.
    """
    start = [seconds[0] * threads[0], 0.1, 1e-4]
    names = ("one_s", "contention", "coherence")
    return _fit(usl, names, threads, seconds, start, [0.0, 0.0], [1.0, np.inf])


def fit_hockney(batches: Sequence[int], seconds: Sequence[float]) -> Fit:
    """Hockney's law through times.

    Raises:
        KernelprofError: fewer than 5 batches.
    """
    start = [seconds[-1] / batches[-1], float(batches[0])]
    return _fit(hockney, ("marginal_s", "half_batch"), batches, seconds, start, [0.0], [np.inf])


def _fit(
    law: Law,
    names: tuple[str, ...],
    at: Sequence[int],
    seconds: Sequence[float],
    start: list[float],
    least: list[float],
    most: list[float],
) -> Fit:
    """Least squares of the logarithms; intervals from the curvature, with Student's quantile.

    Outside its bounds a parameter has no meaning.  Its interval is that of the fit without bounds,
    cut at them.
    """
    if len(set(at)) < FEWEST_POINTS:
        raise KernelprofError(
            f"{len(set(at))} points; a law is fitted to {FEWEST_POINTS} at the fewest"
        )
    abscissa, logs = np.array(at, dtype=float), np.log(np.array(seconds, dtype=float))

    def residuals(parameters: Numbers) -> Numbers:
        times = law(abscissa, math.exp(parameters[0]), *parameters[1:])
        found: Numbers = np.log(np.maximum(times, LEAST_S)) - logs
        return found

    guess = np.array([math.log(start[0]), *start[1:]])
    bounds = ([-np.inf, *least], [np.inf, *most])
    found = least_squares(residuals, guess, bounds=bounds, x_scale="jac")
    freedom = max(len(logs) - len(guess), 1)
    variance = float(np.sum(found.fun**2)) / freedom
    slopes = cast(Numbers, found.jac)
    covariance: Numbers = variance * np.linalg.pinv(slopes.T @ slopes).astype(np.float64)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    half = quantile * np.sqrt(np.diag(covariance))
    first = found.x[0]
    ranges = [Range(*(math.exp(first + sign * half[0]) for sign in (0, -1, 1)))]
    for value, own, low, high in zip(found.x[1:], half[1:], least, most, strict=True):
        ranges.append(Range(float(value), max(value - own, low), min(value + own, high)))
    return Fit(law, dict(zip(names, ranges, strict=True)), covariance, quantile)
