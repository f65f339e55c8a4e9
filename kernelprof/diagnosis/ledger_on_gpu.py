"""The ledger of a call on a GPU: what the GPU does, and what it waits for where it does nothing.

Each instant belongs to what the GPU works on then.  Where it idles, the instant belongs to what the
CPU does: it hands over the next kernel, asks the driver for memory, or waits itself.  Where a
profiler shows neither, it is residual.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from kernelprof.diagnosis.ledger import COPIES, KERNELS, RESIDUAL, UPDATING, Ledger
from kernelprof.diagnosis.own_times import Owner, OwnTimes, own_times
from kernelprof.probes.spans import COPY, DEVICE_THREAD, UPDATE, Span
from kernelprof.results import LedgerPart

TO_GPU, FROM_GPU = "copies to the GPU", "copies from the GPU"
LAUNCHING, ALLOCATING, WAITING = "launch gaps", "allocation", "waiting"
GPU_PARTS = (
    *(KERNELS, COPIES, TO_GPU, FROM_GPU, UPDATING),
    *(LAUNCHING, ALLOCATING, WAITING, RESIDUAL),
)
OF_LAYERS_ON_GPU = (KERNELS, COPIES)  # parts that are told by layer
AWAITED = "awaited"  # what the CPU does while the GPU idles

# How the profilers of CUDA and of XLA name copies, and how calls of CUDA begin.
TO_GPU_NAMES, FROM_GPU_NAMES = ("htod", "h2d"), ("dtoh", "d2h")
ALLOCATING_CALLS = ("cudamalloc", "cudafree", "cudahostalloc", "cumemalloc", "cumemfree")
WAITING_CALLS = ("synchronize", "cudaeventquery", "cudastreamquery")


def gpu_times(duration_ns: int, spans: Iterable[Span]) -> OwnTimes:
    """Give each instant of a call to the GPU's work, or to what the CPU does while it idles.

    What the GPU waits for has owners that are ``AWAITED``; the lead, before anything is seen, and
    the gaps are where neither side is seen at work.
    """
    every = list(spans)
    device = [span for span in every if span.thread == DEVICE_THREAD]
    host = [span for span in every if span.thread != DEVICE_THREAD]
    host.sort(key=lambda span: (span.start_ns, -span.end_ns))  # inner ones stay last
    worked = own_times(duration_ns, device)
    clock = _IdleClock(duration_ns, device)
    idle = own_times(clock.until(duration_ns), map(clock.moved, host))
    awaited: dict[Owner, float] = defaultdict(float)
    for owner, ns in idle.by_owner.items():
        awaited[Owner("", AWAITED, owner.name)] += ns
    return OwnTimes(
        worked.duration_ns,
        {**worked.by_owner, **awaited},
        worked.counts,
        idle.lead_ns,
        idle.gap_ns,
    )


class _IdleClock:
    """A clock that stands still while the GPU is at work."""

    def __init__(self, duration_ns: int, device: Iterable[Span]) -> None:
        busy: list[tuple[int, int]] = []
        own = ((max(span.start_ns, 0), min(span.end_ns, duration_ns)) for span in device)
        for start_ns, end_ns in sorted(one for one in own if one[1] > one[0]):
            if busy and start_ns <= busy[-1][1]:
                busy[-1] = busy[-1][0], max(busy[-1][1], end_ns)
            else:
                busy.append((start_ns, end_ns))
        self.starts = [start_ns for start_ns, _ in busy]
        self.worked = [end_ns - start_ns for start_ns, end_ns in busy]
        self.before = list(accumulate(self.worked, initial=0))

    def until(self, moment_ns: int) -> int:
        """How long the GPU idled until then."""
        place = bisect_right(self.starts, moment_ns) - 1
        if place < 0:
            return moment_ns
        going = min(moment_ns - self.starts[place], self.worked[place])
        return moment_ns - self.before[place] - going

    def moved(self, span: Span) -> Span:
        """When a span of the CPU begins and ends by this clock."""
        start_ns, end_ns = max(span.start_ns, 0), max(span.end_ns, 0)
        return span._replace(start_ns=self.until(start_ns), end_ns=self.until(end_ns))


def ledger_on_gpu(times: OwnTimes, measured_s: float, plain_s: float) -> Ledger:
    """The ledger of a call that was measured to take ``measured_s`` without a profiler.

    ``times`` are of a call under the profiler, and ``plain_s`` is what one takes without it in the
    same minutes.  A profiler works on the CPU: what it costs is taken from what the GPU waits for.
    """
    plain = _without_profiler(times, plain_s * 1e9)
    scale = measured_s / plain_s
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for owner, ns in plain.by_owner.items():
        part = part_of(owner)
        seconds[part, owner.layer if part in OF_LAYERS_ON_GPU else ""] += ns * 1e-9 * scale
    seconds[RESIDUAL, ""] = measured_s - sum(seconds.values())
    return Ledger(
        tuple(_in_order(seconds)),
        {layer: ns * 1e-9 * scale for layer, ns in _in_network_ns(plain).items()},
        times.duration_ns * 1e-9 / plain_s - 1,
    )


def operations_s(times: OwnTimes, measured_s: float, plain_s: float) -> dict[str, float]:
    """What the GPU spends on each kind of operation, by the profiler's name, in a measured call."""
    plain = _without_profiler(times, plain_s * 1e9)
    found: dict[str, float] = defaultdict(float)
    for owner, ns in plain.by_owner.items():
        if owner.what != AWAITED:
            found[owner.name] += ns * 1e-9 * measured_s / plain_s
    return found


