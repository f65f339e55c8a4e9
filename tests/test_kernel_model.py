"""One kernel at batches and thread counts that were not measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.forecast import BETWEEN, BEYOND
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.memory_bound import Activation
from kernelprof.probes.primitive import FORWARD
from kernelprof.results import Estimate
from kernelprof.unmeasured.kernel_model import Guess, Need, Point, at_batch, at_threads, need
from tests.planted_run import ceilings

SIZES = st.integers(1, 4096)


FAST, SLOW = 1e-12, 1e-11  # seconds of a byte


def wanted(batch, byte_s=SLOW):
    """A kernel of a million bytes a sample, which memory bounds."""
    return Need(0.0, ((batch * 10**6, byte_s),), batch * 1e-5)


def point(batch, seconds, spread=0.0, byte_s=SLOW):
    times = Estimate(seconds, seconds * (1 - spread), seconds * (1 + spread))
    return Point(batch, batch, wanted(batch, byte_s), times)


def line(batch, fixed=5e-6, core=2.0):
    """A time that the model can describe."""
    return fixed + core * batch * 1e-6 + batch * 1e-6


@given(SIZES, SIZES, SIZES, st.floats(0, 1e-4), st.floats(0, 50))
def test_a_kernel_with_a_fixed_cost_is_exact_between_and_beyond(first, second, third, fixed, core):
    if max(first, second) < 2 * min(first, second):
        return  # of batches so near to each other nothing can be foretold far beyond
    points = [point(batch, line(batch, fixed, core)) for batch in (first, second)]
    found = at_batch(points, third, wanted(third), 0.0)
    # a fixed cost that does not stand out from the noise of the samples is partly given up
    assert found.seconds == pytest.approx(line(third, fixed, core), rel=0.25)
    if min(first, second) <= third <= max(first, second):
        assert found.seconds == pytest.approx(line(third, fixed, core), rel=1e-6)


def test_the_basis_tells_between_from_beyond():
    points = [point(batch, line(batch)) for batch in (16, 64)]
    assert at_batch(points, 32, wanted(32), 0.0).basis == BETWEEN
    beyond = at_batch(points, 256, wanted(256), 0.0)
    assert (beyond.basis, beyond.doublings) == (BEYOND, 2.0)
    assert at_batch(points, 4, wanted(4), 0.0).doublings == 2.0


def test_one_batch_keeps_its_efficiency_but_for_the_fixed_cost():
    one = [point(32, line(32))]
    found = at_batch(one, 64, wanted(64), 5e-6)
    assert found.seconds == pytest.approx(line(64))
    assert at_batch(one, 64, wanted(64), 0.0).seconds == pytest.approx(2 * line(32))


def test_more_work_never_takes_less_time():
    noisy = [point(16, 50e-6, 0.1), point(32, 45e-6, 0.1), point(64, 100e-6, 0.1)]
    times = [at_batch(noisy, b, wanted(b), 0.0).seconds for b in (8, 16, 20, 32, 48, 64, 128)]
    assert times == sorted(times)


def test_noise_makes_a_fixed_cost_doubtful():
    """What does not stand out from the noise is taken in proportion to the work."""
    sure = at_batch([point(16, 53e-6, 0.001), point(32, 101e-6, 0.001)], 64, wanted(64), 0.0)
    unsure = at_batch([point(16, 53e-6, 0.5), point(32, 101e-6, 0.5)], 64, wanted(64), 0.0)
    assert sure.seconds == pytest.approx(197e-6, rel=0.01)
    assert unsure.seconds == pytest.approx(202e-6, rel=0.01)


def test_superlinear_times_do_not_imply_a_fixed_cost_below_zero():
    found = at_batch([point(16, 20e-6), point(32, 100e-6)], 64, wanted(64), 0.0)
    assert found.seconds == pytest.approx(200e-6)


def test_where_data_falls_out_of_a_cache_only_what_memory_asks_for_changes():
    slow = point(32, 1e-3, byte_s=FAST)
    found = at_batch([slow], 64, wanted(64, SLOW), 0.0)
    assert found.seconds == pytest.approx(2e-3 + 64e6 * (SLOW - FAST))
    back = at_batch([point(64, found.seconds)], 32, wanted(32, FAST), 0.0)
    assert back.seconds == pytest.approx(1e-3)


def test_between_two_levels_of_memory_the_step_is_where_it_is():
    near, far = point(16, 16e-5, byte_s=FAST), point(64, 64e-5 + 64e6 * (SLOW - FAST))
    at_32 = {byte_s: at_batch([near, far], 32, wanted(32, byte_s), 0.0) for byte_s in (FAST, SLOW)}
    assert at_32[SLOW].seconds - at_32[FAST].seconds == pytest.approx(32e6 * (SLOW - FAST))


def test_weights_that_stay_are_no_work_that_grows():
    known = ceilings((1,))
    few, many = (need((Gemm(m, 512, 512),), (FORWARD,), 1, known) for m in (16, 64))
    assert many.growth(few) == pytest.approx(4)  # arithmetic bounds it, though weights are large
    few, many = (need((Gemm(m, 4096, 4096),), (FORWARD,), 1, known) for m in (1, 2))
    assert many.growth(few) == pytest.approx(1, abs=0.01)


@given(SIZES, SIZES)
def test_work_grows_with_the_batch(rows, more):
    known = ceilings((1,))
    gemm = [need((Gemm(m, 64, 64),), (FORWARD,), 1, known).work_s for m in (rows, rows + more)]
    relu = [
        need((Activation("relu", n),), (FORWARD,), 1, known).work_s for n in (rows, rows + more)
    ]
    assert gemm[0] < gemm[1]
    assert relu[0] < relu[1]


def guesses(times):
    return {threads: Guess(seconds, {threads: seconds}) for threads, seconds in times.items()}


def amdahl_time(threads, serial=0.1):
    return serial + (1 - serial) / threads


class TestThreads:
    """More threads take no more time, and no more efficiency."""

    def test_between_two_counts_the_bounds_hold_amdahls_law(self):
        found = at_threads(guesses({n: amdahl_time(n) for n in (1, 8)}), 4, {})
        assert found.low_s <= amdahl_time(4) <= found.high_s
        assert found.seconds == pytest.approx(amdahl_time(4), rel=0.2)

    def test_beyond_five_counts_it_is_amdahls_law(self):
        measured = guesses({n: amdahl_time(n) for n in (1, 2, 4, 8, 16)})
        found = at_threads(measured, 64, {})
        assert found.seconds == pytest.approx(amdahl_time(64), rel=1e-3)
        assert found.basis == BEYOND

    def test_beyond_fewer_it_follows_the_ceilings_between_no_gain_and_all(self):
        least_s = {1: 1.0, 2: 0.5, 8: 0.2}
        found = at_threads(guesses({1: 2.0, 2: 1.2}), 8, least_s)
        assert found.seconds == pytest.approx(1.2 * 0.2 / 0.5)
        assert found.low_s == pytest.approx(1.2 * 2 / 8)
        assert found.high_s == pytest.approx(1.2)

    @given(st.floats(0, 1), st.integers(2, 63))
    def test_whatever_the_serial_share_the_bounds_hold_the_truth(self, serial, threads):
        found = at_threads(guesses({n: amdahl_time(n, serial) for n in (1, 64)}), threads, {})
        assert found.low_s * (1 - 1e-9) <= amdahl_time(threads, serial)
        assert amdahl_time(threads, serial) <= found.high_s * (1 + 1e-9)
