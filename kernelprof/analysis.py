"""From the raw samples of a run file to results in seconds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kernelprof.bench_results import bench_engines, primitive_results
from kernelprof.ceilings import PlacementCeilings
from kernelprof.context import ChainSamples, Context, kinds, learned, misfit
from kernelprof.diagnosis.examination import diagnosed
from kernelprof.disturbance import WHOLE
from kernelprof.gpu.critical import gpu_case, layer_sides
from kernelprof.measured import REFUSED, Measured, known_ceilings, load, reference_of
from kernelprof.nsys_times import NOTHING, NsysTime, nsys_times, of_layers
from kernelprof.plan import Case
from kernelprof.probes.device import CPU, EVENTS
from kernelprof.probes.layers import Layer
from kernelprof.probes.memory_bound import SgdUpdate
from kernelprof.probes.network import TRAIN, Network
from kernelprof.probes.primitive import UPDATE, Primitive, product
from kernelprof.results import (
    CaseResult,
    ContextResult,
    Estimate,
    FailureResult,
    KernelResult,
    LayerResult,
    Results,
    WorkerProcess,
)
from kernelprof.roofline import attainable
from kernelprof.runfile import RunFile, StoredKernel
from kernelprof.trace_store import TraceStore
from kernelprof.worker_checks import run_fitness

Placement = tuple[str, tuple[int, ...]]  # engine, CPUs
Roofline = Callable[[Primitive, str], float]  # the seconds that a pass takes at least


def results(run: RunFile) -> Results:
    """Everything that a report shows of a run."""
    return Results(
        kernelprof=run.meta("kernelprof"),
        command=run.meta("command"),
        started=run.meta("started"),
        quick=bool(run.meta("options")["quick"]),
        machine=run.meta("machine"),
        engines=_engines(run),
        cases=tuple(diagnosed(run, list(case_results(run)))),
        failures=tuple(failures(run)),
        primitives=tuple(primitive_results(run)),
        fitness=run_fitness(run),
        ceilings=known_ceilings(run),
        contexts=tuple(context_results(run)),
        traces=tuple(TraceStore(run).traces()),
        processes=processes(run),
    )


def case_results(run: RunFile, network: str | None = None) -> Iterable[CaseResult]:
    """The measured cases, all or those of one network, in the order of the plan."""
    found, known = contexts(run), known_ceilings(run)
    definitions, cases, failed = run.networks(), run.cases(), run.failures()
    traced = nsys_times(TraceStore(run).traces())
    for stored in cases:
        case = stored.case
        wanted = case.whole and not stored.calibration and network in (None, case.network)
        if not wanted or stored.id in failed:
            continue
        measured = load(run, stored, known)
        reference = reference_of(stored, cases)
        definition = Network.from_json(definitions[case.network])
        context = found[case.engine, case.cpus]
        result = _case_result(
            measured,
            definition,
            context,
            load(run, reference, known) if reference else None,
            traced.get(stored.id, NOTHING),
        )
        if result is not None:
            on_gpu = case.device != CPU
            yield _on_gpu(run, measured, definition, context, result) if on_gpu else result


@dataclass(frozen=True)
class Contexts:
    """What the chains of an engine at one placement tell, by mode."""

    by_mode: Mapping[str, Context]
    misfit: float | None = None

    def of(self, mode: str) -> Context:
        """That of a mode; nothing is added where no chain was measured."""
        return self.by_mode.get(mode, Context())


def contexts(run: RunFile) -> Mapping[Placement, Contexts]:
    """What an engine adds to its kernels at each placement."""
    chains: dict[Placement, dict[str, list[ChainSamples]]] = defaultdict(lambda: defaultdict(list))
    for stored in run.cases():
        if stored.calibration:
            case = stored.case
            chains[case.engine, case.cpus][case.mode].append(load(run, stored, None).chain())
    found = {placement: _contexts(by_mode) for placement, by_mode in chains.items()}
    return defaultdict(lambda: Contexts({}), found)


def _contexts(chains: Mapping[str, list[ChainSamples]]) -> Contexts:
    by_mode = {mode: learned(own) for mode, own in chains.items()}
    pairs = [(chain, by_mode[mode]) for mode, own in chains.items() for chain in own]
    return Contexts(by_mode, misfit(*zip(*pairs, strict=True)))


def context_results(run: RunFile) -> Iterable[ContextResult]:
    """What the chains tell, by engine, placement and mode."""
    for (engine, cpus), found in contexts(run).items():
        for mode, context in found.by_mode.items():
            yield ContextResult(
                engine=engine,
                threads=len(cpus),
                cpus=cpus,
                mode=mode,
                per_call_s=context.calls.per_call_ns * 1e-9,
                per_kernel_s=context.calls.per_kernel_ns * 1e-9,
                by_kind_s={kind: ns * 1e-9 for kind, ns in context.calls.by_kind_ns.items()},
                traits=tuple(context.traits.values()),
                misfit=found.misfit,
            )


def _case_result(
    measured: Measured,
    network: Network,
    contexts: Contexts,
    reference: Measured | None,
    traced: Mapping[int, NsysTime],
) -> CaseResult | None:
    """None where the whole network was not sampled yet."""
    case, kernels = measured.stored.case, measured.kernels
    whole, context = measured.whole(), contexts.of(case.mode)
    if whole is None:
        return None
    ceilings = _layer_ceilings(network, case, measured.ceilings)
    flop = network.flop(case.batch, case.mode)
    covered = sum(kernel.compute_flop for kernel in kernels if kernel.failure is None)
    uncovered = dict.fromkeys(kernel.layer for kernel in kernels if kernel.failure)
    return CaseResult(
        network=case.network,
        engine=case.engine,
        device=case.device,
        threads=case.threads,
        cpus=case.cpus,
        batch=case.batch,
        mode=case.mode,
        measured=whole,
        predicted=_predicted(measured, context, contexts.misfit) if covered else None,
        dispatch_s=context.calls.ns(kinds(kernels)) * 1e-9,
        reference_s=_kernels_s(reference) if reference else None,
        ceiling_s=sum(ceilings.values()) if ceilings else None,
        coverage=covered / flop if flop else 1.0,
        uncovered=tuple(uncovered),
        parameters=network.parameters(),
        flop=flop,
        sampling=measured.sampling,
        first_call_s=(measured.stored.first_call_ns or 0) * 1e-9,
        layers=tuple(_layers(measured, network, reference, ceilings, traced)),
        traits_s=_traits_s(measured, context),
        nsys_s=traced[WHOLE].seconds if WHOLE in traced else None,
    )


def _on_gpu(
    run: RunFile, measured: Measured, network: Network, contexts: Contexts, result: CaseResult
) -> CaseResult:
    """The result with its two sides; calling is what both make of it beyond the GPU's work."""
    context, case = contexts.of(result.mode), measured.stored.case
    sides = layer_sides(measured, context, _parts(measured.kernels, network))
    kernels = measured.all_kernels()
    calling_s = 0.0
    if result.predicted is not None and kernels is not None:
        calling_s = result.predicted.value_s - kernels.value_s - sum(result.traits_s.values())
    return replace(
        result,
        dispatch_s=calling_s,
        layers=tuple(replace(one, sides=sides.get(one.name)) for one in result.layers),
        gpu=gpu_case(
            measured,
            context,
            run.gpu_samples(measured.stored.id),
            run.gpu_readings(case.device),
            len(run.throttled(measured.stored.id)),
            _gpu_clock(run, case.engine),
        ),
    )


