"""Measure a plan: workers take turns in rounds, and every turn goes into the run file at once."""

from __future__ import annotations

import fcntl
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kernelprof.bench import Pace
from kernelprof.disturbance import quiet
from kernelprof.engines import Environment
from kernelprof.errors import UsageError, WorkerError
from kernelprof.gpu import memory
from kernelprof.gpu.watch import Watch
from kernelprof.launch import POOL_VARIABLES, Worker, misplacement
from kernelprof.machine import available_bytes, caches_bytes
from kernelprof.measured import known_to
from kernelprof.plan import Case, Group, Options, needed_bytes, weight
from kernelprof.probes.device import CPU
from kernelprof.probes.primitive import WARM
from kernelprof.probes.wire import Message
from kernelprof.runfile import RunFile

DEADLY = ("crash", "timeout")  # the kinds of failure after which a worker is gone
MEMORY = "memory"
NO_DEVICE = "no_device"
MENDABLE = (MEMORY, NO_DEVICE, "no_engine")  # those that may be gone when a run is carried on with
WARM_UP_S = 1.0  # per case at most, beyond the calls that it takes at least
ROUNDS_PER_TURN = 3  # at first; short ones are taken many at a time, for a turn costs time too
MOST_ROUNDS_PER_TURN = 20
TURN_S = 0.1
TIMES_CACHES = 2
SPARE_BYTES = 2**30  # left free where engines are in memory together: estimates are none too sure
CALIBRATION_WARM_UP_S = 0.3
CALIBRATION_S = 0.3  # of turns, for each case of a chain
GPU_CALIBRATION_S = 1.5  # the same: blocks are longer there, and kernels are timed twice
ROUNDS_SHARE = 0.5  # of a budget that is all the time: what is left goes into building
CALIBRATION_SHARE = 0.2  # of the budget, at most, for all chains
LOCK = Path(tempfile.gettempdir()) / "kernelprof.lock"


def together_bytes(options: Options, cpus: tuple[int, ...]) -> int:
    """What the copies of a kernel's operands hold together, to be cold when their turn comes.

    More than the caches do, for these do not drop the oldest line exactly.

    Raises:
        KernelprofError: the driver of the GPU does not tell how large its cache is.
    """
    if options.cache == WARM:
        return 0
    on_cpu = options.device == CPU
    return TIMES_CACHES * (caches_bytes(cpus) if on_cpu else memory.l2_bytes(options.device))


def free_bytes(device: str) -> int:
    """Memory that can still be taken: on a GPU there has to be as much on the card.

    Arrays and their checks begin on the host.
    """
    on_card = None if device == CPU else memory.free_bytes(device)
    return available_bytes() if on_card is None else min(available_bytes(), on_card)


@dataclass(frozen=True)
class Patience:
    """How long a worker may take before it counts as hung, in seconds."""

    build_s: float = 900.0
    turn_s: float = 300.0


def _rounds_per_turn(round_s: float) -> int:
    """How many rounds of a case make a turn of some length."""
    return max(ROUNDS_PER_TURN, min(int(TURN_S / max(round_s, 1e-9)), MOST_ROUNDS_PER_TURN))


def _in_turns(cases: list[Case], shuffle: random.Random) -> list[Case]:
    """All cases, those of an engine one after another: pools need time to come to rest."""
    engines = list(dict.fromkeys(case.engine for case in cases))
    return [
        case
        for engine in shuffle.sample(engines, len(engines))
        for case in shuffle.sample(cases, len(cases))
        if case.engine == engine
    ]


@contextmanager
def sole_measurement() -> Iterator[None]:
    """Hold the machine's lock: two measurements at a time would disturb each other.

    Raises:
        UsageError: another kernelprof is measuring.
    """
    if not LOCK.exists():
        LOCK.touch()
    with LOCK.open() as lock:  # to read, so that another user's will do
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another kernelprof is measuring on this machine; wait until it is done"
            ) from None
        yield


@dataclass
class Report:
    """What the measurement tells while it goes on; every call may be ignored."""

    step: Callable[[str, float], None] = lambda what, share: None
    group_done: Callable[[Group], None] = lambda group: None


