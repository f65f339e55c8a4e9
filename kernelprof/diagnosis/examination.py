"""From a measured case and the evidence about it to its ledger and its findings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kernelprof.ceilings import PlacementCeilings
from kernelprof.chains import CALLS
from kernelprof.diagnosis.causes import (
    CAUSES,
    CAUSES_ON_GPU,
    COMPARISONS,
    OF_KERNELS,
    OF_KERNELS_ON_GPU,
)
from kernelprof.diagnosis.evidence import LEAST_SHARE, Evidence, OnGpu
from kernelprof.diagnosis.gather import (
    COUNTERS,
    FACTS,
    MISSING,
    PROFILE,
    SEEN,
    STACKS,
    VERBOSE,
)
from kernelprof.diagnosis.hardware_counters import Counters
from kernelprof.diagnosis.ledger import UPDATING, Known, Ledger, Usual, ledger, usual
from kernelprof.diagnosis.ledger_on_gpu import gpu_times, ledger_on_gpu, operations_s
from kernelprof.diagnosis.own_times import OwnTimes, own_times, typical
from kernelprof.diagnosis.stacks import Stacks
from kernelprof.diagnosis.trial import Trial
from kernelprof.diagnosis.verbose import Verbose, parse, reorders_by_primitive
from kernelprof.disturbance import WHOLE
from kernelprof.gpu.slowdown import slowdown
from kernelprof.measured import ceilings_of, known_ceilings
from kernelprof.plan import Case
from kernelprof.probes.device import CPU
from kernelprof.probes.network import Network
from kernelprof.probes.primitive import FORWARD, UPDATE
from kernelprof.probes.spans import DEVICE_THREAD, KERNEL, Span
from kernelprof.results import CaseResult, Diagnosis, Finding
from kernelprof.roofline import attainable, least_seconds
from kernelprof.runfile import RunFile, StoredCase
from kernelprof.units import counted

TRIAL = "trial "  # and the change as JSON: the kind of evidence that a trial is
FIRST_ROUNDS = 3
LATER = 1.03  # times as long, from which the first rounds stand out

Stored = Mapping[str, Any]  # evidence by its kind
Usuals = dict[tuple[str, tuple[int, ...], str], Usual]  # by engine, CPUs and mode


def diagnosed(run: RunFile, cases: Sequence[CaseResult]) -> Iterator[CaseResult]:
    """The cases, with what `kernelprof diagnose` saw of them."""
    usuals: Usuals = {}
    for case in cases:
        evidence = evidence_of(run, case, cases, usuals)
        yield case if evidence is None else _with_diagnosis(run, case, evidence)


def evidence_of(
    run: RunFile,
    case: CaseResult,
    cases: Sequence[CaseResult] = (),
    usuals: Usuals | None = None,
) -> Evidence | None:
    """All that is known of a case; None where nobody looked.

    ``usuals`` keeps what is known of calls for the next case that it holds for as well.
    """
    stored = stored_case(run, case)
    seen = run.evidence(stored.id)
    if not seen:
        return None
    network = Network.from_json(run.networks()[case.network])
    profile: Stored = seen.get(PROFILE, seen.get(SEEN, {}))
    verbose = _verbose(seen.get(VERBOSE))
    times = _times(seen.get(PROFILE), case.device)
    calls = _usual(run, stored, {} if usuals is None else usuals)
    early_s, late_s = _early_and_late(run, stored)
    return Evidence(
        case=case,
        network=network,
        machine=run.meta("machine"),
        facts=seen.get(FACTS, {}),
        ledger=_ledger(run, stored, case, network, times, profile, verbose, calls)
        if times
        else None,
        verbose=verbose,
        stacks=Stacks.from_json(seen[STACKS]) if STACKS in seen else None,
        counters=Counters.from_json(seen[COUNTERS]) if COUNTERS in seen else None,
        denormals=profile.get("denormals", {}),
        faults=profile.get("counters", {}).get("minor_faults", 0.0),
        page_fault_s=profile.get("page_fault_ns", 0.0) * 1e-9,
        early_s=early_s,
        late_s=late_s,
        lost_s=_lost_s(run, stored),
        least_update_s=_least_update_s(run, stored),
        level_of_weights=_levels_of_weights(run, case, network),
        others=_others(case, cases),
        gpu=None if case.device == CPU else _on_gpu(run, stored, case, times, profile),
    )


def _on_gpu(
    run: RunFile, stored: StoredCase, case: CaseResult, times: OwnTimes | None, profile: Stored
) -> OnGpu:
    """What is known of the card, and of what it does in a call."""
    ceilings = _ceilings_of(run, case)
    fast, plain = (
        ceilings.flop_per_s(dtype) if ceilings else None for dtype in ("tf32", "float32")
    )
    samples = run.gpu_samples(stored.id).values()
    whole = [found[WHOLE] for found in samples if WHOLE in found]
    return OnGpu(
        card=run.meta("machine").get("gpus", {}).get(case.device, {}),
        tf32_speed=fast / plain if fast and plain else None,
        slowdown=slowdown(whole, run.gpu_readings(case.device)),
        operations_s=operations_s(times, case.measured.value_s, _plain_ns(profile) * 1e-9)
        if times
        else {},
    )


def _ceilings_of(run: RunFile, case: Case | CaseResult) -> PlacementCeilings | None:
    """Those of the placement that a case has; None where they were not measured."""
    return ceilings_of(run, case, known_ceilings(run))


def _least_s(run: RunFile, case: CaseResult, network: Network) -> dict[str, float]:
    """What the kernels of each layer take at least on this machine, updates left out."""
    ceilings = _ceilings_of(run, case)
    if ceilings is None:
        return {}
    found: dict[str, float] = defaultdict(float)
    for layer in network.layers:
        for primitive in network.primitives(layer, case.batch, case.mode):
            for pass_ in network.passes(layer, primitive, case.mode):
                if primitive.compute_bound and pass_ != UPDATE:
                    found[layer.name] += least_seconds([primitive], [pass_], ceilings)
    return found


def _least_update_s(run: RunFile, stored: StoredCase) -> float | None:
    """What the update of all weights takes at least on this machine."""
    ceilings = _ceilings_of(run, stored.case)
    if ceilings is None:
        return None
    return sum(
        least_seconds(kernel.primitives, kernel.passes, ceilings)
        for kernel in run.kernels(stored.id)
        if kernel.passes == (UPDATE,)
    )


def _levels_of_weights(run: RunFile, case: CaseResult, network: Network) -> dict[str, str]:
    """Which level of memory holds what a layer's products work on, where it has weights."""
    ceilings = _ceilings_of(run, case)
    if ceilings is None:
        return {}
    return {
        layer.name: attainable(primitive, FORWARD, ceilings).level
        for layer in network.layers
        if network.parameters(layer)
        for primitive in network.primitives(layer, case.batch, case.mode)
        if primitive.compute_bound
    }


