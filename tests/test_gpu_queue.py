"""The queue between CPU and GPU: against a simulation event by event, and by its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.gpu.queue import Call
from tests.planted_gpu import simulated

TIMES = st.floats(0, 1e6)
KERNELS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=12)
COUNTS = st.integers(1, 6)


@st.composite
def some_calls(draw: st.DrawFn) -> Call:
    host_ns, device_ns = zip(*draw(KERNELS), strict=True)
    return Call(host_ns, device_ns, draw(TIMES))


@given(some_calls(), COUNTS)
def test_it_is_what_happens_event_by_event(call: Call, calls: int) -> None:
    done_ns, idle_ns = simulated(call.host_ns, call.device_ns, call.lead_ns, calls)
    assert call.finished_ns(calls) == pytest.approx(done_ns, rel=1e-9, abs=1e-3)
    assert list(call.gaps_ns(calls)) == pytest.approx(idle_ns, rel=1e-9, abs=1e-2)


@given(some_calls(), COUNTS)
def test_it_is_never_less_than_what_either_side_takes(call: Call, calls: int) -> None:
    slack = 1 + 1e-9
    assert call.finished_ns(calls) * slack >= calls * call.host_sum_ns
    assert call.finished_ns(calls) * slack >= calls * call.device_sum_ns


@given(some_calls(), COUNTS)
def test_behind_a_cpu_that_needs_no_time_only_the_first_launch_is_waited_for(
    call: Call, calls: int
) -> None:
    first_ns = call.lead_ns + call.host_ns[0]
    fast = replace(call, host_ns=[first_ns] + [0.0] * (len(call.host_ns) - 1), lead_ns=0.0)
    if first_ns > fast.device_sum_ns:  # the launch itself is what later calls wait for
        assert fast.finished_ns(calls) == pytest.approx(calls * first_ns + fast.device_sum_ns)
    else:
        assert fast.finished_ns(calls) == pytest.approx(first_ns + calls * fast.device_sum_ns)


@given(some_calls(), COUNTS)
def test_a_gpu_that_needs_no_time_takes_what_the_cpu_does(call: Call, calls: int) -> None:
    fast = replace(call, device_ns=[0.0] * len(call.device_ns))
    assert fast.finished_ns(calls) == pytest.approx(calls * call.host_sum_ns)


@given(some_calls(), COUNTS, st.data(), TIMES)
def test_more_work_on_either_side_never_ends_earlier(
    call: Call, calls: int, data: st.DataObject, more_ns: float
) -> None:
    place = data.draw(st.integers(0, len(call.host_ns) - 1))
    before = call.finished_ns(calls) * (1 - 1e-9)
    for side in ("host_ns", "device_ns"):
        slower = list(getattr(call, side))
        slower[place] += more_ns
        assert replace(call, **{side: slower}).finished_ns(calls) >= before
    assert replace(call, lead_ns=call.lead_ns + more_ns).finished_ns(calls) >= before


@given(some_calls(), COUNTS)
def test_a_call_more_takes_what_the_slower_side_does(call: Call, calls: int) -> None:
    more_ns = call.finished_ns(calls + 1) - call.finished_ns(calls)
    assert more_ns == pytest.approx(max(call.host_sum_ns, call.device_sum_ns), rel=1e-6, abs=1e-3)


@given(some_calls(), COUNTS)
def test_work_and_idling_make_up_the_last_call(call: Call, calls: int) -> None:
    last_ns = call.finished_ns(calls) - (call.finished_ns(calls - 1) if calls > 1 else 0.0)
    own_ns = float(call.gaps_ns(calls).sum()) + call.device_sum_ns
    assert own_ns == pytest.approx(last_ns, rel=1e-6, abs=1e-2)


def test_a_call_without_kernels_is_the_cpus_alone() -> None:
    empty = Call((), (), lead_ns=5.0)
    assert (empty.finished_ns(3), list(empty.gaps_ns(3))) == (15.0, [])
    assert empty.finished_ns(0) == 0.0


def test_kernels_have_two_sides() -> None:
    with pytest.raises(AssertionError, match="one side only"):
        Call((1.0,), ())
