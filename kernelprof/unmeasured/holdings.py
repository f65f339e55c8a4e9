"""What a run holds of an engine in one mode: its kernels, and what they say of other ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from kernelprof.ceilings import Ceilings
from kernelprof.chains import CALLS
from kernelprof.context import Context, errors, learned
from kernelprof.forecast import OTHER_SIZES
from kernelprof.measured import Measured, load
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.primitive import Primitive
from kernelprof.results import Estimate
from kernelprof.runfile import RunFile, StoredKernel
from kernelprof.unmeasured.kernel_model import (
    LEAST_NOISE,
    Guess,
    Need,
    Point,
    Z,
    at_batch,
    measured,
    need,
)

NEAREST = 3  # kernels of other sizes that tell the efficiency of one that was not measured


@dataclass(frozen=True)
class Held:
    """A measured kernel, and where in which network it stands."""

    network: str
    place: int
    layer: str
    threads: int
    primitives: tuple[Primitive, ...]
    passes: tuple[str, ...]
    work: tuple[float, float]  # flop and least bytes
    point: Point

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its primitives."""
        return tuple(primitive.kind for primitive in self.primitives)

    def same_as(self, kernel: Kernel) -> bool:
        """Whether it is this kernel at this size."""
        return self.primitives == kernel.primitives and self.passes == kernel.passes


@dataclass(frozen=True)
class HeldCase:
    """A measured case: its place in the run, and the sum of its kernels with its interval."""

    source: int
    network: str
    batch: int
    threads: int
    kernels: Estimate

    @property
    def half_width(self) -> float:
        """Of the interval of the kernels' sum, relative."""
        found = (self.kernels.high_s - self.kernels.low_s) / 2 / self.kernels.value_s
        return max(found, Z * LEAST_NOISE)


@dataclass(frozen=True)
class Holdings:
    """The kernels and cases of an engine in a mode, and what its chains tell by thread count.

    ``fixed_s`` is the least that a kernel of some passes takes: seen on the chains of tiny layers.
    ``chain_errors`` are the shares of larger chains' times that their kernels did not foretell.
    """

    ceilings: Ceilings
    held: tuple[Held, ...]
    cases: tuple[HeldCase, ...]
    contexts: Mapping[int, Context]
    fixed_s: Mapping[tuple[int, tuple[str, ...]], float] = field(default_factory=dict)
    chain_errors: tuple[float, ...] = ()

    @cached_property
    def thread_counts(self) -> tuple[int, ...]:
        """Those that networks were measured with."""
        return tuple(sorted({one.threads for one in self.held}))

    def batches(self, network: str) -> tuple[int, ...]:
        """Those that a network was measured at."""
        return tuple(sorted({case.batch for case in self.cases if case.network == network}))

    def without(self, left_out: Callable[[Held], bool]) -> Holdings:
        """What is left when some kernels are not known."""
        return replace(self, held=tuple(one for one in self.held if not left_out(one)))

    def context(self, threads: int) -> Context:
        """What comes to the kernels at the nearest thread count."""
        if not self.contexts:
            return Context()
        return self.contexts[min(self.contexts, key=lambda count: abs(math.log(count / threads)))]

    @cached_property
    def _of_place(self) -> Mapping[tuple[str, int, int], list[Held]]:
        found: dict[tuple[str, int, int], list[Held]] = defaultdict(list)
        for one in self.held:
            found[one.network, one.place, one.threads].append(one)
        return found

    @cached_property
    def _of_kinds(self) -> Mapping[tuple[int, tuple[str, ...]], list[Held]]:
        found: dict[tuple[int, tuple[str, ...]], list[Held]] = defaultdict(list)
        for one in self.held:
            found[one.threads, one.passes].append(one)
        return found

    def guess(
        self, network: str, place: int, kernel: Kernel, batch: int, threads: int
    ) -> Guess | None:
        """A kernel's time at a batch, with a thread count that was measured.

        None where nothing like it was measured.
        """
        kinds = tuple(primitive.kind for primitive in kernel.primitives)
        own = [
            one
            for one in self._of_place.get((network, place, threads), ())
            if one.kinds == kinds and one.passes == kernel.passes
        ]
        alike = self._of_kinds.get((threads, kernel.passes), [])
        for one in (*own, *alike):
            if one.same_as(kernel):
                return measured(one.point)
        wanted = need(kernel.primitives, kernel.passes, threads, self.ceilings)
        fixed_s = self.fixed_s.get((threads, kernel.passes), 0.0)
        if own:
            return at_batch([one.point for one in own], batch, wanted, fixed_s)
        same_kinds = [one for one in alike if one.kinds == kinds]
        same_first = [one for one in alike if one.kinds[0] == kinds[0]]
        return _from_other_sizes(same_kinds or same_first, kernel, wanted, fixed_s)