def _gpu_clock(run: RunFile, engine: str) -> str:
    """What the engine's workers read the GPU's time from."""
    told = (facts.get("gpu_clock") for name, _, facts in run.workers() if name == engine)
    return next((clock for clock in told if clock), EVENTS)


def _predicted(measured: Measured, context: Context, misfit: float | None) -> Estimate | None:
    """The prediction, with an interval that 9 of 10 measurements shall lie in.

    It holds what the kernels' samples leave open, twice as a measurement of as many rounds is as
    uncertain itself, and the misfit of the chains; independent, so their squares add up.
    """
    found = measured.all_kernels(context)
    if found is None:
        return None
    misfit_s = (misfit or 0.0) * found.value_s
    return replace(
        found,
        low_s=max(found.value_s - _together(found.value_s - found.low_s, misfit_s), 0.0),
        high_s=found.value_s + _together(found.high_s - found.value_s, misfit_s),
    )


def _together(sampling_s: float, misfit_s: float) -> float:
    return math.sqrt(2 * sampling_s**2 + misfit_s**2)


def _traits_s(measured: Measured, context: Context) -> dict[str, float]:
    medians = {}
    for kernel in measured.kernels:
        seconds = None if kernel.failure else measured.kernel(kernel.place)
        if seconds is not None:
            medians[kernel.place] = seconds.value_s
    return context.trait_ns(measured.kernels, medians)


