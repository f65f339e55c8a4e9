"""Predict a network at a batch and a thread count that were not measured, from a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from kernelprof import ceilings
from kernelprof.ceilings import Ceilings
from kernelprof.errors import UsageError
from kernelprof.forecast import (
    BETWEEN,
    BEYOND,
    MEASURED,
    OTHER_SIZES,
    Forecast,
    Spread,
    Term,
    widened,
)
from kernelprof.measured import known_ceilings
from kernelprof.probes.decompose import Fusion, Kernel, kernels
from kernelprof.probes.device import CPU
from kernelprof.probes.network import Network
from kernelprof.roofline import least_seconds
from kernelprof.runfile import RunFile
from kernelprof.units import counted, magnitude
from kernelprof.unmeasured.holdings import Holdings, holdings
from kernelprof.unmeasured.kernel_model import Guess, at_threads
from kernelprof.unmeasured.misfit import CONTEXT, EACH_KERNEL, Residuals, pooled, residuals, spread

SAMPLES = "samples"
WORST = math.log(2.0)  # by doubling of the batch: all of the time grows with it, or none


@dataclass(frozen=True)
class Source:
    """A run, and what may be foretold from it; some cases may be left out, to try it."""

    run: RunFile
    ceilings: Ceilings
    left_out: frozenset[int] = frozenset()

    @classmethod
    def of(cls, run: RunFile, left_out: frozenset[int] = frozenset()) -> Source:
        """A run with the ceilings of its machine: its own, and those of other thread counts.

        Raises:
            UsageError: none are known, or it was taken on a GPU.
        """
        device = run.meta("options").get("device", CPU)
        if device != CPU:
            raise UsageError(
                f"{run.path} was taken on {device}: what was not measured is foretold for CPUs "
                "only; measure these batches with `kernelprof run --batch`"
            )
        own = known_ceilings(run)
        kept = ceilings.load(str(run.meta("machine").get("fingerprint", "")))
        known = Ceilings(kept.fingerprint, {**kept.placements, **(own.placements if own else {})})
        if not known.placements:
            raise UsageError(
                f"{run.path} holds no ceilings of its machine, which predictions between and beyond"
                " need; run `kernelprof machine` there"
            )
        return cls(run, known, left_out)

    @cached_property
    def measured(self) -> tuple[tuple[str, str], ...]:
        """The engines and modes of which networks were measured."""
        nothing = {*self.run.failures(), *self.left_out}
        found = (
            (stored.case.engine, stored.case.mode)
            for stored in self.run.cases()
            if not stored.calibration and stored.id not in nothing
        )
        return tuple(dict.fromkeys(found))

    @cached_property
    def engines(self) -> tuple[str, ...]:
        """The engines of which networks were measured."""
        return tuple(dict.fromkeys(engine for engine, _ in self.measured))

    @cached_property
    def whole_engines(self) -> tuple[str, ...]:
        """The engines that ran whole networks, and not only their kernels."""
        whole = {stored.case.engine for stored in self.run.cases() if stored.case.whole}
        return tuple(engine for engine in self.engines if engine in whole) or self.engines

    @cached_property
    def _fusions(self) -> Mapping[str, Fusion]:
        """How each engine groups primitives into kernels."""
        return {
            engine: Fusion.from_json(facts["fusion"])
            for engine, _, facts in self.run.workers()
            if "fusion" in facts
        }

    def fusion(self, engine: str) -> Fusion:
        """How an engine groups primitives into kernels.

        Raises:
            UsageError: the run does not tell.
        """
        if engine not in self._fusions:
            raise UsageError(
                f"{self.run.path} does not tell how {engine} groups primitives into kernels; "
                "measure it again with this version"
            )
        return self._fusions[engine]

    @cached_property
    def _known(self) -> dict[tuple[str, str], Holdings]:
        return {}

    def known(self, engine: str, mode: str) -> Holdings:
        """What the run holds of an engine in a mode.

        Raises:
            UsageError: nothing.
        """
        if (engine, mode) not in self.measured:
            held = ", ".join(f"{name} {mode}" for name, mode in self.measured) or "nothing measured"
            raise UsageError(f"{self.run.path} holds no {engine} {mode}; it holds {held}")
        if (engine, mode) not in self._known:
            self._known[engine, mode] = holdings(
                self.run, engine, mode, self.ceilings, self.left_out
            )
        return self._known[engine, mode]

    @cached_property
    def _residuals(self) -> dict[str, Residuals]:
        return {}

    def residuals(self, engine: str) -> Residuals:
        """How far the model is off for an engine, in all of its modes."""
        if engine not in self._residuals:
            found: dict[str, list[float]] = defaultdict(list)
            for mode in (mode for name, mode in self.measured if name == engine):
                for cause, errors in residuals(self.known(engine, mode)).items():
                    found[cause] += errors
            self._residuals[engine] = found
        return self._residuals[engine]

    def spread(self, engine: str, cause: str) -> Spread | None:
        """How far the model is off for a cause; None where the run cannot tell."""
        others = (self.residuals(other) for other in self.engines if other != engine)
        return spread(pooled(self.residuals(engine), others, cause))


def forecast(
    source: Source, network: Network, engine: str, threads: int, batch: int, mode: str
) -> Forecast:
    """What the network would take.

    Raises:
        UsageError: the run holds nothing of this engine and mode, or nothing like this network, or
            the ceilings of the thread count are needed and unknown.
    """
    known = source.known(engine, mode)
    _require_ceilings(source, known, threads)
    parts = kernels(network, batch, mode, source.fusion(engine))
    guesses = [
        _guess(known, network.name, place, part, batch, threads) for place, part in enumerate(parts)
    ]
    found = [(part, guess) for part, guess in zip(parts, guesses, strict=True) if guess]
    if not found:
        raise UsageError(f"{source.run.path} holds nothing like the kernels of {network.name}")
    alone_ns = {place: guess.seconds * 1e9 for place, guess in enumerate(guesses) if guess}
    beyond_s = known.context(threads).ns(parts, alone_ns) * 1e-9
    seconds = max(sum(guess.seconds for _, guess in found) + beyond_s, 0.0)
    spreads = _spreads(source, known, engine, [guess for _, guess in found], seconds)
    relative = math.sqrt(sum(half**2 for half in spreads.values()))
    away = [sum(side) for side in zip(*_bounds(found), strict=True)]
    flop = network.flop(batch, mode)
    return Forecast(
        network=network.name,
        engine=engine,
        threads=threads,
        batch=batch,
        mode=mode,
        predicted=widened(seconds, relative, seconds - away[0], seconds + away[1]),
        beyond_s=beyond_s,
        coverage=sum(part.compute_flop for part, _ in found) / flop if flop else 1.0,
        uncovered=tuple(
            dict.fromkeys(p.layer for p, guess in zip(parts, guesses, strict=True) if not guess)
        ),
        terms=tuple(Term(p.layer, p.label, guess.seconds, guess.basis) for p, guess in found),
        batches=known.batches(network.name),
        thread_counts=known.thread_counts,
        spreads=spreads,
        rests_on=tuple(_rests_on(source, known, network.name, engine, threads, spreads)),
    )


def _require_ceilings(source: Source, known: Holdings, threads: int) -> None:
    """Beyond the measured thread counts they tell what more threads are good for."""
    inside = known.thread_counts[0] <= threads <= known.thread_counts[-1]
    if inside or threads in source.ceilings.placements:
        return
    held = ", ".join(map(str, known.thread_counts))
    raise UsageError(
        f"{source.run.path} holds {held} threads, and no ceilings of {threads} are known of its "
        f"machine; run `kernelprof machine --threads {threads}` there, or measure with more threads"
    )


def _guess(
    known: Holdings, network: str, place: int, kernel: Kernel, batch: int, threads: int
) -> Guess | None:
    if threads in known.thread_counts:
        return known.guess(network, place, kernel, batch, threads)
    by_count = {
        count: guess
        for count in known.thread_counts
        if (guess := known.guess(network, place, kernel, batch, count)) is not None
    }
    if not by_count:
        return None
    least_s = {
        count: least_seconds(kernel.primitives, kernel.passes, known.ceilings.at(count))
        for count in {*by_count, threads}
        if count in known.ceilings.placements
    }
    return at_threads(by_count, threads, least_s)


def _bounds(found: Iterable[tuple[Kernel, Guess]]) -> list[tuple[float, float]]:
    """How far each kernel may be below and above, for reasons of logic."""
    return [(guess.seconds - guess.low_s, guess.high_s - guess.seconds) for _, guess in found]


def _spreads(
    source: Source, known: Holdings, engine: str, guesses: list[Guess], seconds: float
) -> dict[str, float]:
    """What widens the interval, by cause: relative half-widths of the whole.

    Samples count twice: what is foretold would be measured with as much noise itself.
    """
    half_widths = {case.source: case.half_width for case in known.cases}
    drawn: dict[int, float] = defaultdict(float)
    away: dict[str, float] = defaultdict(float)
    for guess in guesses:
        for origin, part in guess.by_source.items():
            drawn[origin] += part
        if guess.basis != MEASURED:
            far = 1.0 if guess.basis == OTHER_SIZES else guess.doublings
            away[guess.basis] += far * guess.seconds
    found = {
        SAMPLES: math.sqrt(2)
        * math.hypot(*(part * half_widths[origin] for origin, part in drawn.items()))
        / seconds
    }
    for basis, weighted_s in away.items():
        found[basis] = weighted_s / seconds * _half_width(source, engine, basis)
    context = source.spread(engine, CONTEXT)
    if context is not None:
        found[CONTEXT] = context.half_width
    return found


def _cause(source: Source, engine: str, basis: str) -> tuple[str, Spread] | None:
    """What the run can tell of a basis: it itself, or what is at least as uncertain."""
    causes = (BETWEEN, BEYOND, EACH_KERNEL)
    for cause in causes[causes.index(basis) :] if basis in causes else (basis,):
        found = source.spread(engine, cause)
        if found is not None:
            return cause, found
    return None


def _half_width(source: Source, engine: str, basis: str) -> float:
    found = _cause(source, engine, basis)
    if basis == OTHER_SIZES:
        return found[1].half_width if found else WORST
    return min(found[1].half_width, WORST) if found else WORST


def _rests_on(
    source: Source,
    known: Holdings,
    network: str,
    engine: str,
    threads: int,
    spreads: Mapping[str, float],
) -> Iterable[str]:
    """What an interval rests on beside the samples."""
    words = {
        BETWEEN: "batches are from what those on both sides foretell",
        BEYOND: "batches are from what others foretell, per doubling",
        EACH_KERNEL: "kernels are from what others of their kind foretell, per doubling of size",
        OTHER_SIZES: "networks are from what kernels of other sizes foretell",
        CONTEXT: "chains of layers are from what their own kernels foretell",
    }
    batches = known.batches(network)
    for basis in (BETWEEN, BEYOND, OTHER_SIZES):
        if basis not in spreads:
            continue
        found = _cause(source, engine, basis)
        if len(batches) == 1 and basis == BEYOND:
            yield f"only batch {batches[0]} being measured (a kernel's efficiency is taken to stay)"
        if found is None:
            yield f"nothing that the run tells of what is {basis} (half or double is allowed)"
        else:
            yield _tells(found[1], words[found[0]])
    context = source.spread(engine, CONTEXT)
    if context is not None:
        yield _tells(context, words[CONTEXT])
    if threads not in known.thread_counts:
        counts = ", ".join(map(str, known.thread_counts))
        yield f"what {threads} threads may do at best and at worst (measured were {counts})"
    if not known.contexts:
        yield "calls being free (no chains of tiny layers were measured)"
    elif threads not in known.contexts:
        yield "calls costing as much as with the nearest thread count"


def _tells(found: Spread, what: str) -> str:
    return f"how far {what} ({magnitude(found.half_width)} in {counted(found.count, 'case')})"
