"""From the raw samples of a run file to results in seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from kernelprof.ceilings import Ceilings
from kernelprof.engines import REFERENCE
from kernelprof.plan import Case
from kernelprof.prediction import CallCost, Rounds, call_cost, predict
from kernelprof.probes.layers import Layer
from kernelprof.probes.memory_bound import SgdUpdate
from kernelprof.probes.network import TRAIN, Network
from kernelprof.probes.primitive import UPDATE, Primitive
from kernelprof.results import (
    CaseResult,
    FailureResult,
    KernelResult,
    LayerResult,
    PrimitiveResult,
    Ratio,
    Results,
)
from kernelprof.roofline import attainable
from kernelprof.runfile import WHOLE, RunFile, StoredCase, StoredKernel
from kernelprof.statistics import estimate, median_interval

Placement = tuple[str, tuple[int, ...], str]  # engine, CPUs, mode
# The seconds that a pass of a primitive takes at least, and so by thread count.
Roofline = Callable[[Primitive, str], float]
Rooflines = Mapping[int, Roofline]


def results(run: RunFile) -> Results:
    """Everything that a report shows of a run."""
    return Results(
        kernelprof=run.meta("kernelprof"),
        command=run.meta("command"),
        started=run.meta("started"),
        quick=bool(run.meta("options")["quick"]),
        machine=run.meta("machine"),
        engines=_engines(run),
        cases=tuple(case_results(run)),
        failures=tuple(failures(run)),
        primitives=tuple(primitive_results(run)),
    )


def _rooflines(run: RunFile) -> Rooflines:
    """What the machine's ceilings say; nothing where they were not measured."""
    stored = run.meta("ceilings")
    if stored is None:
        return {}
    known = Ceilings.from_json(stored)
    return {threads: partial(_least_s, known, threads) for threads in known.placements}


def _least_s(known: Ceilings, threads: int, primitive: Primitive, pass_: str) -> float:
    return attainable(primitive, pass_, threads, known).seconds


def case_results(run: RunFile, network: str | None = None) -> Iterable[CaseResult]:
    """The measured cases, all or those of one network, in the order of the plan."""
    costs = _call_costs(run)
    definitions, rooflines = run.networks(), _rooflines(run)
    cases = run.cases()
    for stored in cases:
        wanted = network is None or stored.case.network == network
        if not wanted or stored.calibration or not stored.case.whole:
            continue
        rounds = run.call_ns(stored.id)
        if rounds and stored.id not in run.failures():
            definition = Network.from_json(definitions[stored.case.network])
            cost = costs[stored.case.engine, stored.case.cpus, stored.case.mode]
            reference = _reference_of(stored, cases)
            roofline = rooflines.get(stored.case.threads)
            yield _case_result(run, stored, definition, rounds, cost, reference, roofline)


def _reference_of(stored: StoredCase, cases: list[StoredCase]) -> StoredCase | None:
    """The reference engine's case of the same network, placement, batch and mode."""
    case = stored.case
    for other in cases:
        same = (other.case.network, other.case.cpus, other.case.batch, other.case.mode) == (
            *(case.network, case.cpus, case.batch, case.mode),
        )
        if same and other.case.engine == REFERENCE:
            return other
    return None


def _call_costs(run: RunFile) -> dict[Placement, CallCost]:
    chains: dict[Placement, list[tuple[int, Rounds]]] = defaultdict(list)
    for stored in run.cases():
        if stored.calibration:
            case = stored.case
            measured = len(run.kernels(stored.id)), run.call_ns(stored.id)
            chains[case.engine, case.cpus, case.mode].append(measured)
    costs = {placement: call_cost(found) for placement, found in chains.items()}
    return defaultdict(CallCost, costs)


