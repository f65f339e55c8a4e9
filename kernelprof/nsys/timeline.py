"""The single ranges and operations of an import, as a run keeps them for timelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kernelprof.nsys.attribution import Launched, Traced
from kernelprof.nsys.columns import Reader, Tell
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.rows import KINDS, THREAD_BITS, Integers, pid_of
from kernelprof.nsys.samples import Clock
from kernelprof.trace_store import StoredOperation, StoredRange

AT_ONCE = 100_000
TID_MASK = (1 << THREAD_BITS) - 1


@dataclass(frozen=True)
class Timeline:
    """Events by the clocks of the processes that they are of, as far as these are known.

    Without any clock they stay as they are; a process without one takes another's, as all read
    the machine's.
    """

    export: ExportFile
    reader: Reader
    found: Traced
    done: Launched
    clocks: Mapping[int, Clock]  # by process
    tell: Tell

    def ranges(self) -> Iterator[StoredRange]:
        """All ranges, by thread and start."""
        found = self.found
        pids = [origin.pid for origin in self.reader.origins]
        domains = [origin.domain for origin in self.reader.origins]
        tids = [thread & TID_MASK for (thread,) in self.reader.threads.rows()]
        for part in self._parts("writing ranges", len(found.nest)):
            origin = found.origin[part].tolist()
            ids = found.name[part].tolist()
            names = self.export.names(set(ids))
            own = [pids[one] for one in origin]
            start_ns = self._told(own, found.nest.ranges.start_ns[part])
            rows = zip(
                own,
                [tids[thread] for thread in found.nest.ranges.thread[part].tolist()],
                [domains[one] for one in origin],
                [names[number] for number in ids],
                start_ns.tolist(),
                (start_ns + found.nest.ranges.lasted_ns[part]).tolist(),
                strict=True,
            )
            yield from map(StoredRange._make, rows)

    def operations(self) -> Iterator[StoredOperation]:
        """All work of GPUs, by start."""
        done = self.done
        whats = self.reader.whats.rows()
        names = self.export.names({row[-1] for row in whats})
        words = [
            (pid_of(process), device, stream, KINDS[kind], names[name])
            for process, device, stream, kind, name in whats
        ]
        order = np.argsort(done.start_ns, kind="stable").astype(np.int32)
        for part in self._parts("writing operations", len(order)):
            places = order[part]
            own = [words[what] for what in done.what[places].tolist()]
            start_ns = self._told([word[0] for word in own], done.start_ns[places])
            rows = zip(
                own,
                start_ns.tolist(),
                (start_ns + done.lasted_ns[places]).tolist(),
                done.bytes[places].tolist(),
                strict=True,
            )
            for word, *numbers in rows:
                yield StoredOperation(*word, *numbers)

    def _parts(self, what: str, count: int) -> Iterator[slice]:
        for first in range(0, count, AT_ONCE):
            self.tell(what, first / count)
            yield slice(first, first + AT_ONCE)

    def _told(self, pids: list[int], traced_ns: Integers) -> Integers:
        """Times of processes, by their clocks."""
        if not self.clocks:
            return traced_ns
        told_ns = np.empty_like(traced_ns)
        own = np.array(pids)
        for pid in np.unique(own).tolist():
            clock = self.clocks.get(pid) or next(iter(self.clocks.values()))
            told_ns[own == pid] = clock.to_read(traced_ns[own == pid])
        return told_ns
