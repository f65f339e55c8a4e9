"""What nsys says of the samples of a run: seconds per call, by its own clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernelprof.results import GpuTime
from kernelprof.trace import Activity, Sampled, Trace


@dataclass(frozen=True)
class NsysTime:
    """One call in the mean over all samples; ``gpu`` is None where no GPU had work."""

    seconds: float
    gpu: GpuTime | None = None


NOTHING: Mapping[int, NsysTime] = {}  # of a case that nsys did not see

Shares = Mapping[int, Mapping[str, float]]  # by place, the layers of a kernel and their shares


def nsys_times(traces: Iterable[Trace]) -> dict[int, dict[int, NsysTime]]:
    """By case and place.

    A mean of all samples, disturbed ones too: unlike a median it is the sum of what nsys shows.
    """
    samples: dict[tuple[int, int], list[Sampled]] = defaultdict(list)
    for trace in traces:
        for traced in trace.ranges:
            if traced.sampled is not None:
                samples[traced.sampled.case_id, traced.sampled.place].append(traced.sampled)
    found: dict[int, dict[int, NsysTime]] = defaultdict(dict)
    for (case_id, place), same in samples.items():
        found[case_id][place] = _mean(same)
    return dict(found)


def of_layers(times: Mapping[int, NsysTime], shares: Shares) -> dict[str, NsysTime]:
    """The layers of which nsys saw every kernel, an update by the layers' shares in it."""
    parts: dict[str, list[tuple[float, NsysTime | None]]] = defaultdict(list)
    for place, layers in shares.items():
        for name, share in layers.items():
            parts[name].append((share, times.get(place)))
    found = {}
    for name, own in parts.items():
        seen = [(share, time) for share, time in own if time is not None]
        if len(seen) == len(own):
            seconds = sum(share * time.seconds for share, time in seen)
            found[name] = NsysTime(seconds, _together(seen))
    return found


def _mean(samples: Iterable[Sampled]) -> NsysTime:
    own = list(samples)
    calls = sum(sampled.calls for sampled in own)
    seconds = sum(sampled.traced_ns for sampled in own) / calls * 1e-9
    return NsysTime(seconds, _gpu_time([sampled.gpu for sampled in own], calls))


def _gpu_time(activities: Iterable[Activity], calls: int) -> GpuTime | None:
    own = list(activities)
    operations = sum(activity.count for activity in own)
    if not operations:
        return None
    return GpuTime(
        operations / calls,
        sum(activity.busy_ns for activity in own) / calls * 1e-9,
        sum(activity.gaps_ns for activity in own) / calls * 1e-9,
        sum(activity.overlap_ns for activity in own) / calls * 1e-9,
    )


def _together(kernels: Iterable[tuple[float, NsysTime]]) -> GpuTime | None:
    own = [(share, time.gpu) for share, time in kernels if time.gpu is not None]
    if not own:
        return None
    return GpuTime(
        sum(share * gpu.operations for share, gpu in own),
        sum(share * gpu.busy_s for share, gpu in own),
        sum(share * gpu.gaps_s for share, gpu in own),
        sum(share * gpu.overlap_s for share, gpu in own),
    )
