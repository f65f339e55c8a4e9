"""What an export holds of a run that was recorded: the ranges and clocks of its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from kernelprof.errors import UsageError
from kernelprof.nsys.attribution import Traced
from kernelprof.nsys.columns import Origin, Ranges, Reader
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.samples import Clock, RangesByPath, Worker
from kernelprof.probes.ranges import CLOCK_DOMAIN, COST_DOMAIN, DOMAIN
from kernelprof.runfile import RunFile

OF_NO_WORKER = "of a process that is no worker of the run"
WITHOUT_CLOCK = "of a worker whose clock is not in the export"


@dataclass(frozen=True)
class Recorded:
    """The ranges of a run's workers; these by their id in the run."""

    ranges: Ranges
    workers: Mapping[int, Worker]
    left_out: Mapping[str, int]  # ranges, by why

    @property
    def clocks(self) -> dict[int, Clock]:
        """Of the workers, by process."""
        return {worker.pid: worker.clock for worker in self.workers.values()}

    @property
    def range_cost_ns(self) -> int:
        """What the ranges around a sample cost at most."""
        return max(worker.slack_ns for worker in self.workers.values())


def recorded(export: ExportFile, reader: Reader, run: RunFile) -> Recorded:
    """Read the ranges of the domain ``kernelprof``.

    Raises:
        UsageError: no worker of the run is in the export.
    """
    facts = {number: facts for number, (_, _, facts) in enumerate(run.workers(), 1)}
    pids = {one["pid"] for one in facts.values() if "pid" in one}

    ranges = reader.ranges(lambda origin: origin.domain == DOMAIN and origin.pid in pids)
    clocks = {
        reader.origins[number].pid: Clock(*map(np.concatenate, zip(*readings, strict=True)))
        for number, readings in reader.readings.items()
    }
    workers = {
        number: Worker(one["pid"], clocks[one["pid"]], one["nvtx_ranges_ns"])
        for number, one in facts.items()
        if one.get("pid") in clocks
    }
    if not workers:
        raise UsageError(
            f"no worker of {run.path} told nsys its clock in {export.database.path}: it is of "
            "another run, or of an older kernelprof; import it into the file that was recorded "
            "with it"
        )
    ranges.arrange(np.array([origin.pid in clocks for origin in reader.origins])[ranges.origin])
    left_out: Counter[str] = Counter()
    for number, origin in enumerate(reader.origins):
        if why := _why_left_out(origin, pids, clocks):
            left_out[why] += reader.counts[number]
    return Recorded(ranges, workers, left_out)


def by_path(reader: Reader, found: Traced) -> RangesByPath:
    """The ranges by process and names."""
    names = []
    for path in range(len(found.paths)):
        labels = found.paths.labels(path)
        pid = reader.origins[found.labels.origin(labels[-1])].pid
        names.append((pid, tuple(map(found.labels.name, labels))))
    return RangesByPath(found.nest.ranges, found.paths.of_range, names)


def _why_left_out(origin: Origin, pids: Container[int], clocks: Container[int]) -> str | None:
    """Why ranges are none of a sample; None of those that are, and that emitting them cost."""
    if origin.domain in (CLOCK_DOMAIN, COST_DOMAIN):
        return None
    if origin.domain != DOMAIN:
        return f"of the domain {origin.domain}" if origin.domain else "of no domain"
    if origin.pid not in pids:
        return OF_NO_WORKER
    return None if origin.pid in clocks else WITHOUT_CLOCK
