"""The time of one kernel at a batch and a thread count at which it was not measured.

A call has a fixed cost, and the rest of its time grows with the batch in proportion.  Beside that
there are steps, where the data outgrows a level of memory: they are as high as the roofline says.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy.optimize import isotonic_regression

from kernelprof.ceilings import DRAM, Ceilings
from kernelprof.forecast import BASES, BETWEEN, BEYOND, MEASURED
from kernelprof.probes.primitive import Primitive
from kernelprof.results import Estimate
from kernelprof.roofline import attainable
from kernelprof.scaling_laws import FEWEST_POINTS, fit_amdahl

Z = 1.645  # standard deviations in half of a 90 % interval of the normal distribution
LEAST_LEFT = 0.1  # of a time, when a smaller batch falls into a nearer level of memory
LEAST_NOISE = 0.002  # of a median, relative: a few equal samples do not make it certain


@dataclass(frozen=True)
class Need:
    """What a kernel asks of a machine.

    ``compute_s`` is what its arithmetic takes at least.  ``traffic`` has for each pass of each
    primitive the bytes that it moves, and what a byte takes from the level of memory that holds
    them; ``dram_s`` is what all bytes would take from the DRAM.
    """

    compute_s: float
    traffic: tuple[tuple[int, float], ...]
    dram_s: float

    @property
    def least_s(self) -> float:
        """The least time, by the roofline."""
        return self._least(level_s for _, level_s in self.traffic)

    @property
    def work_s(self) -> float:
        """Arithmetic and traffic with the DRAM one after the other: it has no steps."""
        return self.compute_s + self.dram_s

    def _least(self, levels_s: Iterable[float]) -> float:
        moved = (size * by for (size, _), by in zip(self.traffic, levels_s, strict=True))
        return max(self.compute_s, *moved)

    def step_s(self, other: Need) -> float:
        """By how much the least time is more as data lies elsewhere than at another batch."""
        return self.least_s - self._least(level_s for _, level_s in other.traffic)

    def growth(self, other: Need) -> float:
        """How many times more work it is than another batch: in what bounds that one."""
        if other.compute_s >= other.least_s:
            return self.compute_s / other.compute_s if other.compute_s else 1.0
        return self.dram_s / other.dram_s if other.dram_s else 1.0


def need(
    primitives: Sequence[Primitive], passes: Sequence[str], threads: int, ceilings: Ceilings
) -> Need:
    """What a kernel asks of a machine.

    Raises:
        KernelprofError: the ceilings of this thread count are not known.
    """
    known = ceilings.at(threads)
    compute_s, traffic = 0.0, []
    for primitive in primitives:
        for pass_ in primitive.passes:
            if pass_ in passes:
                at_best = attainable(primitive, pass_, known)
                rate = known.bytes_per_s(at_best.level)
                traffic.append((primitive.least_bytes(pass_), 1 / rate if rate else 0.0))
                compute_s += at_best.compute_s
    dram = known.bytes_per_s(DRAM)
    moved = sum(size for size, _ in traffic)
    return Need(compute_s, tuple(traffic), moved / dram if dram else 0.0)


@dataclass(frozen=True)
class Point:
    """A kernel as it was measured: in which case, what it asks for, and what it took."""

    source: int
    batch: int
    need: Need
    seconds: Estimate

    @property
    def deviation_s(self) -> float:
        """The standard deviation that the interval of the samples implies."""
        spread = (self.seconds.high_s - self.seconds.low_s) / 2 / Z
        return max(spread, LEAST_NOISE * self.seconds.value_s)


@dataclass(frozen=True)
class Guess:
    """The time of a kernel, what it is made of, and how far that lies.

    ``by_source`` are the seconds that come from each measured case: its errors enter with them.
    ``doublings`` is the distance to the nearest measured batch.  Between ``low_s`` and ``high_s``
    it is for reasons of logic, where the thread count was not measured.
    """

    seconds: float
    by_source: Mapping[int, float]
    basis: str = MEASURED
    doublings: float = 0.0
    bounds: tuple[float, float] | None = field(default=None)

    @property
    def low_s(self) -> float:
        """What it takes at least."""
        return self.bounds[0] if self.bounds else self.seconds

    @property
    def high_s(self) -> float:
        """What it takes at most."""
        return self.bounds[1] if self.bounds else self.seconds


def measured(point: Point) -> Guess:
    """A time that needs no model."""
    return Guess(point.seconds.value_s, {point.source: point.seconds.value_s})


def at_batch(points: Sequence[Point], batch: int, wanted: Need, fixed_s: float) -> Guess:
    """The time at a batch, from those at others with the same threads.

    Between measured batches it is linear.  Beyond them it goes on with the fixed cost that the
    outermost two tell; the less that stands out from their noise, the nearer it is taken to zero.
    Of a single batch the fixed cost is ``fixed_s``, as of any call, and the rest grows with what
    bounds it: arithmetic, or bytes.
    """
    nodes = _increasing(points)
    doublings = min(abs(math.log2(batch / point.batch)) for point in nodes)
    place = bisect_left([node.batch for node in nodes], batch)
    if 0 < place < len(nodes):
        return _between(nodes[place - 1], nodes[place], batch, wanted, doublings)
    edge = nodes[min(place, len(nodes) - 1)]
    if len(nodes) == 1:
        growth = wanted.growth(edge.need)
        return _beyond(edge, growth, wanted, min(fixed_s, edge.seconds.value_s), doublings)
    return _beyond_two(edge, nodes[1] if place == 0 else nodes[-2], batch, wanted, doublings)


def _increasing(points: Sequence[Point]) -> list[Point]:
    """The points by batch, smoothed so that more work never takes less time.

    (Isotonic regression: Barlow et al. 1972.)
    """
    nodes = sorted(points, key=lambda point: point.batch)
    smooth = isotonic_regression(
        [node.seconds.value_s for node in nodes],
        weights=[node.deviation_s**-2 for node in nodes],
    ).x
    return [
        replace(node, seconds=replace(node.seconds, value_s=float(value)))
        for node, value in zip(nodes, smooth, strict=True)
    ]


def _between(below: Point, above: Point, batch: int, wanted: Need, doublings: float) -> Guess:
    share = (batch - below.batch) / (above.batch - below.batch)
    few, many = below.seconds.value_s, above.seconds.value_s
    step_s = wanted.step_s(below.need) - share * above.need.step_s(below.need)
    return Guess(
        min(max((1 - share) * few + share * many + step_s, few), many),
        {below.source: (1 - share) * few, above.source: share * many},
        BETWEEN,
        doublings,
    )


def _beyond(edge: Point, growth: float, wanted: Need, fixed_s: float, doublings: float) -> Guess:
    """The outermost point, grown but for a fixed cost."""
    grown = fixed_s + (edge.seconds.value_s - fixed_s) * growth
    found = max(grown + wanted.step_s(edge.need), fixed_s, LEAST_LEFT * grown)
    return Guess(found, {edge.source: grown}, BEYOND, doublings)


def _beyond_two(edge: Point, inner: Point, batch: int, wanted: Need, doublings: float) -> Guess:
    """The outermost point, grown but for the fixed cost that the one beside it tells."""
    lever = edge.batch / (edge.batch - inner.batch)
    from_edge, from_inner = (1 - lever) * edge.seconds.value_s, lever * inner.seconds.value_s
    fixed_s = from_edge + from_inner
    noise_s = math.hypot((1 - lever) * edge.deviation_s, lever * inner.deviation_s)
    trust = fixed_s**2 / (fixed_s**2 + noise_s**2) if fixed_s > 0 else 0.0
    growth = batch / edge.batch
    found = _beyond(edge, growth, wanted, trust * fixed_s, doublings)
    parts = {
        edge.source: edge.seconds.value_s * growth + trust * from_edge * (1 - growth),
        inner.source: trust * from_inner * (1 - growth),
    }
    return replace(found, by_source=parts)


def at_threads(guesses: Mapping[int, Guess], threads: int, least_s: Mapping[int, float]) -> Guess:
    """The time with so many threads, from those with other counts.

    Between two counts the logarithm of the time is linear in that of the threads.  Beyond them
    Amdahl's law holds where enough counts were measured to fit it; else the share of the ceilings
    that is attained stays.  ``least_s`` has the least time by thread count.

    More threads take no more time and no more efficiency: with T threads, t(S) lies between
    t(T) and t(T) T / S.  The bounds say so.
    """
    counts = sorted(guesses)
    low, high = _bounds(guesses, threads)
    place = bisect_left(counts, threads)
    if 0 < place < len(counts):
        below, above = counts[place - 1], counts[place]
        share = math.log(threads / below) / math.log(above / below)
        few, many = guesses[below], guesses[above]
        seconds = few.seconds ** (1 - share) * many.seconds**share
        nearest, basis = (many if share > 0.5 else few), BETWEEN
    else:
        edge = counts[0] if place == 0 else counts[-1]
        nearest, basis = guesses[edge], BEYOND
        if len(counts) >= FEWEST_POINTS and place:
            fitted = fit_amdahl(counts, [guesses[count].seconds for count in counts])
            law = fitted.seconds(threads)
            seconds, low, high = law.value, max(low, law.low), min(high, law.high)
        else:
            seconds = nearest.seconds * least_s[threads] / least_s[edge]
    low, high = min(low, high), max(low, high)
    seconds = min(max(seconds, low), high)
    scale = seconds / nearest.seconds
    return Guess(
        seconds,
        {source: part * scale for source, part in nearest.by_source.items()},
        max(basis, *(guess.basis for guess in guesses.values()), key=BASES.index),
        max(guess.doublings for guess in guesses.values()),
        (low, high),
    )


def _bounds(guesses: Mapping[int, Guess], threads: int) -> tuple[float, float]:
    """What every measured count implies, as far as they agree."""
    limits = [
        sorted((guess.seconds, guess.seconds * count / threads)) for count, guess in guesses.items()
    ]
    low, high = max(low for low, _ in limits), min(high for _, high in limits)
    return min(low, high), max(low, high)
