"""The clock that samples are timed with: its step, its rate, its order, and what it is read from.

The rate is held against the kernel's raw clock, which no time daemon bends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from kernelprof.topology import ROOT, text

Clock = Callable[[], int]  # nanoseconds

SOURCES = "sys/devices/system/clocksource/clocksource0"
# What a program reads by itself, without asking the kernel for each reading.
FAST_SOURCES = (
    "tsc",
    "arch_sys_counter",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "riscv_clocksource",
    "timebase",
    "tod",
)
ATTEMPTS = 20
MOST_READINGS = 1_000_000  # in which a clock has to move


def _raw_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


class Moment(NamedTuple):
    """What two clocks say at the same time."""

    own_ns: int
    raw_ns: int

    @classmethod
    def now(cls, own: Clock = time.perf_counter_ns, raw: Clock = _raw_ns) -> Moment:
        """Read both; of several attempts the one in which the least time passed meanwhile."""
        attempts = [(raw(), own(), raw()) for _ in range(ATTEMPTS)]
        before, own_ns, after = min(attempts, key=lambda read: read[2] - read[0])
        return cls(own_ns, (before + after) // 2)


def drift(before: Moment, after: Moment) -> float:
    """How much faster the own clock goes than the raw one, as a share."""
    return (after.own_ns - before.own_ns) / (after.raw_ns - before.raw_ns) - 1


def step_ns(now: Clock = time.perf_counter_ns) -> int | None:
    """The smallest step of a clock, None where it stands still."""
    steps = [_step(now) for _ in range(ATTEMPTS)]
    return None if None in steps else min(step for step in steps if step is not None)


def _step(now: Clock) -> int | None:
    first = now()
    for _ in range(MOST_READINGS):
        later = now()
        if later != first:
            return later - first
    return None


def goes_back(cpus: Iterable[int], now: Clock = time.perf_counter_ns) -> bool:
    """Whether a later reading on another CPU, or on the same one, is less than an earlier one."""
    own = os.sched_getaffinity(0)
    readings = []
    try:
        for cpu in [*cpus, *cpus]:
            os.sched_setaffinity(0, {cpu})
            readings += [now(), now()]
    finally:
        os.sched_setaffinity(0, own)
    return readings != sorted(readings)


def source(root: Path = ROOT) -> str:
    """The hardware that the kernel's clocks are read from; nothing where it is not shown."""
    return text(root / SOURCES / "current_clocksource")


def better_source(root: Path = ROOT) -> str | None:
    """A fast source that this machine also has."""
    there = text(root / SOURCES / "available_clocksource").split()
    return next((name for name in FAST_SOURCES if name in there), None)
