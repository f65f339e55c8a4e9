"""How the speed of a network follows the threads and the batch: what was found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernelprof.results import Estimate, Ratio
from kernelprof.scaling_laws import FEWEST_POINTS, Fit

KNEE = 0.9  # of the highest throughput measured: a larger batch gains little
SATURATED = 0.8  # of the bandwidth measured


@dataclass(frozen=True)
class Traffic:
    """What a memory-bound layer moves: from which level, and the share of its bandwidth."""

    level: str
    bytes_per_s: float
    share: float | None  # of the measured ceiling


@dataclass(frozen=True)
class LayerPoint:
    """A layer at a thread count: its kernels' time, and the CPU seconds lost by more threads.

    ``traffic`` is there where memory bounds the layer by the roofline.
    """

    name: str
    kind: str
    seconds: float
    lost_s: float
    traffic: Traffic | None = None

    @property
    def saturates(self) -> bool:
        """Whether the layer takes most of the bandwidth there is."""
        return self.traffic is not None and (self.traffic.share or 0.0) >= SATURATED


@dataclass(frozen=True)
class ThreadPoint:
    """A network at a thread count.

    Speed-ups are over the fewest threads that were measured; with one of them it is the usual one.
    ``lost_s`` are CPU seconds that so many threads spend beyond those of the fewest: of the whole,
    of each layer, of calling, and of what no layer explains, which together are the whole.
    """

    threads: int
    measured: Estimate
    predicted: Estimate | None
    speedup: Ratio
    predicted_speedup: float | None
    efficiency: float
    lost_s: float
    layers: tuple[LayerPoint, ...]
    calling_lost_s: float
    unexplained_lost_s: float

    def share(self, lost: float) -> float:
        """The share of one part in all that is lost; what other parts win back does not count."""
        parts = [layer.lost_s for layer in self.layers]
        total = sum(max(one, 0.0) for one in (*parts, self.calling_lost_s, self.unexplained_lost_s))
        return lost / total if total else 0.0


@dataclass(frozen=True)
class OverThreads:
    """A network in an engine at a batch and mode, over thread counts."""

    network: str
    engine: str
    device: str
    batch: int
    mode: str
    points: tuple[ThreadPoint, ...]
    amdahl: Fit | None = None
    usl: Fit | None = None

    @property
    def missing(self) -> int:
        """How many more thread counts a fit needs."""
        return max(FEWEST_POINTS - len(self.points), 0)


@dataclass(frozen=True)
class BatchPoint:
    """A network at a batch."""

    batch: int
    measured: Estimate
    predicted: Estimate | None

    @property
    def per_s(self) -> float:
        """Samples per second."""
        return self.batch / self.measured.value_s


@dataclass(frozen=True)
class OverBatches:
    """A network in an engine at a thread count and mode, over batches."""

    network: str
    engine: str
    device: str
    threads: int
    mode: str
    points: tuple[BatchPoint, ...]
    hockney: Fit | None = None

    @property
    def knee(self) -> int:
        """The smallest measured batch that nearly reaches the highest throughput measured."""
        best = max(point.per_s for point in self.points)
        return next(point.batch for point in self.points if point.per_s >= KNEE * best)

    @property
    def missing(self) -> int:
        """How many more batches a fit needs."""
        return max(FEWEST_POINTS - len(self.points), 0)


@dataclass(frozen=True)
class Scaling:
    """What a run tells of scaling: all that was measured with two thread counts, or batches."""

    over_threads: tuple[OverThreads, ...]
    over_batches: tuple[OverBatches, ...]


def speedup(base: Estimate, other: Estimate) -> Ratio:
    """Times of different rounds compared: their relative errors add up as those of chance do."""
    value = base.value_s / other.value_s
    low = math.hypot(_below(base), _above(other))
    high = math.hypot(_above(base), _below(other))
    return Ratio(value, value * math.exp(-low), value * math.exp(high))


def _below(time: Estimate) -> float:
    return math.log(time.value_s / time.low_s) if time.low_s > 0 else 0.0


def _above(time: Estimate) -> float:
    return math.log(time.high_s / time.value_s)


def lost_s(threads: int, seconds: float, base_threads: int, base_s: float) -> float:
    """CPU seconds that more threads spend on the same work.

    >>> lost_s(4, 0.5, 1, 1.0)
    1.0
    """
    return threads * seconds - base_threads * base_s