def _case_result(
    run: RunFile,
    stored: StoredCase,
    network: Network,
    rounds: Rounds,
    cost: CallCost,
    reference: StoredCase | None,
    roofline: Roofline | None,
) -> CaseResult:
    case = stored.case
    ceilings = _layer_ceilings(network, case, roofline) if roofline else {}
    kernels = run.kernels(stored.id)
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
        measured=estimate([sample[WHOLE] * 1e-9 for sample in rounds.values()]),
        predicted=predict(rounds, cost.ns(len(kernels))) if covered else None,
        dispatch_s=cost.ns(len(kernels)) * 1e-9,
        reference_s=_kernels_s(run, reference) if reference else None,
        ceiling_s=sum(ceilings.values()) if ceilings else None,
        coverage=covered / flop if flop else 1.0,
        uncovered=tuple(uncovered),
        parameters=network.parameters(),
        flop=flop,
        rounds=len(rounds),
        stopped_by=stored.stopped_by or "",
        first_call_s=(stored.first_call_ns or 0) * 1e-9,
        layers=tuple(_layers(run, network, kernels, rounds, reference, ceilings, case)),
    )


def _layer_ceilings(network: Network, case: Case, roofline: Roofline) -> dict[str, float]:
    """The seconds that each layer takes at least: its primitives one by one, and its update."""
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


def _kernels_s(run: RunFile, stored: StoredCase) -> float | None:
    """The median over rounds of the sum of all kernels, if all were measured."""
    if any(kernel.failure for kernel in run.kernels(stored.id)):
        return None
    rounds = run.call_ns(stored.id)
    return predict(rounds, 0.0).value_s if rounds else None


def _layers(
    run: RunFile,
    network: Network,
    kernels: list[StoredKernel],
    rounds: Rounds,
    reference: StoredCase | None,
    ceilings: Mapping[str, float],
    case: Case,
) -> Iterable[LayerResult]:
    reference_s = _layer_seconds(run, reference) if reference else {}
    by_layer: dict[str, list[StoredKernel]] = defaultdict(list)
    for kernel in kernels:
        by_layer[kernel.layer].append(kernel)
    for layer in network.layers:
        if layer.name not in by_layer:
            continue
        own = by_layer[layer.name]
        timed = [_kernel_result(kernel, rounds) for kernel in own if kernel.failure is None]
        complete = len(timed) == len(own)
        yield LayerResult(
            name=layer.name,
            kind=layer.kind,
            kernels=tuple(timed),
            engine_s=_sum_s(rounds, [kernel.place for kernel in own]) if complete else None,
            reference_s=reference_s.get(layer.name),
            ceiling_s=ceilings.get(layer.name),
            flop=sum(kernel.compute_flop for kernel in own),
            least_flop=_least_flop(network, layer, case),
        )


def _least_flop(network: Network, layer: Layer, case: Case) -> int:
    """The flop of a layer's compute-bound primitives that cannot be left out."""
    return sum(
        primitive.least_flop(pass_)
        for primitive in network.primitives(layer, case.batch, case.mode)
        if primitive.compute_bound
        for pass_ in network.passes(layer, primitive, case.mode)
    )


def _layer_seconds(run: RunFile, stored: StoredCase) -> dict[str, float]:
    """Seconds of each layer whose kernels were all measured."""
    rounds = run.call_ns(stored.id)
    kernels = run.kernels(stored.id)
    failed = {kernel.layer for kernel in kernels if kernel.failure}
    names = dict.fromkeys(kernel.layer for kernel in kernels if kernel.layer not in failed)
    if not rounds:
        return {}
    return {name: _sum_s(rounds, [k.place for k in kernels if k.layer == name]) for name in names}


def _sum_s(rounds: Rounds, places: list[int]) -> float:
    """The median over rounds of the sum of some kernels."""
    return float(np.median([sum(s[place] for place in places) for s in rounds.values()])) * 1e-9


def _kernel_result(kernel: StoredKernel, rounds: Rounds) -> KernelResult:
    return KernelResult(
        primitives=kernel.labels,
        passes=kernel.passes,
        seconds=estimate([sample[kernel.place] * 1e-9 for sample in rounds.values()]),
        flop=kernel.flop,
        least_bytes=kernel.least_bytes,
    )


