"""How fast a loop runs on several CPUs at the same time: pinned threads, counted in windows.

A thread per CPU runs the loop in chunks and notes when each is done.  Afterwards the time in which
all of them ran is cut into windows, and the work of all threads in each window is counted.  So no
thread's rate is ever one that it had while another one rested.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from kernelprof.errors import KernelprofError
from kernelprof.machinecode import Compiled
from kernelprof.microkernels import Microkernel

# A chunk costs the interpreter about a microsecond, and one thread at a time can have it.
CHUNK_NS = 200_000
CHUNK_NS_PER_THREAD = 20_000
PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 * 2**20

Call = Callable[[int, int], None]  # where in the arrays to start, and for how many steps


@dataclass(frozen=True)
class Trace:
    """When a thread started and when it had done each of its chunks; ``work`` is that of one."""

    marks_ns: NDArray[np.int64]
    work: int

    def done(self, moments_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """The work done by each moment, chunks that were not done yet in part."""
        work = self.work * np.arange(len(self.marks_ns), dtype=np.float64)
        return np.interp(moments_ns, self.marks_ns, work)


def rates(
    loop: Compiled, cpus: tuple[int, ...], array_bytes: int, seconds: float, window_s: float
) -> list[float]:
    """Work per second of all threads together, in each window of about ``seconds``.

    ``array_bytes`` is a power of two: the size of each array of each thread.

    Raises:
        KernelprofError: a CPU cannot be had.
    """
    start = Start(threading.Barrier(len(cpus)))
    with ThreadPoolExecutor(len(cpus)) as pool:
        running = [pool.submit(_trace, loop, cpu, array_bytes, seconds, start) for cpu in cpus]
    failed = [error for one in running if (error := one.exception())]
    first = next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), None)
    if failed:
        raise KernelprofError(f"cannot measure on CPUs {cpus}: {first}") from first
    return window_rates([one.result() for one in running], window_s)


def window_rates(traces: list[Trace], window_s: float) -> list[float]:
    """Work per second of all traces together in each window of the time that they have in common.

    Raises:
        KernelprofError: they have none.
    """
    start = float(max(trace.marks_ns[0] for trace in traces))
    end = float(min(trace.marks_ns[-1] for trace in traces))
    if end <= start:
        raise KernelprofError("the threads never ran at the same time")
    windows = max(int((end - start) / (window_s * 1e9)), 1)
    edges_ns = np.linspace(start, end, windows + 1)
    done = np.sum([trace.done(edges_ns) for trace in traces], axis=0)
    return [float(rate) for rate in np.diff(done) / np.diff(edges_ns) * 1e9]


@dataclass(frozen=True)
class Start:
    """Where threads wait for one another, and when each went on from there.

    On a busy machine one may go on long after the others.
    """

    barrier: threading.Barrier
    moments_ns: list[int] = field(default_factory=list)

    def since_last_ns(self, moment_ns: int) -> int:
        """How long all of them have been running."""
        if len(self.moments_ns) < self.barrier.parties:
            return 0
        return moment_ns - max(self.moments_ns)


def _trace(loop: Compiled, cpu: int, array_bytes: int, seconds: float, start: Start) -> Trace:
    try:
        os.sched_setaffinity(0, {cpu})  # of this thread only
        # Touched first by the thread that uses it, memory lies near to its CPU.
        arrays = Arrays(loop.kernel, array_bytes)
        call: Call = partial(loop.call, *arrays.addresses, array_bytes - 1)
        chunk_ns = max(CHUNK_NS, CHUNK_NS_PER_THREAD * start.barrier.parties)
        steps = _steps(call, chunk_ns)
        start.barrier.wait()
    except BaseException:
        start.barrier.abort()  # or the others would wait for ever
        raise
    place, chunk_bytes = 0, steps * loop.kernel.step_bytes
    marks = [perf_counter_ns()]
    start.moments_ns.append(marks[0])
    while start.since_last_ns(marks[-1]) < seconds * 1e9:
        call(place, steps)
        marks.append(perf_counter_ns())
        place = (place + chunk_bytes) & (array_bytes - 1)
    return Trace(np.array(marks), steps * loop.kernel.work)


def _steps(call: Call, chunk_ns: int) -> int:
    """Steps that take at least so long, undisturbed."""
    steps = 1
    while min(_duration_ns(call, steps) for _ in range(3)) < chunk_ns:
        steps *= 2
    return steps


def _duration_ns(call: Call, steps: int) -> int:
    start = perf_counter_ns()
    call(0, steps)
    return perf_counter_ns() - start


class Arrays:
    """Arrays of ones, one after another in huge pages, so that page walks cost little.

    Ones are harmless whatever is done with them: no denormal or infinite number comes of it.
    """

    def __init__(self, kernel: Microkernel, array_bytes: int) -> None:
        # A loop that sums up what it read leaves the sums behind its last array.
        size_bytes = kernel.arrays * array_bytes + PAGE_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, flags=flags)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        first = np.frombuffer(self._memory, np.uint8).ctypes.data
        aligned = -first % HUGE_PAGE_BYTES
        ones = np.frombuffer(self._memory, np.uint8, size_bytes, aligned).view(kernel.dtype)
        ones[:] = 1
        a = first + aligned
        self.addresses = a, a + array_bytes, a + 2 * array_bytes
