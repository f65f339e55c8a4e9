"""What a run observed of each layer, in a form that compares with another run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kernelprof.bench_results import bench_engines
from kernelprof.disturbance import WHOLE
from kernelprof.measured import Measured, known_ceilings, load, reference_of
from kernelprof.runfile import RunFile, StoredCase, StoredKernel

QUARTILE = 0.25
LEAST_ROUNDS = 3  # of a process that counts as one: fewer are left by a worker that crashed
WHOLE_NETWORK = ""  # in the place of a layer's name
NO_SAMPLES = ("incomplete", "it has no samples; carry on with the run to measure it")
PAGE_FAULT_NS = 1000  # about
FAULTY_SHARE = 0.02  # of a call's time: where page faults take more, it depends on the allocator


class Call(NamedTuple):
    """What a call took in a round, in nanoseconds, and its page faults."""

    ns: float
    faults: float

    @property
    def state(self) -> int:
        """In which state it met the allocator: 0, or the logarithm of its page faults."""
        if self.faults * PAGE_FAULT_NS <= FAULTY_SHARE * self.ns:
            return 0
        return round(math.log2(1 + self.faults))


Calls = Mapping[int, Call]  # by round
Work = Mapping[tuple[str, str], int]  # how often a primitive is run in a pass


class Key(NamedTuple):
    """What the cases of two runs must have in common to be compared."""

    network: str
    engine: str
    device: str
    threads: int
    batch: int
    mode: str


class Group(NamedTuple):
    """What is measured together: a network at a placement and batch, or a whole bench at one."""

    network: str
    device: str
    threads: int
    batch: int


@dataclass(frozen=True)
class Part:
    """A layer of a case, or one kernel, or the whole network: its calls in each round."""

    calls: tuple[Calls, ...]
    compute_bound: bool
    work: Work

    def level(self, rounds: Container[int] | None = None) -> float | None:
        """The logarithm of the nanoseconds that it takes, in some rounds; None if in none of them.

        That is the sum over its calls of the lower quartile over rounds.  Others on the machine
        can only make a sample longer, so the lower quartile varies less than the median from run
        to run, and unlike the minimum it does not hang on a single sample.
        """
        found = [
            [call.ns for round_, call in calls.items() if rounds is None or round_ in rounds]
            for calls in self.calls
        ]
        if not found or not all(found):
            return None
        return math.log(sum(float(np.quantile(some, QUARTILE)) for some in found))


def alike(before: Part, after: Part) -> tuple[Part, Part]:
    """Only those rounds in which calls met the allocator in the state that is common to both.

    Whether a large result comes from fresh pages may change within a process and between equal
    ones, and fresh pages cost as much as the work.  Where the states have nothing in common they
    are part of the change, and all rounds stay.
    """
    if len(before.calls) != len(after.calls):
        return before, after
    pairs = [_alike(*both) for both in zip(before.calls, after.calls, strict=True)]
    firsts, seconds = zip(*pairs, strict=True)
    return replace(before, calls=firsts), replace(after, calls=seconds)


def _alike(before: Calls, after: Calls) -> tuple[Calls, Calls]:
    counts = [Counter(call.state for call in calls.values()) for calls in (before, after)]
    common = max(counts[0], key=lambda state: min(count[state] for count in counts))
    if min(count[common] for count in counts) < LEAST_ROUNDS:
        return before, after
    return _in_state(before, common), _in_state(after, common)


def _in_state(calls: Calls, state: int) -> Calls:
    return {round_: call for round_, call in calls.items() if call.state == state}


@dataclass(frozen=True)
class ObservedCase:
    """A case in a run: its layers and the whole network by name, and each process's rounds."""

    key: Key
    group: Group
    parts: Mapping[str, Part]
    processes: tuple[frozenset[int], ...]

    def levels(self, part: Part) -> tuple[float, ...]:
        """The level of one of its parts in each process; not a number where it has no round."""
        found = (part.level(rounds) for rounds in self.processes)
        return tuple(math.nan if level is None else level for level in found)

    def total(self) -> float:
        """The level of the whole network, or of all layers together."""
        if WHOLE_NETWORK in self.parts:
            return float(np.nanmean(self.levels(self.parts[WHOLE_NETWORK])))
        return math.log(sum(math.exp(np.nanmean(self.levels(p))) for p in self.parts.values()))