def _from_other_sizes(
    alike: Iterable[Held], kernel: Kernel, wanted: Need, fixed_s: float
) -> Guess | None:
    """What the nearest sizes take beyond the roofline; the nearer one is, the more it counts."""
    size = float(kernel.flop), float(kernel.least_bytes)
    apart = sorted(((_doublings(one.work, size), one) for one in alike), key=lambda both: both[0])
    usable = [(far, one.point) for far, one in apart if one.point.need.work_s][:NEAREST]
    if not usable:
        return None
    weights = [1 / max(far, 0.1) ** 2 for far, _ in usable]
    weights = [weight / sum(weights) for weight in weights]
    core = sum(
        weight * _core(point, fixed_s) for weight, (_, point) in zip(weights, usable, strict=True)
    )
    seconds = fixed_s + core * wanted.work_s + wanted.least_s
    shares = {
        point.source: seconds * weight for weight, (_, point) in zip(weights, usable, strict=True)
    }
    return Guess(seconds, shares, OTHER_SIZES, usable[0][0])


def _core(point: Point, fixed_s: float) -> float:
    """What a kernel takes beyond the roofline and what any call takes, per unit of its work."""
    beyond_s = point.seconds.value_s - fixed_s - point.need.least_s
    return max(beyond_s, 0.0) / point.need.work_s


def _doublings(one: tuple[float, float], other: tuple[float, float]) -> float:
    """How far two kernels are apart in arithmetic and in bytes, in factors of two."""
    return math.hypot(*(math.log2((a + 1) / (b + 1)) for a, b in zip(one, other, strict=True)))


def holdings(
    run: RunFile, engine: str, mode: str, ceilings: Ceilings, left_out: Container[int] = ()
) -> Holdings:
    """What a run holds of an engine in a mode, but for some cases."""
    held: list[Held] = []
    cases: list[HeldCase] = []
    chains: dict[int, list[Measured]] = defaultdict(list)
    failed = run.failures()
    for stored in run.cases():
        case = stored.case
        is_wanted = (case.engine, case.mode) == (engine, mode) and stored.id not in left_out
        if not is_wanted or stored.id in failed:
            continue
        if stored.calibration:
            chains[case.threads].append(load(run, stored, None))
        elif (found := load(run, stored, ceilings)).rounds:
            held += _held(found, ceilings)
            cases += _case(found)
    samples = {threads: [chain.chain() for chain in own] for threads, own in chains.items()}
    contexts = {threads: learned(own) for threads, own in samples.items()}
    missed = [
        error
        for threads, own in samples.items()
        for error in errors(own, [contexts[threads]] * len(own))
    ]
    return Holdings(ceilings, tuple(held), tuple(cases), contexts, _fixed(chains), tuple(missed))


def _held(found: Measured, ceilings: Ceilings) -> Iterable[Held]:
    case = found.stored.case
    for kernel in found.kernels:
        seconds = None if kernel.failure else found.kernel(kernel.place)
        if seconds is None:
            continue
        asked = need(kernel.primitives, kernel.passes, case.threads, ceilings)
        yield Held(
            network=case.network,
            place=kernel.place,
            layer=kernel.layer,
            threads=case.threads,
            primitives=kernel.primitives,
            passes=kernel.passes,
            work=(float(kernel.flop), float(kernel.least_bytes)),
            point=Point(found.stored.id, case.batch, asked, seconds),
        )


def _case(found: Measured) -> Iterable[HeldCase]:
    kernels, case = found.all_kernels(), found.stored.case
    if kernels is not None and kernels.value_s > 0:
        yield HeldCase(
            source=found.stored.id,
            network=case.network,
            batch=case.batch,
            threads=case.threads,
            kernels=kernels,
        )


def _fixed(chains: Mapping[int, list[Measured]]) -> dict[tuple[int, tuple[str, ...]], float]:
    """The least that a kernel of a tiny chain takes, by thread count and passes."""
    found: dict[tuple[int, tuple[str, ...]], float] = {}
    for threads, own in chains.items():
        for chain in (chain for chain in own if chain.stored.case.network.startswith(CALLS)):
            for kernel in chain.kernels:
                _keep_least(found, threads, kernel, chain.kernel(kernel.place))
    return found


def _keep_least(
    found: dict[tuple[int, tuple[str, ...]], float],
    threads: int,
    kernel: StoredKernel,
    seconds: Estimate | None,
) -> None:
    key = threads, kernel.passes
    if seconds is not None and not kernel.failure:
        found[key] = min(seconds.value_s, found.get(key, math.inf))