def stored_case(run: RunFile, case: CaseResult) -> StoredCase:
    """The case as the file holds it."""
    wanted = case.network, case.engine, case.cpus, case.batch, case.mode
    for stored in run.cases():
        own = stored.case
        if (own.network, own.engine, own.cpus, own.batch, own.mode) == wanted:
            return stored
    raise LookupError(f"no such case: {wanted}")


def findings(evidence: Evidence, seen: Stored) -> tuple[Finding, ...]:
    """The causes that weigh something, the heaviest first; at last those that may."""
    least_s = LEAST_SHARE * evidence.measured_s
    heavy = [one for one in _all_findings(evidence, seen) if _weight_s(one) >= least_s]
    return tuple(sorted(heavy, key=lambda one: (one.seconds is None, -_weight_s(one))))


def _all_findings(evidence: Evidence, seen: Stored) -> Iterator[Finding]:
    """What every rule finds.

    While something is known that makes kernels slow, a comparison with other kernels tells nothing
    that would be left without it.
    """
    least_s = LEAST_SHARE * evidence.measured_s
    explained, on_gpu = False, evidence.gpu is not None
    of_kernels = OF_KERNELS_ON_GPU if on_gpu else OF_KERNELS
    for rule in CAUSES_ON_GPU if on_gpu else CAUSES:
        if explained and rule in COMPARISONS:
            continue
        for suspect in rule(evidence):
            found = _with_trial(suspect, seen, evidence.measured_s)
            if found is not None:
                explained = explained or (rule in of_kernels and _weight_s(found) >= least_s)
                yield found


