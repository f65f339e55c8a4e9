"""What parts share that are timed in the same rounds: what the machine did, and no change.

The reference's kernels did not change from one run to the other.  What they have in common is the
machine's drift: of its clock, or by a neighbour's traffic.  What the other layers of an engine have
in common, process by process, is that too, and where memory came to lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Levels = tuple[Sequence[float], Sequence[float]]  # in each process, before and after
Numbers = Sequence[float] | NDArray[np.float64]
CONFIDENCE = 0.9
UNKNOWN = 0.02  # what a shared machine drifts by from one hour to the next, about
LEAST_KERNELS = 5  # of which a median means something, and so does their scatter
MAD_TO_SD = float(1 / stats.norm.ppf(0.75))  # of a normal variable
MEDIAN_TO_MEAN = math.sqrt(math.pi / 2)  # the ratio of their standard errors, of normal variables


@dataclass(frozen=True)
class Drift:
    """The logarithm of how many times as long kernels took that did not change.

    ``value`` is what their median says, ``error`` its standard error.
    """

    value: float = 0.0
    error: float = 0.0

    @property
    def margin(self) -> float:
        """Half the width of its interval."""
        return self.error * float(stats.norm.isf((1 - CONFIDENCE) / 2))

    @property
    def removed(self) -> float:
        """The part of it that is taken out of an effect.

        A drift that is not larger than its error is none that is known, and taking it out would
        add noise.  So it shrinks by the share of its square that is due to error, as in the
        positive-part estimator of James and Stein.
        """
        if abs(self.value) <= self.error:
            return 0.0
        return self.value * (1 - (self.error / self.value) ** 2)


def drift(pairs: Sequence[Levels]) -> Drift | None:
    """The drift of kernels by their levels before and after; None if they are too few to tell.

    Each counts by the root of its time: large ones are timed best, and yet no two of them should
    decide.
    """
    if len(pairs) < LEAST_KERNELS:
        return None
    known = np.array([(np.nanmean(before), np.nanmean(after)) for before, after in pairs])
    shifts, weights = known[:, 1] - known[:, 0], np.exp(known.mean(axis=1) / 2)
    middle = weighted_median(shifts, weights)
    scatter = MAD_TO_SD * weighted_median(np.abs(shifts - middle), weights)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Drift(middle, MEDIAN_TO_MEAN * scatter / math.sqrt(effective))


def shared_by_others(parts: Sequence[Levels], counts: Sequence[bool]) -> list[Levels]:
    """For each part what the others have in common, in each process, beyond their usual levels.

    Only those count that are said to.
    """
    sides = [np.array([part[side] for part in parts]) for side in (0, 1)]
    usual = np.nanmean(np.hstack(sides), axis=1, keepdims=True)
    beyond, weights = [side - usual for side in sides], np.exp(usual[:, 0] / 2) * counts
    found: list[Levels] = []
    for place in range(len(parts)):
        others = np.where(np.arange(len(parts)) == place, 0.0, weights)
        before, after = ([_median(one, others) for one in side.T] for side in beyond)
        found.append((before, after))
    return found


def _median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    known = ~np.isnan(values) & (weights > 0)
    return weighted_median(values[known], weights[known]) if known.any() else 0.0


def weighted_median(values: Numbers, weights: Numbers) -> float:
    """The value below which half of the weight lies, interpolated.

    >>> weighted_median([3.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    2.0
    """
    order = np.argsort(np.asarray(values))
    ordered, weight = np.asarray(values)[order], np.asarray(weights, dtype=float)[order]
    middles = np.cumsum(weight) - weight / 2
    return float(np.interp(weight.sum() / 2, middles, ordered))
