"""The least time that a primitive can take on a machine: its ceiling.

The roofline model (Williams, Waterman, Patterson 2009): work cannot be faster than its arithmetic
at the highest rate, nor than its traffic at the highest bandwidth.  As in its cache-aware form
(Ilic, Pratas, Sousa 2014) the bandwidth is that of the nearest level of memory that holds the data,
seen from the core.

The flop are those of the direct algorithm, but for products with padding, which engines leave out.
A convolution by Winograd's algorithm needs fewer (up to 2.25 times for 3x3 filters and 2x2 tiles,
Lavin & Gray 2016), so it may pass the bound "compute" though nothing is wrong.  On a GPU cuDNN has
algorithms for larger filters too, Winograd's and by Fourier transforms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from kernelprof.ceilings import DRAM, PlacementCeilings
from kernelprof.probes.compute_bound import Conv2d
from kernelprof.probes.primitive import Primitive

COMPUTE = "compute"
WINOGRAD_SAVING = 4.0  # of 3x3 filters on 4x4 tiles (Lavin & Gray 2016, section 4.2)
# Of a filter's area, by Fourier transforms of tiles far larger than it: a product of complex
# numbers, 4 of real ones, is the work of two points (Mathieu, Henaff, LeCun 2014).
FOURIER_SAVING = 1 / 2


@dataclass(frozen=True)
class Attainable:
    """The least time, and what sets it: "compute", or the level of memory.

    ``compute_s`` and ``memory_s`` are the bounds of either alone; ``level`` is what holds the data.
    """

    compute_s: float
    memory_s: float
    level: str

    @property
    def seconds(self) -> float:
        """The least time."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        """What sets it."""
        return COMPUTE if self.compute_s >= self.memory_s else self.level


def attainable(primitive: Primitive, pass_: str, known: PlacementCeilings) -> Attainable:
    """The least time of one pass of a primitive where these are the ceilings.

    What could not be measured of the machine bounds nothing.
    """
    level = known.level(footprint_bytes(primitive, pass_))
    dtype = primitive.operand(primitive.output).dtype
    return Attainable(
        compute_s=_seconds(primitive.least_flop(pass_), known.flop_per_s(dtype)),
        memory_s=_seconds(primitive.least_bytes(pass_), known.bytes_per_s(level)),
        level=level,
    )


def least_seconds(
    primitives: Iterable[Primitive], passes: Iterable[str], known: PlacementCeilings
) -> float:
    """What nothing can be faster than that runs these primitives in one call.

    What an engine fuses need not go through memory in between, and Winograd's algorithm needs less
    arithmetic; so this is less than the sum of what is attainable.
    """
    asked, on_gpu = set(passes), not known.cpus
    every = [(one, pass_) for one in primitives for pass_ in one.passes if pass_ in asked]
    bounds = [attainable(one, pass_, known) for one, pass_ in every]
    compute_s = sum(
        bound.compute_s / _saving(one, on_gpu)
        for bound, (one, _) in zip(bounds, every, strict=True)
    )
    if on_gpu:
        return max(
            [compute_s, *(_rewarmed_s(one.least_bytes(pass_), known) for one, pass_ in every)]
        )
    return max([compute_s, *(bound.memory_s for bound in bounds)])


def _rewarmed_s(moved_bytes: int, known: PlacementCeilings) -> float:
    """Of traffic on a GPU, whose cache may still hold a part of what is larger than it.

    It does not drop the oldest line first, so that of data that is gone through again and again
    some is found, up to all that it holds.
    """
    held_bytes = min(moved_bytes, sum(known.capacity_bytes.values()))
    nearest = next(iter(known.capacity_bytes), DRAM)
    beyond_s = _seconds(moved_bytes - held_bytes, known.bytes_per_s(DRAM))
    return beyond_s + _seconds(held_bytes, known.bytes_per_s(nearest))


def _saving(primitive: Primitive, on_gpu: bool) -> float:
    """How many times fewer products than the direct algorithm another one may need."""
    if not isinstance(primitive, Conv2d):
        return 1.0
    if (primitive.stride, primitive.dilation) != ((1, 1), (1, 1)):
        return 1.0
    height, width = primitive.kernel
    by_fourier = FOURIER_SAVING * height * width if on_gpu else 1.0
    return max(by_fourier, WINOGRAD_SAVING if (height, width) == (3, 3) else 1.0)


@cache  # networks repeat their primitives, and so do engines and placements
def footprint_bytes(primitive: Primitive, pass_: str) -> int:
    """The memory that a pass works on, at least.

    An operand that is read and written counts once, and rows that are not looked up do not count.
    """
    names = {*primitive.reads[pass_], *primitive.writes[pass_]}
    operands = [primitive.operand(name) for name in names]
    whole = sum(operand.size_bytes for operand in operands if not operand.saved)
    return min(whole, primitive.least_bytes(pass_))


def _seconds(work: int, per_s: float | None) -> float:
    return work / per_s if per_s else 0.0