def _weight_s(finding: Finding) -> float:
    return finding.at_most_s if finding.seconds is None else finding.seconds


def trial_kind(change: Iterable[tuple[str, str | None]]) -> str:
    """The kind of evidence that a trial of this change is."""
    return TRIAL + json.dumps(sorted(change))


def _with_trial(suspect: Finding, seen: Stored, measured_s: float) -> Finding | None:
    """What a trial of its change tells of a suspect; none is left if the change saves nothing."""
    stored = seen.get(trial_kind(suspect.change)) if suspect.change else None
    if stored is None:
        return suspect
    trial = Trial.from_json(stored).at(measured_s)
    foretold = None if suspect.between_kernels else trial.foretold
    saving = foretold or trial.actual
    if saving is None or saving.low_s <= 0:
        return None
    known_s = saving.value_s if suspect.seconds is None else suspect.seconds
    return replace(suspect, seconds=known_s, foretold=foretold, actual=trial.actual)


def _with_diagnosis(run: RunFile, case: CaseResult, evidence: Evidence) -> CaseResult:
    seen = run.evidence(stored_case(run, case).id)
    known = evidence.ledger
    diagnosis = Diagnosis(
        ledger=known.parts if known else (),
        profiler_share=known.profiler_share if known else 0.0,
        findings=findings(evidence, seen),
        missing={**seen.get(MISSING, {}), **_unread(evidence.verbose), **_unseen(evidence, seen)},
    )
    if known is None:
        return replace(case, diagnosis=diagnosis)
    within = _with_updates(known, evidence.network, case)
    layers = tuple(replace(x, in_network_s=within.get(x.name)) for x in case.layers)
    return replace(case, diagnosis=diagnosis, layers=layers)


def _with_updates(known: Ledger, network: Network, case: CaseResult) -> Mapping[str, float]:
    """What layers take within the network, and of the update a share for their parameters."""
    updating_s, parameters = known.seconds(UPDATING), network.parameters()
    within = dict(known.in_network_s)
    if updating_s and parameters:
        for layer in network.layers:
            share = network.parameters(layer) / parameters
            if share:
                within[layer.name] = within.get(layer.name, 0.0) + share * updating_s
    return within


def _unread(verbose: Verbose | None) -> dict[str, str]:
    """That libraries printed what cannot be read: of a version that is not known, most likely."""
    lines = verbose.unknown_lines if verbose is not None else 0
    return {VERBOSE: f"{counted(lines, 'line')} of an unknown form"} if lines else {}


def _unseen(evidence: Evidence, seen: Stored) -> dict[str, str]:
    """That a profiler saw the CPU alone where a GPU did the work."""
    blind = evidence.gpu is not None and evidence.ledger is None and PROFILE in seen
    return {PROFILE: "it shows nothing of what the GPU does"} if blind else {}


def _verbose(stored: Stored | None) -> Verbose | None:
    return None if stored is None else parse(stored["banner"] + "\n" + stored["call"])


def _times(profile: Stored | None, device: str = CPU) -> OwnTimes | None:
    """The typical call under the profiler; None where it shows nothing of the device."""
    if profile is None or not profile["calls"]:
        return None
    calls = [(c["duration_ns"], [Span(*span) for span in c["spans"]]) for c in profile["calls"]]
    if device == CPU:
        return typical([own_times(*call) for call in calls])
    shown = any(span.thread == DEVICE_THREAD for _, spans in calls for span in spans)
    return typical([gpu_times(*call) for call in calls]) if shown else None


