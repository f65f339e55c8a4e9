"""The ledger: where the measured time of a network goes, in parts that add up.

What an engine's profiler saw of a call is cut into parts, less what the profiler costs itself, and
scaled to the time that was measured without it.  What is known from elsewhere is taken out of the
part that holds it (copies from one layout to another out of the layer that makes them), so that
nothing counts twice.  The residual is the time in which nothing is known to happen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kernelprof.diagnosis.own_times import OwnTimes
from kernelprof.probes.spans import ALLOCATION, COPY, DISPATCH, KERNEL, UPDATE
from kernelprof.results import LedgerPart

KERNELS, COPIES, FAULTS = "kernel", "reorders and copies", "allocation and page faults"
CALLING, UPDATING, FEEDING = "dispatch", "update", "feeding"
IDLE, TIMER, RESIDUAL = "idle", "timer", "residual"
PARTS = (KERNELS, COPIES, FAULTS, CALLING, UPDATING, FEEDING, IDLE, TIMER, RESIDUAL)
PART_OF = {
    KERNEL: KERNELS,
    COPY: COPIES,
    ALLOCATION: FAULTS,
    DISPATCH: CALLING,
    UPDATE: UPDATING,
}
OF_LAYERS = (KERNELS, COPIES, FAULTS)  # parts that are told by layer

Place = tuple[str, str]  # a part, and the layer or nothing

JUDGED_SHARE = 0.05  # of the time: with a larger residual one does not know where it goes


@dataclass(frozen=True)
class Usual:
    """What calls cost an engine anyway, as its chains of the smallest layers show.

    ``op_ns`` is what each operation takes with hardly any work, by its name; ``lead_ns`` passes
    before the first one begins, more with each operation that the call has, and ``gap_ns`` between
    one and the next.
    """

    op_ns: Mapping[str, float] = field(default_factory=dict)
    lead_ns: float = 0.0
    lead_per_op_ns: float = 0.0
    gap_ns: float = 0.0


@dataclass(frozen=True)
class Known:
    """What is known of a call beside its spans, in seconds per call.

    ``reorders_s`` and ``faults_s`` are by layer, and within the time of its kernels, of which
    ``least_s`` have to be left: no kernel is faster than the machine.
    """

    plain_s: float  # a call without the profiler, in the same minutes
    usual: Usual = Usual()
    reorders_s: Mapping[str, float] = field(default_factory=dict)
    faults_s: Mapping[str, float] = field(default_factory=dict)
    least_s: Mapping[str, float] = field(default_factory=dict)
    idle_s: float = 0.0  # in which no thread of the process ran
    timer_s: float = 0.0


@dataclass(frozen=True)
class Ledger:
    """The parts of a call, the layers' time within it, and what the profiler cost."""

    parts: tuple[LedgerPart, ...]
    in_network_s: Mapping[str, float]
    profiler_share: float  # by which the profiler makes a call longer

    @property
    def measured_s(self) -> float:
        """All parts together, the residual among them."""
        return sum(part.seconds for part in self.parts)

    def seconds(self, part: str) -> float:
        """Of a part, all layers together."""
        return sum(one.seconds for one in self.parts if one.part == part)

    def of_layer(self, part: str, layer: str) -> float:
        """Of a part, that of one layer."""
        return sum(x.seconds for x in self.parts if (x.part, x.layer) == (part, layer))

    def share(self, part: str) -> float:
        """Of the measured time."""
        return self.seconds(part) / self.measured_s

    @property
    def is_known(self) -> bool:
        """Whether the residual is so small that the other parts explain the time."""
        return abs(self.share(RESIDUAL)) <= JUDGED_SHARE


