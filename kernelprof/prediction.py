"""Predict a whole network from its kernels, and never from the network itself.

In each round the times of all kernels are summed; the prediction is the median of these sums plus
what calling costs.  Sums of a round, and not of medians: a disturbance that strikes often enough
to be part of a long network's median is then part of the prediction too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelprof.results import Estimate
from kernelprof.runfile import WHOLE
from kernelprof.statistics import estimate

Rounds = Mapping[int, Mapping[int, float]]  # round -> place -> nanoseconds per call


@dataclass(frozen=True)
class CallCost:
    """What an engine's network costs beyond its kernels: per call, and per kernel.

    Per kernel it can be negative: a kernel called by itself then pays more than inside a network.
    """

    per_call_ns: float = 0.0
    per_kernel_ns: float = 0.0

    def ns(self, kernels: int) -> float:
        """The cost of one call of a network of so many kernels."""
        return self.per_call_ns + self.per_kernel_ns * kernels


def call_cost(chains: Sequence[tuple[int, Rounds]]) -> CallCost:
    """Fit the cost of calling to chains of tiny layers: (number of kernels, samples) of each.

    A straight line by least squares through what each chain takes beyond its kernels; with a
    single chain all of it counts per call.
    """
    points = [
        (
            count,
            float(np.median([sample[WHOLE] - kernels_ns(sample) for sample in rounds.values()])),
        )
        for count, rounds in chains
        if rounds
    ]
    if len(points) < 2:
        return CallCost(per_call_ns=points[0][1] if points else 0.0)
    counts, residuals = zip(*points, strict=True)
    slope, intercept = np.polyfit(counts, residuals, 1)
    return CallCost(float(intercept), float(slope))


def kernels_ns(sample: Mapping[int, float]) -> float:
    """The sum of all kernels of one round."""
    return sum(ns for place, ns in sample.items() if place != WHOLE)


def predict(rounds: Rounds, cost_ns: float) -> Estimate:
    """The network's time with its interval over rounds, in seconds."""
    return estimate([max(kernels_ns(s) + cost_ns, 0.0) * 1e-9 for s in rounds.values()])


def paired_ratios(rounds: Rounds) -> list[float]:
    """Kernels / whole network in each round that holds both."""
    return [kernels_ns(s) / s[WHOLE] for s in rounds.values() if WHOLE in s and len(s) > 1]
