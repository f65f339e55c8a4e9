"""Predict a whole network from its kernels, and never from the network itself.

In each round the times of all kernels are summed, and what a network has beyond its kernels is
added; the prediction is the median of these sums.  Sums of a round, and not of medians: a
disturbance that strikes often enough to be part of a long network's median is then part of the
prediction too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kernelprof.disturbance import WHOLE, Rounds

OWN_COST = ("conv2d", "batch_norm")  # of engines, some look for an algorithm at each call


@dataclass(frozen=True)
class CallCost:
    """What an engine's network costs beyond its kernels: per call, and per kernel.

    Per kernel it can be negative: a kernel called by itself then pays more than inside a network.
    Some kinds of kernels pay in another way than the rest do.
    """

    per_call_ns: float = 0.0
    per_kernel_ns: float = 0.0
    by_kind_ns: Mapping[str, float] = field(default_factory=dict)

    def ns(self, kinds: Iterable[str]) -> float:
        """The cost of one call of a network of kernels of these kinds."""
        return self.per_call_ns + sum(map(self.of_kernel, kinds))

    def of_kernel(self, kind: str) -> float:
        """The cost of a kernel of this kind."""
        return self.by_kind_ns.get(kind, self.per_kernel_ns)


def call_cost(chains: Sequence[tuple[Sequence[str], Rounds]]) -> CallCost:
    """Fit the cost of calling to chains of tiny layers: (kinds of the kernels, samples) of each.

    Least squares through what each chain takes beyond its kernels.  A kind has a cost of its own
    where some chains have it and others do not; with a single chain all of it counts per call.
    """
    points = [
        (kinds, float(np.median([s[WHOLE] - kernels_ns(s) for s in complete])))
        for kinds, rounds in chains
        if (complete := [s for s in rounds.values() if WHOLE in s and has_kernels(s)])
    ]
    if len(points) < 2:
        return CallCost(per_call_ns=points[0][1] if points else 0.0)
    own = [kind for kind in OWN_COST if any(kind in kinds for kinds, _ in points)]
    counts = [
        [1, sum(kind not in own for kind in kinds), *(kinds.count(kind) for kind in own)]
        for kinds, _ in points
    ]
    fitted, *_ = np.linalg.lstsq(np.array(counts, float), np.array([ns for _, ns in points]))
    per_call_ns, per_kernel_ns, *by_kind_ns = map(float, fitted)
    return CallCost(per_call_ns, per_kernel_ns, dict(zip(own, by_kind_ns, strict=True)))


def has_kernels(sample: Mapping[int, float]) -> bool:
    """Whether a round holds kernels, and not only the whole network."""
    return any(place != WHOLE for place in sample)


def kernels_ns(sample: Mapping[int, float]) -> float:
    """The sum of all kernels of one round."""
    return sum(ns for place, ns in sample.items() if place != WHOLE)


def predicted_ns(
    rounds: Rounds, more_ns: Callable[[Mapping[int, float]], float]
) -> dict[int, float]:
    """The network's time in each round that holds its kernels, and what comes to them."""
    return {
        round_: max(kernels_ns(sample) + more_ns(sample), 0.0)
        for round_, sample in rounds.items()
        if has_kernels(sample)
    }


def paired_ratios(rounds: Rounds) -> list[float]:
    """Kernels / whole network in each round that holds both."""
    return [kernels_ns(s) / s[WHOLE] for s in rounds.values() if WHOLE in s and has_kernels(s)]
