"""Medians and their intervals, against known distributions and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from kernelprof.probes.clock import time_block
from kernelprof.results import Ratio
from kernelprof.statistics import (
    CONFIDENCE,
    compare,
    estimate,
    half_width,
    median_interval,
    ratio_interval,
)

SKEWED = {
    "normal": (lambda random, size: random.normal(3.0, 1.0, size), 3.0),
    "exponential": (lambda random, size: random.exponential(1.0, size), np.log(2)),
    "heavy tail": (lambda random, size: random.pareto(1.1, size), 2 ** (1 / 1.1) - 1),
}
TRIALS = 3000


@pytest.mark.parametrize("name", SKEWED)
@pytest.mark.parametrize("count", [6, 9, 15, 30, 60])
def test_the_interval_holds_the_median_as_often_as_it_says(name, count):
    draw, truth = SKEWED[name]
    samples = draw(np.random.default_rng(count), (TRIALS, count))
    held = 0
    for sample in samples:
        _, low, high = median_interval(sample)
        held += low <= truth <= high
    # Three standard deviations of a share of TRIALS; an order statistic more would be too many.
    noise = 3 * (CONFIDENCE * (1 - CONFIDENCE) / TRIALS) ** 0.5
    assert held / TRIALS >= CONFIDENCE - noise
    assert held / TRIALS <= exact_coverage(count) + noise


def exact_coverage(count: int) -> float:
    """Of the narrowest symmetric interval of order statistics that reaches the confidence."""
    for cut in range((count - 1) // 2, 0, -1):
        coverage = 1 - 2 * float(binom.cdf(cut, count, 0.5))
        if coverage >= CONFIDENCE:
            return coverage
    return 1 - 2 * 0.5**count


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # The largest low for which P(fewer than low of count coins fall heads) <= 0.05.
    [(1, 1, 1), (2, 1, 2), (5, 1, 5), (6, 1, 6), (8, 2, 7), (10, 2, 9), (15, 4, 12), (20, 6, 15)],
)
def test_by_hand(count, low, high):
    values = list(range(1, count + 1))[::-1]
    assert median_interval(values) == ((count + 1) / 2, low, high)


def test_a_wider_confidence_is_a_wider_interval():
    values = range(1, 61)
    assert median_interval(values, 0.99)[1] < median_interval(values, 0.5)[1]


def test_ties():
    assert median_interval([2.0] * 9) == (2.0, 2.0, 2.0)
    assert half_width([2.0] * 9) == 0


def test_one_value():
    assert median_interval([3.5]) == (3.5, 3.5, 3.5)


@pytest.mark.parametrize("function", [median_interval, estimate, half_width])
def test_no_value(function):
    with pytest.raises(ValueError, match="no values"):
        function([])


def test_half_width():
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx((5 - 1) / 2 / 3)
    assert half_width([-1.0, 0.0, 1.0]) == float("inf")


def test_an_estimate_is_in_seconds():
    found = estimate([3.0, 1.0, 2.0])
    assert (found.value_s, found.low_s, found.high_s) == (2.0, 1.0, 3.0)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=50), st.randoms())
def test_order_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert median_interval(values) == median_interval(shuffled)
    middle, low, high = median_interval(values)
    assert low <= middle <= high
    assert {low, high} <= set(values)


class TestEstimate:
    """Beside the median: how far rounds scatter, the fastest, and what processes differ in."""

    def test_deviation_and_least(self):
        found = estimate([5.0, 1.0, 2.0, 3.0, 100.0])
        assert (found.mad_s, found.least_s) == (2.0, 1.0)  # of 2, 2, 1, 0, 97

    @given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30), st.floats(0.1, 10))
    def test_it_scales(self, values, factor):
        once, scaled = estimate(values), estimate([factor * value for value in values])
        assert scaled.mad_s == pytest.approx(factor * once.mad_s)
        assert scaled.least_s == pytest.approx(factor * once.least_s)

    def test_two_modes_are_both_in_the_interval_of_their_processes(self):
        """A process is fast or slow for as long as it lives: where its memory lies, say."""
        fast, slow = [1.0, 1.01, 1.02] * 5, [1.2, 1.21, 1.22] * 3
        blind = estimate(fast + slow)
        found = estimate(fast + slow, [1] * len(fast) + [2] * len(slow))
        assert blind.high_s < 1.21
        assert (found.low_s, found.high_s) == (1.01, 1.21)
        assert found.value_s == blind.value_s

    def test_one_process_is_no_reason_to_widen(self):
        values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
        assert estimate(values, [4] * len(values)) == estimate(values)


class TestRatios:
    """Ratios that are paired by round."""

    @pytest.mark.parametrize("count", [10, 30])
    def test_the_interval_holds_the_median_about_as_often_as_it_says(self, count):
        random = np.random.default_rng(count)
        held = 0
        for _ in range(300):
            found = ratio_interval(random.lognormal(np.log(1.3), 0.1, count))
            held += found.low <= 1.3 <= found.high
        # A percentile bootstrap of few values is a little off; far from it would be a mistake.
        assert 0.84 <= held / 300 <= 0.97

    def test_it_says_the_same_again(self):
        values = list(np.random.default_rng(1).lognormal(0, 0.1, 12))
        assert ratio_interval(values) == ratio_interval(values)

    def test_one_and_none(self):
        assert ratio_interval([1.5]) == Ratio(1.5, 1.5, 1.5)
        with pytest.raises(ValueError, match="no ratios"):
            ratio_interval([])


class TestCompare:
    """The paired test, against planted noise."""

    TRIALS = 2000

    def alarms(self, effect: float, processes: int, level: float) -> float:
        """The share of trials called different: noise of processes, and of their rounds."""
        random = np.random.default_rng(processes)
        called = 0
        for _ in range(self.TRIALS):
            shifts = random.normal(effect, 0.01, processes)
            rounds = [np.exp(random.normal(shift, 0.02, 12)) for shift in shifts]
            called += compare(rounds, level).differs(level)
        return called / self.TRIALS

    @pytest.mark.parametrize("processes", [3, 5, 10])
    def test_equal_things_are_called_different_as_often_as_the_level_says(self, processes):
        noise = 3 * (0.05 * 0.95 / self.TRIALS) ** 0.5
        assert self.alarms(0.0, processes, 0.05) == pytest.approx(0.05, abs=noise)

    def test_what_differs_much_is_called_different(self):
        assert self.alarms(0.1, 5, 0.01) > 0.95

    def test_rounds_of_one_process_do_not_make_sure(self):
        """A hundred rounds of two processes that differ by chance are two observations."""
        with pytest.raises(ValueError, match="3 needed"):
            compare([[1.05] * 100, [1.04] * 100], 0.01)

    def test_the_interval_agrees_with_the_test(self):
        random = np.random.default_rng(3)
        for effect in (0.0, 0.01, 0.02, 0.05):
            found = compare(np.exp(random.normal(effect, 0.01, (5, 12))), 0.05)
            assert found.differs(0.05) == (not found.ratio.low <= 1 <= found.ratio.high)


class Machine:
    """A clock that goes on only while something runs, on a machine whose speed changes."""

    def __init__(self, slowness) -> None:
        self.slowness = slowness  # by time
        self.now_ns = 0

    def now(self) -> int:
        return self.now_ns

    def sample(self, work_ns: float) -> float:
        """Nanoseconds of a call in a timed block, by the real timing loop."""

        def call() -> None:
            self.now_ns += round(work_ns * self.slowness(self.now_ns))

        return time_block(call, 10, [None], 0, now=self.now) / 10


FAST_NS, SLOW_NS = 1e6, 1.3e6
TRUE_RATIO = SLOW_NS / FAST_NS


def sampled(machine: Machine, rounds: int, interleaved: bool) -> tuple[list[float], list[float]]:
    """Both calls in rounds, or one after the other."""
    if interleaved:
        pairs = [(machine.sample(FAST_NS), machine.sample(SLOW_NS)) for _ in range(rounds)]
        return [a for a, _ in pairs], [b for _, b in pairs]
    first = [machine.sample(FAST_NS) for _ in range(rounds)]
    return first, [machine.sample(SLOW_NS) for _ in range(rounds)]


class TestPlanted:
    """What noisy machines do, with a fake clock: exact, and without waiting."""

    def drifting(self) -> Machine:
        """It gets 40 % slower over the measurement."""
        return Machine(lambda ns: 1 + 0.4 * ns / 700e6)

    def test_drift_cancels_out_in_pairs(self):
        first, second = sampled(self.drifting(), 30, interleaved=True)
        found = ratio_interval([b / a for a, b in zip(first, second, strict=True)])
        assert found.value == pytest.approx(TRUE_RATIO, rel=0.02)
        assert (found.high - found.low) / found.value < 0.01

    def test_drift_spoils_what_is_measured_one_after_the_other(self):
        first, second = sampled(self.drifting(), 30, interleaved=False)
        assert np.median(second) / np.median(first) > 1.1 * TRUE_RATIO

    @pytest.mark.parametrize("factor", [3.0, 50.0])
    def test_spikes_move_neither_median_nor_ratio(self, factor):
        random = np.random.default_rng(5)
        spiky = Machine(lambda ns: factor if random.random() < 0.01 else 1.0)
        first, second = sampled(spiky, 60, interleaved=True)
        assert estimate(first).value_s == pytest.approx(FAST_NS)
        assert np.mean(first) > 1.02 * FAST_NS  # as an average would have it
        found = ratio_interval([b / a for a, b in zip(first, second, strict=True)])
        assert found.value == pytest.approx(TRUE_RATIO)

    def test_two_speeds_show_in_interval_and_deviation(self):
        """A machine that is fast and slow in turns has no one time, and the estimate says so."""
        bimodal = Machine(lambda ns: 1.0 if (ns // 200_000_000) % 2 else 1.5)
        first, _ = sampled(bimodal, 40, interleaved=True)
        found = estimate(first)
        assert found.low_s == pytest.approx(FAST_NS, rel=0.01)
        assert found.high_s == pytest.approx(1.5 * FAST_NS, rel=0.01)
        assert half_width(first) > 0.15
