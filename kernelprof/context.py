"""What a network costs in an engine beyond its kernels, learned from the engine's own chains.

A kernel called by itself pays for its call, an engine fuses some layers into the ones before them,
and copies what it would otherwise overwrite while it is still read.  Each of that is learned from
the chain that shows it most (``kernelprof.chains``), never from a network that is predicted.

On a GPU calling costs the CPU, and fusing and copying change what the GPU does; what both sides
make of it together is a queue (``kernelprof.gpu.queue``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from kernelprof.chains import (
    ACTIVATED,
    CALLS,
    NORMALISED,
    PLAIN,
    PRODUCTS,
    RESIDUAL,
    TO_BE_PREDICTED,
)
from kernelprof.disturbance import WHOLE, Rounds
from kernelprof.gpu.handover import HandOver, HandOvers, both_sides
from kernelprof.gpu.queue import Call
from kernelprof.prediction import CallCost, call_cost, has_kernels, kernels_ns
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.primitive import BACKWARD_DATA, FORWARD, UPDATE
from kernelprof.results import Trait
from kernelprof.runfile import StoredKernel
from kernelprof.statistics import CONFIDENCE, median_interval

SUM = "sum of branches"
ACTIVATION = "activation behind a convolution"
BATCH_NORM = "batch norm behind a convolution"
WEIGHTS = "update of weights that the backward pass reads"


class Showing(NamedTuple):
    """Which chain shows a trait, which has all but that, and between what its share can lie.

    What is seen on the chain may go beyond ``least`` by as much again: fusing also saves calls.
    What lies farther off has another cause.
    """

    chain: str
    without: str
    least: float
    most: float


# In this order: each is learned with those before it known.
SHOWN_BY = {
    WEIGHTS: Showing(PRODUCTS, "", 0.0, 2.0),
    ACTIVATION: Showing(ACTIVATED, PLAIN, -1.0, 0.0),
    BATCH_NORM: Showing(NORMALISED, PLAIN, -1.0, 0.0),
    SUM: Showing(RESIDUAL, "", 0.0, 100.0),  # layouts that differ are made alike, and again after
}
LEAST_ROUNDS = 5  # of a chain, to learn from it


@dataclass(frozen=True)
class ChainSamples:
    """A chain that was measured in one engine, placement and mode; on a GPU with its two sides."""

    name: str
    kernels: Sequence[StoredKernel]
    rounds: Rounds
    hand_overs: HandOvers = field(default_factory=dict)

    @property
    def calling(self) -> Rounds:
        """The times that show what calling costs: on a GPU the CPU's, of the same samples."""
        if not self.hand_overs:
            return self.rounds
        return {
            round_: {place: self.hand_overs[round_].host_ns.get(place, 0.0) for place in sample}
            for round_, sample in self.rounds.items()
            if round_ in self.hand_overs
        }

    def beyond_ns(self, context: Context) -> list[float]:
        """What the chain takes in each round beyond what its context foretells."""
        return [
            sample[WHOLE]
            - kernels_ns(sample)
            - context.ns(self.kernels, sample, self.hand_overs.get(round_))
            for round_, sample in self._complete().items()
        ]

    def shows_kernels(self, context: Context) -> bool:
        """Whether its time is that of its kernels; on a GPU they may hide behind the CPU."""
        calls = [
            context.call(self.kernels, sample, self.hand_overs[round_])
            for round_, sample in self._complete().items()
            if round_ in self.hand_overs
        ]
        ahead_ns = [call.device_sum_ns - call.host_sum_ns for call in calls]
        return not ahead_ns or float(np.median(ahead_ns)) >= 0

    def trait_ns(self, trait: str) -> float:
        """What the kernels of a trait take by themselves."""
        places = [place for place, found in traits(self.kernels) if found == trait]
        complete = self._complete().values()
        sums = [sum(sample.get(p, 0.0) for p in places) for sample in complete]
        return float(np.median(sums)) if sums else 0.0

    def whole_ns(self) -> float:
        """The median of the whole chain."""
        return float(np.median([sample[WHOLE] for sample in self._complete().values()]))

    @property
    def is_known(self) -> bool:
        """Whether there are rounds enough to learn from."""
        return len(self._complete()) >= LEAST_ROUNDS

    def _complete(self) -> Rounds:
        return {r: s for r, s in self.rounds.items() if WHOLE in s and has_kernels(s)}


