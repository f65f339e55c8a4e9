"""The least time that a primitive can take on a machine: its ceiling.

The roofline model (Williams, Waterman, Patterson 2009): work cannot be faster than its arithmetic
at the highest rate, nor than its traffic at the highest bandwidth.  As in its cache-aware form
(Ilic, Pratas, Sousa 2014) the bandwidth is that of the nearest level of memory that holds the data,
seen from the core.

The flop are those of the direct algorithm, but for products with padding, which engines leave out.
A convolution by Winograd's algorithm needs fewer (up to 2.25 times for 3x3 filters and 2x2 tiles,
Lavin & Gray 2016), so it may pass the bound "compute" though nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernelprof.ceilings import PlacementCeilings
from kernelprof.probes.compute_bound import Conv2d
from kernelprof.probes.primitive import Primitive

COMPUTE = "compute"
WINOGRAD_SAVING = 4.0  # of 3x3 filters on 4x4 tiles (Lavin & Gray 2016, section 4.2)


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
    asked = set(passes)
    bounds = [
        (attainable(primitive, pass_, known), _saving(primitive))
        for primitive in primitives
        for pass_ in primitive.passes
        if pass_ in asked
    ]
    compute_s = sum(bound.compute_s / saving for bound, saving in bounds)
    return max([compute_s, *(bound.memory_s for bound, _ in bounds)])


def _saving(primitive: Primitive) -> float:
    """How many times fewer products than the direct algorithm another one may need."""
    tiled = isinstance(primitive, Conv2d) and (
        (primitive.kernel, primitive.stride, primitive.dilation) == ((3, 3), (1, 1), (1, 1))
    )
    return WINOGRAD_SAVING if tiled else 1.0


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
