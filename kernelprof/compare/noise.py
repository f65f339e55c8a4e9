"""By how much two runs differ when nothing changed, and what that leaves to be told.

The levels of a part in the processes of either run scatter about a level of each run.  With few
processes a part's own scatter is known badly, so it is moderated: pooled with what is typical of
parts like it, as if that had been seen with ``PRIOR`` degrees of freedom (Smyth, Statistical
Applications in Genetics and Molecular Biology 3, 2004, section 3).  What is typical is calibrated
by the two runs themselves: by the scatter among their processes, and by how far parts moved apart
between the runs, the larger of the two.  Both are medians, as some of the parts may have changed.
Where most of an engine has, each layer by another factor, they move apart by that and not by noise:
so they count for no more than some times what the reference's kernels did, which never change.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kernelprof.compare.control import MAD_TO_SD, Levels, weighted_median

PRIOR = 3.0  # degrees of freedom that parts like it count for
LEAST_SCATTER = 0.005  # of a process: less is luck
LEAST_ALIKE = 5.0  # parts of which a median means something
MOST_BEYOND = 3.0  # times as far apart as the reference's kernels: what is more is change
LIKENESS = math.log(10)  # parts whose times differ by this factor are less alike, by exp(-1/2)


@dataclass(frozen=True)
class Shift:
    """The levels of a part in each process, before and after.

    ``family`` is what moves as one: a case of an engine, or the reference's kernels of a group,
    which are ``unchanged``.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    compute_bound: bool
    family: Hashable
    unchanged: bool = False

    @classmethod
    def of(
        cls, levels: Levels, compute_bound: bool, family: Hashable, unchanged: bool = False
    ) -> Shift:
        """Of the levels that are known."""
        before, after = (tuple(x for x in side if not math.isnan(x)) for side in levels)
        return cls(before, after, compute_bound, family, unchanged)

    @property
    def value(self) -> float:
        """The logarithm of the ratio of after to before."""
        return float(np.mean(self.after) - np.mean(self.before))

    @property
    def level(self) -> float:
        """The logarithm of its nanoseconds."""
        return float(np.mean(self.after) + np.mean(self.before)) / 2

    @property
    def freedom(self) -> int:
        """Degrees of freedom of its own scatter."""
        return len(self.before) + len(self.after) - 2

    @property
    def variance(self) -> float:
        """Of a process, by its own scatter; 0 without a degree of freedom."""
        if not self.freedom:
            return 0.0
        sides = (self.before, self.after)
        squares = sum(float(np.sum((np.array(s) - np.mean(s)) ** 2)) for s in sides)
        return squares / self.freedom

    @property
    def spread(self) -> float:
        """By which a process's variance is multiplied to be that of ``value``."""
        return 1 / len(self.before) + 1 / len(self.after)


@dataclass(frozen=True)
class Noise:
    """The noise of two runs, from all parts that they have in common."""

    parts: Sequence[Shift]

    def error(self, shift: Shift) -> tuple[float, float]:
        """The standard error of a shift, and its degrees of freedom."""
        freedom = PRIOR + shift.freedom
        moderated = (PRIOR * self.typical(shift) ** 2 + shift.freedom * shift.variance) / freedom
        return math.sqrt(moderated * shift.spread), freedom

    def typical(self, shift: Shift) -> float:
        """The standard deviation of a process that is typical of parts like this one."""
        scatter = self._scatter_like(shift)
        return scatter * self.inflation if scatter else self._apart_like(shift)

    @cached_property
    def inflation(self) -> float:
        """How many times as far parts moved apart between the runs as their processes scatter."""
        scatters = [self._scatter_like(part) for part in self.parts]
        known = [n for n, scatter in enumerate(scatters) if scatter and self._apart[n] >= 0]
        if len(known) < LEAST_ALIKE:
            return 1.0
        ratios = {n: MAD_TO_SD * self._apart[n] / scatters[n] for n in known}
        found = max(1.0, float(np.median(list(ratios.values()))))
        control = [ratio for n, ratio in ratios.items() if self.parts[n].unchanged]
        if len(control) < LEAST_ALIKE:
            return found
        return min(found, MOST_BEYOND * max(1.0, float(np.median(control))))

    def _scatter_like(self, shift: Shift) -> float:
        """What processes of parts like this one scatter by; 0 where each run has but one."""
        found = self._like(shift, self._scatter)
        return max(LEAST_SCATTER, found) if found else 0.0

    def _apart_like(self, shift: Shift) -> float:
        """The same, by how far such parts moved apart."""
        found = max(LEAST_SCATTER, MAD_TO_SD * self._like(shift, self._apart))
        unchanged = np.array([part.unchanged for part in self.parts])
        control = np.where(unchanged, self._apart, np.nan)
        if np.count_nonzero(~np.isnan(control)) < LEAST_ALIKE:
            return found
        least = max(LEAST_SCATTER, MAD_TO_SD * self._like(shift, control))
        return min(found, MOST_BEYOND * least)

    def _like(self, shift: Shift, measure: NDArray[np.float64]) -> float:
        known = ~np.isnan(measure)
        if not known.any():
            return 0.0
        return weighted_median(measure[known], self._alike(shift, known)[known])

    def _alike(self, shift: Shift, known: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How much each part has to say of this one.

        Large parts scatter less than small ones, and those that compute less than those that move
        memory.  Where few are like it, the others are better than nothing.
        """
        near = np.exp(-(((self._levels - shift.level) / LIKENESS) ** 2) / 2)
        same = (self._compute_bound == shift.compute_bound).astype(float)
        for weights in (near * same, same, near):
            own: NDArray[np.float64] = weights * known
            if own.sum() ** 2 >= LEAST_ALIKE * (own**2).sum() > 0:
                return own
        return known.astype(float)

    @cached_property
    def _levels(self) -> NDArray[np.float64]:
        return np.array([part.level for part in self.parts])

    @cached_property
    def _compute_bound(self) -> NDArray[np.bool_]:
        return np.array([part.compute_bound for part in self.parts])

    @cached_property
    def _scatter(self) -> NDArray[np.float64]:
        """The scatter of each part; the median of a variance with few freedoms is corrected for."""
        return np.array(
            [
                math.sqrt(part.variance * part.freedom / float(stats.chi2.median(part.freedom)))
                if part.freedom
                else math.nan
                for part in self.parts
            ]
        )

    @cached_property
    def _apart(self) -> NDArray[np.float64]:
        """How far each part is from what moved with it, as a scatter of processes."""
        families: dict[Hashable, list[float]] = defaultdict(list)
        for part in self.parts:
            families[part.family].append(part.value)
        return np.array(
            [
                abs(part.value - float(np.median(families[part.family]))) / math.sqrt(part.spread)
                if len(families[part.family]) >= LEAST_ALIKE
                else math.nan
                for part in self.parts
            ]
        )
