"""Which range holds which sample of a run: by time, once both are on one clock, and by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelprof.disturbance import WHOLE
from kernelprof.nsys.assign import Calls, Codes, Places
from kernelprof.nsys.rows import Integers
from kernelprof.probes.decompose import Kernel
from kernelprof.runfile import RunFile, StoredCase
from kernelprof.trace import Sampled

Names = tuple[str, ...]
Key = tuple[int, Names]  # a process and the names of a path

APART_NS = 1_000_000  # readings of a clock that are further apart were not taken together


class Clock:
    """A worker's clock and that of nsys, by readings of the one in ranges of the other.

    A reading is taken right before its range begins, so the smallest difference of some that were
    taken together is nearest to the truth.  Clocks drift; between readings the difference is taken
    to change evenly.
    """

    def __init__(self, read_ns: Integers, traced_ns: Integers) -> None:
        """Compare readings, at least one, with the starts of their ranges."""
        order = np.argsort(read_ns)
        read_ns, apart_ns = read_ns[order], (traced_ns - read_ns)[order]
        heads = np.flatnonzero(np.diff(read_ns, prepend=read_ns[0] - APART_NS - 1) > APART_NS)
        least_ns = np.minimum.reduceat(apart_ns, heads)
        self._apart_ns = int(least_ns[0])
        self._change_ns = least_ns - self._apart_ns
        self._read_ns = read_ns[heads]
        self._traced_ns = self._read_ns + least_ns

    def to_traced(self, read_ns: Integers) -> Integers:
        """The worker's times by nsys's clock."""
        return read_ns + self._difference_ns(read_ns, self._read_ns)

    def to_read(self, traced_ns: Integers) -> Integers:
        """Times of nsys by the worker's clock."""
        return traced_ns - self._difference_ns(traced_ns, self._traced_ns)

    def _difference_ns(self, asked_ns: Integers, known_ns: Integers) -> Integers:
        change_ns = np.interp(asked_ns - known_ns[0], known_ns - known_ns[0], self._change_ns)
        difference_ns: Integers = self._apart_ns + np.rint(change_ns).astype(np.int64)
        return difference_ns


@dataclass(frozen=True)
class Worker:
    """One whose ranges nsys saw.

    ``slack_ns`` is how far a sample may seem to stick out of its range: no further than a clock's
    reading may lie before the range that tells it.
    """

    pid: int
    clock: Clock
    slack_ns: int


@dataclass(frozen=True)
class Holders:
    """Ranges that hold the samples of a place of a case, one each."""

    path: int
    ranges: Places
    sampled: Sampled  # ``gpu`` is not known here


class RangesByPath:
    """Ranges by what they are called, in the order of their starts."""

    def __init__(self, ranges: Calls, path: Codes, names: Sequence[Key]) -> None:
        """Sort the ranges; ``names`` has the process and the names of each path."""
        self.ranges = ranges
        self._numbers = {key: number for number, key in enumerate(names)}
        self._order = np.lexsort((ranges.start_ns, path)).astype(np.int32)
        self._bounds = np.searchsorted(path[self._order], np.arange(len(names) + 1))

    def path(self, pid: int, names: Names) -> int | None:
        """The number of the path with these names."""
        return self._numbers.get((pid, names))

    def of(self, path: int) -> Places:
        """The ranges of a path."""
        return self._order[self._bounds[path] : self._bounds[path + 1]]


def holders(run: RunFile, workers: Mapping[int, Worker], ranges: RangesByPath) -> list[Holders]:
    """The ranges that hold samples, by path, case and place.

    Args:
        run: the run that was recorded.
        workers: those whose ranges are there, by their id in the run.
        ranges: of the domain of kernelprof.
    """
    found = []
    for stored in run.cases():
        names = _names(run, stored)
        for (worker_id, place), samples in _samples(run, stored.id).items():
            worker = workers.get(worker_id)
            path = ranges.path(worker.pid, names[place]) if worker else None
            if worker is None or path is None:
                continue
            holder = _holder(samples, worker, path, ranges, (stored.id, place))
            if holder.sampled.samples:
                found.append(holder)
    return found


def _names(run: RunFile, stored: StoredCase) -> dict[int, Names]:
    """What the ranges around samples are called, by place; see ``probes/subject.py``."""
    case = stored.case
    title = f"{case.network} {case.mode} batch={case.batch}"
    found: dict[int, Names] = {WHOLE: (title,)}
    for kernel in run.kernels(stored.id):
        label = Kernel(kernel.layer, kernel.primitives, kernel.passes).label
        found[kernel.place] = title, kernel.layer, label
    return found


def _samples(run: RunFile, case_id: int) -> dict[tuple[int, int], Integers]:
    """Start, duration and calls of all samples of a case, by worker and place."""
    found: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for sample in run.samples(case_id):
        times = sample["start_ns"], sample["duration_ns"], sample["calls"]
        found[sample["worker_id"], sample["place"]].append(times)
    return {key: np.array(own, np.int64).T for key, own in found.items()}


def _holder(
    samples: Integers, worker: Worker, path: int, ranges: RangesByPath, where: tuple[int, int]
) -> Holders:
    """The samples that lie in a range each, and these."""
    start_ns, duration_ns, _ = samples
    own = ranges.of(path)
    opened_ns = ranges.ranges.start_ns[own]
    closed_ns = opened_ns + ranges.ranges.lasted_ns[own]
    traced_ns = worker.clock.to_traced(start_ns)
    middle_ns = traced_ns + duration_ns // 2
    latest = np.maximum(np.searchsorted(opened_ns, middle_ns, side="right") - 1, 0)
    fits = opened_ns[latest] <= traced_ns + worker.slack_ns
    fits &= traced_ns + duration_ns <= closed_ns[latest] + worker.slack_ns
    within = np.flatnonzero(fits)
    around, first = np.unique(latest[within], return_index=True)
    _, sampled_ns, calls = samples[:, within[first]].sum(axis=1).tolist()
    took_ns = int((closed_ns[around] - opened_ns[around]).sum())
    return Holders(path, own[around], Sampled(*where, len(around), calls, sampled_ns, took_ns))
