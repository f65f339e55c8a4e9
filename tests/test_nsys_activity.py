"""How long GPUs were busy for ranges, against nanoseconds that are counted one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.nsys import activity
from kernelprof.nsys.activity import activities, instances
from kernelprof.trace import Activity

spans = st.builds(lambda s, d: (s, s + d), st.integers(0, 30), st.integers(0, 9))
grouped = st.lists(st.tuples(st.integers(0, 5), spans), max_size=30)


def counted(spans_: list[tuple[int, int]]) -> Activity:
    """By the single nanosecond."""
    if not spans_:
        return Activity()
    busy = {moment for start, end in spans_ for moment in range(start, end)}
    extent = max(end for _, end in spans_) - min(start for start, _ in spans_)
    return Activity(
        count=len(spans_),
        total_ns=sum(end - start for start, end in spans_),
        busy_ns=len(busy),
        gaps_ns=extent - len(busy),
    )


def found(them, groups):
    """The activities of groups of ranges; ``them`` are pairs of a range and an interval."""
    them = sorted(them, key=lambda one: one[0])
    start = np.array([one[1][0] for one in them], np.int64)
    end = np.array([one[1][1] for one in them], np.int64)
    ranges = np.array([one[0] for one in them], np.int32)
    pairs = [(np.arange(len(them), dtype=np.int32), ranges)] if them else []
    return activities(instances(pairs, start, end - start), np.array(groups, np.int32), 4)


@given(grouped)
def test_each_range_by_itself(them):
    for range_, number in zip(range(4), found(them, [0, 1, 2, 3, -1, -1]), strict=True):
        assert number == counted([span for at, span in them if at == range_])


@given(grouped, st.lists(st.integers(-1, 3), min_size=6, max_size=6))
def test_groups_are_sums_over_their_ranges(them, groups):
    for group, number in enumerate(found(them, groups)):
        each = [
            counted([span for at, span in them if at == range_])
            for range_ in range(6)
            if groups[range_] == group
        ]
        fields = ("count", "total_ns", "busy_ns", "gaps_ns")
        expected = [sum(getattr(one, field) for one in each) for field in fields]
        assert [getattr(number, field) for field in fields] == expected


@given(grouped)
def test_it_is_the_same_in_small_parts(them):
    whole = found(them, [0, 1, 2, 3, 3, -1])
    before = activity.AT_ONCE, activity.LARGEST
    activity.AT_ONCE, activity.LARGEST = 3, 80
    try:
        assert found(them, [0, 1, 2, 3, 3, -1]) == whole
    finally:
        activity.AT_ONCE, activity.LARGEST = before


def test_side_by_side_and_apart():
    """Two streams that overlap by 4, and one operation 10 later."""
    [one, *_] = found([(0, (0, 10)), (0, (6, 12)), (0, (22, 23))], [0])
    assert one == Activity(count=3, total_ns=17, busy_ns=13, gaps_ns=10)
    assert one.overlap_ns == 4


def test_long_traces_of_many_ranges_do_not_overflow():
    """A day, and so many ranges that each cannot have a day of its own in 62 bits."""
    day_ns, count = 86_400 * 10**9, 100_000
    start = np.tile(np.array([0, day_ns - 5], np.int64), count)
    ranges = np.repeat(np.arange(count, dtype=np.int32), 2)
    places = np.arange(2 * count, dtype=np.int32)
    [one] = activities(
        instances([(places, ranges)], start, np.full_like(start, 5)), np.zeros(count, np.int32), 1
    )
    assert one == Activity(2 * count, 10 * count, 10 * count, (day_ns - 10) * count)
