"""A case as the run file holds it, judged: without what was disturbed or cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from kernelprof.ceilings import DRAM, Ceilings, PlacementCeilings
from kernelprof.context import ChainSamples, Context
from kernelprof.disturbance import WHOLE, Quiet, quiet
from kernelprof.gpu.handover import HandOvers, hand_overs
from kernelprof.plan import Case, StopRule, reference
from kernelprof.prediction import has_kernels, paired_ratios, predicted_ns
from kernelprof.probes.device import CPU, TF32
from kernelprof.results import CaseResult, Estimate, Sampling
from kernelprof.roofline import least_seconds
from kernelprof.runfile import RunFile, StoredCase, StoredKernel
from kernelprof.statistics import estimate, half_width
from kernelprof.units import bandwidth, duration

TOLERANCE = 0.02  # by which a result may lie above a ceiling: both were measured
IMPOSSIBLE, NOT_COLD = REFUSED = ("above_ceiling", "not_cold")  # kinds of failure


@dataclass(frozen=True)
class Measured:
    """A case: its kernels, its rounds, and what the machine could do at best."""

    stored: StoredCase
    kernels: list[StoredKernel]
    quiet: Quiet
    workers: Mapping[int, int]  # round -> the process that took it
    stop: StopRule
    hand_overs: HandOvers = field(default_factory=dict)  # on a GPU, by round
    ceilings: PlacementCeilings | None = None  # None where they were not measured

    @property
    def rounds(self) -> Mapping[int, Mapping[int, float]]:
        """Nanoseconds per call, by round and place."""
        return self.quiet.rounds

    def whole(self) -> Estimate | None:
        """The whole network, in seconds."""
        return self._estimate({r: s[WHOLE] for r, s in self.rounds.items() if WHOLE in s})

    def kernel(self, place: int) -> Estimate | None:
        """One kernel, in seconds."""
        return self._estimate({r: s[place] for r, s in self.rounds.items() if place in s})

    def all_kernels(self, context: Context | None = None) -> Estimate | None:
        """The sum of all kernels and what their context adds to it, in seconds.

        On a GPU, without a context, they take what the GPU does, which waits for nothing.
        """
        hand_overs = self.hand_overs if context else {}
        context = context or Context()
        found: dict[int, float] = {}
        for round_, sample in self.rounds.items():
            more_ns = partial(context.ns, self.kernels, hand_over=hand_overs.get(round_))
            found |= predicted_ns({round_: sample}, more_ns)
        return self._estimate(found)

    def chain(self) -> ChainSamples:
        """Of a chain: what one learns from."""
        return ChainSamples(self.stored.case.network, self.kernels, self.rounds, self.hand_overs)

    def sum_s(self, places: Iterable[int]) -> float:
        """The median over rounds of the sum of some kernels."""
        wanted = list(places)
        sums = [sum(s[p] for p in wanted) for s in self.rounds.values() if has_kernels(s)]
        return float(np.median(sums)) * 1e-9

    def _estimate(self, ns: Mapping[int, float]) -> Estimate | None:
        """Of a time in each round."""
        if not ns:
            return None
        return estimate([each * 1e-9 for each in ns.values()], [self.workers[r] for r in ns])

    @cached_property
    def sampling(self) -> Sampling:
        """How it was sampled, and how well it is known."""
        return Sampling(
            rounds=self.quiet.taken,
            processes=len(set(self.workers.values())),
            disturbed=self.quiet.disturbed,
            unavoidable=self.quiet.unavoidable,
            stopped_by=self.stored.stopped_by or "",
            half_width=known_to(self.rounds, self.stored.case.whole),
            asked_half_width=self.stop.half_width,
        )


def known_to(rounds: Mapping[int, Mapping[int, float]], whole: bool) -> float:
    """The relative half-width that the stop rule looks at.

    Of a network it is that of predicted to measured time; of kernels by themselves that of the
    one which is known worst.
    """
    if whole:
        ratios = paired_ratios(rounds)
        return half_width(ratios) if ratios else float("inf")
    places = {place for sample in rounds.values() for place in sample} - {WHOLE}
    return max(
        (half_width([s[place] for s in rounds.values() if place in s]) for place in places),
        default=float("inf"),
    )


def load(run: RunFile, stored: StoredCase, known: Ceilings | None) -> Measured:
    """A case with its samples; kernels faster than the machine can be count as failed."""
    times = run.times(stored.id)
    measured = Measured(
        stored,
        run.kernels(stored.id),
        quiet(times),
        {round_: next(iter(found.values())).worker for round_, found in times.items()},
        StopRule(**run.meta("options")["stop"]),
        {} if stored.case.device == CPU else hand_overs(run.gpu_samples(stored.id)),
    )
    at = ceilings_of(run, stored.case, known)
    if at is None:
        return measured
    kernels = [_judged(measured, kernel, at) for kernel in measured.kernels]
    refused = {k.place for k, before in zip(kernels, measured.kernels, strict=True) if k != before}
    kept = measured.quiet.without(refused)
    return replace(measured, kernels=kernels, quiet=kept, ceilings=at)


def ceilings_of(
    run: RunFile, case: Case | CaseResult, known: Ceilings | None
) -> PlacementCeilings | None:
    """What a case cannot exceed where it ran, in what its engine computes there."""
    found = known.of(case.device, case.threads) if known else None
    if found is None or case.device == CPU:
        return found
    told = [
        facts.get("variables", {}) for engine, _, facts in run.workers() if engine == case.engine
    ]
    return found.in_tf32() if any(each.get(TF32) == "1" for each in told) else found


def _judged(measured: Measured, kernel: StoredKernel, known: PlacementCeilings) -> StoredKernel:
    found = None if kernel.failure else measured.kernel(kernel.place)
    if found is None:
        return kernel
    slowest_s = found.high_s * (1 + TOLERANCE)
    again = f"kernelprof machine{_of_gpu(measured.stored.case.device)} --again"
    least_s = least_seconds(kernel.primitives, kernel.passes, known)
    if slowest_s < least_s:
        reason = (
            f"{duration(found.value_s)} is less than the {duration(least_s)} that the machine's "
            f"ceilings allow; if `{again}` finds the same ceilings, it is a bug"
        )
        return replace(kernel, failure=(IMPOSSIBLE, reason))
    memory = known.bytes_per_s(DRAM)
    if memory and slowest_s < kernel.cold_bytes / memory and not kernel.lukewarm:
        reason = (
            f"what should have been cold came at {bandwidth(kernel.cold_bytes / found.value_s)}, "
            f"but memory gives {bandwidth(memory)}: it was in a cache"
        )
        return replace(kernel, failure=(NOT_COLD, reason))
    return kernel


def _of_gpu(device: str) -> str:
    return "" if device == CPU else f" --device {device}"


def reference_of(stored: StoredCase, cases: Iterable[StoredCase]) -> StoredCase | None:
    """The reference engine's case of the same network, placement, batch and mode."""
    wanted = replace(stored.case, engine=reference(stored.case.device))
    for other in cases:
        if replace(other.case, whole=wanted.whole) == wanted:
            return other
    return None


def known_ceilings(run: RunFile) -> Ceilings | None:
    """The machine's ceilings; None where they were not measured."""
    stored = run.meta("ceilings")
    return None if stored is None else Ceilings.from_json(stored)
