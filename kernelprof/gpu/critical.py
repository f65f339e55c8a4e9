"""Which side a call of a network waits for on a GPU, in all and layer by layer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from statistics import median

from kernelprof.context import Context
from kernelprof.disturbance import WHOLE
from kernelprof.gpu.queue import Call
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.gpu.sides import DEVICE, HOST, GpuCase, Sides
from kernelprof.measured import Measured
from kernelprof.prediction import has_kernels
from kernelprof.probes.device import EVENTS, GRAPH

BUSY_SHARE = 0.9  # of the time: a GPU that works so much waits for nothing that matters

Samples = Mapping[int, Mapping[int, GpuSample]]  # by round and place


def gpu_case(
    measured: Measured,
    context: Context,
    samples: Samples,
    readings: Sequence[GpuReading],
    throttled: int = 0,
    clock: str = EVENTS,
) -> GpuCase | None:
    """Both sides of a case; None while its kernels or its whole network were not sampled.

    A CPU that is far ahead waits until there is room for what it hands over, and takes as long as
    the GPU does.  So a GPU that works nearly all the time sets it, whatever the CPU takes.
    """
    whole, calls = measured.whole(), list(_calls(measured, context).values())
    host_ns = [
        own.host_ns[WHOLE]
        for round_, own in measured.hand_overs.items()
        if WHOLE in own.host_ns and WHOLE in measured.rounds.get(round_, {})
    ]
    if whole is None or not calls or not host_ns:
        return None
    device_s = median(call.device_sum_ns for call in calls) * 1e-9
    host_s = median(host_ns) * 1e-9
    is_busy = device_s >= BUSY_SHARE * whole.value_s
    taken = [sample for found in samples.values() for sample in found.values()]
    return GpuCase(
        device_s=device_s,
        host_s=host_s,
        gaps_s=max(whole.value_s - device_s, 0.0),
        bound=DEVICE if is_busy or device_s >= host_s else HOST,
        clock=GRAPH if any(sample.graph_ns for sample in taken) else clock,
        samples=len(taken),
        throttled=throttled,
        sm_hz=_clock_hz(taken, readings),
    )


def layer_sides(
    measured: Measured, context: Context, parts: Mapping[int, Mapping[str, float]]
) -> dict[str, Sides]:
    """What each layer takes on either side; nothing on the CPU.

    ``parts`` tells by place the layers of a kernel and their shares.
    """
    rounds = [
        _by_layer(call, measured.hand_overs[round_].calls, parts)
        for round_, call in _calls(measured, context).items()
    ]
    names = dict.fromkeys(name for found in rounds for name in found)
    return {name: Sides(*_medians(found[name] for found in rounds)) for name in names}


def _calls(measured: Measured, context: Context) -> dict[int, Call]:
    """Both sides of a call in each round that holds its kernels."""
    return {
        round_: context.call(measured.kernels, sample, measured.hand_overs[round_])
        for round_, sample in measured.rounds.items()
        if has_kernels(sample) and round_ in measured.hand_overs
    }


def _by_layer(
    call: Call, calls: int, parts: Mapping[int, Mapping[str, float]]
) -> dict[str, list[float]]:
    """Nanoseconds of the GPU, of the CPU and of waiting, but not for what comes before kernels."""
    gaps_ns = call.gaps_ns(calls)
    if len(gaps_ns):
        gaps_ns[0] = max(gaps_ns[0] - call.lead_ns, 0.0)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for place, own in enumerate(zip(call.device_ns, call.host_ns, gaps_ns, strict=True)):
        for name, share in parts.get(place, {}).items():
            for side, ns in enumerate(own):
                found[name][side] += share * ns
    return found


def _medians(rounds: Iterable[Sequence[float]]) -> Iterator[float]:
    """In seconds, side by side."""
    return (median(side) * 1e-9 for side in zip(*rounds, strict=True))


def _clock_hz(samples: Iterable[GpuSample], readings: Sequence[GpuReading]) -> float | None:
    """The card's clock in the median of what was read within samples."""
    time_ns = attrgetter("time_ns")
    within = [
        reading.sm_hz
        for sample in samples
        for reading in readings[
            bisect_left(readings, sample.start_ns, key=time_ns) : bisect_right(
                readings, sample.start_ns + sample.events_ns, key=time_ns
            )
        ]
    ]
    return float(median(within)) if within else None
