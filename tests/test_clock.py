"""Timing on a fake clock that moves only when told, so that durations are exact."""

from __future__ import annotations

import weakref
from itertools import count
from typing import Any

import pytest

from kernelprof.probes.clock import (
    HARNESS_SHARE,
    ClockFacts,
    calls_per_sample,
    clock_facts,
    time_block,
    turns,
    warm_up,
)


class FakeClock:
    """Stands still between what advances it; reading it may take time too."""

    def __init__(self, reading_ns: int = 0) -> None:
        self.ns = 1_000
        self.reading_ns = reading_ns

    def __call__(self) -> int:
        self.ns += self.reading_ns
        return self.ns


class Work:
    """A call that takes some nanoseconds of a fake clock and returns a fresh result."""

    def __init__(self, clock: FakeClock, ns: int) -> None:
        self.clock = clock
        self.ns = ns
        self.calls = 0

    def __call__(self) -> list[int]:
        self.calls += 1
        self.clock.ns += self.ns
        return [self.calls]


@pytest.mark.parametrize("calls", [1, 2, 10, 11, 12, 99, 100, 101, 102, 111, 112, 1001, 1234])
def test_block_counts_its_calls(calls: int) -> None:
    """And reads the clock twice, before the first call and after the last."""
    clock = FakeClock(reading_ns=3)
    work = Work(clock, 7)
    held: list[Any] = [None, None, "other"]
    assert time_block(work, calls, held, 1, now=clock) == 7 * calls + 3
    assert work.calls == calls
    assert held == [None, [calls], "other"]


def test_results_are_released_and_finish_called_inside_the_block() -> None:
    clock = FakeClock()
    work = Work(clock, 7)

    class Result:
        """Takes a while to free."""

    def make(ns: int) -> Result:
        result = Result()
        weakref.finalize(result, advance, ns)
        return result

    def advance(ns: int) -> None:
        clock.ns += ns

    held: list[Any] = [make(1_000), make(20_000), None, make(300_000)]
    duration = time_block(work, 2, held, 2, (0, 3), lambda: advance(4_000_000), now=clock)
    assert duration == 14 + 1_000 + 300_000 + 4_000_000
    assert held[0] is held[3] is None
    assert isinstance(held[1], Result)
    assert held[2] == [2]


def test_a_result_may_release_itself() -> None:
    """Nobody reads it: it is dropped after its own call."""
    held: list[Any] = ["before"]
    clock = FakeClock()
    time_block(Work(clock, 1), 1, held, 0, (0,), now=clock)
    assert held == [None]


def test_facts_of_a_clock_are_what_it_does() -> None:
    """Every reading takes 40 ns: that is its resolution and an empty block's time."""
    facts = clock_facts(FakeClock(reading_ns=40))
    assert facts.resolution_ns == 40
    assert facts.block_ns == 40
    assert facts.loop_ns == pytest.approx(40 / 4096)


def test_resolution_is_the_smallest_step() -> None:
    """A clock that ticks every 1000 ns, on every tenth reading."""
    readings = count()
    assert clock_facts(lambda: next(readings) // 10 * 1_000).resolution_ns == 1_000


def test_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not advance"):
        clock_facts(lambda: 5)


def test_facts_of_the_real_clock_are_sane() -> None:
    facts = clock_facts()
    assert 0 < facts.resolution_ns < 1e6
    assert 0 < facts.block_ns < 1e5
    assert 0 < facts.loop_ns < 1e3


FACTS = ClockFacts(resolution_ns=40, block_ns=300.0, loop_ns=8.0)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [(1, 0), (2, 1), (10, 9), (11, 1), (101, 1), (112, 3), (1234, 18)],
)
def test_turns_of_the_loops(calls: int, expected: int) -> None:
    assert turns(calls) == expected
    assert FACTS.harness_ns(calls) == 300 + 8 * expected


@pytest.mark.parametrize("call_ns", [300.0, 1_000.0, 1_234.5, 1e4, 1e5, 3e5, 1e6, 1e9])
def test_samples_keep_the_harness_small(call_ns: float) -> None:
    calls = calls_per_sample(call_ns, FACTS)
    assert FACTS.harness_ns(calls) < HARNESS_SHARE * calls * call_ns


def test_calls_may_turn_out_twice_as_fast() -> None:
    calls = calls_per_sample(1e4, FACTS)
    assert FACTS.harness_ns(calls) < HARNESS_SHARE * calls * 5.2e3


def test_samples_are_no_longer_than_they_must_be() -> None:
    assert calls_per_sample(1e6, FACTS) == 1
    assert calls_per_sample(1e9, FACTS) == 1
    assert calls_per_sample(1e4, FACTS) <= 101


def test_coarse_clock_makes_long_samples() -> None:
    """At least a hundred ticks, however cheap the harness is."""
    coarse = ClockFacts(resolution_ns=1_000_000, block_ns=1.0, loop_ns=0.001)
    assert calls_per_sample(1e5, coarse) == 1_001
    assert calls_per_sample(3e5, coarse) == 401


@pytest.mark.parametrize("call_ns", [0.0, 0.4])
def test_call_of_no_time_makes_a_finite_sample(call_ns: float) -> None:
    assert 1 <= calls_per_sample(call_ns, FACTS) < 10**8


def warmed(durations: list[int], budget_ns: int) -> list[int]:
    ran = iter(durations)
    return warm_up(lambda: next(ran), budget_ns)


def test_warm_up_ends_when_three_calls_bring_nothing() -> None:
    assert warmed([900, 500, 490, 480, 477, 1], budget_ns=10**9) == [900, 500, 490, 480, 477]


def test_a_better_time_starts_the_count_anew() -> None:
    durations = [900, 800, 790, 785, 700, 699, 698, 697, 1]
    assert warmed(durations, budget_ns=10**9) == durations[:-1]


def test_improvements_below_five_per_cent_count_as_steady() -> None:
    durations = [1_000, 960, 921, 884, 848]
    assert warmed(durations, budget_ns=10**9) == durations[:4]


def test_warm_up_ends_with_its_budget() -> None:
    durations = [900, 800, 700, 600, 500, 400, 300]
    assert warmed(durations, budget_ns=3_400) == durations[:5]


def test_warm_up_makes_two_calls_whatever_they_cost() -> None:
    assert warmed([900, 800, 700, 600, 500], budget_ns=0) == [900, 800]
