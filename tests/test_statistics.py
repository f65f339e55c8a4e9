"""Medians and their intervals, against known distributions and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from kernelprof.statistics import CONFIDENCE, estimate, half_width, median_interval

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
