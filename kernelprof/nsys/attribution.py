"""What an export holds, sorted out: ranges by their paths, and operations by their launches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kernelprof.nsys.assign import (
    NOWHERE,
    Calls,
    Codes,
    Nest,
    Places,
    Sent,
    in_order,
    launches_of,
)
from kernelprof.nsys.columns import Launches, Numbering, Operations, Ranges, Reader, Row
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.paths import Labels, Paths, grouped, paths
from kernelprof.nsys.rows import KINDS, THREAD_BITS, Integers
from kernelprof.trace import Work

AT_ONCE = 100_000
NO_RANGE = "launched outside of all ranges"
NO_LAUNCH = "no launch of the same correlation id is in the export"
OUTSIDE, LOST = -1, -2  # owners of operations that belong to no range
WHY = {OUTSIDE: NO_RANGE, LOST: NO_LAUNCH}


@dataclass(frozen=True)
class Traced:
    """Ranges in the order of ``nest``."""

    nest: Nest
    paths: Paths
    labels: Labels
    origin: Codes
    name: Integers  # the ids of the export


@dataclass(frozen=True)
class Launched:
    """Operations in the order of their launches, first those whose launch is not known.

    ``launch`` is a place in ``calls``, or ``NOWHERE``.
    """

    calls: Calls
    launch: Places
    what: Codes
    start_ns: Integers
    lasted_ns: Integers
    bytes: Integers

    def enclosed(self, nest: Nest) -> Iterator[tuple[Places, Places]]:
        """Operations and the ranges that enclose their launch, as ``Nest.enclosing`` has calls."""
        for calls, ranges in nest.enclosing(self.calls):
            around = np.full(calls[-1] - calls[0] + 1, NOWHERE, np.int32)
            around[calls - calls[0]] = ranges
            first, last = np.searchsorted(
                self.launch, np.array([calls[0], calls[-1] + 1], np.int32)
            )
            own = around[self.launch[first:last] - calls[0]]
            inside = np.flatnonzero(own != NOWHERE)
            yield (first + inside).astype(np.int32), own[inside]

    def owners(self, nest: Nest, owner: Codes) -> Codes:
        """Who an operation belongs to: ``owner`` says to whom those of a range do."""
        range_ = nest.innermost(self.calls)
        of_call = np.where(range_ == NOWHERE, np.int32(OUTSIDE), owner[range_])
        return np.append(of_call, np.int32(LOST))[self.launch]


def traced(export: ExportFile, ranges: Ranges, all_told: bool = False) -> Traced:
    """Sort ranges and name their paths; ``all_told`` is as of ``paths``."""
    ranges.arrange(in_order(ranges.thread, ranges.start_ns, ranges.lasted_ns))
    nest = Nest(Calls(ranges.thread, ranges.start_ns, ranges.lasted_ns), ranges.encloses)
    ids = _distinct(ranges.name)
    codes, names = grouped(lambda: _names(export, ids), all_told)
    code = np.empty(len(nest), np.int32)
    for first in range(0, len(nest), AT_ONCE):
        own = slice(first, first + AT_ONCE)
        code[own] = codes[np.searchsorted(ids, ranges.name[own])]
    labels = Labels(ranges.origin, code, names)
    found = paths(labels, nest.parents(), ranges.lasted_ns, all_told)
    return Traced(nest, found, labels, ranges.origin, ranges.name)


def _distinct(numbers: Integers) -> Integers:
    """What NumPy's ``unique`` finds, which takes much longer where most are distinct."""
    ordered = np.sort(numbers)
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    distinct: Integers = ordered[is_new]
    return distinct


def _names(export: ExportFile, ids: Integers) -> Iterator[str]:
    """The names of ids, some at a time."""
    for first in range(0, len(ids), AT_ONCE):
        own = ids[first : first + AT_ONCE].tolist()
        texts = export.names(own)
        yield from (texts[number] for number in own)


def launched(reader: Reader) -> Launched:
    """Read operations, and find their launches."""
    launches, operations = reader.launches(), reader.operations()
    launch = _launch(reader, launches, operations)
    is_used = np.zeros(len(launches.start_ns) + 1, bool)  # the last is that of NOWHERE
    is_used[launch] = True
    used = np.flatnonzero(is_used[:-1])
    used = used[in_order(launches.thread[used], launches.start_ns[used], launches.lasted_ns[used])]
    place = np.full(len(is_used), NOWHERE, np.int32)
    place[used] = np.arange(len(used))
    launches.arrange(used)
    launch = place[launch]
    order = np.argsort(launch, kind="stable")
    operations.arrange(order)
    return Launched(
        Calls(launches.thread, launches.start_ns, launches.lasted_ns),
        launch[order],
        operations.what,
        operations.start_ns,
        operations.lasted_ns,
        operations.bytes,
    )


def _launch(reader: Reader, launches: Launches, operations: Operations) -> Places:
    """The launch of each operation, or ``NOWHERE``."""
    processes = Numbering()
    of_thread = [
        processes[(thread >> THREAD_BITS << THREAD_BITS,)] for (thread,) in reader.threads.rows()
    ]
    of_what = [processes[row[:1]] for row in reader.whats.rows()]

    def sent(own: list[int], code: Codes, events: Launches | Operations) -> Sent:
        process = np.array(own, np.int32)[code]
        return Sent(process, events.correlation, events.start_ns)

    return launches_of(
        sent(of_what, operations.what, operations), sent(of_thread, launches.thread, launches)
    )


def work(export: ExportFile, reader: Reader, done: Launched, owner: Codes) -> dict[int, list[Work]]:
    """What was done for each owner, by kind and name, the longest first."""
    whats = reader.whats.rows()
    names = export.names({row[-1] for row in whats})
    sums: dict[tuple[int, int, str], Integers] = defaultdict(lambda: np.zeros(3, np.int64))
    for first in range(0, len(owner), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        for (own, what), numbers in _sums(owner[part], done, part):
            *_, kind, name = whats[what]
            sums[own, kind, names[name]] += numbers
    found: dict[int, list[Work]] = defaultdict(list)
    for (own, kind, text), numbers in sums.items():
        count, total_ns, size = numbers.tolist()
        found[own].append(Work(KINDS[kind], text, count, total_ns, size))
    for several in found.values():
        several.sort(key=lambda one: (-one.total_ns, one.name))
    return found


def _sums(owner: Codes, done: Launched, part: slice) -> Iterable[tuple[Row, Integers]]:
    """Count, time and bytes of a part of the operations, by owner and what they are."""
    pairs = Numbering()
    pair = pairs.of(owner, done.what[part])
    sums = np.zeros((len(pairs), 3), np.int64)
    count = np.ones(len(pair), np.int64)
    np.add.at(sums, pair, np.stack((count, done.lasted_ns[part], done.bytes[part]), axis=1))
    return zip(pairs.rows(), sums, strict=True)
