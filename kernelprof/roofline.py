"""The least time that a primitive can take on a machine: its ceiling.

The roofline model (Williams, Waterman, Patterson 2009): work cannot be faster than its arithmetic
at the highest rate, nor than its traffic at the highest bandwidth.  As in its cache-aware form
(Ilic, Pratas, Sousa 2014) the bandwidth is that of the nearest level of memory that holds the data,
seen from the core.

The flop are those of the direct algorithm, but for products with padding, which engines leave out.
A convolution by Winograd's algorithm needs fewer (up
to 2.25 times for 3x3 filters and 2x2 tiles, Lavin & Gray 2016), so it may pass the bound "compute"
though nothing is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelprof.ceilings import Ceilings
from kernelprof.probes.primitive import Primitive

COMPUTE = "compute"


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


def attainable(primitive: Primitive, pass_: str, threads: int, ceilings: Ceilings) -> Attainable:
    """The least time of one pass of a primitive with so many threads.

    What could not be measured of the machine bounds nothing.

    Raises:
        KernelprofError: this thread count was not measured.
    """
    known = ceilings.at(threads)
    level = known.level(footprint_bytes(primitive, pass_))
    dtype = primitive.operand(primitive.output).dtype
    return Attainable(
        compute_s=_seconds(primitive.least_flop(pass_), known.flop_per_s(dtype)),
        memory_s=_seconds(primitive.least_bytes(pass_), known.bytes_per_s(level)),
        level=level,
    )


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