@dataclass(frozen=True)
class _Part:
    """The share of a group's rounds and time that one of its processes takes."""

    process: int
    processes: int
    seconds: float

    def of(self, rounds: int) -> int:
        """How many of so many rounds are taken when this process is done."""
        return -(-rounds * (self.process + 1) // self.processes)


@dataclass
class Measurement:
    """A plan being measured into a run file."""

    run: RunFile
    options: Options
    environments: dict[str, Environment | None]
    report: Report = field(default_factory=Report)
    patience: Patience = field(default_factory=Patience)
    pace: Pace | None = None  # of a bench: its budget is all the time that passes

    def __post_init__(self) -> None:
        self._workers: dict[tuple[str, tuple[int, ...]], tuple[Worker, int]] = {}
        computing = (cpu for cpus in self.options.placements for cpu in cpus)
        self._watch = Watch(self.options.device, away_from=computing)
        self._refusals: dict[str, WorkerError] = {}  # of engines that the device is not for
        self._short: set[Worker] = set()  # of a GPU's memory: their pools keep what they took
        self._started_ns = time.perf_counter_ns()
        self._chains = 0

    def measure(self, groups: list[Group]) -> None:
        """Measure what the run file lacks.  Workers end with this call, however it ends."""
        self._started_ns = time.perf_counter_ns()
        self._chains = sum(group.calibration for group in groups)
        ids = {
            case: self.run.add_case(case, group.calibration)
            for group in groups
            for case in group.cases
        }
        for group in groups:
            self.run.add_network(group.network.to_json())
        self.run.forget_failures(MENDABLE)
        try:
            with self._watch:
                for place, group in enumerate(groups):
                    self._measure_group(group, ids, groups[place:])
                    if all(other.cpus != group.cpus for other in groups[place + 1 :]):
                        self._close_workers(group.cpus)  # some engines never hand memory back
                    self.report.group_done(group)
        finally:
            for worker, _ in self._workers.values():
                worker.close()
            self._record_readings()
            if self._watch.failure:
                self.run.record("watch_failure", self._watch.failure)
            self.run.spend("total", time.perf_counter_ns() - self._started_ns)

    def _record_readings(self) -> None:
        """What was read of the GPU meanwhile; nothing on the CPU."""
        readings = self._watch.readings()
        if readings:
            self.run.add_gpu_readings(self.options.device, readings)

    def _close_workers(self, cpus: tuple[int, ...]) -> None:
        for key in [key for key in self._workers if key[1] == cpus]:
            self._workers.pop(key)[0].close()

    def _measure_group(self, group: Group, ids: dict[Case, int], left: list[Group]) -> None:
        settled = {c.id for c in self.run.cases() if c.stopped_by} | set(self.run.failures())
        open_cases = [case for case in group.cases if ids[case] not in settled]
        if not open_cases or self._is_refused(group, open_cases, ids):
            return
        waiting = list(dict.fromkeys(case.engine for case in open_cases))
        seconds_each = self._seconds(group, left) / len(waiting)
        while waiting:
            waiting = self._measure_shift(group, waiting, open_cases, ids, seconds_each)

    def _is_refused(self, group: Group, cases: list[Case], ids: dict[Case, int]) -> bool:
        """Whether the budget has no room for a group any more, which then is its failure."""
        reason = self.pace.refusal(group, self._left_s()) if self.pace else self._lateness()
        for case in cases if reason else []:
            self.run.add_failure(ids[case], "budget", str(reason))
        return reason is not None

    def _lateness(self) -> str | None:
        """Why no network is begun any more, where the budget is all the time that passes."""
        late = self.options.keeps_budget and self._left_s() <= 0
        return "the budget was spent before its turn came" if late else None

    def _measure_shift(
        self,
        group: Group,
        engines: list[str],
        cases: list[Case],
        ids: dict[Case, int],
        seconds_each: float,
    ) -> list[str]:
        """Measure those engines of a group that fit into the memory together.

        Returns:
            The engines that have to wait until the others are done.
        """
        later: list[str] = []
        processes = self.options.processes
        for process in range(self._begun(cases, ids), processes):
            self.report.step(f"{group.network.name}: building", 0.0)
            started = time.monotonic()
            ready = self._build_fitting(group, engines, cases, ids, later)
            if self.pace:
                self.pace.built(group, time.monotonic() - started)
            now = [engine for engine in engines if engine not in later]
            part = _Part(process, processes, seconds_each * len(now) / processes)
            reason = self._rounds(group, ready, ids, part)
            if processes > 1:
                self._close_workers(group.cpus)
            for engine in now:
                self._forget(engine, group.cpus)
        for case in ready:
            if ids[case] not in self.run.failures():
                self.run.stop(ids[case], reason)
        return later

    def _begun(self, cases: list[Case], ids: dict[Case, int]) -> int:
        """How many processes have had their turn; the last one goes on where a run was stopped."""
        taken = [self.run.times(ids[case]) for case in cases]
        workers = [
            {time.worker for sample in times.values() for time in sample.values()}
            for times in taken
        ]
        return min([*map(len, workers), self.options.processes - 1])

    def _build_fitting(
        self,
        group: Group,
        engines: list[str],
        cases: list[Case],
        ids: dict[Case, int],
        later: list[str],
    ) -> list[Case]:
        """Build the engines' cases, and add to ``later`` those that do not fit in memory too."""
        ready: list[Case] = []
        for engine in engines:
            room = free_bytes(self.options.device) - SPARE_BYTES
            if engine in later or (
                ready
                and needed_bytes(group, engine, together_bytes(self.options, group.cpus)) > room
            ):
                later += [engine] if engine not in later else []
                continue
            ready += self._build(group, engine, [c for c in cases if c.engine == engine], ids)
        return ready

    def _seconds(self, group: Group, left: list[Group]) -> float:
        """This group's share of what is left of the budget."""
        if group.calibration:
            share = CALIBRATION_SHARE * self.options.budget_s / self._chains
            each_s = CALIBRATION_S if group.device == CPU else GPU_CALIBRATION_S
            return min(each_s * len(group.cases), share)
        if self.pace:
            return self.pace.rounds_s(left, self._left_s())
        claims = sum(weight(other) for other in left if not other.calibration)
        return max(0.0, self._left_for_rounds_s()) * weight(group) / claims

    def _left_for_rounds_s(self) -> float:
        """The budget, less what samples have taken, or less all the time that has passed."""
        if self.options.keeps_budget:
            return ROUNDS_SHARE * self._left_s()
        spent = self.run.spent()
        return self.options.budget_s - (spent.get("samples", 0) + spent.get("warm-up", 0)) * 1e-9

    def _left_s(self) -> float:
        """The budget, less all the time that has passed."""
        passed_ns = time.perf_counter_ns() - self._started_ns
        return self.options.budget_s - (self.run.spent().get("total", 0) + passed_ns) * 1e-9

    def _build(
        self, group: Group, engine: str, cases: list[Case], ids: dict[Case, int]
    ) -> list[Case]:
        """Build cases in the engine's worker; those that can be measured.

        When the worker dies over several cases, each is tried by itself, and if that ends it once
        more, those that live are built together: a crash costs its own case and no other.
        """
        if not cases:
            return []
        try:
            answers = self._ask_to_build(group, engine, cases)
        except WorkerError as error:
            if len(cases) == 1 or error.kind not in DEADLY:
                for case in cases:
                    self.run.add_failure(ids[case], error.kind, error.reason)
                return []
            alive = [case for case in cases if self._build(group, engine, [case], ids)]
            return self._build(group, engine, alive, ids) if len(alive) < len(cases) else alive
        built = []
        for case in cases:
            answer = answers[case.mode]
            if "failure" in answer:
                failure = answer["failure"]
                self._fail(case, failure["kind"], failure["reason"], ids)
                continue
            self.run.describe_case(ids[case], answer["first_call_ns"], answer["kernels"])
            self.run.spend("warm-up", answer["warm_ns"])
            failures = [kernel["failure"] for kernel in answer["kernels"]]
            if case.device != CPU and any(one and one["kind"] == MEMORY for one in failures):
                self._short.add(self._workers[engine, group.cpus][0])
            if not case.whole and all(failures):  # nothing of it can be timed
                self._fail(case, failures[0]["kind"], failures[0]["reason"], ids)
                continue
            built.append(case)
        worker = self._workers[engine, group.cpus][0]
        if len(built) == len(cases) or worker.alive:
            return built
        return self._build(group, engine, built, ids)

    def _fail(self, case: Case, kind: str, reason: str, ids: dict[Case, int]) -> None:
        """Record why a case has no measurement; a GPU's memory that was too small ends the worker.

        Its pools keep what they took, so what did fit is built again in a fresh one.
        """
        self.run.add_failure(ids[case], kind, reason)
        if kind == MEMORY and case.device != CPU:
            self._workers[case.engine, case.cpus][0].close()

    def _ask_to_build(self, group: Group, engine: str, cases: list[Case]) -> Message:
        need = needed_bytes(group, engine, together_bytes(self.options, group.cpus))
        free = free_bytes(self.options.device)
        if need > free:
            raise WorkerError(
                MEMORY, f"about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
            )
        worker, worker_id = self._worker(engine, group.cpus)
        answers = worker.ask(
            "build",
            self.patience.build_s,
            network=group.network.to_json(),
            batch=group.batch,
            subjects={case.mode: {"mode": case.mode, "whole": case.whole} for case in cases},
            seed=self.options.seed,
            warm_up_s=CALIBRATION_WARM_UP_S if group.calibration else WARM_UP_S,
            cache=self.options.cache,
            together_bytes=together_bytes(self.options, group.cpus),
        )
        # Only now are all threads there: an engine may start its pool with its first call.
        decided = self.options.device != CPU or any(
            name in POOL_VARIABLES for name in self._variables(engine)
        )
        facts = worker.ask("facts", self.patience.turn_s)
        self.run.correct_worker(worker_id, facts)
        wrong = misplacement(facts, group.cpus, None if decided else len(group.cpus))
        if wrong:
            raise WorkerError("placement", wrong)
        return answers

    def _variables(self, engine: str) -> dict[str, str | None]:
        """What the user sets for an engine: in engines.toml, and for this run."""
        environment = self.environments[engine]
        own = environment.variables if environment is not None else {}
        return {**own, **{n: v for e, n, v in self.options.variables if e == engine}}

    def _worker(self, engine: str, cpus: tuple[int, ...]) -> tuple[Worker, int]:
        """The engine's worker at this placement, started anew if it is not alive."""
        found = self._workers.get((engine, cpus))
        if found is not None:
            if found[0].alive:
                return found
            found[0].close()
        environment = self.environments[engine]
        if engine in self._refusals:
            raise self._refusals[engine]
        if environment is None:
            raise WorkerError(
                "no_engine",
                f"{engine} is not installed; run `kernelprof engines install {engine}`",
            )
        try:
            worker = Worker(environment, cpus, self._variables(engine), self.options.device)
        except WorkerError as error:
            if error.kind == NO_DEVICE:
                self._refusals[engine] = error
            raise
        try:
            facts = worker.ask("facts", self.patience.turn_s)
        except WorkerError:
            worker.close()
            raise
        self._workers[engine, cpus] = worker, self.run.add_worker(engine, cpus, facts)
        return self._workers[engine, cpus]

    def _rounds(self, group: Group, cases: list[Case], ids: dict[Case, int], part: _Part) -> str:
        """Rounds of one process until the stop rule holds; what ended them.

        Some rounds make a turn.  In which order the engines take theirs, and each engine its
        modes, is shuffled anew for every turn.
        """
        least, most = part.of(self.options.stop.least), part.of(self.options.stop.most)
        begun = min((len(self.run.rounds(ids[case])) for case in cases), default=0)
        shuffle = random.Random(f"{self.options.seed} {group.network.name} {group.cpus} {begun}")
        started = time.monotonic()
        first, step = begun, ROUNDS_PER_TURN
        while first < most:
            alive = [case for case in cases if ids[case] not in self.run.failures()]
            if not alive:
                return "failure"
            taken, passed = first - begun, time.monotonic() - started
            share = part.seconds if first >= least else 2 * part.seconds
            if taken:
                step = _rounds_per_turn(passed / taken / len(alive))
                if first >= least and all(self._is_known(ids[c], c) for c in alive):
                    return "interval"
                room = int((share - passed) * taken / passed)
                if room < ROUNDS_PER_TURN:
                    return "budget"
                step = min(step, room)
            goal = least if first < least else most
            rounds = list(range(first, min(first + step, goal)))
            for case in _in_turns(alive, shuffle):
                self._turn(group, case, ids, rounds)
                done = (time.monotonic() - started) / max(part.seconds, 1e-9)
                self.report.step(f"{case.title}: round {rounds[-1] + 1}", min(done, 1.0))
            first = rounds[-1] + 1
        return "rounds"

    def _is_known(self, case_id: int, case: Case) -> bool:
        """Whether what is asked of a case is known well enough; of a mere reference, nothing is."""
        if case.engine not in self.options.engines:
            return True
        rounds = quiet(self.run.times(case_id)).rounds
        return known_to(rounds, case.whole) <= self.options.stop.half_width

    def _turn(self, group: Group, case: Case, ids: dict[Case, int], rounds: list[int]) -> None:
        """One turn of one case; if its worker dies, the engine's other cases are built again."""
        missing = [r for r in rounds if r not in self.run.rounds(ids[case])]
        if not missing or ids[case] in self.run.failures():
            return
        worker, worker_id = self._workers[case.engine, case.cpus]
        try:
            turn = worker.ask("turn", self.patience.turn_s, subject=case.mode, rounds=missing)
        except WorkerError as error:
            self._fail(case, error.kind, error.reason, ids)
            failed = self.run.failures()
            others = [c for c in group.of(case.engine) if ids[c] not in failed]
            if not worker.alive:
                self._build(group, case.engine, others, ids)
            return
        sampled_ns = self.run.add_turn(ids[case], worker_id, turn)
        self._record_readings()
        self.run.spend("samples", sampled_ns)
        self.run.spend("warm-up", turn["warm_ns"])

    def _forget(self, engine: str, cpus: tuple[int, ...]) -> None:
        """Free the worker's memory; a worker that cannot is replaced when it is next needed."""
        worker, _ = self._workers.get((engine, cpus), (None, 0))
        if worker in self._short:
            self._short.remove(worker)
            worker.close()
        elif worker is not None and worker.alive:
            try:
                worker.ask("drop", self.patience.turn_s)
            except WorkerError:
                worker.close()