def usual(calls: Sequence[tuple[OwnTimes, float]]) -> Usual:
    """What profiled calls of the smallest layers tell of calls, less the profiler's own cost.

    Each comes with what it takes without a profiler, in nanoseconds.
    """
    if not calls:
        return Usual()
    each_ns: dict[str, list[float]] = defaultdict(list)
    points, gaps = [], []
    for times, plain_ns in calls:
        for owner, ns in times.by_owner.items():
            each_ns[owner.name].append(ns / times.counts[owner])
        outside = _without_profiler(times, plain_ns)
        operations = max(sum(times.counts.values()), 1.0)
        points.append((operations, outside.lead_ns))
        gaps.append(outside.gap_ns / operations)
    op_ns = {name: float(np.median(ns)) for name, ns in each_ns.items()}
    return Usual(op_ns, *_line(points), float(np.median(gaps)))


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least-squares line through the points that does not fall: its start and its slope."""
    x, y = np.array(points).T
    slope = max(float(np.polyfit(x, y, 1)[0]), 0.0) if len(set(x)) > 1 else 0.0
    return float(np.mean(y) - slope * np.mean(x)), slope


def ledger(times: OwnTimes, measured_s: float, known: Known) -> Ledger:
    """The ledger of a call that was measured to take ``measured_s`` without a profiler."""
    plain = _without_profiler(times, known.plain_s * 1e9)
    scale = measured_s / known.plain_s
    seconds = _operations_s(plain, known)
    seconds.update(_between_s(plain, known, seconds[CALLING, ""]))
    scaled = {place: one * scale for place, one in seconds.items()}
    scaled[RESIDUAL, ""] = measured_s - sum(scaled.values())
    return Ledger(
        tuple(_in_order(scaled)),
        {layer: one * scale for layer, one in _in_network_s(plain).items()},
        times.duration_ns * 1e-9 / known.plain_s - 1,
    )


def _without_profiler(times: OwnTimes, plain_ns: float) -> OwnTimes:
    """As if the call had taken ``plain_ns``.

    A profiler works between operations, so what it costs is taken from there and from those that
    do nothing but call others; only what is left of it, from all alike.
    """
    calling_ns = sum(ns for owner, ns in times.by_owner.items() if owner.what == DISPATCH)
    outside_ns = times.lead_ns + times.gap_ns + calling_ns
    excess_ns = min(max(times.duration_ns - plain_ns, 0.0), outside_ns)
    inside = plain_ns / max(times.duration_ns - excess_ns, 1.0)
    outside = inside * (1 - excess_ns / outside_ns) if outside_ns else inside
    return OwnTimes(
        plain_ns,
        {
            owner: ns * (outside if owner.what == DISPATCH else inside)
            for owner, ns in times.by_owner.items()
        },
        times.counts,
        times.lead_ns * outside,
        times.gap_ns * outside,
    )


def _operations_s(times: OwnTimes, known: Known) -> dict[Place, float]:
    """What operations take, by part and layer; copies, faults and calling taken out of kernels."""
    seconds: dict[Place, float] = defaultdict(float)
    seconds[CALLING, ""] = 0.0
    for owner, ns in times.by_owner.items():
        usual_ns = 0.0
        if owner.what == KERNEL:
            usual_ns = min(known.usual.op_ns.get(owner.name, 0.0) * times.counts[owner], ns)
        seconds[CALLING, ""] += usual_ns * 1e-9
        part = PART_OF[owner.what]
        layer = owner.layer if part in OF_LAYERS else ""
        seconds[part, layer] += (ns - usual_ns) * 1e-9
    for part, by_layer in ((COPIES, known.reorders_s), (FAULTS, known.faults_s)):
        for layer, asked_s in by_layer.items():
            room_s = seconds[KERNELS, layer] - known.least_s.get(layer, 0.0)
            taken_s = min(asked_s, max(room_s, 0.0))
            seconds[KERNELS, layer] -= taken_s
            seconds[part, layer] += taken_s
    return seconds


def _between_s(times: OwnTimes, known: Known, calling_s: float) -> dict[Place, float]:
    """What passes before the first operation and between them.

    Of the time before, what is more than usual feeds.  Of the time between, an engine's usual cost
    of calling is known, and idling; the rest is not.
    """
    lead_s, gap_s = times.lead_ns * 1e-9, times.gap_ns * 1e-9
    operations = sum(times.counts.values())
    usual_lead_s = (known.usual.lead_ns + known.usual.lead_per_op_ns * operations) * 1e-9
    feeding_s = max(lead_s - usual_lead_s, 0.0)
    idle_s = min(max(known.idle_s - feeding_s, 0.0), gap_s)  # who waits for input feeds
    timer_s = min(known.timer_s, gap_s - idle_s)
    usual_s = operations * known.usual.gap_ns * 1e-9
    between_s = min(gap_s - idle_s - timer_s, usual_s)
    return {
        (CALLING, ""): calling_s + lead_s - feeding_s + between_s,
        (FEEDING, ""): feeding_s,
        (IDLE, ""): idle_s,
        (TIMER, ""): timer_s,
    }


def _in_network_s(times: OwnTimes) -> dict[str, float]:
    """What each layer takes within the network, all that it needs beside its kernels included."""
    found: dict[str, float] = defaultdict(float)
    for owner, ns in times.by_owner.items():
        if owner.layer and owner.what != UPDATE:
            found[owner.layer] += ns * 1e-9
    return found


def _in_order(seconds: Mapping[Place, float]) -> Iterator[LedgerPart]:
    """The parts in the order of the list, and the layers of each in the order of the network."""
    for part in PARTS:
        for (own, layer), one in seconds.items():
            if own == part and (one or not layer):
                yield LedgerPart(part, one, layer)
