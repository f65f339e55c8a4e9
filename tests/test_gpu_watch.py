"""How a card fares while one measures: readings by a thread, and samples that suffered from it."""

from __future__ import annotations

import os
import threading
import time

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.errors import UsageError
from kernelprof.gpu import devices
from kernelprof.gpu.samples import THROTTLING, GpuReading
from kernelprof.gpu.watch import CLOCK_SHARE, IDLE, REACH_NS, Watch, throttled

from .fake_nvml import Card, FakeNvml, refusal

PATIENCE_S = 60.0
MHZ = 10**6
CAP = 0x04
SETTINGS = (0x02, 0x10, 0x100)  # clocks as somebody asked for them: slower, and steady


@pytest.fixture
def plant(monkeypatch):
    """Puts a stand-in in the place of NVML."""

    def planted(*cards: Card, **more: object) -> FakeNvml:
        fake = FakeNvml(*cards, **more)
        monkeypatch.setattr(devices, "pynvml", fake)
        return fake

    return planted


class Clock:
    """An SM clock that says when it was read so many times, and may fail then."""

    def __init__(self, reads: int, error: Exception | None = None) -> None:
        self.reads, self.error = reads, error
        self.count = 0
        self.reached = threading.Event()

    def __call__(self) -> int:
        self.count += 1
        if self.count >= self.reads:
            self.reached.set()
            if self.error is not None:
                raise self.error
        return 1000 + self.count

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE_S)


def test_a_card_is_read_meanwhile(plant):
    clock = Clock(5)
    fake = plant(Card(), Card(sm_mhz=clock, reasons=CAP, power_mw=300_000))
    before_ns = time.perf_counter_ns()
    with Watch("cuda:1", period_s=0.001) as watch:
        clock.wait()
    after_ns = time.perf_counter_ns()
    readings = watch.readings()
    assert len(readings) >= 4
    times = [reading.time_ns for reading in readings]
    assert times == sorted(times)
    assert before_ns <= times[0]
    assert times[-1] <= after_ns
    assert [reading.sm_hz for reading in readings] == [
        (1001 + place) * MHZ for place in range(len(readings))
    ]
    assert {(reading.power_w, reading.temperature_c) for reading in readings} == {(300.0, 41)}
    assert readings[0].throttled_by == ("power cap",)
    assert watch.failure == ""
    assert watch.readings() == []  # each is handed out once
    assert fake.opened == 0


def test_readings_are_taken_while_it_goes_on(plant):
    clock = Clock(3)
    plant(Card(sm_mhz=clock))
    with Watch("cuda:0", period_s=0.001) as watch:
        clock.wait()
        first = watch.readings()
        count = clock.count
        clock.reads, clock.reached = count + 3, threading.Event()
        clock.wait()
    both = first + watch.readings()
    assert [reading.sm_hz // MHZ for reading in both] == [
        1001 + place for place in range(len(both))
    ]


def test_the_thread_keeps_away_from_cpus_that_compute(plant):
    """Its own affinity changes; that of the thread that measures does not."""
    own = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    clock = Clock(2)

    def looks() -> int:
        seen.append(os.sched_getaffinity(0))
        return clock()

    plant(Card(sm_mhz=looks))
    for away in (own, {min(own)}, set()):
        clock.reached.clear()
        with Watch("cuda:0", away_from=away, period_s=0.001):
            clock.wait()
        assert seen.pop() == (own - away or own)
        seen.clear()
    assert os.sched_getaffinity(0) == own


def test_the_cpu_is_not_watched(plant):
    plant(refusal=AssertionError("NVML is asked"))
    with Watch("cpu") as watch:
        pass
    assert watch.readings() == []
    assert watch.failure == ""


@pytest.mark.parametrize("reads", [1, 3])
def test_a_card_that_goes_away_ends_the_watch_alone(reads, plant):
    clock = Clock(reads, error=refusal(pynvml.NVML_ERROR_GPU_IS_LOST))
    fake = plant(Card(sm_mhz=clock))
    with Watch("cuda:0", period_s=0.001) as watch:
        clock.wait()
    assert len(watch.readings()) == reads - 1
    assert watch.failure == "cuda:0 was not watched to the end: GPU is lost"
    assert fake.opened == 0