def _plain_ns(profile: Stored) -> float:
    """The faster half of the calls without a profiler, as the typical one is among those with."""
    ordered = sorted(profile["plain_ns"])
    return float(np.mean(ordered[: (len(ordered) + 1) // 2]))


def _ledger(
    run: RunFile,
    stored: StoredCase,
    case: CaseResult,
    network: Network,
    times: OwnTimes,
    profile: Stored,
    verbose: Verbose | None,
    calls: Usual,
) -> Ledger:
    if case.device != CPU:
        return ledger_on_gpu(times, case.measured.value_s, _plain_ns(profile) * 1e-9)
    counters = profile["counters"]
    facts = run.evidence(stored.id)[FACTS]
    # Threads that share a kernel share the pages that it touches first.
    faults_s = counters["minor_faults"] * profile["page_fault_ns"] * 1e-9 / stored.case.threads
    known = Known(
        plain_s=_plain_ns(profile) * 1e-9,
        usual=calls,
        reorders_s=_reorders_s(verbose, network, stored) if verbose else {},
        faults_s=_by_layer(faults_s, _faults(run, stored), times),
        least_s=_least_s(run, case, network),
        idle_s=max(counters["wall_ns"] - counters["ran_ns"], 0.0) * 1e-9,
        timer_s=facts["clock_block_ns"] * 1e-9,
    )
    return ledger(times, case.measured.value_s, known)


def _usual(run: RunFile, stored: StoredCase, known: Usuals) -> Usual:
    """What calls cost anyway, from the engine's tiny chains at the same placement and mode."""
    wanted = stored.case.engine, stored.case.cpus, stored.case.mode
    if wanted in known:
        return known[wanted]
    found = []
    for other in run.cases():
        case = other.case
        is_tiny = other.calibration and case.network.startswith(CALLS)
        if is_tiny and (case.engine, case.cpus, case.mode) == wanted:
            profile = run.evidence(other.id).get(PROFILE)
            times = _times(profile)
            if profile is not None and times is not None:
                found.append((times, _plain_ns(profile)))
    known[wanted] = usual(found)
    return known[wanted]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _reorders_s(verbose: Verbose, network: Network, stored: StoredCase) -> dict[str, float]:
    """The time of oneDNN's reorders by layer; of those that no layer is known for, nothing."""
    case = stored.case
    owners: dict[Any, list[str]] = defaultdict(list)
    for layer in network.layers:
        for primitive in network.primitives(layer, case.batch, case.mode):
            owners[primitive].append(layer.name)
    found: dict[str, float] = defaultdict(float)
    for primitive, calls in reorders_by_primitive(verbose.onednn, list(owners)).items():
        names = owners.get(primitive, [])
        for name in names:  # equal layers share what was made for them
            found[name] += sum(call.seconds for call in calls) / len(names)
    return found


def _faults(run: RunFile, stored: StoredCase) -> dict[str, float]:
    """Page faults of each layer's kernels by themselves, updates left out."""
    by_place = run.faults(stored.id)
    found: dict[str, float] = defaultdict(float)
    for kernel in run.kernels(stored.id):
        if kernel.passes != (UPDATE,):
            found[kernel.layer] += by_place.get(kernel.place, 0.0)
    return found


def _by_layer(total_s: float, weights: Mapping[str, float], times: OwnTimes) -> Mapping[str, float]:
    """Some time that is within kernels, by layer: as by weights, or as long as they take."""
    if not sum(weights.values()):
        weights = defaultdict(float)
        for owner, ns in times.by_owner.items():
            if owner.what == KERNEL:
                weights[owner.layer] += ns
    total = sum(weights.values())
    return {layer: total_s * one / total for layer, one in weights.items()} if total else {}


def _early_and_late(run: RunFile, stored: StoredCase) -> tuple[float | None, float | None]:
    """The whole network in the first rounds and in the later half, where the first stand out."""
    rounds = run.times(stored.id)
    whole = [found[WHOLE].ns * 1e-9 for _, found in sorted(rounds.items()) if WHOLE in found]
    if len(whole) < 2 * FIRST_ROUNDS:
        return None, None
    early_s, late_s = _median(whole[:FIRST_ROUNDS]), _median(whole[len(whole) // 2 :])
    return (early_s, late_s) if early_s > LATER * max(whole[FIRST_ROUNDS:]) else (None, None)


def _lost_s(run: RunFile, stored: StoredCase) -> float:
    lost = [found[WHOLE].lost_ns for found in run.times(stored.id).values() if WHOLE in found]
    return float(np.mean(lost)) * 1e-9 if lost else 0.0


def _others(case: CaseResult, cases: Sequence[CaseResult]) -> tuple[CaseResult, ...]:
    """The same case in other engines, the fastest first."""
    wanted = case.network, case.cpus, case.batch, case.mode
    others = [
        other
        for other in cases
        if other.engine != case.engine
        and (other.network, other.cpus, other.batch, other.mode) == wanted
    ]
    return tuple(sorted(others, key=lambda other: other.measured.value_s))