def primitive_results(run: RunFile, primitive: str | None = None) -> Iterable[PrimitiveResult]:
    """What a bench measured, all or of one primitive, in the order of the plan."""
    cases, definitions, failed = run.cases(), run.networks(), run.failures()
    engines, rooflines = _bench_engines(run), _rooflines(run)
    for stored in cases:
        case = stored.case
        wanted = case.engine in engines and primitive in (None, case.network)
        rounds = run.call_ns(stored.id) if wanted and stored.id not in failed else {}
        if not rounds:
            continue
        definition = Network.from_json(definitions[case.network])
        roofline = rooflines.get(case.threads)
        reference = _reference_of(stored, cases)
        for kernel in run.kernels(stored.id):
            if kernel.failure is None:
                speedup = _speedup(run, kernel, rounds, reference) if reference else None
                ceiling_s = _ceiling_s(definition, kernel, roofline) if roofline else None
                yield _primitive_result(stored, kernel, rounds, speedup, ceiling_s)


def _bench_engines(run: RunFile) -> set[str]:
    """The engines whose kernels are the result; none where networks are."""
    options = run.meta("options")
    return set(options["engines"]) if options.get("primitives") else set()


def _ceiling_s(definition: Network, kernel: StoredKernel, roofline: Roofline) -> float | None:
    """What the passes of a kernel take at least; None where nothing bounds them."""
    (primitive,) = definition.primitives(definition.layer(kernel.layer), 1, TRAIN)
    return sum(roofline(primitive, pass_) for pass_ in kernel.passes) or None


def _primitive_result(
    stored: StoredCase,
    kernel: StoredKernel,
    rounds: Rounds,
    speedup: Ratio | None,
    ceiling_s: float | None,
) -> PrimitiveResult:
    case = stored.case
    return PrimitiveResult(
        primitive=case.network,
        engine=case.engine,
        device=case.device,
        threads=case.threads,
        cpus=case.cpus,
        mode=case.mode,
        passes=kernel.passes,
        seconds=estimate([sample[kernel.place] * 1e-9 for sample in rounds.values()]),
        speedup=speedup,
        ceiling_s=ceiling_s,
        flop=kernel.flop,
        least_bytes=kernel.least_bytes,
        compute_bound=kernel.compute_flop > 0,
        rounds=len(rounds),
        stopped_by=stored.stopped_by or "",
    )


def _speedup(
    run: RunFile, kernel: StoredKernel, rounds: Rounds, reference: StoredCase
) -> Ratio | None:
    """How many times the reference takes as long for the same passes, in rounds that both have."""
    same = [k for k in run.kernels(reference.id) if set(k.passes) <= set(kernel.passes)]
    covered = {pass_ for k in same if k.failure is None for pass_ in k.passes}
    others = run.call_ns(reference.id)
    paired = [(others[round_], sample) for round_, sample in rounds.items() if round_ in others]
    if covered != set(kernel.passes) or not paired:
        return None
    ratios = [sum(other[k.place] for k in same) / own[kernel.place] for other, own in paired]
    return Ratio(*median_interval(ratios))


def failures(run: RunFile) -> Iterable[FailureResult]:
    """The cases that failed, and of a bench the passes that did, in the order of the plan."""
    found, engines = run.failures(), _bench_engines(run)
    for stored in run.cases():
        case = stored.case
        what = case.network, case.engine, case.threads, case.batch, case.mode
        if stored.id in found:
            yield FailureResult(*what, *found[stored.id])
        elif case.engine in engines:
            for kernel in run.kernels(stored.id):
                if kernel.failure is not None:
                    yield FailureResult(*what, *kernel.failure, kernel.passes)


def _engines(run: RunFile) -> dict[str, dict[str, Any]]:
    """Facts of each engine, and the variables that the user set for it.

    What differs between its workers (threads, process) is left out.
    """
    private = ("pid", "threads", "thread_cpus")
    found: dict[str, dict[str, Any]] = {}
    for engine, _, facts in run.workers():
        found[engine] = {key: value for key, value in facts.items() if key not in private}
    for engine, name, value in run.meta("options")["variables"]:
        if engine in found:
            found[engine].setdefault("variables", {})[name] = value
    return found
