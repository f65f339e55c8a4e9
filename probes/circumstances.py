"""What happened around a sample or a turn, from the operating system's own counters."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

CGROUP_STATS = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat")


class Usage(NamedTuple):
    """Counters of this process since it started."""

    minor_faults: int
    major_faults: int
    involuntary_switches: int

    @classmethod
    def now(cls) -> Usage:
        """Read the counters."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(usage.ru_minflt, usage.ru_majflt, usage.ru_nivcsw)

    def since(self, before: Usage) -> Usage:
        """The difference to an earlier reading."""
        return Usage(*(later - earlier for later, earlier in zip(self, before)))


class Disturbance(NamedTuple):
    """Time that others took from the machine's CPUs: stolen by the hypervisor, or throttled."""

    steal_ticks: int
    throttled_periods: int

    @classmethod
    def now(cls) -> Disturbance:
        """Read the counters, those of all CPUs of the machine."""
        return cls(_steal_ticks(), _throttled_periods())

    def since(self, before: Disturbance) -> Disturbance:
        """The difference to an earlier reading."""
        return Disturbance(*(later - earlier for later, earlier in zip(self, before)))


def _steal_ticks() -> int:
    try:
        total = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0
    return int(total[8]) if len(total) > 8 else 0


def _throttled_periods() -> int:
    for path in CGROUP_STATS:
        for line in _lines(path):
            if line.startswith("nr_throttled "):
                return int(line.split()[1])
    return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
