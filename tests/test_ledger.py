"""The ledger: it adds up, counts nothing twice, and finds what is planted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.diagnosis.ledger import (
    CALLING,
    COPIES,
    FAULTS,
    FEEDING,
    IDLE,
    KERNELS,
    PARTS,
    RESIDUAL,
    TIMER,
    UPDATING,
    Known,
    Ledger,
    Usual,
    ledger,
    usual,
)
from kernelprof.diagnosis.own_times import OwnTimes, own_times, typical
from kernelprof.probes.spans import COPY, DISPATCH, KERNEL, UPDATE, WHATS, Span

LAYERS = ("", "conv", "fc")
MOMENTS = st.integers(0, 1000)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = draw(MOMENTS)
    name = draw(st.sampled_from(["a", "b"]))
    layer, what = draw(st.sampled_from(LAYERS)), draw(st.sampled_from(WHATS))
    return Span(name, layer, what, start, start + draw(MOMENTS), draw(st.integers(0, 2)))


SECONDS = st.floats(0, 1e-6)
KNOWN = st.builds(
    Known,
    plain_s=st.floats(1e-8, 2e-6),
    usual=st.builds(
        Usual,
        st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 500)),
        st.floats(0, 500),
        st.floats(0, 50),
        st.floats(0, 500),
    ),
    reorders_s=st.dictionaries(st.sampled_from(LAYERS), SECONDS),
    faults_s=st.dictionaries(st.sampled_from(LAYERS), SECONDS),
    least_s=st.dictionaries(st.sampled_from(LAYERS), SECONDS),
    idle_s=SECONDS,
    timer_s=SECONDS,
)


@given(st.integers(1, 1500), st.lists(spans(), max_size=20))
def test_every_instant_of_a_call_counts_once(duration_ns: int, some: list[Span]) -> None:
    times = own_times(duration_ns, some)
    total = sum(times.by_owner.values()) + times.lead_ns + times.gap_ns
    assert total == pytest.approx(duration_ns)
    assert min([times.lead_ns, times.gap_ns, *times.by_owner.values()]) >= 0


@given(st.integers(1, 1500), st.lists(spans(), max_size=20))
def test_it_is_the_innermost_operation_that_an_instant_belongs_to(
    duration_ns: int, some: list[Span]
) -> None:
    clipped = [span for span in some if span.start_ns < min(span.end_ns, duration_ns)]
    ordered = sorted(clipped, key=lambda span: (span.start_ns, -min(span.end_ns, duration_ns)))
    expected: dict[tuple[str, str, str], int] = {}
    for moment in range(duration_ns):
        going = [span for span in ordered if span.start_ns <= moment < span.end_ns]
        if going:
            owner = going[-1].layer, going[-1].what, going[-1].name
            expected[owner] = expected.get(owner, 0) + 1
    found = {tuple(owner): ns for owner, ns in own_times(duration_ns, some).by_owner.items() if ns}
    assert found == pytest.approx(expected)


@given(st.integers(1, 1500), st.lists(spans(), max_size=20), KNOWN, st.floats(1e-8, 1.0))
def test_parts_add_up_to_the_measured_time_and_none_but_the_residual_is_negative(
    duration_ns: int, some: list[Span], known: Known, measured_s: float
) -> None:
    found = ledger(own_times(duration_ns, some), measured_s, known)
    assert sum(part.seconds for part in found.parts) == pytest.approx(measured_s)
    tiny = -1e-9 * measured_s
    assert all(part.seconds >= tiny for part in found.parts if part.part != RESIDUAL)
    assert found.seconds(RESIDUAL) >= tiny  # what is not known is missing, and never too much


def test_nested_operations_count_their_own_time() -> None:
    inner = Span("sgemm", "fc", KERNEL, 20, 80)
    times = own_times(100, [Span("linear", "fc", DISPATCH, 10, 90), inner])
    assert times.by_owner == {("fc", DISPATCH, "linear"): 20, ("fc", KERNEL, "sgemm"): 60}
    assert (times.lead_ns, times.gap_ns) == (10, 10)


def test_threads_that_work_at_the_same_time_share_the_clock_on_the_wall() -> None:
    some = [Span("a", "x", KERNEL, 0, 100, thread=1), Span("b", "y", KERNEL, 40, 60, thread=2)]
    by_owner = own_times(100, some).by_owner
    assert by_owner == {("x", KERNEL, "a"): 80, ("y", KERNEL, "b"): 20}


def test_the_typical_call_is_a_quiet_one_and_adds_up() -> None:
    calls = [own_times(n, [Span("a", "x", KERNEL, 0, n // 2)]) for n in (100, 104, 1000)]
    found = typical(calls)
    assert found.duration_ns == 102
    assert sum(found.by_owner.values()) == 51
    with pytest.raises(ValueError, match="no calls"):
        typical([])


def planted(profiler_ns: int = 0, feed_ns: int = 0) -> OwnTimes:
    """A call of two layers, each with a copy before it, and an update."""
    some, now = [], 1_000 + feed_ns
    for layer in ("conv", "fc"):
        for name, what, ns in (("copy_", COPY, 2_000), ("kernel", KERNEL, 10_000)):
            now += 500 + profiler_ns
            some.append(Span(name, layer, what, now, now + ns))
            now += ns
    now += 500 + profiler_ns
    some.append(Span("sgd", "", UPDATE, now, now + 3_000))
    return own_times(now + 3_000, some)


TRUTH_S = (1_000 + 5 * 500 + 2 * 12_000 + 3_000) * 1e-9
USUAL = Usual({}, lead_ns=1_500, gap_ns=500)


def by_part(found: Ledger) -> dict[str, float]:
    return {part: round(found.seconds(part) * 1e9) for part in PARTS}


@pytest.mark.parametrize("profiler_ns", [0, 300])
def test_the_truth_is_found_whatever_the_profiler_costs(profiler_ns: int) -> None:
    found = ledger(planted(profiler_ns), TRUTH_S, Known(TRUTH_S, USUAL))
    expected = {KERNELS: 20_000, COPIES: 4_000, UPDATING: 3_000, CALLING: 3_500}
    assert by_part(found) == {**dict.fromkeys(PARTS, 0), **expected}
    assert found.in_network_s == pytest.approx({"conv": 12e-6, "fc": 12e-6})
    assert found.profiler_share == pytest.approx(5 * profiler_ns * 1e-9 / TRUTH_S)


def test_time_before_the_first_operation_beyond_the_usual_feeds() -> None:
    measured_s = TRUTH_S + 7e-6
    found = by_part(ledger(planted(feed_ns=7_000), measured_s, Known(measured_s, USUAL)))
    assert found[FEEDING] == 7_000
    assert found[CALLING] == 3_500
    sleeping = Known(measured_s, USUAL, idle_s=7e-6)
    assert by_part(ledger(planted(feed_ns=7_000), measured_s, sleeping))[FEEDING] == 7_000
    assert by_part(ledger(planted(feed_ns=7_000), measured_s, sleeping))[IDLE] == 0


def test_gaps_that_calling_does_not_explain_are_residual_or_idle() -> None:
    usual = Usual({}, lead_ns=1_500, gap_ns=100)
    found = ledger(planted(), TRUTH_S, Known(TRUTH_S, usual, timer_s=1e-7))
    assert by_part(found)[RESIDUAL] == 4 * 500 - 5 * 100 - 100
    assert by_part(found)[TIMER] == 100
    assert found.is_known == (1_400e-9 / TRUTH_S <= 0.05)
    idle = by_part(ledger(planted(), TRUTH_S, Known(TRUTH_S, usual, idle_s=1.2e-6)))
    assert (idle[IDLE], idle[RESIDUAL]) == (1_200, 300)


def test_what_is_known_from_elsewhere_is_taken_out_of_its_layer() -> None:
    known = Known(TRUTH_S, USUAL, reorders_s={"conv": 4e-6}, faults_s={"fc": 1e-6, "conv": 9e-6})
    found = ledger(planted(), 2 * TRUTH_S, known)  # the run was slower than these minutes
    seconds = {(part.part, part.layer): round(part.seconds * 1e9) for part in found.parts}
    assert seconds[COPIES, "conv"] == 2 * (2_000 + 4_000)
    assert seconds[FAULTS, "conv"] == 2 * 6_000  # no more than there is
    assert (KERNELS, "conv") not in seconds
    assert seconds[KERNELS, "fc"] == 2 * 9_000


def test_a_kernel_is_left_the_time_that_the_machine_needs_for_it() -> None:
    known = Known(TRUTH_S, USUAL, faults_s={"fc": 9e-6, "conv": 9e-6}, least_s={"fc": 7e-6})
    found = ledger(planted(), TRUTH_S, known)
    seconds = {(part.part, part.layer): round(part.seconds * 1e9) for part in found.parts}
    assert (seconds[KERNELS, "fc"], seconds[FAULTS, "fc"]) == (7_000, 3_000)
    assert (seconds[KERNELS, "conv"], seconds[FAULTS, "conv"]) == (1_000, 9_000)


def test_the_smallest_layers_tell_what_calling_costs_within_operations() -> None:
    some = [Span("kernel", "fc", KERNEL, 600, 900), Span("kernel", "fc2", KERNEL, 1_000, 1_250)]
    tiny = usual([(own_times(1_400, some), 1_400)])
    assert tiny == Usual({"kernel": 275}, 600, 0, 125)
    known = Known(TRUTH_S, Usual(tiny.op_ns, lead_ns=1_500, gap_ns=500))
    found = by_part(ledger(planted(), TRUTH_S, known))
    assert found[KERNELS] == 20_000 - 2 * 275
    assert found[CALLING] == 3_500 + 2 * 275


def test_what_passes_before_the_first_operation_may_grow_with_their_number() -> None:
    calls = []
    for operations in (2, 4, 8):
        lead = 1_000 + 100 * operations
        some = [
            Span("a", "x", KERNEL, lead + 10 * i, lead + 10 * i + 10) for i in range(operations)
        ]
        calls.append((own_times(lead + 10 * operations, some), lead + 10.0 * operations))
    found = usual(calls)
    assert (found.lead_ns, found.lead_per_op_ns) == pytest.approx((1_000, 100))
    assert usual([]) == Usual()
