"""What an export holds of ranges, launches and GPU work: columns of NumPy, one entry per row.

Times are nanoseconds since the session of nsys began.  -1 stands where the export has NULL.
``thread`` is nsys's globalTid, ``process`` that number without its lowest 24 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

KERNEL, MEMCPY, MEMSET, GRAPH = "kernel", "memcpy", "memset", "graph"
KINDS = (KERNEL, MEMCPY, MEMSET, GRAPH)  # of operations; ``OperationRows.kind`` is a place in it
THREAD_BITS = 24
PID_MASK = (1 << 24) - 1


def process_of(thread: Integers) -> Integers:
    """The processes of threads, by nsys's own numbers."""
    return (thread >> THREAD_BITS) << THREAD_BITS


def pid_of(process: int) -> int:
    """The process number that the operating system knows.

    >>> pid_of(281510158534705 >> 24 << 24)
    2097
    """
    return (process >> THREAD_BITS) & PID_MASK


@dataclass(frozen=True)
class RangeRows:
    """NVTX ranges, of every domain and thread; of marks and domains there is nothing here."""

    start_ns: Integers
    end_ns: Integers  # -1: still open when the trace ended
    thread: Integers
    end_thread: Integers  # of a start/end range that ended on another thread; -1 of all others
    domain: Integers  # by its number in the process; 0 is the domain without a name
    name: Integers  # of ``ExportFile.names``
    payload: Integers  # of 64 bits, signed or not; -1 where there is none


@dataclass(frozen=True)
class LaunchRows:
    """Calls of CUDA's runtime and driver: what brings operations about."""

    start_ns: Integers
    end_ns: Integers
    thread: Integers
    correlation: Integers


@dataclass(frozen=True)
class OperationRows:
    """Work of a GPU."""

    kind: Integers
    start_ns: Integers
    end_ns: Integers
    process: Integers
    device: Integers
    stream: Integers
    correlation: Integers
    name: Integers  # of ``ExportFile.names``; copies and sets have names too, "HtoD" for one
    bytes: Integers  # 0 of kernels
