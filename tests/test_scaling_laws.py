"""Laws of scaling, and whether fits find what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.errors import KernelprofError
from kernelprof.results import Estimate
from kernelprof.scaling import lost_s, speedup
from kernelprof.scaling_laws import (
    amdahl,
    fit_amdahl,
    fit_hockney,
    fit_usl,
    hockney,
    most_useful_threads,
    usl,
)

COUNTS = [1, 2, 4, 8, 16, 32, 64]
AT = np.array(COUNTS, dtype=float)
SHARES = st.floats(0.0, 1.0)
REPETITIONS = 200


@given(st.floats(1e-6, 1e3), SHARES)
def test_amdahl_speeds_up_by_one_with_one_thread_and_never_by_more_than_threads(one_s, serial):
    speed_up = amdahl(AT[:1], one_s, serial) / amdahl(AT, one_s, serial)
    assert speed_up[0] == pytest.approx(1.0)
    assert np.all(speed_up / AT <= 1 + 1e-12)
    assert np.all(np.diff(speed_up) >= -1e-9)


@given(st.floats(1e-6, 1e3), SHARES)
def test_without_coherence_the_universal_law_is_amdahls(one_s, serial):
    assert usl(AT, one_s, serial, 0.0) == pytest.approx(amdahl(AT, one_s, serial))


@given(st.floats(0.0, 0.5), st.floats(1e-6, 1e-2))
def test_more_than_the_most_useful_threads_are_slower(contention, coherence):
    most = most_useful_threads(contention, coherence)
    best, fewer, more = usl(np.array([most, most / 1.1, most * 1.1]), 1.0, contention, coherence)
    assert best <= fewer
    assert best <= more


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5), st.integers(2, 64))
def test_lost_time_adds_up(layers, threads):
    """What layers lose is what the network loses that consists of them."""
    later = [seconds / 2 for seconds in layers]
    apart = sum(lost_s(threads, t, 1, one) for t, one in zip(later, layers, strict=True))
    assert lost_s(threads, sum(later), 1, sum(layers)) == pytest.approx(apart, abs=1e-9)
    assert lost_s(threads, sum(layers) / threads, 1, sum(layers)) == pytest.approx(0, abs=1e-12)


def test_what_is_exact_is_found():
    found = fit_amdahl(COUNTS, list(amdahl(AT, 2.0, 0.07)))
    assert found["serial"].value == pytest.approx(0.07, abs=1e-6)
    assert found["one_s"].value == pytest.approx(2.0, rel=1e-6)
    assert found.seconds(128).value == pytest.approx(amdahl(np.array(128.0), 2.0, 0.07), rel=1e-5)
    found = fit_usl(COUNTS, list(usl(AT, 2.0, 0.07, 1e-3)))
    assert found["contention"].value == pytest.approx(0.07, abs=1e-6)
    assert found["coherence"].value == pytest.approx(1e-3, rel=1e-4)
    found = fit_hockney(COUNTS, list(hockney(AT, 0.5, 12.0)))
    assert found["half_batch"].value == pytest.approx(12.0, rel=1e-4)


def noisy(times, seed, noise):
    return list(times * np.exp(noise * np.random.default_rng(seed).standard_normal(len(times))))


def holds(found, truth):
    return found.low <= truth <= found.high


@pytest.mark.parametrize("noise", [0.01, 0.04])
@pytest.mark.parametrize("serial", [0.01, 0.05, 0.3])
def test_amdahls_interval_holds_the_serial_share_nine_times_of_ten(serial, noise):
    held = sum(
        holds(fit_amdahl(COUNTS, noisy(amdahl(AT, 1.0, serial), seed, noise))["serial"], serial)
        for seed in range(REPETITIONS)
    )
    assert 0.84 <= held / REPETITIONS <= 0.96


@pytest.mark.parametrize(("contention", "coherence"), [(0.05, 1e-4), (0.1, 1e-3)])
def test_the_universal_laws_intervals_hold_the_truth_nine_times_of_ten(contention, coherence):
    times = usl(AT, 1.0, contention, coherence)
    fits = [fit_usl(COUNTS, noisy(times, seed, 0.02)) for seed in range(REPETITIONS)]
    for name, truth in (("contention", contention), ("coherence", coherence)):
        assert 0.84 <= sum(holds(fit[name], truth) for fit in fits) / REPETITIONS <= 0.97


def test_the_interval_of_a_foretold_time_holds_it_nine_times_of_ten():
    truth = float(amdahl(np.array(128.0), 1.0, 0.05))
    fits = [
        fit_amdahl(COUNTS, noisy(amdahl(AT, 1.0, 0.05), seed, 0.03)) for seed in range(REPETITIONS)
    ]
    assert 0.84 <= sum(holds(fit.seconds(128), truth) for fit in fits) / REPETITIONS <= 0.96


@pytest.mark.parametrize("half_batch", [2.0, 20.0])
def test_hockneys_interval_holds_the_half_batch_nine_times_of_ten(half_batch):
    times = hockney(AT, 1.0, half_batch)
    fits = [fit_hockney(COUNTS, noisy(times, seed, 0.03)) for seed in range(REPETITIONS)]
    held = sum(holds(fit["half_batch"], half_batch) for fit in fits)
    assert 0.84 <= held / REPETITIONS <= 0.96


@pytest.mark.parametrize("fit", [fit_amdahl, fit_usl, fit_hockney])
def test_a_law_needs_five_points(fit):
    with pytest.raises(KernelprofError, match="4 points"):
        fit([1, 2, 4, 8], [1.0, 0.6, 0.4, 0.3])


def test_a_speed_up_is_less_sure_than_either_time():
    found = speedup(Estimate(2.0, 1.9, 2.1), Estimate(1.0, 0.9, 1.1))
    assert found.value == 2.0
    assert 2.0 / 1.1 > found.low > 1.9 / 1.1
    assert 2.0 / 0.9 < found.high < 2.1 / 0.9
