"""Which ranges enclose which calls, and which call launched which operation.

A range encloses a call of its own thread that begins and ends within it, whatever domain it is of;
the innermost is the one that started last, and of those that started together the one that ends
first.  Ranges of start and end may cross, so that no tree says what encloses what.  An operation
goes by the call that launched it and never by its own time, which may lie after all ranges.
nsys's own statistics count by the same rule.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernelprof.nsys.rows import Integers

Places = NDArray[np.int32]  # of ranges, calls or operations, counted from 0
Codes = NDArray[np.int32]  # whole numbers that stand for something else, counted from 0
Moments = NDArray[np.complex128]
NOWHERE = -1
RANGES_AT_ONCE = 1 << 18
OPERATIONS_AT_ONCE = 1 << 20
LATEST_NS = 1 << 61  # 73 years: exports may count from 1970


@dataclass(frozen=True)
class Calls:
    """What happened on threads, in the order of these, of starts, and the longest first."""

    thread: Codes
    start_ns: Integers
    lasted_ns: Integers

    def __len__(self) -> int:
        return len(self.start_ns)


def in_order(thread: Codes, start_ns: Integers, lasted_ns: Integers) -> Places:
    """The places of calls in the order of ``Calls``."""
    return np.lexsort((-lasted_ns, start_ns, thread)).astype(np.int32)


class Nest:
    """Ranges: what encloses another one comes before it, and the innermost of several last."""

    def __init__(self, ranges: Calls, encloses: NDArray[np.bool_]) -> None:
        """Lay them out; ``encloses`` is false of those that ended on another thread."""
        self.ranges = ranges
        self.encloses = encloses
        self._tracks = list(self._laid_out())

    def __len__(self) -> int:
        return len(self.ranges)

    def _laid_out(self) -> Iterator[tuple[int, list[Places]]]:
        """The ranges of each thread on tracks, on which none touches the next."""
        threads, firsts = np.unique(self.ranges.thread, return_index=True)
        bounds = [*firsts.tolist(), len(self)]
        for place, thread in enumerate(threads.tolist()):
            first, last = bounds[place], bounds[place + 1]
            own = np.arange(first, last, dtype=np.int32)[self.encloses[first:last]]
            tracks = []
            while own.size:
                taken = self._apart(own)
                tracks.append(own[taken])
                own = np.delete(own, taken)
            yield thread, tracks

    def _apart(self, ranges: Places) -> Places:
        """The first of the ranges, the first that starts after its end, and so on."""
        starts = self.ranges.start_ns[ranges]
        taken = array("i")
        place = 0
        for first in range(0, len(ranges), RANGES_AT_ONCE):
            own = slice(first, first + RANGES_AT_ONCE)
            ends = starts[own] + self.ranges.lasted_ns[ranges[own]]
            following = np.searchsorted(starts, ends, side="right").data  # quicker to look into
            while place < min(own.stop, len(ranges)):
                taken.append(place)
                place = following[place - first]
        return np.frombuffer(taken, np.int32)

    def enclosing(self, calls: Calls) -> Iterator[tuple[Places, Places]]:
        """All pairs of a call and a range that encloses it: their places, in several parts.

        In each part calls and ranges ascend and no call comes twice, and all calls of a range are
        in the same part.
        """
        for thread, tracks in self._tracks:
            first = np.searchsorted(calls.thread, np.int32(thread))
            last = np.searchsorted(calls.thread, np.int32(thread), side="right")
            starts = calls.start_ns[first:last]
            for track in (part for whole in tracks for part in _parts(whole)):
                opened = self.ranges.start_ns[track]
                closed = opened + self.ranges.lasted_ns[track]
                low = np.searchsorted(starts, opened[0])
                asked = starts[low : np.searchsorted(starts, closed[-1], side="right")]
                latest = np.searchsorted(opened, asked, side="right") - 1
                ends = asked + calls.lasted_ns[first + low : first + low + len(asked)]
                inside = np.flatnonzero(ends <= closed[latest])
                if inside.size:
                    yield (first + low + inside).astype(np.int32), track[latest[inside]]

    def innermost(self, calls: Calls) -> Places:
        """The innermost range of each call, or ``NOWHERE``."""
        found = np.full(len(calls), NOWHERE, np.int32)
        for places, ranges in self.enclosing(calls):
            found[places] = np.maximum(found[places], ranges)
        return found

    def parents(self) -> Places:
        """The innermost range that encloses each range, or ``NOWHERE``.

        Of equal ranges the first encloses the others.  One that ended on another thread has none.
        """
        found = np.full(len(self), NOWHERE, np.int32)
        for places, ranges in self.enclosing(self.ranges):
            outer = (ranges < places) & self.encloses[places]
            places, ranges = places[outer], ranges[outer]
            found[places] = np.maximum(found[places], ranges)
        return found


def _parts(track: Places) -> Iterator[Places]:
    return (track[n : n + RANGES_AT_ONCE] for n in range(0, len(track), RANGES_AT_ONCE))


@dataclass(frozen=True)
class Sent:
    """What is said on one side of a launch and on the other: launches, or what came of them."""

    process: Codes
    correlation: Integers  # -1 where there is none; a process's own, and used again in long traces
    start_ns: Integers


def launches_of(operations: Sent, launches: Sent) -> Places:
    """The launch of each operation: of the same process and with the same correlation.

    Where several have it, the last that started before the operation did, and else the first.
    Operations whose launch is not there, or that name none, are ``NOWHERE``.
    """
    found = np.full(len(operations.start_ns), NOWHERE, np.int32)
    base_ns = min(one.start_ns.min(initial=LATEST_NS) for one in (operations, launches))
    for process in range(int(launches.process.max(initial=NOWHERE)) + 1):
        sent = np.flatnonzero((launches.process == process) & (launches.correlation >= 0))
        sent = sent[np.lexsort((launches.start_ns[sent], launches.correlation[sent]))]
        known = _moments(launches, sent, base_ns)
        asked = np.flatnonzero(operations.process == process)
        for first in range(0, len(asked) if len(sent) else 0, OPERATIONS_AT_ONCE):
            own = asked[first : first + OPERATIONS_AT_ONCE]
            place = _latest(known, _moments(operations, own, base_ns))
            found[own] = np.where(place == NOWHERE, NOWHERE, sent[place])
    return found


def _latest(known: Moments, wanted: Moments) -> NDArray[np.intp]:
    """The last moment of the same correlation that is not later, or else the first one."""
    place = np.searchsorted(known, wanted, side="right") - 1
    place += known.real[place] != wanted.real
    place = np.clip(place, 0, len(known) - 1)
    return np.where(known.real[place] == wanted.real, place, NOWHERE)


def _moments(sent: Sent, places: NDArray[Any], base_ns: int) -> Moments:
    """Correlation and start: NumPy orders complex numbers by the one part, then by the other.

    Both are exact below 2^53, which is 104 days.
    """
    moments = np.empty(len(places), np.complex128)
    moments.real, moments.imag = sent.correlation[places], sent.start_ns[places] - base_ns
    return moments
