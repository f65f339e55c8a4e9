"""By how much, and why, a card was slowed down while something was sampled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median

from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.gpu.watch import REACH_NS


@dataclass(frozen=True)
class Slowdown:
    """Of some samples: the share in which the card was slowed down, its clock then, and why.

    ``reasons`` are in the words of ``samples.THROTTLING``, the most frequent first.
    """

    share: float
    sm_hz: float
    reasons: tuple[str, ...]


def slowdown(samples: Iterable[GpuSample], readings: Sequence[GpuReading]) -> Slowdown | None:
    """What the readings near samples tell; None where none of them names a reason."""
    taken = list(samples)
    slow = [reading for reading in readings if reading.throttled_by]
    near = [_near(sample, slow) for sample in taken]
    slowed = [reading for found in near for reading in found]
    if not slowed:
        return None
    reasons = Counter(reason for reading in slowed for reason in reading.throttled_by)
    return Slowdown(
        share=sum(map(bool, near)) / len(taken),
        sm_hz=median(reading.sm_hz for reading in slowed),
        reasons=tuple(reason for reason, _ in reasons.most_common()),
    )


def _near(sample: GpuSample, slow: Sequence[GpuReading]) -> Sequence[GpuReading]:
    """The readings within a sample or next to it."""
    time_ns = attrgetter("time_ns")
    first = bisect_left(slow, sample.start_ns - REACH_NS, key=time_ns)
    last = bisect_right(slow, sample.start_ns + sample.events_ns + REACH_NS, key=time_ns)
    return slow[first:last]
