"""What CPUs do for others: a short look at the counters of the kernel and of every process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kernelprof.topology import ROOT, text

NOTABLE_SHARE = 0.05  # of a CPU, from which a process is worth naming
MOST_NAMED = 3


class CpuTime(NamedTuple):
    """Clock ticks of one CPU since the machine started."""

    busy: int
    steal: int
    total: int


class Process(NamedTuple):
    """A process, when it started, and the clock ticks that it has run."""

    name: str
    started: str
    ticks: int


@dataclass(frozen=True)
class Reading:
    """All counters at one moment."""

    cpus: dict[int, CpuTime]
    processes: dict[int, Process]

    @classmethod
    def now(cls, root: Path = ROOT) -> Reading:
        """Read them."""
        return cls(_cpu_times(root), _processes(root))


@dataclass(frozen=True)
class Load:
    """What CPUs did between two readings: shares of their time, by CPU.

    ``busiest`` are the processes that ran most, with the CPUs that each kept busy: on whichever
    CPUs they ran, this one left out.
    """

    busy: dict[int, float]
    steal: dict[int, float]
    busiest: tuple[tuple[str, float], ...]


def load_between(before: Reading, after: Reading) -> Load:
    """What happened from one reading to the next."""
    passed = {
        cpu: CpuTime(*(late - early for late, early in zip(times, before.cpus[cpu], strict=True)))
        for cpu, times in after.cpus.items()
        if cpu in before.cpus
    }
    passed = {cpu: times for cpu, times in passed.items() if times.total > 0}
    a_cpu = max((times.total for times in passed.values()), default=0)
    return Load(
        busy={cpu: times.busy / times.total for cpu, times in passed.items()},
        steal={cpu: times.steal / times.total for cpu, times in passed.items()},
        busiest=_busiest(before.processes, after.processes, a_cpu),
    )


def _busiest(
    before: dict[int, Process], after: dict[int, Process], a_cpu: int
) -> tuple[tuple[str, float], ...]:
    """A process that came meanwhile has run since it started."""
    if not a_cpu:
        return ()
    ran = {
        f"{process.name} (pid {pid})": (process.ticks - _ticks(before.get(pid), process)) / a_cpu
        for pid, process in after.items()
        if pid != os.getpid()
    }
    most = sorted(ran.items(), key=lambda one: -one[1])[:MOST_NAMED]
    return tuple((name, share) for name, share in most if share >= NOTABLE_SHARE)


def _ticks(earlier: Process | None, later: Process) -> int:
    """What a process had run before; nothing where its number was another one's."""
    return earlier.ticks if earlier and earlier.started == later.started else 0


def _cpu_times(root: Path) -> dict[int, CpuTime]:
    found = {}
    for line in text(root / "proc/stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are within user
            ticks = [int(field) for field in fields[:8]] + [0] * (8 - len(fields))
            steal = ticks[7]
            idle = ticks[3] + ticks[4]
            total = sum(ticks)
            found[int(name[3:])] = CpuTime(total - idle - steal, steal, total)
    return found


def _processes(root: Path) -> dict[int, Process]:
    found = {}
    for folder in (root / "proc").glob("[0-9]*"):
        start, _, rest = text(folder / "stat").rpartition(")")
        fields = rest.split()
        if len(fields) > 19:  # it is still there
            name = start.partition("(")[2]
            user, system, started = fields[11], fields[12], fields[19]
            found[int(folder.name)] = Process(name, started, int(user) + int(system))
    return found