def _layer_ceilings(
    network: Network, case: Case, known: PlacementCeilings | None
) -> dict[str, float]:
    """The seconds that each layer takes at least: its primitives one by one, and its update.

    Each primitive counts with its own traffic.  An engine that fuses some of them keeps what passes
    between them out of the memory, and so might go below the sum.
    """
    if known is None:
        return {}
    roofline = partial(_least_s, known)
    found: dict[str, float] = defaultdict(float)
    for layer in network.layers:
        for primitive in network.primitives(layer, case.batch, case.mode):
            for pass_ in network.passes(layer, primitive, case.mode):
                found[layer.name] += roofline(primitive, pass_)
        if case.mode == TRAIN and network.parameters(layer):
            found[layer.name] += roofline(
                SgdUpdate(network.parameters(layer), network.momentum), UPDATE
            )
    return found


def _least_s(known: PlacementCeilings, primitive: Primitive, pass_: str) -> float:
    return attainable(primitive, pass_, known).seconds


def _kernels_s(measured: Measured) -> float | None:
    """The median over rounds of the sum of all kernels, if all were measured."""
    if any(kernel.failure for kernel in measured.kernels):
        return None
    total = measured.all_kernels()
    return total.value_s if total else None


def _layers(
    measured: Measured,
    network: Network,
    reference: Measured | None,
    ceilings: Mapping[str, float],
    traced: Mapping[int, NsysTime],
) -> Iterable[LayerResult]:
    reference_s = _layer_seconds(reference, network) if reference else {}
    engine_s = _layer_seconds(measured, network)
    nsys = of_layers(traced, _parts(measured.kernels, network)) if traced else {}
    by_layer: dict[str, list[StoredKernel]] = defaultdict(list)
    for kernel in measured.kernels:
        by_layer[kernel.layer].append(kernel)
    for layer in network.layers:
        if layer.name in by_layer:
            own, seen = by_layer[layer.name], nsys.get(layer.name)
            yield LayerResult(
                name=layer.name,
                kind=layer.kind,
                kernels=tuple(_kernel_results(measured, own, traced)),
                engine_s=engine_s.get(layer.name),
                reference_s=reference_s.get(layer.name),
                ceiling_s=ceilings.get(layer.name),
                flop=sum(kernel.compute_flop for kernel in own),
                least_flop=_least_flop(network, layer, measured.stored.case),
                nsys_s=seen.seconds if seen else None,
                gpu=seen.gpu if seen else None,
            )


def _least_flop(network: Network, layer: Layer, case: Case) -> int:
    """The flop of a layer's compute-bound primitives that cannot be left out."""
    return sum(
        primitive.least_flop(pass_)
        for primitive in network.primitives(layer, case.batch, case.mode)
        if primitive.compute_bound
        for pass_ in network.passes(layer, primitive, case.mode)
    )


def _layer_seconds(measured: Measured, network: Network) -> dict[str, float]:
    """Seconds of each layer whose kernels were all measured."""
    if not measured.rounds:
        return {}
    parts = _parts(measured.kernels, network)
    failed = {name for k in measured.kernels if k.failure for name in parts[k.place]}
    places: dict[str, list[int]] = defaultdict(list)
    shared: dict[str, float] = defaultdict(float)
    for kernel in measured.kernels:
        for name, share in parts[kernel.place].items():
            if share == 1:
                places[name].append(kernel.place)
            elif name not in failed:
                shared[name] += share * measured.sum_s([kernel.place])
    return {
        name: measured.sum_s(places[name]) + shared[name]
        for name in dict.fromkeys([*places, *shared])
        if name not in failed
    }


