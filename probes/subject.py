"""A subject: a network in one mode, whole and in kernels, ready to be timed."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any, NamedTuple

from .circumstances import Watch
from .clock import HARNESS_SHARE, ClockFacts, calls_per_sample, time_block, warm_up
from .data import NetworkData
from .decompose import Kernel, kernels
from .engine import Call, Engine, WholeNetwork
from .failure import failure_of
from .network import TRAIN
from .oracle import Check, WrongResultError
from .primitive import UPDATE, WARM
from .ranges import Ranges
from .rotation import Rotation
from .wire import Message

RETAKES = 3  # of a sample that is too short
BLOCKS_TO_SETTLE = 5  # timed to find how many calls a sample needs
RESTED_NS = 250_000_000  # after so long without work, threads sleep and memory may be gone


class Timed(NamedTuple):
    """A call that is sampled: ``calls`` of it make a block; ``place`` is where its result lies."""

    call: Call
    calls: int
    place: int
    releases: tuple[int, ...]
    ranges: tuple[str, ...]


class Subject:
    """Builds, checks and samples.  Place 0 of the held results belongs to the whole network."""

    rested_ns = RESTED_NS

    def __init__(
        self,
        engine: Engine,
        clock: ClockFacts,
        ranges: Ranges,
        watch: Watch,
        data: NetworkData,
        rotation: Rotation,
        mode: str,
        whole: bool,
    ) -> None:
        """Build and check everything.

        Raises:
            Unsupported: the engine cannot build the network.
            WrongResultError: its parameters are not those of the definition.
        """
        self.engine = engine
        self.clock = clock
        self.ranges = ranges
        self.watch = watch
        self.rotation = rotation
        self.training = mode == TRAIN
        self.title = f"{data.network.name} {mode} batch={data.batch}"
        self.kernels = kernels(data.network, data.batch, mode, engine.fusion)
        self.held: list[Any] = [None] * (len(self.kernels) + 1)
        self.failures: dict[int, Message] = {}
        self.errors: dict[int, float] = {}
        self.caches: dict[int, Message] = {}
        self.first_call_ns: int | None = None
        self.warm_ns = 0  # spent on untimed calls
        self.worked_ns = 0  # when it last worked
        self.whole_timed: Timed | None = None
        with engine.scope(self.training):
            self.timed = self._build_kernels(data)
            self._require_same_work(data.network.flop(data.batch, mode))
            self.whole = self._build_whole(data, mode) if whole else None

    def _build_kernels(self, data: NetworkData) -> dict[int, Timed]:
        built = {}
        for index, kernel in enumerate(self.kernels):
            try:
                call = self._checked(kernel, data, index)
            except Exception as error:  # whatever an engine raises costs this kernel alone
                traceback.print_exc(file=sys.stderr)
                self.failures[index] = failure_of(error)
                continue
            releases = tuple(other + 1 for other in kernel.releases)
            labels = (self.title, kernel.layer, kernel.label)
            built[index] = Timed(call, 1, index + 1, releases, labels)
        return built

    def _checked(self, kernel: Kernel, data: NetworkData, index: int) -> Call:
        """The kernel's call, once its result agrees with the oracle."""
        self.engine.require_dtypes(kernel)
        arrays = data.kernel(kernel)
        call = self.engine.kernel(kernel, arrays, self.training)
        check = Check(kernel, arrays)
        started = time.perf_counter_ns()
        result = call()
        self.warm_ns += time.perf_counter_ns() - started
        self.errors[index] = check.verify(self.engine.fetch(kernel, result))
        self.caches[index] = {
            "cold_bytes": self.rotation.cold_bytes(kernel, arrays),
            "lukewarm": not self.rotation.suffices(kernel, arrays),
        }
        return self.rotation.call(self.engine, kernel, arrays, self.training, call)

    def _require_same_work(self, flop: int) -> None:
        """However an engine groups primitives into kernels, their flop are the definition's."""
        own = sum(kernel.compute_flop for kernel in self.kernels)
        if own != flop:
            raise WrongResultError(f"the kernels have {own} flop; the definition has {flop}")

    def _build_whole(self, data: NetworkData, mode: str) -> WholeNetwork:
        whole = self.engine.network(data.network, mode, data)
        canonical = data.network.parameters()
        if whole.parameters != canonical:
            raise WrongResultError(
                f"{data.network.name} has {whole.parameters} parameters in this engine; "
                f"its definition has {canonical}"
            )
        return whole

    def describe(self) -> Message:
        """What was built, for the host to plan and to record."""
        return {
            "first_call_ns": self.first_call_ns,
            "warm_ns": self.take_warm_ns(),
            "kernels": [self._describe(index) for index in range(len(self.kernels))],
        }

    def take_warm_ns(self) -> int:
        """Nanoseconds of untimed calls since this was last asked."""
        taken, self.warm_ns = self.warm_ns, 0
        return taken

    def _describe(self, index: int) -> Message:
        kernel = self.kernels[index]
        return {
            "layer": kernel.layer,
            "primitives": [primitive.to_json() for primitive in kernel.primitives],
            "passes": list(kernel.passes),
            "flop": kernel.flop,
            "compute_flop": kernel.compute_flop,
            "least_bytes": kernel.least_bytes,
            "cold_bytes": 0,
            "lukewarm": False,
            **self.caches.get(index, {}),
            "error": self.errors.get(index),
            "failure": self.failures.get(index),
        }

    def warm_up(self, budget_ns: int) -> None:
        """Bring everything to a steady state and settle the block sizes."""
        started = time.perf_counter_ns()
        with self.engine.scope(self.training):
            share = budget_ns // (2 if self.whole else 1)
            if self.whole is not None:
                whole = Timed(self.whole.call, 1, 0, (0,), (self.title,))
                self.first_call_ns = self._time(whole)
                durations = warm_up(lambda: self._time(whole), share)
                self.whole_timed = self._long_enough(whole, min(durations))
            self._warm_kernels(share)
        self.worked_ns = time.perf_counter_ns()
        self.warm_ns += self.worked_ns - started

    def _warm_kernels(self, budget_ns: int) -> None:
        """Passes over all kernels, in order, until the sum is steady."""
        best: dict[int, int] = {}

        def sweep() -> int:
            durations = {index: self._time(timed) for index, timed in self.timed.items()}
            for index, duration in durations.items():
                best[index] = min(duration, best.get(index, duration))
            return sum(durations.values())

        if self.timed:
            warm_up(sweep, budget_ns)
        for index, timed in self.timed.items():
            self.timed[index] = self._long_enough(timed, best[index])

    def _long_enough(self, timed: Timed, call_ns: float) -> Timed:
        """With as many calls as a sample needs: in a row they are faster than one by itself."""
        timed = timed._replace(calls=calls_per_sample(call_ns, self.clock))
        for _ in range(BLOCKS_TO_SETTLE):
            if 10 * self.clock.harness_ns(1) < HARNESS_SHARE * call_ns:
                break
            call_ns = min(call_ns, self._time(timed) / timed.calls)
            calls = calls_per_sample(call_ns, self.clock)
            timed = timed._replace(calls=max(calls, timed.calls))
        return timed

    def _time(self, timed: Timed) -> int:
        return time_block(
            timed.call,
            timed.calls,
            self.held,
            timed.place,
            timed.releases,
            self.engine.finish,
        )

    def turn(self, rounds: list[int]) -> list[Message]:
        """For each round one sample of the whole network and one of each kernel.

        Whole and kernels take turns at going first.  After a rest one untimed call of each comes
        before all: threads wake up, and memory that the host took back meanwhile is there again.
        """
        with self.engine.scope(self.training):
            if time.perf_counter_ns() - self.worked_ns > self.rested_ns:
                self._settle()
            sampled = [self._round(round_) for round_ in rounds]
        self.worked_ns = time.perf_counter_ns()
        return sampled

    def _settle(self) -> None:
        started = time.perf_counter_ns()
        whole = [] if self.whole_timed is None else [self.whole_timed]
        for timed in [*whole, *self.timed.values()]:
            self._time(timed._replace(calls=1))
        self.warm_ns += time.perf_counter_ns() - started

    def _round(self, round_: int) -> Message:
        answer: Message = {"round": round_, "whole": None}
        for part in ("whole", "kernels") if round_ % 2 == 0 else ("kernels", "whole"):
            if part == "kernels":
                answer["kernels"] = {str(i): self._long_sample(i) for i in self.timed}
            elif self.whole_timed is not None:
                self.whole_timed, answer["whole"] = self._lengthened(self.whole_timed)
        return answer

    def _long_sample(self, index: int) -> list[int]:
        """A sample of a kernel; a memory-bound one first touches its operands.

        In the network it finds in the caches what the layer before has just written there.  What
        a compute-bound one takes hangs on its weights, which the network finds cold.
        """
        kernel, timed = self.kernels[index], self.timed[index]
        touches = self.rotation.cache == WARM and not kernel.compute_flop
        if touches and timed.calls == 1 and kernel.passes != (UPDATE,):
            self.warm_ns += self._time(timed)
        self.timed[index], sample = self._lengthened(self.timed[index])
        return sample

    def _lengthened(self, timed: Timed) -> tuple[Timed, list[int]]:
        """A sample in which the harness stays below its share.

        Calls may turn out faster than when their number was settled; a sample that is too short
        is taken anew with more of them, and so are all that follow.
        """
        sample = self._sample(timed)
        for _ in range(RETAKES):
            calls, _, duration, *_ = sample
            if self.clock.harness_ns(calls) < HARNESS_SHARE * duration:
                break
            more = calls_per_sample(duration / calls, self.clock)
            timed = timed._replace(calls=max(calls + 1, more))
            sample = self._sample(timed)
        return timed, sample

    def _sample(self, timed: Timed) -> list[int]:
        """Calls, start, duration, and the circumstances of the sample."""
        before = self.watch.reading()
        with self.ranges.range(*timed.ranges):
            started = time.perf_counter_ns()
            duration = self._time(timed)
        circumstances = self.watch.reading().since(before)
        return [timed.calls, started, duration, *circumstances]
