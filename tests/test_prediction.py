"""Predictions from planted samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.prediction import CallCost, call_cost, kernels_ns, paired_ratios, predicted_ns
from kernelprof.runfile import WHOLE


def chain_of(count: int, per_call_ns: float, per_kernel_ns: float, kernel_ns: float = 1000.0):
    """A chain's samples over five rounds, the last of them disturbed."""
    kernels = dict.fromkeys(range(count), kernel_ns)
    whole = count * (kernel_ns + per_kernel_ns) + per_call_ns
    rounds = {round_: {WHOLE: whole, **kernels} for round_ in range(5)}
    rounds[4][WHOLE] *= 10
    return ["gemm"] * count, rounds


@given(st.floats(0, 1e6), st.floats(-900, 1e5))
def test_a_planted_line_is_found(per_call_ns, per_kernel_ns):
    found = call_cost([chain_of(n, per_call_ns, per_kernel_ns) for n in (4, 6, 10)])
    assert found.per_call_ns == pytest.approx(per_call_ns, rel=1e-6, abs=1e-3)
    assert found.per_kernel_ns == pytest.approx(per_kernel_ns, rel=1e-6, abs=1e-3)
    assert found.ns(["gemm"] * 20) == pytest.approx(
        per_call_ns + 20 * per_kernel_ns, rel=1e-6, abs=1e-2
    )


def test_one_chain_counts_per_call():
    assert call_cost([chain_of(4, 500.0, 25.0)]) == CallCost(600.0, 0.0)


def test_no_chain_costs_nothing():
    assert call_cost([]) == CallCost()
    assert call_cost([(["gemm"], {})]) == CallCost()
    assert CallCost().ns(["gemm"] * 1000) == 0


def test_a_chain_without_rounds_is_left_out():
    assert call_cost([(["gemm"], {}), chain_of(4, 500.0, 0.0)]) == CallCost(500.0, 0.0)


def test_the_network_itself_is_not_part_of_its_prediction():
    assert kernels_ns({WHOLE: 1e9, 0: 2.0, 1: 3.0}) == 5
    without = {0: {0: 2.0, 1: 3.0}}

    def four(sample):
        return 4.0

    assert predicted_ns({0: {WHOLE: 1e9, **without[0]}}, four) == predicted_ns(without, four)
    assert predicted_ns({0: {WHOLE: 1e9}}, four) == {}


def test_a_prediction_sums_within_rounds():
    # Each kernel is slow in one round of three: medians of kernels would sum to 3, not to 12.
    rounds = {
        0: {0: 10.0, 1: 1.0, 2: 1.0},
        1: {0: 1.0, 1: 10.0, 2: 1.0},
        2: {0: 1.0, 1: 1.0, 2: 10.0},
    }
    assert predicted_ns(rounds, lambda sample: 100.0) == {0: 112.0, 1: 112.0, 2: 112.0}


def test_a_gain_cannot_make_time_negative():
    assert predicted_ns({0: {0: 10.0}}, lambda sample: -50.0) == {0: 0.0}


def test_ratios_are_paired_by_round():
    rounds = {0: {WHOLE: 10.0, 0: 4.0, 1: 4.0}, 1: {WHOLE: 20.0, 0: 16.0}, 2: {0: 1.0}}
    assert paired_ratios(rounds) == [0.8, 0.8]
    assert paired_ratios({0: {WHOLE: 1.0}}) == []


def test_a_kind_of_its_own_cost_is_told_from_the_rest():
    def chain(products, convolutions):
        kinds = ["gemm"] * products + ["conv2d"] * convolutions
        kernels = dict.fromkeys(range(len(kinds)), 1000.0)
        whole = sum(kernels.values()) + 500 + 20 * products - 300 * convolutions
        return kinds, {round_: {WHOLE: whole, **kernels} for round_ in range(3)}

    found = call_cost([chain(2, 0), chain(6, 0), chain(3, 1), chain(5, 4)])
    assert found.per_call_ns == pytest.approx(500)
    assert found.per_kernel_ns == pytest.approx(20)
    assert found.by_kind_ns == pytest.approx({"conv2d": -300})
    assert found.ns(["gemm", "conv2d", "pool2d"]) == pytest.approx(500 - 300 + 2 * 20)
