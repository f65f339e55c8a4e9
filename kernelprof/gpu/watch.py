"""How a card fares while workers take their turns, and which samples suffered from it."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from operator import attrgetter
from types import TracebackType

import pynvml

from kernelprof.gpu.devices import asked_number, session
from kernelprof.gpu.samples import GpuReading
from kernelprof.probes.device import CPU

PERIOD_S = 0.01
REACH_NS = 100_000_000  # a reading that is further from a sample says nothing of it
CLOCK_SHARE = 0.03  # by which the clock may move while a sample is taken
IDLE = pynvml.nvmlClocksEventReasonGpuIdle

_time_ns = attrgetter("time_ns")


class Watch:
    """A thread that reads a card every 10 ms, from ``with`` on; it never sets anything.

    On the CPU there is nothing to read.  The thread keeps away from the CPUs that workers compute
    on, if there are others.  ``failure`` says why readings ended, if they did: a watch that fails
    stops no measurement.
    """

    def __init__(
        self, device: str, away_from: Iterable[int] = (), period_s: float = PERIOD_S
    ) -> None:
        self.device = device
        self.failure = ""
        self._number = asked_number(device)
        self._away_from = frozenset(away_from)
        self._period_s = period_s
        self._readings: list[GpuReading] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="NVML", daemon=True)

    def __enter__(self) -> Watch:
        if self.device != CPU:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self.device != CPU:
            self._thread.join()

    def readings(self) -> list[GpuReading]:
        """What was read since this was last asked, by time."""
        with self._lock:
            taken, self._readings = self._readings, []
        return taken

    def _read_on(self) -> None:
        assert self._number is not None
        free = os.sched_getaffinity(0) - self._away_from
        if free:
            os.sched_setaffinity(0, free)  # of this thread alone
        with ExitStack() as opened:
            try:
                nvml = opened.enter_context(session())
                while not self._ended.is_set():
                    reading = nvml.reading(self._number)
                    with self._lock:
                        self._readings.append(reading)
                    self._ended.wait(self._period_s)
            except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
                self.failure = f"{self.device} was not watched to the end: {error}"


def throttled(start_ns: int, end_ns: int, readings: Sequence[GpuReading]) -> bool:
    """Whether the card lowered its clock, or moved it by much, while a sample was taken.

    Judged by the readings within the sample, and the nearest one before and after it.
    ``readings`` are in the order of time; where there is none near, nothing speaks against it.
    """
    first = bisect_left(readings, start_ns, key=_time_ns)
    last = bisect_right(readings, end_ns, key=_time_ns)
    near = [
        reading
        for reading in readings[max(first - 1, 0) : last + 1]
        if start_ns - REACH_NS <= reading.time_ns <= end_ns + REACH_NS
    ]
    if any(reading.throttled_by for reading in near):
        return True
    clocks = [reading.sm_hz for reading in near if not reading.reasons & IDLE]
    return bool(clocks) and max(clocks) > min(clocks) * (1 + CLOCK_SHARE)
