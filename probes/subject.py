"""A subject: a network in one mode, whole and in kernels, ready to be timed."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Optional

from .circumstances import Usage
from .clock import ClockFacts, calls_per_sample, time_block, warm_up
from .data import NetworkData
from .decompose import Kernel, kernels
from .engine import Call, Engine, Unsupported, WholeNetwork
from .network import TRAIN
from .oracle import WrongResultError, verify
from .ranges import Ranges
from .wire import Message


class Timed(NamedTuple):
    """A call that is sampled: ``calls`` of it make a block; ``place`` is where its result lies."""

    call: Call
    calls: int
    place: int
    releases: tuple[int, ...]
    ranges: tuple[str, ...]


class Subject:
    """Builds, checks and samples.  Place 0 of the held results belongs to the whole network."""

    def __init__(
        self,
        engine: Engine,
        clock: ClockFacts,
        ranges: Ranges,
        data: NetworkData,
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
        self.training = mode == TRAIN
        self.title = f"{data.network.name} {mode} batch={data.batch}"
        self.kernels = kernels(data.network, data.batch, mode, engine.fusion)
        self.held: list[Any] = [None] * (len(self.kernels) + 1)
        self.failures: dict[int, Message] = {}
        self.errors: dict[int, float] = {}
        self.first_call_ns: Optional[int] = None
        with engine.scope(self.training):
            self.timed = self._build_kernels(data)
            self.whole = self._build_whole(data, mode) if whole else None

    def _build_kernels(self, data: NetworkData) -> dict[int, Timed]:
        built = {}
        for index, kernel in enumerate(self.kernels):
            try:
                call = self._checked(kernel, data, index)
            except (Unsupported, WrongResultError) as error:
                kind = "unsupported" if isinstance(error, Unsupported) else "wrong_result"
                self.failures[index] = {"kind": kind, "reason": str(error)}
                continue
            releases = tuple(other + 1 for other in kernel.releases)
            labels = (self.title, kernel.layer, kernel.label)
            built[index] = Timed(call, 1, index + 1, releases, labels)
        return built

    def _checked(self, kernel: Kernel, data: NetworkData, index: int) -> Call:
        """The kernel's call, once its result agrees with the oracle."""
        arrays = data.kernel(kernel)
        call = self.engine.kernel(kernel, arrays, self.training)
        before = [dict(own) for own in arrays]
        if kernel.primitives[0].kind == "sgd_update":  # it works in place
            before = [{name: array.copy() for name, array in own.items()} for own in arrays]
        got = self.engine.fetch(kernel, call())
        if "mask" in got:  # of a dropout, which only the engine can tell
            before[-1]["mask"] = got["mask"].reshape(-1)
        self.errors[index] = verify(kernel, before, got)
        return call

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
            "kernels": [self._describe(index) for index in range(len(self.kernels))],
        }

    def _describe(self, index: int) -> Message:
        kernel = self.kernels[index]
        return {
            "layer": kernel.layer,
            "primitives": [primitive.to_json() for primitive in kernel.primitives],
            "labels": [primitive.label for primitive in kernel.primitives],
            "passes": list(kernel.passes),
            "flop": kernel.flop,
            "compute_flop": kernel.compute_flop,
            "least_bytes": kernel.least_bytes,
            "error": self.errors.get(index),
            "failure": self.failures.get(index),
        }

    def warm_up(self, budget_ns: int) -> int:
        """Bring everything to a steady state and settle the block sizes; nanoseconds it took."""
        started = time.perf_counter_ns()
        with self.engine.scope(self.training):
            share = budget_ns // (2 if self.whole else 1)
            if self.whole is not None:
                whole = Timed(self.whole.call, 1, 0, (0,), (self.title,))
                self.first_call_ns = self._time(whole)
                durations = warm_up(lambda: self._time(whole), share)
                calls = calls_per_sample(min(durations), self.clock)
                self.whole_timed: Optional[Timed] = whole._replace(calls=calls)
            else:
                self.whole_timed = None
            self._warm_kernels(share)
        return time.perf_counter_ns() - started

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
            calls = calls_per_sample(best[index], self.clock)
            self.timed[index] = timed._replace(calls=calls)

    def _time(self, timed: Timed) -> int:
        return time_block(
            timed.call,
            timed.calls,
            self.held,
            timed.place,
            timed.releases,
            self.engine.finish,
        )

    def turn(self, kernels_first: bool) -> Message:
        """One sample of the whole network and one of each kernel, in either order."""
        order = ["kernels", "whole"] if kernels_first else ["whole", "kernels"]
        started = time.perf_counter_ns()
        answer: Message = {"whole": None, "kernels": {}}
        with self.engine.scope(self.training):
            self._wake()
            for part in order:
                if part == "kernels":
                    answer["kernels"] = {str(i): self._sample(t) for i, t in self.timed.items()}
                elif self.whole_timed is not None:
                    answer["whole"] = self._sample(self.whole_timed)
        answer["turn_ns"] = time.perf_counter_ns() - started
        return answer

    def _wake(self) -> None:
        """One untimed kernel call: threads that slept through another engine's turn wake up."""
        for timed in list(self.timed.values())[:1]:
            self._time(timed._replace(calls=1))

    def _sample(self, timed: Timed) -> list[int]:
        """Calls, start, duration, and the counters of the sample."""
        with self.ranges.range(*timed.ranges):
            before = Usage.now()
            started = time.perf_counter_ns()
            duration = self._time(timed)
            usage = Usage.now().since(before)
        return [timed.calls, started, duration, *usage]
