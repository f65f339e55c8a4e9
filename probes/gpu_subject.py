"""A subject whose calls run on a GPU: every sample has two sides."""

from __future__ import annotations

import sys
import time
import traceback
from itertools import cycle
from typing import Callable

from .circumstances import Watch
from .clock import ClockFacts
from .data import NetworkData
from .engine import Engine, Unsupported
from .failure import failure_of
from .gpu_timing import (
    LEAST_NS,
    MOST_CALLS,
    Sides,
    calls_per_block,
    replayed_ns,
    time_on_stream,
)
from .ranges import Ranges
from .rotation import Rotation
from .subject import BLOCKS_TO_SETTLE, RETAKES, Subject, Timed
from .wire import Message

Replay = Callable[[], object]

MOST_KERNELS = 2 * MOST_CALLS  # in a block of whole networks, some of which are several launches
RESTED_NS = 10_000_000  # after so long without work a card begins to lower its clock
SETTLE_NS = 30_000_000  # of work, in which it raises the clock again


class GpuSubject(Subject):
    """Samples by the marks in a stream; kernels also by replaying them.

    What counts as the time of the whole network is what passed on the GPU, waiting for the CPU
    included; that of a kernel is what it takes there by itself.
    """

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
        """Build and check everything, as on the CPU."""
        assert engine.stream is not None
        self.stream = engine.stream
        self.graphs: dict[int, tuple[int, Replay | None]] = {}  # by place: of how many calls
        self.sides: dict[int, Sides] = {}  # of the round's samples, by place
        super().__init__(engine, clock, ranges, watch, data, rotation, mode, whole)

    def warm_up(self, budget_ns: int) -> None:
        """Bring everything to a steady state, settle the block sizes, and record the graphs."""
        super().warm_up(budget_ns)
        with self.engine.scope(self.training):
            for timed in self.timed.values():
                self._recorded(timed)
        self.worked_ns = time.perf_counter_ns()

    def _long_enough(self, timed: Timed, call_ns: float) -> Timed:
        """With as many calls as a block needs: in a row they are faster than one by itself."""
        for _ in range(BLOCKS_TO_SETTLE):
            calls = self._calls(timed, call_ns)
            if calls <= timed.calls:
                break
            timed = timed._replace(calls=calls)
            call_ns = min(call_ns, self._time(timed) / calls)
        return timed

    def _calls(self, timed: Timed, call_ns: float) -> int:
        """How many calls of a kernel, or of the whole network, make a block."""
        if timed.place == 0:
            most = max(1, min(MOST_CALLS, MOST_KERNELS // max(len(self.kernels), 1)))
            return calls_per_block(call_ns, self.stream.clock, most=most)
        cold_bytes = self.caches[timed.place - 1]["cold_bytes"]
        return calls_per_block(call_ns, self.stream.clock, self.rotation.turns(cold_bytes))

    def _time(self, timed: Timed) -> int:
        return self._timed(timed).events_ns

    def _timed(self, timed: Timed) -> Sides:
        block = timed.call, timed.calls, self.held, timed.place, timed.releases
        return time_on_stream(self.stream, *block)

    def _settle(self) -> None:
        """Work untimed for a while, as the card may have lowered its clock."""
        started = time.perf_counter_ns()
        whole = [] if self.whole_timed is None else [self.whole_timed]
        for timed in cycle([*whole, *self.timed.values()]):
            self._time(timed)
            if time.perf_counter_ns() - started >= SETTLE_NS:
                break
        self.warm_ns += time.perf_counter_ns() - started

    def _round(self, round_: int) -> Message:
        self.sides = {}
        answer = super()._round(round_)
        answer["gpu"] = {str(place - 1): list(sides) for place, sides in self.sides.items()}
        return answer

    def _lengthened(self, timed: Timed) -> tuple[Timed, list[int]]:
        """A sample that is long enough for the GPU's clock, if so many calls can be queued."""
        sample = self._sample(timed)
        for _ in range(RETAKES):
            calls, _, duration, *_ = sample
            more = self._calls(timed, duration / calls)
            if duration >= LEAST_NS or more <= calls:
                break
            timed = timed._replace(calls=more)
            sample = self._sample(timed)
        return timed, sample

    def _sample(self, timed: Timed) -> list[int]:
        """Calls, start, duration, and the circumstances of what the CPU had to do with.

        Replays lie outside of the range: in it are as many calls as it says.
        """
        before = self.watch.reading()
        with self.ranges.range(*timed.ranges):
            started = time.perf_counter_ns()
            sides = self._timed(timed)
        circumstances = self.watch.reading().since(before)
        replay = self._recorded(timed) if timed.place else None
        if replay is not None:
            sides = sides._replace(graph_ns=replayed_ns(self.stream, replay))
        self.sides[timed.place] = sides
        duration = sides.graph_ns or sides.events_ns
        self.warm_ns += time.perf_counter_ns() - started - duration
        return [timed.calls, started, duration, *circumstances]

    def _recorded(self, timed: Timed) -> Replay | None:
        """What replays a block of a kernel; None where it cannot be recorded."""
        calls, replay = self.graphs.get(timed.place, (0, None))
        if calls != timed.calls:
            self.graphs.pop(timed.place, None)  # its memory first
            replay = self._record(timed)
            self.graphs[timed.place] = timed.calls, replay
        return replay

    def _record(self, timed: Timed) -> Replay | None:
        try:
            replay = self.stream.graph(timed.call, timed.calls)
            replay()  # the first one takes it to the GPU
            self.stream.finish()
        except Unsupported:
            return None
        except Exception as error:  # whatever an engine raises: its time stays that of the events
            traceback.print_exc(file=sys.stderr)
            failure_of(error)  # unless nothing works any more
            return None
        return replay
