"""From the raw samples of a bench to its results in seconds."""

from __future__ import annotations

from collections.abc import Iterable

from kernelprof.ceilings import DRAM, PlacementCeilings
from kernelprof.measured import Measured, known_ceilings, load, reference_of
from kernelprof.results import Estimate, PrimitiveResult, Ratio
from kernelprof.roofline import attainable
from kernelprof.runfile import RunFile, StoredKernel
from kernelprof.statistics import ratio_interval


def bench_engines(run: RunFile) -> set[str]:
    """The engines whose kernels are the result; none where networks are."""
    options = run.meta("options")
    return set(options["engines"]) if options.get("primitives") else set()


def primitive_results(run: RunFile, primitive: str | None = None) -> Iterable[PrimitiveResult]:
    """What a bench measured, all or of one primitive, in the order of the plan."""
    cases, failed = run.cases(), run.failures()
    engines, known = bench_engines(run), known_ceilings(run)
    for stored in cases:
        case = stored.case
        wanted = case.engine in engines and primitive in (None, case.network)
        if not wanted or stored.id in failed:
            continue
        measured = load(run, stored, known)
        other = reference_of(stored, cases)
        reference = load(run, other, known) if other else None
        for kernel in measured.kernels:
            seconds = None if kernel.failure else measured.kernel(kernel.place)
            if seconds is not None:
                yield _primitive_result(measured, kernel, seconds, reference)


def _primitive_result(
    measured: Measured,
    kernel: StoredKernel,
    seconds: Estimate,
    reference: Measured | None,
) -> PrimitiveResult:
    case = measured.stored.case
    return PrimitiveResult(
        primitive=case.network,
        engine=case.engine,
        device=case.device,
        threads=case.threads,
        cpus=case.cpus,
        mode=case.mode,
        passes=kernel.passes,
        seconds=seconds,
        speedup=_speedup(measured, kernel, reference) if reference else None,
        ceiling_s=_ceiling_s(kernel, measured.ceilings),
        flop=kernel.flop,
        least_bytes=kernel.least_bytes,
        cold_bytes=kernel.cold_bytes,
        lukewarm=kernel.lukewarm,
        compute_bound=kernel.compute_flop > 0,
        sampling=measured.sampling,
    )


def _ceiling_s(kernel: StoredKernel, known: PlacementCeilings | None) -> float | None:
    """What the passes of a kernel take at least; None where nothing bounds them."""
    if known is None:
        return None
    warm_s = sum(
        attainable(primitive, pass_, known).seconds
        for primitive in kernel.primitives
        for pass_ in kernel.passes
        if pass_ in primitive.passes
    )
    memory = known.bytes_per_s(DRAM)
    cold_s = kernel.cold_bytes / memory if memory and not kernel.lukewarm else 0.0
    return max(warm_s, cold_s) or None


def _speedup(measured: Measured, kernel: StoredKernel, reference: Measured) -> Ratio | None:
    """How many times the reference takes as long for the same passes, in rounds that both have."""
    same = [k for k in reference.kernels if set(k.passes) <= set(kernel.passes)]
    covered = {pass_ for k in same if k.failure is None for pass_ in k.passes}
    others = reference.rounds
    paired = [
        (others[round_], sample)
        for round_, sample in measured.rounds.items()
        if kernel.place in sample and all(k.place in others.get(round_, ()) for k in same)
    ]
    if covered != set(kernel.passes) or not paired:
        return None
    return ratio_interval(
        [sum(other[k.place] for k in same) / own[kernel.place] for other, own in paired]
    )