@dataclass(frozen=True)
class Kernel:
    """A kernel of the reference by itself, and its case."""

    case: ObservedCase
    part: Part


Name = tuple[str, ...]  # of a kernel: the engine, and all that tells it from the others


@dataclass(frozen=True)
class Observed:
    """All of a run that may be compared, and the kernels of the reference in each group."""

    cases: Mapping[Key, ObservedCase]
    failures: Mapping[Key, tuple[str, str]]
    reference: Mapping[Group, Mapping[Name, Kernel]]


def observe(run: RunFile) -> Observed:
    """Read a run."""
    failed, stored, known = run.failures(), run.cases(), known_ceilings(run)
    alone = bench_engines(run)
    cases: dict[Key, ObservedCase] = {}
    failures: dict[Key, tuple[str, str]] = {}
    reference: dict[Group, dict[Name, Kernel]] = defaultdict(dict)
    for one in (one for one in stored if not one.calibration):
        key, is_asked = _key(one), one.case.whole or one.case.engine in alone
        if one.id in failed:
            failures |= {key: failed[one.id]} if is_asked else {}
            continue
        samples = _Samples(load(run, one, known), _faults(run, one.id))
        group = _group(key, bool(alone))
        case = ObservedCase(key, group, samples.parts(), samples.processes())
        if reference_of(one, stored) == one:
            reference[group] |= {n: Kernel(case, part) for n, part in samples.kernels().items()}
        if is_asked and case.parts:
            cases[key] = case
        elif is_asked:
            failures[key] = samples.failure
    return Observed(cases, failures, dict(reference))


def _group(key: Key, is_bench: bool) -> Group:
    network, batch = ("", 0) if is_bench else (key.network, key.batch)
    return Group(network, key.device, key.threads, batch)


def _key(stored: StoredCase) -> Key:
    case = stored.case
    return Key(case.network, case.engine, case.device, case.threads, case.batch, case.mode)


def _faults(run: RunFile, case_id: int) -> Mapping[tuple[int, int], float]:
    """Page faults of a call, by round and place."""
    return {
        (sample["round"], sample["place"]): sample["minor_faults"] / sample["calls"]
        for sample in run.samples(case_id)
    }


class _Samples(NamedTuple):
    """The samples of a case."""

    measured: Measured
    faults: Mapping[tuple[int, int], float]

    def processes(self) -> tuple[frozenset[int], ...]:
        """The rounds of each process; all are one's where none has enough."""
        by_process: dict[int, list[int]] = defaultdict(list)
        for round_ in self.measured.rounds:
            by_process[self.measured.workers[round_]].append(round_)
        enough = [frozenset(own) for own in by_process.values() if len(own) >= LEAST_ROUNDS]
        return tuple(enough) or (frozenset(self.measured.rounds),)

    def parts(self) -> dict[str, Part]:
        """Layers of which all was measured, and the whole network."""
        by_layer: dict[str, list[StoredKernel]] = defaultdict(list)
        for kernel in self.measured.kernels:
            by_layer[kernel.layer].append(kernel)
        parts = {name: self._part(own) for name, own in by_layer.items()}
        heavy = any(kernel.compute_flop for kernel in self.measured.kernels)
        parts[WHOLE_NETWORK] = Part((self._calls(WHOLE),), heavy, {})
        return {name: part for name, part in parts.items() if all(part.calls)}

    def kernels(self) -> dict[Name, Part]:
        """Each kernel by itself."""
        case = self.measured.stored.case
        above = case.engine, case.network, case.mode
        found = {
            (*above, kernel.layer, *kernel.labels, *kernel.passes): self._part([kernel])
            for kernel in self.measured.kernels
        }
        return {name: part for name, part in found.items() if all(part.calls)}

    @property
    def failure(self) -> tuple[str, str]:
        """Why there is nothing to compare."""
        return next(filter(None, (k.failure for k in self.measured.kernels)), NO_SAMPLES)

    def _part(self, kernels: Iterable[StoredKernel]) -> Part:
        some = list(kernels)
        work = Counter((label, pass_) for k in some for label in k.labels for pass_ in k.passes)
        calls = tuple({} if k.failure else self._calls(k.place) for k in some)
        return Part(calls, any(k.compute_flop for k in some), work)

    def _calls(self, place: int) -> Calls:
        return {
            round_: Call(sample[place], self.faults[round_, place])
            for round_, sample in self.measured.rounds.items()
            if place in sample
        }
