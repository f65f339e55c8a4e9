"""The events of an export in memory, as columns that take as few bytes as they can."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernelprof.errors import UsageError
from kernelprof.nsys.assign import LATEST_NS, Codes
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.rows import (
    Integers,
    LaunchRows,
    OperationRows,
    RangeRows,
    pid_of,
    process_of,
)
from kernelprof.probes.ranges import CLOCK_DOMAIN

INT32 = np.iinfo(np.int32)
LONGEST_NS = 1 << 53  # 104 days: below it, times since the first one are exact as floats too

Row = tuple[int, ...]
Columns = tuple[NDArray[Any], ...]
Tell = Callable[[str, float], None]
Rows = TypeVar("Rows", RangeRows, LaunchRows, OperationRows)


class Numbering:
    """Numbers rows of whole numbers from 0, in the order in which they first come up."""

    def __init__(self) -> None:
        self._numbers: dict[Row, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: Row) -> int:
        """The number of a row, which gets one where it has none."""
        return self._numbers.setdefault(row, len(self._numbers))

    def rows(self) -> list[Row]:
        """By their numbers."""
        return list(self._numbers)

    def of(self, *columns: Integers | Codes) -> Codes:
        """The numbers of rows that are given as columns."""
        order = np.lexsort(columns)
        is_new = np.zeros(len(order), bool)
        is_new[:1] = True
        for column in columns:
            is_new[1:] |= np.diff(column[order]) != 0
        distinct = zip(*(column[order[is_new]].tolist() for column in columns), strict=True)
        numbers = np.array([self[row] for row in distinct], np.int32)
        found = np.empty(len(order), np.int32)
        found[order] = numbers[np.cumsum(is_new) - 1] if len(order) else 0
        return found


class Table:
    """What a dataclass of columns of the same length can do."""

    def arrange(self, places: NDArray[Any]) -> None:
        """Put rows in an order, or leave some out; a column at a time, as they may be large."""
        for column in vars(self):
            setattr(self, column, getattr(self, column)[places])


@dataclass
class Ranges(Table):
    """NVTX ranges; ``origin`` is a process and the number of a domain there."""

    thread: Codes
    origin: Codes
    name: Integers
    start_ns: Integers
    lasted_ns: Integers
    encloses: NDArray[np.bool_]


@dataclass
class Launches(Table):
    """Calls that bring operations about."""

    thread: Codes
    start_ns: Integers
    lasted_ns: Integers
    correlation: Integers


@dataclass
class Operations(Table):
    """Work of GPUs; ``what`` is process, device, stream, kind and name."""

    what: Codes
    start_ns: Integers
    lasted_ns: Integers
    correlation: Integers
    bytes: Integers


class Origin(NamedTuple):
    """Where ranges are from; the domain 0 of NVTX has no name."""

    pid: int
    domain: str


class Reader:
    """Reads the events of an export, each kind once, and numbers what they share.

    ``origins`` and ``counts`` of ranges are those of all, taken or not, by number of their origin.
    ``readings`` of clocks, in nanoseconds, come with the starts of their ranges.

    Raises:
        UsageError: the export is damaged, or holds times that cannot be.
    """

    def __init__(self, export: ExportFile, tell: Tell) -> None:
        self.threads = Numbering()
        self.whats = Numbering()
        self.origins: list[Origin] = []
        self.counts: Counter[int] = Counter()
        self.readings: dict[int, list[tuple[Integers, Integers]]] = defaultdict(list)
        self.rows = 0
        self._numbers = Numbering()  # of origins
        self._export = export
        self._tell = tell
        self._first_ns, self._last_ns = LATEST_NS, -LATEST_NS

    def ranges(self, takes: Callable[[Origin], bool]) -> Ranges:
        """NVTX ranges, of those origins alone that are taken."""
        return Ranges(*_stacked((self._ranges(rows, takes) for rows in self._export.ranges()), 6))

    def _ranges(self, rows: RangeRows, takes: Callable[[Origin], bool]) -> Columns:
        origin = self._origin(rows)
        self.counts.update(dict(enumerate(np.bincount(origin).tolist())))
        for number, own in enumerate(self.origins):
            if own.domain == CLOCK_DOMAIN and (of_clock := origin == number).any():
                self.readings[number].append((rows.payload[of_clock], rows.start_ns[of_clock]))
        kept = np.array([takes(own) for own in self.origins])[origin]
        columns = (
            self.threads.of(rows.thread),
            origin,
            _narrow(rows.name),
            *self._times(rows),
            (rows.end_thread == -1) & (rows.thread != -1),
        )
        return tuple(column[kept] for column in columns)

    def _origin(self, rows: RangeRows) -> Codes:
        origin = self._numbers.of(process_of(rows.thread), rows.domain)
        for process, number in self._numbers.rows()[len(self.origins) :]:
            domain = self._export.domains.get((process, number), "")
            self.origins.append(Origin(pid_of(process), domain))
        return origin

    def launches(self) -> Launches:
        """Calls of CUDA's runtime and driver."""
        parts = (
            (self.threads.of(rows.thread), *self._times(rows), _narrow(rows.correlation))
            for rows in self._export.launches()
        )
        return Launches(*_stacked(parts, 4))

    def operations(self) -> Operations:
        """Work of GPUs."""
        parts = (
            (
                self.whats.of(rows.process, rows.device, rows.stream, rows.kind, rows.name),
                *self._times(rows),
                _narrow(rows.correlation),
                _narrow(rows.bytes),
            )
            for rows in self._export.operations()
        )
        return Operations(*_stacked(parts, 5))

    def _times(self, rows: Rows) -> tuple[Integers, Integers]:
        """Starts and durations; what was open at the end ends there, and nothing ends early."""
        end_ns = np.where(rows.end_ns == -1, self._export.end_ns, rows.end_ns)
        self._first_ns = min(self._first_ns, int(rows.start_ns.min()))
        self._last_ns = max(self._last_ns, int(rows.start_ns.max()), int(end_ns.max()))
        low, high = self._first_ns, self._last_ns
        if low < -LATEST_NS or high > LATEST_NS or high - low > LONGEST_NS:
            raise UsageError(
                f"{self._export.database.path} holds times from {low} to {high} ns, which no trace "
                "lasts: it is damaged; export it again"
            )
        self.rows += len(rows.start_ns)
        self._tell("reading", min(1.0, self.rows / max(1, self._export.rows)))
        return rows.start_ns, _narrow(np.maximum(end_ns - rows.start_ns, 0))


def _stacked(parts: Iterable[Columns], width: int) -> Iterator[NDArray[Any]]:
    """The columns of all parts, one below the other."""
    pieces: list[list[NDArray[Any]]] = [[] for _ in range(width)]
    for part in parts:
        for own, column in zip(pieces, part, strict=True):
            own.append(column.copy())  # it may be a view of more than is needed
    for own in pieces:
        yield np.concatenate(own) if own else np.empty(0, np.int64)
        own.clear()


def _narrow(column: Integers) -> Integers:
    """The column, in 32 bits where they do; never one of times, which are summed."""
    low, high = int(column.min()), int(column.max())
    return column.astype(np.int32) if INT32.min <= low and high <= INT32.max else column
