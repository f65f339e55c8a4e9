"""Look at a whole network in passes of their own, none of which is ever a measurement."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .data import Arrays, NetworkData
from .engine import Engine
from .network import TRAIN, Network
from .placement import pin_busiest, run_ns, unpin
from .wire import Message

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
WARM_UP_CALLS = 3
PROBE_BYTES = 2**25  # of fresh memory that is touched to see what a page fault costs
PAGE_BYTES = 4096


class Observer:
    """One network in one mode, built, called and warm."""

    def __init__(
        self,
        engine: Engine,
        cpus: tuple[int, ...],
        network: Network,
        batch: int,
        mode: str,
        seed: int,
    ) -> None:
        self.engine = engine
        self.training = mode == TRAIN
        self.data = NetworkData(network, batch, seed)
        unpin(cpus)
        with engine.scope(self.training):
            self.whole = engine.network(network, mode, self.data)
            ran = run_ns()
            self.first_call_ns = self._call_ns()
            for _ in range(WARM_UP_CALLS):
                self._call_ns()
        if engine.stream is None:
            pin_busiest(cpus, ran, engine.computes_on_caller, engine.pool())

    def _call_ns(self) -> int:
        """One call, waited for, and the freeing of its result."""
        started = time.perf_counter_ns()
        self.whole.call()
        if self.engine.finish is not None:
            self.engine.finish()
        return time.perf_counter_ns() - started

    def describe(self) -> Message:
        """What one sees without calling it any more often."""
        return {"first_call_ns": self.first_call_ns, "denormals": self.denormals()}

    def denormals(self) -> dict[str, float]:
        """Which share of the numbers is denormal, where any is: inputs, weights and results."""
        with self.engine.scope(self.training):
            results = self.whole.evaluate()
        found = dict(_denormal_shares({"input": self.data.input}))
        found.update(_denormal_shares(self.whole.weights()))
        found.update(_denormal_shares(results))
        return found

    def profile(self, calls: int) -> Message:
        """Calls with the engine's profiler, and as many without it before and after."""
        with self.engine.scope(self.training):
            plain, counters = self._plain(calls)
            profiled = self.whole.profile(calls)
            after, _ = self._plain(calls)
        return {
            "plain_ns": plain + after,
            "counters": counters,
            "calls": [
                {"duration_ns": call.duration_ns, "spans": [list(span) for span in call.spans]}
                for call in profiled
            ],
        }

    def _plain(self, calls: int) -> tuple[list[int], Message]:
        before, ran = resource.getrusage(resource.RUSAGE_SELF), run_ns()
        durations = [self._call_ns() for _ in range(calls)]
        after, ran_after = resource.getrusage(resource.RUSAGE_SELF), run_ns()
        counts = {
            "minor_faults": after.ru_minflt - before.ru_minflt,
            "major_faults": after.ru_majflt - before.ru_majflt,
            "voluntary_switches": after.ru_nvcsw - before.ru_nvcsw,
            "involuntary_switches": after.ru_nivcsw - before.ru_nivcsw,
            "ran_ns": sum(ns - ran.get(tid, 0) for tid, ns in ran_after.items()),
            "wall_ns": sum(durations),
        }
        return durations, {name: count / calls for name, count in counts.items()}

    def repeat(self, calls: int, least_s: float = 0.0) -> Message:
        """Calls between two marks in what the process prints, for that to be told apart.

        As many as asked for, and on until ``least_s`` have passed.
        """
        with self.engine.scope(self.training):
            mark("begin")
            started = time.perf_counter_ns()
            done = 0
            while done < calls or time.perf_counter_ns() - started < least_s * 1e9:
                self._call_ns()
                done += 1
            duration_ns = time.perf_counter_ns() - started
            mark("end")
        return {"calls": done, "duration_ns": duration_ns}


def mark(text: str) -> None:
    """Print a line that tells what libraries printed before from what they print after."""
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)  # libraries print through C's own buffers
    os.write(1, f"\nkernelprof: {text}\n".encode())


def _denormal_shares(arrays: Arrays) -> Iterator[tuple[str, float]]:
    for name, array in arrays.items():
        if array.dtype == np.float32 and array.size:
            small = (np.abs(array) < SMALLEST_NORMAL) & (array != 0)
            if small.any():
                yield name, float(small.mean())


def page_fault_ns() -> float:
    """What a page fault costs where memory is fresh, the zeroing of the page included."""
    return sorted(_page_fault_ns() for _ in range(3))[1]


def _page_fault_ns() -> float:
    memory = mmap.mmap(-1, PROBE_BYTES)
    pages: Any = np.frombuffer(memory, np.uint8)[::PAGE_BYTES]
    faults, started = _faults(), time.perf_counter_ns()
    pages[:] = 1
    faulted = time.perf_counter_ns()
    faults = _faults() - faults
    pages[:] = 2
    again = time.perf_counter_ns()
    return max((faulted - started) - (again - faulted), 0) / float(max(faults, 1))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
