"""Measures the ceilings of a machine: which loops, on how much memory, on which CPUs.

Ceilings are maxima, so the best of many short windows counts.  All loops take turns for some
rounds, so that what disturbs the machine for a while disturbs no loop in all of its rounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import isqrt

from kernelprof import microkernels
from kernelprof.ceilings import (
    DRAM,
    BytesCeiling,
    Ceilings,
    FlopCeiling,
    PlacementCeilings,
    Rate,
    implausible,
    load,
    save,
)
from kernelprof.lockstep import PAGE_BYTES, rates
from kernelprof.machine import Machine, available_bytes, placements
from kernelprof.machinecode import checked, compiled
from kernelprof.microkernels import BASELINE, InstructionSet, Microkernel
from kernelprof.probes.primitive import FLOATS
from kernelprof.topology import INSTRUCTIONS, Cache
from kernelprof.units import counted

LEAST_DRAM_BYTES = 256 * 2**20  # where caches do not show, as in some guests

Tell = Callable[[str, float], None]
Measure = Callable[[Machine, list[int], Tell], Ceilings]


@dataclass(frozen=True)
class Budget:
    """How long each loop runs in each round, and how long a window is."""

    rounds: int = 3
    seconds: float = 0.06
    window_s: float = 0.002


@dataclass(frozen=True)
class Loop:
    """A loop on the memory that it is to work on, of each thread; ``level`` holds that memory."""

    kernel: Microkernel
    array_bytes: int = PAGE_BYTES
    isa: InstructionSet = BASELINE
    level: str = ""

    @property
    def name(self) -> str:
        """What is being measured."""
        return f"{self.level} {self.kernel.name}".strip()

    @property
    def thread_bytes(self) -> int:
        """The working set of a thread."""
        return self.kernel.arrays * self.array_bytes


def silent(what: str, share: float) -> None:
    """Tell nobody."""


def ceilings(
    machine: Machine,
    thread_counts: Iterable[int],
    again: bool = False,
    tell: Tell = silent,
    measure: Measure | None = None,
) -> Ceilings:
    """The ceilings of these thread counts: those kept from before, the rest measured and kept.

    Only this machine can be measured.  With ``again`` what is kept does not count.

    Raises:
        UsageError: more threads than CPUs.
        KernelprofError: a CPU cannot be had, or the results cannot be kept.
    """
    counts = list(dict.fromkeys(thread_counts))
    known = load(machine.fingerprint)
    lacking = [
        count
        for count, cpus in zip(counts, placements(counts, None), strict=True)
        if again or count not in known.placements or known.placements[count].cpus != cpus
    ]
    if lacking:
        found = (measure or measure_ceilings)(machine, lacking, tell)
        known = Ceilings(machine.fingerprint, {**known.placements, **found.placements})
        save(known)
    return known


def raise_ceilings(
    machine: Machine,
    thread_counts: Iterable[int],
    tell: Tell = silent,
    measure: Measure | None = None,
) -> Ceilings:
    """Measure once more, and keep the higher of each rate: other guests' work may have been in it.

    Raises:
        UsageError: more threads than CPUs.
        KernelprofError: a CPU cannot be had, or the results cannot be kept.
    """
    counts = list(dict.fromkeys(thread_counts))
    known = (measure or measure_ceilings)(machine, counts, tell).raised(load(machine.fingerprint))
    save(known)
    return known


def measure_ceilings(
    machine: Machine, thread_counts: list[int], tell: Tell = silent, budget: Budget | None = None
) -> Ceilings:
    """Measure all ceilings of this machine at these thread counts; takes seconds for each.

    Raises:
        UsageError: more threads than CPUs.
        KernelprofError: a CPU cannot be had.
    """
    found = {}
    for place, cpus in enumerate(placements(thread_counts, None)):
        part = partial(_tell_part, tell, place, len(thread_counts))
        found[len(cpus)] = measure_placement(machine, cpus, part, budget or Budget())
    return Ceilings(machine.fingerprint, found)


def _tell_part(tell: Tell, place: int, parts: int, what: str, share: float) -> None:
    tell(what, (place + share) / parts)


def measure_placement(
    machine: Machine, cpus: tuple[int, ...], tell: Tell, budget: Budget
) -> PlacementCeilings:
    """Measure all ceilings of threads on these CPUs."""
    clock = Loop(microkernels.clock())
    arithmetic = [*_arithmetic_loops(machine)]
    memory = [*_memory_loops(machine, working_sets(machine, cpus, available_bytes()))]
    found = _take_turns([clock, *arithmetic, *memory], cpus, tell, budget)
    clock_hz = _each(found[clock], len(cpus))
    limit_hz = len(cpus) * max(clock_hz.best_per_s, (machine.frequency.max_mhz or 0) * 1e6)
    return PlacementCeilings(
        cpus=cpus,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        clock_hz=clock_hz,
        arithmetic=tuple(_flop_ceiling(loop, found[loop], limit_hz) for loop in arithmetic),
        memory=tuple(
            BytesCeiling(loop.level, loop.kernel.name, loop.thread_bytes, found[loop])
            for loop in memory
        ),
        capacity_bytes={
            name: sum(cache.size_bytes for cache in same)
            for name, same in _data_caches(machine, cpus)
        },
    )


def _take_turns(
    loops: list[Loop], cpus: tuple[int, ...], tell: Tell, budget: Budget
) -> dict[Loop, Rate]:
    """Run every loop once in each round."""
    windows: dict[Loop, list[float]] = defaultdict(list)
    turns = [loop for _ in range(budget.rounds) for loop in loops]
    for done, loop in enumerate(turns):
        tell(f"{counted(len(cpus), 'thread')}: {loop.name}", done / len(turns))
        code = compiled(loop.kernel)
        windows[loop] += rates(code, cpus, loop.array_bytes, budget.seconds, budget.window_s)
    return {loop: Rate.of(seen) for loop, seen in windows.items()}


def _each(all_threads: Rate, threads: int) -> Rate:
    best, middle = all_threads.best_per_s / threads, all_threads.median_per_s / threads
    return Rate(best, middle, all_threads.windows)


def _flop_ceiling(loop: Loop, found: Rate, clock_hz: float) -> FlopCeiling:
    """``clock_hz`` is that of all threads together."""
    isa, dtype = loop.isa, loop.kernel.dtype
    check = checked(compiled(loop.kernel).assembly, isa, dtype)
    doubts = [*check.doubts, *implausible(found.best_per_s, clock_hz, isa.flop_per_cycle(dtype))]
    return FlopCeiling(isa.name, dtype, found, check.instructions, tuple(doubts))


def _arithmetic_loops(machine: Machine) -> Iterator[Loop]:
    for isa in microkernels.instruction_sets(machine.isa).values():
        for dtype in FLOATS:
            yield Loop(microkernels.arithmetic(isa, dtype), isa=isa)


def _memory_loops(machine: Machine, sets_bytes: dict[str, int]) -> Iterator[Loop]:
    """Streaming stores only go to the DRAM: from caches they would take the data out."""
    known = microkernels.instruction_sets(machine.isa).values()
    widest = max([BASELINE, *known], key=lambda isa: isa.vector_bytes)
    for level, set_bytes in sets_bytes.items():
        for operation, arrays in microkernels.ARRAYS.items():
            if level == DRAM or operation not in microkernels.STREAMING:
                kernel = microkernels.memory(operation, widest)
                room = set_bytes // arrays
                array_bytes = max(_power_of_two(room, up=level == DRAM), kernel.step_bytes)
                yield Loop(kernel, array_bytes, widest, level)


def _power_of_two(number: int, up: bool) -> int:
    """The next one, upwards or downwards.

    >>> _power_of_two(12, up=True), _power_of_two(12, up=False), _power_of_two(16, up=True)
    (16, 8, 16)
    """
    return 1 << (max(number, 1) - 1).bit_length() if up else 1 << max(number.bit_length() - 1, 0)


def working_sets(machine: Machine, cpus: tuple[int, ...], free_bytes: int) -> dict[str, int]:
    """Bytes that a thread works on so that they come from each level, the nearest first.

    In a cache they lie in the middle (in ratio) between what the level before holds and the
    thread's share of this one, far from both edges; in the DRAM they are four times as much as the
    last caches hold, if that much memory is free.
    """
    sets, before, last_bytes = {}, 0, 0
    for name, same in _data_caches(machine, cpus):
        share = min(cache.size_bytes // _sharers(cache, cpus) for cache in same)
        sets[name] = max(isqrt(before * share), min(2 * before, share * 3 // 4)) or share // 2
        before, last_bytes = share, sum(cache.size_bytes for cache in same)
    wanted = max(4 * last_bytes, LEAST_DRAM_BYTES)
    sets[DRAM] = min(wanted, free_bytes // 4) // len(cpus)
    return sets


def _data_caches(machine: Machine, cpus: tuple[int, ...]) -> Iterator[tuple[str, list[Cache]]]:
    """The caches of each level that these CPUs use."""
    for name, same in machine.caches_by_name().items():
        if used := [one for one in same if one.kind != INSTRUCTIONS and _sharers(one, cpus)]:
            yield name, used


def _sharers(cache: Cache, cpus: tuple[int, ...]) -> int:
    return len(set(cache.cpus) & set(cpus))
