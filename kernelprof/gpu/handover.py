"""What the CPU takes to hand a network's kernels over to a GPU, and what comes of both sides.

By itself a kernel is called in another way than within a network (a single gradient is asked of an
engine's autograd, or a compiled program of one operation is launched), which costs the CPU more.
So its time by itself only tells its share; what a whole call costs the CPU comes from the chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

from kernelprof.disturbance import WHOLE
from kernelprof.gpu.queue import Call
from kernelprof.gpu.samples import GpuSample
from kernelprof.prediction import CallCost

HIDDEN_SHARE = 0.9  # of a kernel's time: a GPU that works less than the CPU does is not seen


class HandOver(NamedTuple):
    """The CPU's side of a round.

    ``host_ns`` is what the CPU takes for a call, by place; ``hidden`` are the kernels that came
    one by one as slowly as the CPU called them, so that nobody knows how much less the GPU took.
    ``calls`` are those of a sample of the whole network, at whose end the GPU is done.
    """

    host_ns: Mapping[int, float]
    hidden: frozenset[int] = frozenset()
    calls: int = 1


HandOvers = Mapping[int, HandOver]  # by round


def hand_overs(samples: Mapping[int, Mapping[int, GpuSample]]) -> dict[int, HandOver]:
    """The CPU's side of every round that was sampled on a GPU."""
    whole = [found[WHOLE].calls for found in samples.values() if WHOLE in found]
    usual = median_low(whole) if whole else 1
    return {
        round_: HandOver(
            {place: sample.host_ns / sample.calls for place, sample in found.items()},
            frozenset(place for place, sample in found.items() if _is_hidden(sample)),
            found[WHOLE].calls if WHOLE in found else usual,
        )
        for round_, found in samples.items()
    }


def _is_hidden(sample: GpuSample) -> bool:
    return not sample.graph_ns and sample.host_ns >= HIDDEN_SHARE * sample.events_ns


def both_sides(
    kinds: Sequence[str], device_ns: Sequence[float], hand_over: HandOver, calling: CallCost
) -> Call:
    """A call of a network of kernels of these kinds, each of which takes the GPU so long.

    The CPU's time is that of its kernels and what ``calling`` adds to them, at least none: the cost
    per call before the first kernel, the rest on the kernels by what each takes.  A hidden kernel
    is taken to take the GPU no longer than the CPU takes for it within the network.
    """
    alone_ns = [hand_over.host_ns.get(place, 0.0) for place in range(len(kinds))]
    total_ns = max(sum(alone_ns) + calling.ns(kinds), 0.0)
    lead_ns = min(max(calling.per_call_ns, 0.0), total_ns)
    weights = [
        max(alone + calling.of_kernel(kind), 0.0)
        for alone, kind in zip(alone_ns, kinds, strict=True)
    ]
    host_ns = _shared(total_ns - lead_ns, weights)
    device = [
        min(ns, host) if place in hand_over.hidden else ns
        for place, (ns, host) in enumerate(zip(device_ns, host_ns, strict=True))
    ]
    return Call(host_ns, device, lead_ns)


def _shared(total_ns: float, weights: Sequence[float]) -> list[float]:
    """A time in parts that are as their weights; equal ones where nothing has any."""
    whole = sum(weights)
    if whole <= 0:
        return [total_ns / len(weights)] * len(weights)
    return [total_ns * weight / whole for weight in weights]
