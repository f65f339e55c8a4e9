"""What GPUs did for ranges: how long they were busy, and the gaps between.

The operations of a range are those of all calls that it encloses, on whatever device or stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernelprof.nsys.assign import Codes, Places
from kernelprof.nsys.rows import Integers
from kernelprof.trace import Activity

AT_ONCE = 1 << 20  # operations, or those of one range if there are more
LARGEST = 1 << 62  # a whole number that leaves room to add


class Instances(NamedTuple):
    """What was done for some ranges, each by itself; see ``Activity``."""

    ranges: Places
    numbers: Integers  # count, total_ns, busy_ns and gaps_ns of each, one row by range


def instances(
    pairs: Iterable[tuple[Places, Places]], start_ns: Integers, lasted_ns: Integers
) -> Iterator[Instances]:
    """The activity of every range that made a GPU work.

    Args:
        pairs: operations and ranges that enclose their launch, in parts; the ranges ascend, and all
            operations of a range are in the same part.
        start_ns: of all operations.
        lasted_ns: of all operations.
    """
    if not start_ns.size:
        return
    # A range with a time of its own, after that of the range before, makes one sweep do for all;
    # so many fit below the largest number.
    span_ns = int(start_ns.max()) + int(lasted_ns.max()) - int(start_ns.min()) + 1
    most = max(1, LARGEST // span_ns)
    for operations, ranges in pairs:
        for part in _parts(ranges, most):
            own = operations[part]
            if len(own) > AT_ONCE:
                yield _alone(ranges[part.start], start_ns[own], lasted_ns[own])
            else:
                yield _together(ranges[part], start_ns[own], lasted_ns[own], span_ns)


def activities(found: Iterable[Instances], group: Codes, groups: int) -> list[Activity]:
    """The sums over the ranges of each group; ranges whose group is -1 are in none."""
    sums = np.zeros((groups, 4), np.int64)
    for ranges, numbers in found:
        grouped = group[ranges] >= 0
        np.add.at(sums, group[ranges[grouped]], numbers[grouped])
    return [Activity(*row) for row in sums.tolist()]


def _parts(ranges: Places, most: int) -> Iterator[slice]:
    """Parts that hold all operations of a range, and of so many ranges at most."""
    heads = np.append(_heads(ranges), len(ranges))
    first = 0
    while first < len(heads) - 1:
        enough = int(np.searchsorted(heads, heads[first] + AT_ONCE, side="right")) - 1
        last = min(max(enough, first + 1), first + most)
        yield slice(int(heads[first]), int(heads[last]))
        first = last


def _heads(ranges: Places) -> NDArray[np.intp]:
    """Where the next range begins."""
    return np.flatnonzero(np.diff(ranges, prepend=-1))


def _together(ranges: Places, start_ns: Integers, lasted_ns: Integers, span_ns: int) -> Instances:
    """The activity of the ranges, which ascend, with the intervals of their operations."""
    heads = _heads(ranges)
    count = np.diff(np.append(heads, len(ranges)))
    place = np.repeat(np.arange(len(heads)), count)
    order = np.lexsort((start_ns, place))
    start = start_ns[order]
    end = start + lasted_ns[order]
    shift = place * span_ns
    reached = np.maximum.accumulate(end + shift)
    reached[1:] = reached[:-1] - shift[1:]
    reached[0] = start[0]
    busy = np.add.reduceat(np.maximum(end - np.maximum(start, reached), 0), heads)
    extent = np.maximum.reduceat(end, heads) - start[heads]
    total = np.add.reduceat(end - start, heads)
    return Instances(ranges[heads], np.stack((count, total, busy, extent - busy), axis=1))


def _alone(range_: np.int32, start_ns: Integers, lasted_ns: Integers) -> Instances:
    """The activity of one range whose operations are many."""
    order = np.argsort(start_ns, kind="stable").astype(np.int32)
    began_ns = reached_ns = int(start_ns[order[0]])
    busy_ns = 0
    for first in range(0, len(order), AT_ONCE):
        own = order[first : first + AT_ONCE]
        start = start_ns[own]
        end = start + lasted_ns[own]
        reached = np.maximum.accumulate(np.append(reached_ns, end))
        busy_ns += int(np.maximum(end - np.maximum(start, reached[:-1]), 0).sum())
        reached_ns = int(reached[-1])
    total_ns = int(lasted_ns.sum(dtype=np.int64))
    numbers = (len(order), total_ns, busy_ns, reached_ns - began_ns - busy_ns)
    return Instances(np.array([range_]), np.array([numbers]))