@dataclass(frozen=True)
class Context:
    """The cost of calling, and what the traits of an engine make of its kernels' times."""

    calls: CallCost = field(default_factory=CallCost)
    traits: Mapping[str, Trait] = field(default_factory=dict)

    def ns(
        self,
        kernels: Sequence[StoredKernel | Kernel],
        sample: Mapping[int, float],
        hand_over: HandOver | None = None,
    ) -> float:
        """What comes to the kernels of one call, each of which takes as long as it did.

        On a GPU, where the CPU hands them over, that is the time in which it waits for the CPU.
        """
        if hand_over is None:
            return self.calls.ns(kinds(kernels)) + sum(self.trait_ns(kernels, sample).values())
        finished_ns = self.call(kernels, sample, hand_over).finished_ns(hand_over.calls)
        return finished_ns / hand_over.calls - kernels_ns(sample)

    def call(
        self,
        kernels: Sequence[StoredKernel | Kernel],
        sample: Mapping[int, float],
        hand_over: HandOver,
    ) -> Call:
        """Both sides of a call on a GPU; a kernel that was not measured takes the GPU no time."""
        shares = {p: self.traits[name].share for p, name in traits(kernels) if name in self.traits}
        device_ns = [
            sample.get(place, 0.0) * (1 + shares.get(place, 0.0)) for place in range(len(kernels))
        ]
        return both_sides(kinds(kernels), device_ns, hand_over, self.calls)

    def trait_ns(
        self, kernels: Sequence[StoredKernel | Kernel], sample: Mapping[int, float]
    ) -> dict[str, float]:
        """What each trait adds, or saves."""
        found: dict[str, float] = dict.fromkeys(self.traits, 0.0)
        for place, name in traits(kernels):
            if name in self.traits and place in sample:
                found[name] += self.traits[name].share * sample[place]
        return found


def kinds(kernels: Iterable[StoredKernel | Kernel]) -> list[str]:
    """What each kernel is, by its first primitive."""
    return [kernel.primitives[0].kind for kernel in kernels]


def traits(kernels: Sequence[StoredKernel | Kernel]) -> Iterator[tuple[int, str]]:
    """The places of the kernels that a trait may change, and which; all kernels of a network."""
    read_backwards = {
        kernel.layer
        for kernel in kernels
        if BACKWARD_DATA in kernel.passes and kernel.primitives[0].compute_bound
    }
    before = ""
    for place, kernel in enumerate(kernels):
        kind = kernel.primitives[0].kind
        if kernel.passes == (UPDATE,) and kernel.layer in read_backwards:
            yield place, WEIGHTS
        elif kernel.passes == (FORWARD,) and kind == "add":
            yield place, SUM
        elif kernel.passes == (FORWARD,) and before == "conv2d":
            if kind == "activation":
                yield place, ACTIVATION
            elif kind == "batch_norm":
                yield place, BATCH_NORM
        if kernel.passes == (FORWARD,) and kind != "bias":
            before = kind


def learned(chains: Iterable[ChainSamples]) -> Context:
    """What the chains of an engine at one placement and in one mode tell."""
    known = {chain.name: chain for chain in chains}
    tiny = [chain for name, chain in known.items() if name.startswith(CALLS)]
    plain = Context(call_cost([(kinds(chain.kernels), chain.calling) for chain in tiny]))
    context = plain
    for name, (shows, lacks, least, most) in SHOWN_BY.items():
        chain = known.get(shows)
        if chain is None or not chain.is_known or not chain.trait_ns(name):
            continue
        without = known.get(lacks)
        if not all(one.shows_kernels(context) for one in (chain, without) if one is not None):
            continue
        trait = _trait(name, chain, without, context)
        if trait.is_clear and 2 * least <= trait.share <= most:
            trait = replace(trait, share=max(trait.share, least))
            context = Context(plain.calls, {**context.traits, name: trait})
    return context


def _trait(trait: str, chain: ChainSamples, without: ChainSamples | None, known: Context) -> Trait:
    """The share of its kernels' time by which a trait changes them, with its interval.

    It is what the chain takes beyond its kernels and what is known of them, less what a chain
    without the trait does.
    """
    usual = 0.0
    if without is not None and without.is_known:
        usual = float(np.median(without.beyond_ns(known)))
    own_ns = chain.trait_ns(trait)
    shares = [(beyond - usual) / own_ns for beyond in chain.beyond_ns(known)]
    return Trait(trait, *median_interval(shares))


def misfit(chains: Iterable[ChainSamples], contexts: Iterable[Context]) -> float | None:
    """How far off a prediction may be: the relative half-width that holds 9 of 10.

    From the errors of the chains that are there to be predicted, Student's t for as few as they
    are; None if there is none.
    """
    found = errors(chains, contexts)
    if not found:
        return None
    spread = math.sqrt(sum(error**2 for error in found) / len(found))
    return spread * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(found)))


def errors(chains: Iterable[ChainSamples], contexts: Iterable[Context]) -> list[float]:
    """Of the chains that are there to be predicted: the part of their time that was not foretold.

    A share of the measured time, positive where more was measured.  A chain from which a trait was
    learned says nothing of how well it is foretold.
    """
    found = []
    for chain, context in zip(chains, contexts, strict=True):
        taught = {SHOWN_BY[trait].chain for trait in context.traits}
        if chain.name in TO_BE_PREDICTED and chain.is_known and chain.name not in taught:
            found.append(float(np.median(chain.beyond_ns(context))) / chain.whole_ns())
    return found