def test_no_driver_ends_the_watch_alone(plant):
    plant(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    with Watch("cuda:0") as watch:
        pass
    assert watch.readings() == []
    assert "NVML Shared Library Not Found" in watch.failure


def test_an_error_in_what_is_measured_ends_the_watch(plant):
    clock = Clock(1)
    fake = plant(Card(sm_mhz=clock))
    with pytest.raises(ZeroDivisionError), Watch("cuda:0", period_s=0.001):
        _fail_after(clock)
    assert fake.opened == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "NVML"]


def _fail_after(clock: Clock) -> None:
    clock.wait()
    raise ZeroDivisionError


def test_a_word_that_is_no_device():
    with pytest.raises(UsageError, match="cpu or cuda:N is needed"):
        Watch("gpu")


# Which samples suffered.


def reading(time_ns: int, sm_mhz: float = 1980, reasons: int = 0) -> GpuReading:
    return GpuReading(time_ns, int(sm_mhz * MHZ), 50, 300.0, reasons)


def by_definition(start_ns: int, end_ns: int, readings: list[GpuReading]) -> bool:
    """Word for word, and slow."""
    before = [one for one in readings if one.time_ns < start_ns]
    within = [one for one in readings if start_ns <= one.time_ns <= end_ns]
    after = [one for one in readings if one.time_ns > end_ns]
    near = within
    if before and start_ns - before[-1].time_ns <= REACH_NS:
        near = [before[-1], *near]
    if after and after[0].time_ns - end_ns <= REACH_NS:
        near = [*near, after[0]]
    lowered = any(one.reasons & bit for one in near for bit in THROTTLING)
    busy = [one.sm_hz for one in near if not one.reasons & 1]
    return lowered or any(a > b * (1 + CLOCK_SHARE) for a in busy for b in busy)


TIMES = st.integers(0, 5 * REACH_NS)
READINGS = st.lists(
    st.tuples(
        TIMES,
        st.sampled_from([345, 1900, 1950, 1980]),
        st.sampled_from([0, IDLE, CAP, 0x40, *SETTINGS]),
    ),
    max_size=8,
    unique_by=lambda one: one[0],
).map(lambda found: [reading(*one) for one in sorted(found)])


@given(TIMES, st.integers(0, REACH_NS), READINGS)
def test_throttled_as_it_is_defined(start_ns, length_ns, readings):
    end_ns = start_ns + length_ns
    assert throttled(start_ns, end_ns, readings) == by_definition(start_ns, end_ns, readings)


@pytest.mark.parametrize("bit", THROTTLING)
@pytest.mark.parametrize("time_ns", [90, 150, 210])
def test_every_reason_that_takes_speed_counts(bit, time_ns):
    """Within the sample, and in the nearest reading before and after it."""
    assert throttled(100, 200, [reading(80), reading(time_ns, reasons=bit), reading(220)])


@pytest.mark.parametrize("bit", [IDLE, *SETTINGS])
def test_reasons_that_take_no_speed_do_not_count(bit):
    assert not throttled(100, 200, [reading(90, reasons=bit), reading(150, reasons=bit)])


def test_what_was_before_the_nearest_reading_does_not_count():
    lowered = reading(10, reasons=CAP)
    assert not throttled(100, 200, [lowered, reading(90), reading(210), reading(220, 345, CAP)])


def test_a_clock_that_moves():
    assert throttled(100, 200, [reading(90, 1980), reading(210, 1755)])
    assert throttled(100, 200, [reading(90, 1755), reading(110, 1980), reading(210, 1755)])
    assert not throttled(100, 200, [reading(90, 1980), reading(210, 1950)])  # 1.5 %
    assert not throttled(100, 200, [reading(90, 345, IDLE), reading(150), reading(210, 345, IDLE)])


def test_where_nothing_was_read_nothing_speaks_against_it():
    assert not throttled(0, 10**9, [])
    far = 100 + REACH_NS + 1
    assert not throttled(far, far + 1, [reading(100, reasons=CAP)])
    assert throttled(far - 1, far + 1, [reading(100, reasons=CAP)])