def part_of(owner: Owner) -> str:
    """The part of the ledger that an owner's time belongs to."""
    name = owner.name.lower()
    if owner.what == AWAITED:
        if name.startswith(ALLOCATING_CALLS):
            return ALLOCATING
        return WAITING if any(word in name for word in WAITING_CALLS) else LAUNCHING
    if owner.what == COPY:
        return _part_of_copy(name)
    return UPDATING if owner.what == UPDATE else KERNELS


def _part_of_copy(name: str) -> str:
    """By the way that it goes, or within the GPU; a kernel that copies does that, too."""
    if name.startswith("memcpy"):
        if any(word in name for word in TO_GPU_NAMES):
            return TO_GPU
        if any(word in name for word in FROM_GPU_NAMES):
            return FROM_GPU
    return COPIES


def _without_profiler(times: OwnTimes, plain_ns: float) -> OwnTimes:
    """As if the call had taken ``plain_ns``: less idling, and the rest of it from all alike."""
    worked_ns = sum(ns for owner, ns in times.by_owner.items() if owner.what != AWAITED)
    idle_ns = times.duration_ns - worked_ns
    excess_ns = min(max(times.duration_ns - plain_ns, 0.0), idle_ns)
    inside = plain_ns / max(times.duration_ns - excess_ns, 1.0)
    outside = inside * (1 - excess_ns / idle_ns) if idle_ns else inside
    return OwnTimes(
        plain_ns,
        {o: ns * (outside if o.what == AWAITED else inside) for o, ns in times.by_owner.items()},
        times.counts,
        times.lead_ns * outside,
        times.gap_ns * outside,
    )


def _in_network_ns(times: OwnTimes) -> Mapping[str, float]:
    """What the GPU does for each layer, updates and what comes and goes left out."""
    found: dict[str, float] = defaultdict(float)
    for owner, ns in times.by_owner.items():
        if owner.layer and part_of(owner) in OF_LAYERS_ON_GPU:
            found[owner.layer] += ns
    return found


def _in_order(seconds: Mapping[tuple[str, str], float]) -> Iterator[LedgerPart]:
    """The parts in the order of the list, and those of no layer even where they are nothing."""
    for part in GPU_PARTS:
        if part not in OF_LAYERS_ON_GPU:
            yield LedgerPart(part, seconds.get((part, ""), 0.0))
            continue
        for (own, layer), one in seconds.items():
            if own == part and one:
                yield LedgerPart(part, one, layer)