def _parts(kernels: list[StoredKernel], network: Network) -> dict[int, dict[str, float]]:
    """By place, the layers of a kernel and their shares: an update may be of several layers.

    Their shares are those of the parameters that it changes.
    """
    trained = (
        (layer.name, product(operand.shape))
        for layer in network.layers
        for operand in network.trained(layer)
    )
    found: dict[int, dict[str, float]] = {}
    for kernel in kernels:
        found[kernel.place] = {kernel.layer: 1.0}
        if kernel.passes == (UPDATE,):
            sizes: dict[str, int] = defaultdict(int)
            for _, (name, size) in zip(kernel.primitives, trained, strict=False):
                sizes[name] += size
            total = sum(sizes.values())
            found[kernel.place] = {name: size / total for name, size in sizes.items()} or {
                kernel.layer: 1.0
            }
    return found


def _kernel_results(
    measured: Measured, kernels: list[StoredKernel], traced: Mapping[int, NsysTime]
) -> Iterable[KernelResult]:
    for kernel in kernels:
        seconds = None if kernel.failure else measured.kernel(kernel.place)
        if seconds is not None:
            yield KernelResult(
                primitives=kernel.labels,
                passes=kernel.passes,
                seconds=seconds,
                flop=kernel.flop,
                least_bytes=kernel.least_bytes,
                cold_bytes=kernel.cold_bytes,
                lukewarm=kernel.lukewarm,
                nsys_s=traced[kernel.place].seconds if kernel.place in traced else None,
            )


def processes(run: RunFile) -> dict[int, WorkerProcess]:
    """The run's workers by the number of their process."""
    return {
        facts["pid"]: WorkerProcess(engine, len(cpus))
        for engine, cpus, facts in run.workers()
        if "pid" in facts
    }


def failures(run: RunFile, network: str | None = None) -> Iterable[FailureResult]:
    """What failed, all or of one network or primitive, in the order of the plan.

    That is cases, passes of a bench, and what cannot be.
    """
    found, alone, known = run.failures(), bench_engines(run), known_ceilings(run)
    for stored in run.cases():
        case = stored.case
        if network not in (None, case.network):
            continue
        what = case.network, case.engine, case.threads, case.batch, case.mode
        if stored.id in found:
            yield FailureResult(*what, *found[stored.id])
            continue
        if not stored.calibration and (case.whole or case.engine in alone):
            for kernel in load(run, stored, known).kernels:
                kind, reason = kernel.failure or ("", "")
                if case.whole and kind in REFUSED:
                    yield FailureResult(*what, kind, f"{kernel.layer}: {reason}", kernel.passes)
                elif kind and not case.whole:
                    yield FailureResult(*what, kind, reason, kernel.passes)


def _engines(run: RunFile) -> dict[str, dict[str, Any]]:
    """Facts of each engine, the threads of its pools, and the variables that the user set for it.

    ``pool_threads`` has the size of the pool for each number of threads asked for, where the engine
    tells it.  What else differs between its workers (process, memory) is left out.
    """
    private = ("pid", "threads", "thread_cpus", "node_bytes", "denormal_slowdown")
    found: dict[str, dict[str, Any]] = {}
    pools: dict[str, dict[str, int]] = defaultdict(dict)
    for engine, cpus, facts in run.workers():
        found[engine] = {key: value for key, value in facts.items() if key not in private}
        if facts.get("threads") is not None:
            pools[engine][str(len(cpus))] = facts["threads"]
    for engine, pool in pools.items():
        found[engine]["pool_threads"] = pool
    for engine, name, value in run.meta("options")["variables"]:
        if engine in found:
            found[engine].setdefault("variables", {})[name] = value
    return found
