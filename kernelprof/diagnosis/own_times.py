"""From the spans of a profiled call to times that add up: each instant counts once."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kernelprof.probes.spans import Span


class Owner(NamedTuple):
    """What an instant is spent on."""

    layer: str
    what: str
    name: str


@dataclass(frozen=True)
class OwnTimes:
    """The time of a call, in nanoseconds: that of its operations, and the gaps between them.

    ``lead_ns`` is the time until its first operation begins.  All together are ``duration_ns``.
    """

    duration_ns: float
    by_owner: Mapping[Owner, float]
    counts: Mapping[Owner, float]
    lead_ns: float
    gap_ns: float

    def __post_init__(self) -> None:
        """Nothing may be lost or counted twice."""
        total = sum(self.by_owner.values()) + self.lead_ns + self.gap_ns
        assert abs(total - self.duration_ns) <= 1e-6 * self.duration_ns + 1, "time was lost"


def own_times(duration_ns: int, spans: Iterable[Span]) -> OwnTimes:
    """Give each instant of a call to the operation that began last of those that go on then.

    On one thread that is the innermost one.  Where threads work at the same time, one of them
    stands for all: the times are those of a clock on the wall, and not of processors.
    """
    within = [
        span._replace(start_ns=max(span.start_ns, 0), end_ns=min(span.end_ns, duration_ns))
        for span in spans
    ]
    ordered = sorted(
        (span for span in within if span.end_ns > span.start_ns),
        key=lambda span: (span.start_ns, -span.end_ns),
    )
    by_owner: dict[Owner, float] = defaultdict(float)
    counts: dict[Owner, float] = defaultdict(float)
    for span in ordered:
        counts[_owner(span)] += 1
    lead_ns = ordered[0].start_ns if ordered else duration_ns
    gap_ns, now = 0.0, float(lead_ns)
    going: list[tuple[int, int, Span]] = []  # the one that began last comes first
    for place, span in enumerate(ordered):
        gap_ns += _give(by_owner, going, now, span.start_ns)
        now = span.start_ns
        heapq.heappush(going, (-place, span.end_ns, span))
    gap_ns += _give(by_owner, going, now, duration_ns)
    return OwnTimes(float(duration_ns), by_owner, counts, float(lead_ns), gap_ns)


def _give(
    by_owner: dict[Owner, float], going: list[tuple[int, int, Span]], now: float, until: float
) -> float:
    """Give the time from ``now`` until then to what goes on; what is left over is a gap."""
    while now < until and going:
        _, end_ns, span = going[0]
        if end_ns <= now:
            heapq.heappop(going)
            continue
        end = min(float(end_ns), until)
        by_owner[_owner(span)] += end - now
        now = end
    return until - now


def _owner(span: Span) -> Owner:
    return Owner(span.layer, span.what, span.name)


def typical(calls: Sequence[OwnTimes]) -> OwnTimes:
    """The mean of the faster half of some calls: quiet ones, and it still adds up.

    Raises:
        ValueError: there are none.
    """
    if not calls:
        raise ValueError("no calls, so no typical one")
    quiet = sorted(calls, key=lambda call: call.duration_ns)[: (len(calls) + 1) // 2]
    return OwnTimes(
        _mean(call.duration_ns for call in quiet),
        _means([call.by_owner for call in quiet]),
        _means([call.counts for call in quiet]),
        _mean(call.lead_ns for call in quiet),
        _mean(call.gap_ns for call in quiet),
    )


def _means(tables: Sequence[Mapping[Owner, float]]) -> dict[Owner, float]:
    owners = dict.fromkeys(owner for table in tables for owner in table)
    return {owner: _mean(table.get(owner, 0.0) for table in tables) for owner in owners}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
