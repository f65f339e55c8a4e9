"""How a block of calls is timed on a GPU: what it takes there, and what the CPU takes meanwhile.

The calls of a block queue up, so most of what it costs the CPU to hand them over passes while the
GPU works.  A recorded graph of the same calls leaves the CPU out altogether.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from .clock import time_block
from .device import EVENTS, HOST, Stream
from .engine import Call

# "Resolution of approximately 0.5 microseconds": cudaEventElapsedTime, CUDA runtime API.
RESOLUTION_NS = 500
LEAST_NS = 100 * RESOLUTION_NS  # of a sample; a shorter one is taken anew with more calls
# What blocks are made for.  The CPU's clock also sees how long it takes until the first call has
# reached the GPU and the CPU knows of the last: some ten microseconds.
AIM_NS = {EVENTS: 1_000_000, HOST: 5_000_000}
MOST_CALLS = 200  # in a block: a stream's queue holds about 1,000 launches, then the CPU waits


class Sides(NamedTuple):
    """A block in nanoseconds, as ``kernelprof.gpu.samples.GpuSample`` explains them."""

    events_ns: int
    host_ns: int
    graph_ns: int = 0


def time_on_stream(
    stream: Stream,
    call: Call,
    calls: int,
    held: list[Any],
    place: int,
    releases: tuple[int, ...] = (),
) -> Sides:
    """A block of calls on an idle GPU; ``held``, ``place`` and ``releases`` as on the CPU."""
    stream.finish()
    first = stream.mark()
    host_ns = time_block(call, calls, held, place, releases)
    if stream.clock == HOST:  # its marks are the CPU's time, which knows of no queue
        stream.finish()
    last = stream.mark()
    stream.finish()
    return Sides(stream.elapsed_ns(first, last), host_ns)


def replayed_ns(stream: Stream, replay: Callable[[], object]) -> int:
    """Nanoseconds that a recorded graph keeps the GPU busy.

    An untimed replay goes before it: meanwhile the CPU hands over the one that counts.
    """
    stream.finish()
    replay()
    first = stream.mark()
    replay()
    last = stream.mark()
    stream.finish()
    return stream.elapsed_ns(first, last)


def calls_per_block(call_ns: float, clock: str, turns: int = 1, most: int = MOST_CALLS) -> int:
    """How many calls make a block: whole turns of a rotation of arguments, and one at least.

    >>> calls_per_block(100_000, EVENTS), calls_per_block(100_000, EVENTS, turns=4)
    (10, 12)
    """
    enough = min(most, max(1, int(-(-AIM_NS[clock] // max(call_ns, 1.0)))))
    calls = -(-enough // turns) * turns
    return calls - turns if calls > max(most, turns) else calls
