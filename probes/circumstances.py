"""What happened around a sample, from the operating system's own counters."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import NamedTuple

NS_PER_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
STEAL = 8  # the column of a CPU's line in /proc/stat
CGROUP_FOLDERS = ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct")
MORE_THAN_FILES_HOLD = 2**18  # bytes, at the most some hundred for each CPU


class Circumstances(NamedTuple):
    """What befell this process during a sample.

    ``waited_ns`` is how long the computing thread that waited most was ready to run while another
    process had its CPU, and ``stolen_ns`` what the hypervisor took from the CPU that lost most (in
    ticks of the kernel's clock).  ``throttled_periods`` are those in which the control group's
    quota was used up, and ``stops`` counts how often the process was stopped and continued.
    """

    waited_ns: int
    stolen_ns: int
    throttled_periods: int
    stops: int
    minor_faults: int
    major_faults: int
    involuntary_switches: int


class Reading(NamedTuple):
    """All counters at one moment: waiting by computing thread, steal by CPU.

    ``others_ran_ns`` is the time that the threads ran which have no CPU of their own.
    """

    waited_ns: list[int]
    others_ran_ns: int
    stolen_ns: list[int]
    counts: tuple[int, ...]

    def since(self, before: Reading) -> Circumstances:
        """What happened between an earlier reading and this one."""
        own_ns = self.others_ran_ns - before.others_ran_ns
        waits = [later - earlier for later, earlier in zip(self.waited_ns, before.waited_ns)]
        steals = [later - earlier for later, earlier in zip(self.stolen_ns, before.stolen_ns)]
        counts = [later - earlier for later, earlier in zip(self.counts, before.counts)]
        waited_ns = max(0, max(waits, default=0) - own_ns)
        return Circumstances(waited_ns, max(steals, default=0), *counts)


class Watch:
    """Reads the counters of this process and of the CPUs that it runs on.

    The kernel's files stay open: a reading then takes some ten microseconds.  What a system does
    not show counts as nothing.
    """

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self._rows = [f"cpu{cpu}" for cpu in cpus]
        self._stat = _opened("/proc/stat")
        self._quota: list[int] = []
        self._computing: list[int] = []
        self._others: list[int] = []
        self._stops = 0
        self._step_aside = getattr(os, "sched_yield", _stay)  # Python 2.7 has it not
        signal.signal(signal.SIGCONT, self._continued)
        signal.siginterrupt(signal.SIGCONT, False)  # an engine's system calls go on

    def _continued(self, number: int, frame: object) -> None:
        self._stops += 1

    def follow(self, computing: tuple[int, ...]) -> None:
        """Find the threads and the control group that there are by now.

        ``computing`` are the threads that have a CPU of their own to compute on.
        """
        for opened in self._computing + self._others + self._quota:
            os.close(opened)
        self._computing, self._others, self._quota = [], [], []
        quota = _opened(_cpu_stat())
        if quota is not None:
            self._quota.append(quota)
        for task in Path("/proc/self/task").glob("*/schedstat"):
            found = _opened(str(task))
            if found is not None:
                threads = self._computing if int(task.parent.name) in computing else self._others
                threads.append(found)

    def reading(self) -> Reading:
        """The counters as they stand.

        The kernel counts a thread's time when it leaves its CPU, so this one steps aside first: to
        an engine's own thread, maybe, that waits for it.
        """
        self._step_aside()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Reading(
            [_schedstat(opened)[1] for opened in self._computing],
            sum(_schedstat(opened)[0] for opened in self._others),
            self._stolen_ns(_read(self._stat)),
            (
                sum(_throttled_periods(_read(opened)) for opened in self._quota),
                self._stops,
                usage.ru_minflt,
                usage.ru_majflt,
                usage.ru_nivcsw,
            ),
        )

    def _stolen_ns(self, stat: str) -> list[int]:
        rows = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
        return [int(row[STEAL]) * NS_PER_TICK for row in rows if row[0] in self._rows]


def _stay() -> None:
    return None


def _opened(path: str) -> int | None:
    """A file to be read again and again; None where there is none, or no more."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _read(opened: int | None) -> str:
    """All that the file says now; nothing where what it told of has ended."""
    if opened is None:
        return ""
    try:
        os.lseek(opened, 0, os.SEEK_SET)
        return os.read(opened, MORE_THAN_FILES_HOLD).decode()
    except OSError:
        return ""


def _schedstat(opened: int) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and that it waited (Documentation/scheduler/sched-stats)."""
    numbers = _read(opened).split()
    return (int(numbers[0]), int(numbers[1])) if numbers else (0, 0)


def _throttled_periods(stat: str) -> int:
    for line in stat.splitlines():
        if line.startswith("nr_throttled "):
            return int(line.split()[1])
    return 0


def _cpu_stat() -> str:
    """Where the group of this process counts what its quota did, in either version."""
    try:
        listed = Path("/proc/self/cgroup").read_text()
    except OSError:  # a kernel without control groups
        return ""
    groups = [line.split(":", 2) for line in listed.splitlines()]
    own = [path for _, controllers, path in groups if controllers in ("", "cpu", "cpu,cpuacct")]
    for folder in CGROUP_FOLDERS:
        for path in [*own, "/"]:
            found = os.path.join(folder, path.lstrip("/"), "cpu.stat")
            if os.path.exists(found):
                return found
    return ""
