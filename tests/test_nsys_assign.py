"""What encloses what and what launched what, against the rule applied to every pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.nsys import assign
from kernelprof.nsys.assign import NOWHERE, Calls, Nest, Sent, in_order, launches_of


class Range(NamedTuple):
    """A range; ``encloses`` is false of one that ended on another thread."""

    thread: int
    start: int
    end: int
    encloses: bool = True

    def is_around(self, other: tuple[int, int, int]) -> bool:
        """The rule, in a sentence of its own."""
        same_thread = self.encloses and self.thread == other[0]
        return same_thread and self.start <= other[1] and other[2] <= self.end


times = st.integers(0, 12)
threads = st.integers(0, 2)


@st.composite
def spans(draw) -> tuple[int, int]:
    start = draw(times)
    return start, draw(st.one_of(st.just(start), st.integers(start, 14)))


ranges_of = st.lists(
    st.builds(
        lambda t, s, e: Range(t, *s, e), threads, spans(), st.sampled_from([True] * 4 + [False])
    ),
    max_size=14,
)
calls_of = st.lists(st.builds(lambda t, s: (t, *s), st.integers(-1, 3), spans()), max_size=14)


def made(ranges: list[Range]) -> tuple[Nest, list[Range]]:
    """A nest of the ranges, and these in its order."""
    thread, start, end, encloses = zip(*ranges, strict=True) if ranges else ((),) * 4
    lasted = np.array(end, np.int64) - np.array(start, np.int64)
    columns = np.array(thread, np.int32), np.array(start, np.int64), lasted
    order = in_order(*columns)
    nest = Nest(Calls(*(column[order] for column in columns)), np.array(encloses, bool)[order])
    return nest, [ranges[place] for place in order]


def calls(them: list[tuple[int, int, int]]) -> Calls:
    """The calls, in their order."""
    thread, start, end = zip(*sorted(them), strict=True) if them else ((),) * 3
    starts = np.array(start, np.int64)
    return Calls(np.array(thread, np.int32), starts, np.array(end, np.int64) - starts)


@given(ranges_of, calls_of)
def test_every_range_around_a_call_is_found_and_no_other(ranges, them):
    nest, ordered = made(ranges)
    assert ordered == sorted(ranges, key=lambda one: (one.thread, one.start, -one.end))
    found = [
        pair
        for places, around in nest.enclosing(calls(them))
        for pair in zip(places.tolist(), around.tolist(), strict=True)
    ]
    expected = {
        (place, at)
        for place, call in enumerate(sorted(them))
        for at, one in enumerate(ordered)
        if one.is_around(call)
    }
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(ranges_of, calls_of)
def test_parts_ascend_and_hold_all_calls_of_a_range(ranges, them):
    seen: set[int] = set()
    for places, around in made(ranges)[0].enclosing(calls(them)):
        assert (np.diff(places) > 0).all()
        assert (np.diff(around) >= 0).all()
        assert not seen & set(around.tolist())
        seen |= set(around.tolist())


@given(ranges_of, calls_of)
def test_the_innermost_range_started_last_and_then_ends_first(ranges, them):
    nest, ordered = made(ranges)
    for call, found in zip(sorted(them), nest.innermost(calls(them)).tolist(), strict=True):
        around = [one for one in ranges if one.is_around(call)]
        if not around:
            assert found == NOWHERE
            continue
        best = max(around, key=lambda one: (one.start, -one.end))
        assert (ordered[found].start, ordered[found].end) == (best.start, best.end)
        assert ordered[found].is_around(call)


@given(ranges_of)
def test_parents_are_the_innermost_ranges_around_and_lead_out(ranges):
    nest, ordered = made(ranges)
    for place, parent in enumerate(nest.parents().tolist()):
        one = ordered[place]
        around = [
            other
            for other, outer in enumerate(ordered)
            if one.encloses and other < place and outer.is_around(one[:3])
        ]
        assert parent == max(around, default=NOWHERE)
        assert parent < place


def test_crossing_ranges_of_two_domains():
    """A call in both belongs to the one that started last; neither encloses the other."""
    nest, _ = made([Range(0, 0, 10), Range(0, 5, 15)])
    asked = calls([(0, 1, 2), (0, 7, 8), (0, 9, 12), (0, 12, 13), (0, 14, 16)])
    assert nest.innermost(asked).tolist() == [0, 1, 1, 1, NOWHERE]
    assert nest.parents().tolist() == [NOWHERE, NOWHERE]
    assert sum(len(places) for places, _ in nest.enclosing(asked)) == 5


def test_a_chain_of_crossing_ranges():
    """The third starts after the first has ended, and while the second is open."""
    nest, _ = made([Range(0, 0, 10), Range(0, 5, 15), Range(0, 12, 20)])
    assert nest.innermost(calls([(0, 6, 7), (0, 11, 11), (0, 13, 14)])).tolist() == [1, 1, 2]


def test_equal_ranges_enclose_each_other_in_their_order():
    nest, ordered = made([Range(0, 3, 9), Range(0, 3, 9), Range(0, 3, 20), Range(0, 3, 3)])
    assert [one.end for one in ordered] == [20, 9, 9, 3]
    assert nest.parents().tolist() == [NOWHERE, 0, 1, 2]
    assert nest.innermost(calls([(0, 3, 3), (0, 4, 9), (0, 4, 10)])).tolist() == [3, 2, 0]


def test_a_range_that_ended_on_another_thread_encloses_nothing():
    nest, _ = made([Range(0, 0, 100, False), Range(0, 1, 9), Range(1, 2, 8)])
    assert nest.parents().tolist() == [NOWHERE] * 3
    assert nest.innermost(calls([(0, 2, 3), (0, 20, 30), (1, 3, 4)])).tolist() == [1, NOWHERE, 2]


class Row(NamedTuple):
    """A launch or an operation."""

    process: int
    correlation: int
    start: int


rows = st.lists(
    st.builds(Row, st.integers(0, 2), st.integers(-1, 3), st.integers(0, 9)), max_size=12
)


def sent(them: list[Row]) -> Sent:
    process, correlation, start = zip(*them, strict=True) if them else ((),) * 3
    return Sent(
        np.array(process, np.int32), np.array(correlation, np.int64), np.array(start, np.int64)
    )


@given(rows, rows)
def test_an_operation_goes_to_its_launch(operations, launches):
    found = launches_of(sent(operations), sent(launches)).tolist()
    for operation, place in zip(operations, found, strict=True):
        same = [one for one in launches if one[:2] == operation[:2] and one.correlation >= 0]
        if not same:
            assert place == NOWHERE
            continue
        before = [one.start for one in same if one.start <= operation.start]
        expected = max(before) if before else min(one.start for one in same)
        assert launches[place][:2] == operation[:2]
        assert launches[place].start == expected


def test_correlations_far_apart_are_told_apart():
    """As large as CUPTI's, at times of a day."""
    day_ns = 86_400 * 10**9
    launches = [Row(0, 2**32 - 1, day_ns), Row(0, 2**32 - 2, day_ns), Row(0, 2**32 - 1, day_ns + 1)]
    operations = [Row(0, 2**32 - 1, day_ns), Row(0, 2**32 - 2, day_ns + 9), Row(0, 2**32 - 3, 0)]
    assert launches_of(sent(operations), sent(launches)).tolist() == [0, 1, NOWHERE]


@given(ranges_of, calls_of)
def test_it_is_the_same_in_small_parts(ranges, them):
    nest, _ = made(ranges)
    found = nest.innermost(calls(them)).tolist(), nest.parents().tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(assign, "RANGES_AT_ONCE", 2)
        nest, _ = made(ranges)
        assert (nest.innermost(calls(them)).tolist(), nest.parents().tolist()) == found


@given(rows, rows)
def test_launches_are_the_same_in_small_parts(operations, launches):
    found = launches_of(sent(operations), sent(launches)).tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(assign, "OPERATIONS_AT_ONCE", 2)
        assert launches_of(sent(operations), sent(launches)).tolist() == found
