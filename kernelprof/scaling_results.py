"""From a run to how its networks scale over threads and over batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kernelprof.analysis import case_results
from kernelprof.ceilings import Ceilings, PlacementCeilings
from kernelprof.measured import known_ceilings
from kernelprof.results import CaseResult, Ratio
from kernelprof.roofline import COMPUTE, attainable
from kernelprof.runfile import RunFile, StoredKernel
from kernelprof.scaling import (
    BatchPoint,
    LayerPoint,
    OverBatches,
    OverThreads,
    Scaling,
    ThreadPoint,
    Traffic,
    lost_s,
    speedup,
)
from kernelprof.scaling_laws import FEWEST_POINTS, Fit, fit_amdahl, fit_hockney, fit_usl

Point = TypeVar("Point", ThreadPoint, BatchPoint)
Memory = Mapping[str, tuple[str, int]]  # layer -> the level that bounds it, and its bytes


def scaling(run: RunFile) -> Scaling:
    """What the run tells of every network that was measured with two thread counts or batches."""
    known, kernels = known_ceilings(run), _kernels(run)
    cases = list(case_results(run))
    threads = _groups(cases, lambda c: (c.network, c.engine, c.device, c.batch, c.mode))
    batches = _groups(cases, lambda c: (c.network, c.engine, c.device, c.threads, c.mode))
    return Scaling(
        tuple(
            _over_threads(sorted(own, key=lambda case: case.threads), kernels, known)
            for own in threads
            if len({case.threads for case in own}) > 1
        ),
        tuple(
            _over_batches(sorted(own, key=lambda case: case.batch))
            for own in batches
            if len({case.batch for case in own}) > 1
        ),
    )


def _groups(
    cases: Iterable[CaseResult], key: Callable[[CaseResult], tuple[object, ...]]
) -> Iterable[list[CaseResult]]:
    found: dict[tuple[object, ...], list[CaseResult]] = defaultdict(list)
    for case in cases:
        found[key(case)].append(case)
    return found.values()


def _kernels(run: RunFile) -> dict[tuple[object, ...], list[StoredKernel]]:
    """The kernels of each case by all that tells it from the others."""
    return {
        (c.network, c.engine, c.device, c.cpus, c.batch, c.mode): run.kernels(stored.id)
        for stored in run.cases()
        if (c := stored.case).whole and not stored.calibration
    }


def _over_threads(
    cases: Sequence[CaseResult],
    kernels: Mapping[tuple[object, ...], list[StoredKernel]],
    known: Ceilings | None,
) -> OverThreads:
    base = cases[0]
    points = []
    for case in cases:
        own = kernels[case.network, case.engine, case.device, case.cpus, case.batch, case.mode]
        at = known.of(case.device, case.threads) if known else None
        points.append(_thread_point(base, case, _memory(own, at), at))
    found = OverThreads(
        base.network, base.engine, base.device, base.batch, base.mode, tuple(points)
    )
    counts = [point.threads for point in points]
    seconds = [point.measured.value_s for point in points]
    return replace(
        found, amdahl=_fit(fit_amdahl, counts, seconds), usl=_fit(fit_usl, counts, seconds)
    )


def _fit(
    fit: Callable[[Sequence[int], Sequence[float]], Fit],
    at: Sequence[int],
    seconds: Sequence[float],
) -> Fit | None:
    return fit(at, seconds) if len(at) >= FEWEST_POINTS else None


def _memory(kernels: Iterable[StoredKernel], known: PlacementCeilings | None) -> Memory:
    """What keeps each memory-bound layer busy: the level that bounds most of its least time."""
    if known is None:
        return {}
    bounds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    moved: dict[str, int] = defaultdict(int)
    for kernel in kernels:
        moved[kernel.layer] += kernel.least_bytes
        for primitive in kernel.primitives:
            for pass_ in primitive.passes:
                if pass_ in kernel.passes:
                    at_best = attainable(primitive, pass_, known)
                    bounds[kernel.layer][at_best.bound] += at_best.seconds
    found = {}
    for layer, by_bound in bounds.items():
        most = max(by_bound, key=lambda bound: by_bound[bound])
        if most != COMPUTE:
            found[layer] = most, moved[layer]
    return found


def _thread_point(
    base: CaseResult, case: CaseResult, memory: Memory, known: PlacementCeilings | None
) -> ThreadPoint:
    lost = lost_s(case.threads, case.measured.value_s, base.threads, base.measured.value_s)
    base_s = {layer.name: layer.engine_s for layer in base.layers}
    layers = tuple(
        LayerPoint(
            name=layer.name,
            kind=layer.kind,
            seconds=layer.engine_s,
            lost_s=lost_s(case.threads, layer.engine_s, base.threads, own_s),
            traffic=_traffic(layer.engine_s, *memory[layer.name], known)
            if known and layer.name in memory and layer.engine_s
            else None,
        )
        for layer in case.layers
        if layer.engine_s is not None and (own_s := base_s.get(layer.name)) is not None
    )
    beyond_s, base_beyond_s = (sum(one.beyond_s.values()) for one in (case, base))
    calling = lost_s(case.threads, beyond_s, base.threads, base_beyond_s)
    change = speedup(base.measured, case.measured) if case is not base else Ratio(1.0, 1.0, 1.0)
    return ThreadPoint(
        threads=case.threads,
        measured=case.measured,
        predicted=case.predicted,
        speedup=change,
        predicted_speedup=base.predicted.value_s / case.predicted.value_s
        if base.predicted and case.predicted
        else None,
        efficiency=change.value * base.threads / case.threads,
        lost_s=lost,
        layers=layers,
        calling_lost_s=calling,
        unexplained_lost_s=lost - calling - sum(layer.lost_s for layer in layers),
    )


def _traffic(seconds: float, level: str, moved: int, known: PlacementCeilings) -> Traffic:
    ceiling = known.bytes_per_s(level)
    reached = moved / seconds
    return Traffic(level, reached, reached / ceiling if ceiling else None)


def _over_batches(cases: Sequence[CaseResult]) -> OverBatches:
    first = cases[0]
    points = tuple(BatchPoint(case.batch, case.measured, case.predicted) for case in cases)
    batches = [point.batch for point in points]
    seconds = [point.measured.value_s for point in points]
    return OverBatches(
        *(first.network, first.engine, first.device, first.threads, first.mode),
        points,
        _fit(fit_hockney, batches, seconds),
    )
