"""Gather evidence about cases of a run: each kind in a pass of its own, and never while timing.

Two workers look at all cases of an engine at a placement, one after another: in the first the
engine's own profiler runs, and stacks are sampled; the second makes its libraries print what they
call.  What cannot be had is recorded with its reason, and the rest goes on.  On a GPU neither what
the CPU's libraries print nor what its cores count says anything, and the profiler sees all calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from kernelprof.chains import CALLS
from kernelprof.diagnosis import hardware_counters, stacks
from kernelprof.diagnosis.instruction_sets import of_processor
from kernelprof.diagnosis.verbose import VERBOSE_VARIABLES, banner, section
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError, WorkerError
from kernelprof.launch import Variables, Worker
from kernelprof.probes.device import CPU
from kernelprof.probes.wire import Message
from kernelprof.runfile import RunFile, StoredCase

# Kinds of evidence.
PROFILE, VERBOSE, STACKS, COUNTERS = "profile", "verbose", "stacks", "counters"
FLAME_GRAPH = "flame graph"
FACTS, SEEN = "facts", "seen"  # of the worker; what was seen without a profiler
MISSING = "missing"  # kind of evidence -> why it is not there
CALLS_PROFILED = 4
TINY_CALLS_PROFILED = 20
STACKS_S, COUNTERS_S = 1.5, 1.0
REPEATED_S = 0.2  # at a time, while something else looks in
PATIENCE_S = 600.0
SEED = 1
MOST_PRINTED = 2_000_000  # characters of a call that are kept; one of ResNet-50 has half a million

T = TypeVar("T")
NO_VARIABLES: Variables = {}
Look = Callable[[Worker, StoredCase, Message], None]
Step = tuple[StoredCase, Look, Variables]
Tell = Callable[[str, float], None]


@dataclass
class Gatherer:
    """Looks at cases, and writes what it sees into their run file."""

    run: RunFile
    environments: Mapping[str, Environment]
    variables_of: Callable[[str, tuple[int, ...]], Variables]  # engine and CPUs -> the run's own
    again: bool = False
    keep: Path | None = None  # a folder for flame graphs
    tell: Tell = lambda what, share: None

    def gather(self, cases: list[StoredCase]) -> None:
        """Look at those cases that nothing is known of yet, and at their engines' tiny chains."""
        batches = list(_by_placement(self._lacking(cases)))
        for place, batch in enumerate(batches):
            on_cpu = [stored for stored in batch if stored.case.device == CPU]
            chains = self._lacking(self._tiny_chains(on_cpu))
            steps: list[Step] = [
                *((stored, self._profile, NO_VARIABLES) for stored in chains),
                *((stored, self._profile_and_sample, NO_VARIABLES) for stored in batch),
                *((stored, self._print, VERBOSE_VARIABLES) for stored in on_cpu),
            ]
            for stored in [*chains, *batch] if self.again else []:
                self.run.forget_evidence(stored.id)  # trials too
            for step, stored in enumerate(self._look(steps)):
                done = (place + step / len(steps)) / len(batches)
                self.tell(f"{stored.case.title}: looking", done)

    def _lacking(self, cases: Iterable[StoredCase]) -> list[StoredCase]:
        anew = self.again or self.keep is not None
        return [c for c in cases if anew or not self.run.evidence(c.id)]

    def _tiny_chains(self, cases: list[StoredCase]) -> list[StoredCase]:
        """Those of the same engine, placement and modes."""
        wanted = {(c.case.engine, c.case.cpus, c.case.mode) for c in cases}
        return [
            stored
            for stored in self.run.cases()
            if stored.calibration
            and stored.case.network.startswith(CALLS)
            and (stored.case.engine, stored.case.cpus, stored.case.mode) in wanted
        ]

    def _look(self, steps: Iterable[Step]) -> Iterator[StoredCase]:
        """Take the steps, all that want the same variables with one worker while it lives."""
        worker: Worker | None = None
        having: Variables | None = None
        try:
            for stored, look, variables in steps:
                yield stored
                try:
                    if worker is None or not worker.alive or having != variables:
                        worker = self._other_worker(worker, stored, variables)
                        having = variables
                    look(worker, stored, self._observe(worker, stored))
                except WorkerError as error:
                    self._miss(stored, PROFILE if having == NO_VARIABLES else VERBOSE, error)
        finally:
            if worker is not None:
                worker.close()

    def _other_worker(
        self, before: Worker | None, stored: StoredCase, variables: Variables
    ) -> Worker:
        if before is not None:
            before.close()
        engine, cpus = stored.case.engine, stored.case.cpus
        own: Variables = {**self.variables_of(engine, cpus), **variables}
        return Worker(self.environments[engine], cpus, own, stored.case.device)

    def _observe(self, worker: Worker, stored: StoredCase) -> Message:
        case = stored.case
        return worker.ask(
            "observe",
            PATIENCE_S,
            network=self.run.networks()[case.network],
            batch=case.batch,
            mode=case.mode,
            seed=SEED,
        )

    def _profile(self, worker: Worker, stored: StoredCase, seen: Message) -> None:
        calls = TINY_CALLS_PROFILED if stored.calibration else CALLS_PROFILED
        profile = worker.ask("profile", PATIENCE_S, calls=calls)
        self.run.add_evidence(stored.id, PROFILE, {**seen, **profile})

    def _profile_and_sample(self, worker: Worker, stored: StoredCase, seen: Message) -> None:
        """The profiler, and then what looks in from outside while the network is called."""
        facts = worker.ask("facts", PATIENCE_S)
        best = of_processor()
        facts["instruction_set"] = None if best is None else best.name
        self.run.add_evidence(stored.id, FACTS, facts)
        try:
            self._profile(worker, stored, seen)
        except WorkerError as error:
            if not worker.alive:
                raise
            self.run.add_evidence(stored.id, SEEN, seen)
            self._miss(stored, PROFILE, error)
        pid = facts["pid"]
        sample = partial(stacks.sample, pid, STACKS_S)
        if (sampled := self._look_in(worker, stored, STACKS, sample)) is not None:
            self.run.add_evidence(stored.id, STACKS, sampled.to_json())
        count = partial(hardware_counters.count, pid, COUNTERS_S)
        on_cpu = stored.case.device == CPU
        if on_cpu and (counted := self._look_in(worker, stored, COUNTERS, count)) is not None:
            self.run.add_evidence(stored.id, COUNTERS, counted.to_json())
        if self.keep is not None:
            record = partial(stacks.keep, pid, STACKS_S, self.keep, _name(stored))
            self._look_in(worker, stored, FLAME_GRAPH, record)

    def _look_in(
        self, worker: Worker, stored: StoredCase, kind: str, look: Callable[[], T]
    ) -> T | None:
        """Let something look in from outside while the network is called until it is done."""
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            while not looking.done():
                worker.ask("repeat", PATIENCE_S, calls=1, least_s=REPEATED_S)
        try:
            return looking.result()
        except KernelprofError as error:
            self._miss(stored, kind, error)
            return None

    def _print(self, worker: Worker, stored: StoredCase, seen: Message) -> None:
        """One call, while the libraries print what they do."""
        worker.ask("repeat", PATIENCE_S, calls=1)
        printed = worker.printed()
        said = {"banner": banner(printed)[:MOST_PRINTED], "call": section(printed)[:MOST_PRINTED]}
        self.run.add_evidence(stored.id, VERBOSE, said)

    def _miss(self, stored: StoredCase, kind: str, error: Exception) -> None:
        missing = self.run.evidence(stored.id).get(MISSING, {})
        self.run.add_evidence(stored.id, MISSING, {**missing, kind: str(error)})


def _name(stored: StoredCase) -> str:
    """Of a case, for files."""
    case = stored.case
    return f"{case.network}-{case.mode}-{case.engine}-batch{case.batch}-threads{case.threads}"


def _by_placement(cases: Iterable[StoredCase]) -> Iterator[list[StoredCase]]:
    """The cases of each engine and placement."""
    found: dict[tuple[str, tuple[int, ...]], list[StoredCase]] = {}
    for stored in cases:
        found.setdefault((stored.case.engine, stored.case.cpus), []).append(stored)
    yield from found.values()
