"""Is this machine fit to measure?  Quick checks of all that is known to spoil times."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kernelprof import cgroups, timekeeping, topology
from kernelprof.errors import UsageError
from kernelprof.fitness import BLOCK, PASS, WARN, Check
from kernelprof.gpu import fitness as gpu_fitness
from kernelprof.gpu import memory as gpu_memory
from kernelprof.load import Load, Reading, load_between
from kernelprof.machine import available_bytes
from kernelprof.measure import sole_measurement, together_bytes
from kernelprof.plan import Options, needed_bytes, planned
from kernelprof.probes.device import CPU
from kernelprof.timekeeping import Clock, Moment
from kernelprof.topology import ROOT, listed
from kernelprof.units import counted, duration, magnitude, size

LOOK_S = 0.5  # how long the load and the clocks are watched
BUSY_SHARE = 0.1  # of a CPU that others may take
STEAL_SHARE = 0.02
COARSE_NS = 1_000  # a sample is at least a hundred steps of the clock long
UNFIT_NS = 1_000_000
DRIFT = 1e-3  # twice what the kernel's own discipline may bend a clock by
UNFIT_DRIFT = 1e-2
STEADY = "performance"  # the governor that keeps the clock of the CPUs at its highest

Placements = Collection[tuple[int, ...]]


def examine(options: Options, root: Path = ROOT) -> Iterator[Check]:
    """Every check of the machine for what shall be measured, within a second."""
    placements = options.placements
    cpus = sorted({cpu for placement in placements for cpu in placement})
    load, drift = _watch(root)
    pinned = affinity(placements)
    yield quota(placements, root)
    yield pinned
    yield smt(placements, root)
    yield numa(placements, root)
    yield frequency(root)
    yield busy(load, cpus)
    yield steal(load, cpus)
    yield from memories(options, root)
    yield clock(cpus if pinned.outcome == PASS else [], drift)
    yield clock_source(root)
    if options.device != CPU:
        yield from gpu_fitness.examine(options.device)


def _watch(root: Path) -> tuple[Load, float]:
    """What the CPUs do for others for a while, and how far two clocks part meanwhile."""
    reading, moment = Reading.now(root), Moment.now()
    time.sleep(LOOK_S)
    drift = timekeeping.drift(moment, Moment.now())
    return load_between(reading, Reading.now(root)), drift


def other_runs() -> Check:
    """Whether nobody else measures; not to be asked by one who holds the lock."""
    name = "other runs"
    try:
        with sole_measurement():
            return Check(name, PASS, "no other kernelprof measures on this machine")
    except UsageError:
        return Check(
            name,
            BLOCK,
            "another kernelprof is measuring on this machine",
            "wait until it is done",
        )


def quota(placements: Placements, root: Path = ROOT) -> Check:
    """Whether the control group gives as much CPU time as the threads would take."""
    name, threads = "CPU quota", _most(placements)
    allowed = cgroups.quota_cpus(root)
    if allowed is None:
        return Check(name, PASS, "nothing limits the CPU time")
    given = f"the control group may take the time of {allowed:g} CPUs"
    if allowed >= threads:
        return Check(name, PASS, f"{given}, enough for {counted(threads, 'thread')}")
    fewer = f"--threads {int(allowed)}, or " if allowed >= 1 else ""
    return Check(
        name,
        BLOCK,
        f"{given}; {counted(threads, 'thread')} would be stopped again and again",
        f"{fewer}raise the quota of the container or job (docker run --cpus)",
    )


def affinity(placements: Placements) -> Check:
    """Whether the system lets a thread be pinned, and does as it says."""
    name, own = "affinity", os.sched_getaffinity(0)
    remedy = "take CPUs that the container or job may use (taskset -p $$ lists them)"
    try:
        for cpus in placements:
            os.sched_setaffinity(0, cpus)
            got = os.sched_getaffinity(0)
            if got != set(cpus):
                why = f"asked for CPUs {listed(cpus)}, got {listed(got)}"
                return Check(name, BLOCK, why, remedy)
    except OSError as error:
        why = f"cannot pin threads to CPUs {listed(cpus)}: {error.strerror}"
        return Check(name, BLOCK, why, remedy)
    finally:
        os.sched_setaffinity(0, own)
    return Check(name, PASS, f"threads can be pinned to CPUs {_all(placements)}")


def smt(placements: Placements, root: Path = ROOT) -> Check:
    """Whether each thread of a placement has a core of its own."""
    name, siblings = "SMT siblings", topology.siblings(root)
    for cpus in sorted(placements, key=len):
        cores = {siblings.get(cpu, (cpu,)) for cpu in cpus}
        mates = [sorted(set(core) & set(cpus)) for core in cores]
        shared = sorted(both for both in mates if len(both) > 1)
        if shared:
            more = f", and {len(shared) - 1} more such cores" if len(shared) > 1 else ""
            return Check(
                name,
                WARN,
                f"of {counted(len(cpus), 'thread')}, those on CPUs {listed(shared[0])} share a core"
                + more,
                f"--threads {len(cores)} takes one thread of each core; with --cpus name such",
            )
    return Check(name, PASS, "each thread has a core of its own")


def numa(placements: Placements, root: Path = ROOT) -> Check:
    """Whether all CPUs of a placement are near to the same memory."""
    name = "NUMA nodes"
    for cpus in sorted(placements, key=len):
        near = [node for node in topology.nodes(root) if set(node.cpus) & set(cpus)]
        if len(near) > 1:
            return Check(
                name,
                WARN,
                f"{counted(len(cpus), 'thread')} on CPUs {listed(cpus)} lie on "
                f"{' and '.join(node.name for node in near)}: some memory is far from each",
                f"keep to one node with --cpus: {near[0].name} has {listed(near[0].cpus)}",
            )
    return Check(name, PASS, "all CPUs of a placement are near to the same memory")


def frequency(root: Path = ROOT) -> Check:
    """Whether the clock of the CPUs stays where it is."""
    name, found = "CPU frequency", topology.frequency(root)
    moving = found.governor not in (None, STEADY)
    known = [f"governor {found.governor}"] if found.governor else []
    if found.turbo is not None:
        known.append(f"turbo {'on' if found.turbo else 'off'}")
    if not known:
        return Check(name, PASS, "the system shows neither governor nor turbo, as in most guests")
    if not (moving or found.turbo):
        return Check(name, PASS, ", ".join(known))
    remedies = [f"cpupower frequency-set -g {STEADY}"] if moving else []
    remedies += [f"echo {value} > {path}" for path, value in _turbo_off(root)]
    return Check(
        name,
        WARN,
        f"{', '.join(known)}: the clock follows load and heat",
        f"as root: {'; '.join(remedies)}",
    )


def _turbo_off(root: Path) -> Iterator[tuple[str, int]]:
    """The file and the value that keep the clock at its base, where it may go above it."""
    for path, on in topology.TURBO_SWITCHES:
        if topology.text(root / topology.CPUS / path) == on:
            yield f"/{topology.CPUS}/{path}", 1 - int(on)


def busy(load: Load, cpus: Collection[int]) -> Check:
    """Whether others leave the CPUs alone."""
    name = "load"
    taken = {cpu: share for cpu, share in load.busy.items() if cpu in cpus and share > BUSY_SHARE}
    if not load.busy:
        return Check(name, PASS, "the system does not show what its CPUs do")
    if not taken:
        return Check(name, PASS, f"others take less than {magnitude(BUSY_SHARE)} of each CPU")
    who = ", ".join(f"{process} {magnitude(share)}" for process, share in load.busiest)
    return Check(
        name,
        WARN,
        f"others take up to {magnitude(max(taken.values()))} of CPU{'s'[: len(taken) - 1]} "
        f"{listed(taken)}: {who or 'nobody who is shown here'}",
        "end them, or wait until they are done; disturbed samples are marked",
    )


def steal(load: Load, cpus: Collection[int]) -> Check:
    """Whether the hypervisor lets the CPUs run."""
    name = "steal"
    stolen = max((share for cpu, share in load.steal.items() if cpu in cpus), default=0.0)
    if stolen <= STEAL_SHARE:
        return Check(name, PASS, f"the hypervisor takes no more than {magnitude(STEAL_SHARE)}")
    return Check(
        name,
        WARN,
        f"the hypervisor takes up to {magnitude(stolen)} of a CPU for other guests",
        "measure at a quieter hour, or on a machine of your own; disturbed samples are marked",
    )


def needs(options: Options) -> dict[str, int]:
    """What each network or primitive needs in memory, in the engine that takes most."""
    several = len(options.batches) > 1
    return {
        group.network.name + (f" with batch {group.batch}" if several else ""): max(
            needed_bytes(group, engine, together_bytes(options, group.cpus))
            for engine in group.engines
        )
        for group in planned(options)
        if not group.calibration
    }


def memories(options: Options, root: Path = ROOT) -> Iterator[Check]:
    """Whether what shall be measured fits in memory: that of the device, which is what fills."""
    if options.device == CPU:
        yield memory(available_bytes(root), needs(options))
        return
    free_bytes = gpu_memory.free_bytes(options.device)
    if free_bytes is not None:
        yield memory(free_bytes, needs(options), "GPU memory")


def memory(free_bytes: int, needed: Mapping[str, int], name: str = "memory") -> Check:
    """Whether what shall be measured fits."""
    too_big = {what: most for what, most in needed.items() if most > free_bytes}
    free = f"{size(free_bytes)} are free"
    if not too_big:
        most = max(needed.values())
        return Check(name, PASS, f"{free}, no more than about {size(most)} are needed at a time")
    remedy = "end what holds memory, raise the limit, or take smaller sizes (--batch, --quick)"
    if len(too_big) == len(needed):
        least = min(too_big, key=lambda what: too_big[what])
        why = f"{free}, and even {least} needs about {size(too_big[least])}"
        return Check(name, BLOCK, why, remedy)
    largest = max(too_big, key=lambda what: too_big[what])
    why = f"{free}; {len(too_big)} of {len(needed)} need more, {largest} about "
    return Check(name, WARN, why + size(too_big[largest]), remedy)


def clock(cpus: Collection[int], drift: float, now: Clock = time.perf_counter_ns) -> Check:
    """Whether samples can be timed: a clock of fine steps, at a steady rate, in order."""
    name, step = "clock", timekeeping.step_ns(now)
    unfit = "take another clock source (see below), or another machine"
    if step is None:
        return Check(name, BLOCK, "it stands still", unfit)
    if step < 0 or timekeeping.goes_back(cpus, now):
        return Check(name, BLOCK, "it goes back", unfit)
    seen = f"steps of {duration(step * 1e-9)}, {_parts(drift)} from the raw clock"
    if step > UNFIT_NS or abs(drift) > UNFIT_DRIFT:
        return Check(name, BLOCK, seen, unfit)
    if abs(drift) > DRIFT:
        return Check(name, WARN, seen, "wait until the time daemon has set the clock right")
    if step > COARSE_NS:
        return Check(name, WARN, f"{seen}: samples are long", "take another clock source")
    return Check(name, PASS, seen)


def clock_source(root: Path = ROOT) -> Check:
    """Whether the clock is read without a call into the kernel."""
    name, source = "clock source", timekeeping.source(root)
    if not source:
        return Check(name, PASS, "the system does not show it")
    if source in timekeeping.FAST_SOURCES:
        return Check(name, PASS, source)
    better = timekeeping.better_source(root)
    path = f"/{timekeeping.SOURCES}/current_clocksource"
    return Check(
        name,
        WARN,
        f"{source}: each reading asks the kernel, and takes long",
        f"as root: echo {better} > {path}" if better else "the machine offers no better one",
    )


def _parts(drift: float) -> str:
    return f"{drift * 1e6:+,.0f} ppm"


def _most(placements: Placements) -> int:
    return max(map(len, placements))


def _all(placements: Placements) -> str:
    return listed({cpu for cpus in placements for cpu in cpus})
