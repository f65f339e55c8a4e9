"""Predict a whole network from its kernels, and never from the network itself.

In each round the times of all kernels are summed; the prediction is the median of these sums plus
what calling costs.  Sums of a round, and not of medians: a disturbance that strikes often enough
to be part of a long network's median is then part of the prediction too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelprof.disturbance import WHOLE, Rounds


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
            float(np.median([s[WHOLE] - kernels_ns(s) for s in complete])),
        )
        for count, rounds in chains
        if (complete := [s for s in rounds.values() if WHOLE in s and has_kernels(s)])
    ]
    if len(points) < 2:
        return CallCost(per_call_ns=points[0][1] if points else 0.0)
    counts, residuals = zip(*points, strict=True)
    slope, intercept = np.polyfit(counts, residuals, 1)
    return CallCost(float(intercept), float(slope))


def has_kernels(sample: Mapping[int, float]) -> bool:
    """Whether a round holds kernels, and not only the whole network."""
    return any(place != WHOLE for place in sample)


def kernels_ns(sample: Mapping[int, float]) -> float:
    """The sum of all kernels of one round."""
    return sum(ns for place, ns in sample.items() if place != WHOLE)


def predicted_ns(rounds: Rounds, cost_ns: float) -> dict[int, float]:
    """The network's time in each round that holds its kernels."""
    return {
        round_: max(kernels_ns(sample) + cost_ns, 0.0)
        for round_, sample in rounds.items()
        if has_kernels(sample)
    }


def paired_ratios(rounds: Rounds) -> list[float]:
    """Kernels / whole network in each round that holds both."""
    return [kernels_ns(s) / s[WHOLE] for s in rounds.values() if WHOLE in s and has_kernels(s)]
