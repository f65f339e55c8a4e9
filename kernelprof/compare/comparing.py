"""Compare two run files: pair what both hold, and tell what became slower."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kernelprof.compare.agreement import (
    machine_differences,
    setting_differences,
    side,
    unchanged_engines,
)
from kernelprof.compare.control import Drift, Levels, drift, shared_by_others
from kernelprof.compare.noise import Noise, Shift
from kernelprof.compare.observed import WHOLE_NETWORK, Group, Kernel, Observed, observe
from kernelprof.compare.pairing import Pair, paired, paired_kernels
from kernelprof.compare.results import FASTER, SAME, SLOWER, Change, MachineDrift, RunComparison
from kernelprof.compare.testing import ALPHA, levels
from kernelprof.results import Ratio
from kernelprof.runfile import RunFile

LEAST_LAYERS = 5  # of an engine of which a median means something
CHANGED = 2.5  # standard errors: what all layers share beyond that is a change of the engine
Kernels = list[tuple[Kernel, Kernel]]


def compare(before: RunFile, after: RunFile, threshold: float = 0.0) -> RunComparison:
    """Tell what became slower from one run to another, by more than the share ``threshold``.

    Raises:
        UsageError: a file lacks what every run has.
    """
    sides = side(before), side(after)
    machine = machine_differences(before, after)
    settings = setting_differences(before, after)
    if machine:
        return RunComparison(*sides, threshold, machine, settings)
    observed = observe(before), observe(after)
    found = paired((before, after), observed)
    unchanged = unchanged_engines(before, after)
    groups = dict.fromkeys(pair.before.group for pair in found.pairs)
    kernels = {group: _kernels(group, observed, unchanged) for group in groups}
    drifts = {group: drift([_levels(*both) for both in kernels[group]]) for group in groups}
    effects = _effects(found.pairs, kernels, drifts)
    return RunComparison(
        *(*sides, threshold, machine, settings),
        changes=tuple(_changes(effects, math.log1p(threshold))),
        drifts=tuple(
            _machine_drift(group, own, len(kernels[group])) for group, own in drifts.items() if own
        ),
        unmatched=found.unmatched,
    )


def _kernels(group: Group, observed: tuple[Observed, Observed], unchanged: set[str]) -> Kernels:
    before, after = (one.reference.get(group, {}) for one in observed)
    return list(paired_kernels(before, after, unchanged))


def _levels(before: Kernel, after: Kernel) -> Levels:
    return before.case.levels(before.part), after.case.levels(after.part)


@dataclass(frozen=True)
class _Seen:
    """A part as it was seen: alone, beside what the others of its family share, and without it."""

    absolute: Shift
    shared: Shift | None = None
    relative: Shift | None = None


@dataclass(frozen=True)
class _Effect:
    """By how much a part moved and how well that is known, in logarithms of ratios."""

    pair: Pair
    layer: str
    seen: _Seen
    value: float
    error: float
    freedom: float

    @property
    def weight(self) -> float:
        """How much it matters: the root of its share of the case's time."""
        part, case = self.seen.absolute.before, self.pair.before.total()
        return min(1.0, math.exp((float(np.mean(part)) - case) / 2))

    def p_value(self, sign: int, threshold: float) -> float:
        """The probability of moving this far or farther beyond the threshold by chance."""
        return float(stats.t.sf((sign * self.value - threshold) / self.error, self.freedom))

    def margin(self, level: float) -> float:
        """By how much chance moves it, but for a probability of ``level``."""
        return self.error * float(stats.t.isf(level, self.freedom))


def _family(name: Hashable, parts: Sequence[tuple[Levels, bool]]) -> list[_Seen]:
    """Parts that are timed in the same processes: their levels, and whether they compute."""
    absolute = [Shift.of(levels, heavy, name) for levels, heavy in parts]
    if len(parts) < LEAST_LAYERS:
        return [_Seen(one) for one in absolute]
    seen = []
    shared = shared_by_others([levels for levels, _ in parts])
    for one, others, (levels, heavy) in zip(absolute, shared, parts, strict=True):
        without = tuple(np.subtract(*sides) for sides in zip(levels, others, strict=True))
        ours = Shift.of(others, heavy, name), Shift.of((without[0], without[1]), heavy, name)
        seen.append(_Seen(one, *ours))
    return seen


def _effects(
    pairs: Sequence[Pair], kernels: Mapping[Group, Kernels], drifts: Mapping[Group, Drift | None]
) -> list[_Effect]:
    """The effects on all parts, without what the machine did."""
    reference = [seen for own in kernels.values() for seen in _reference(own)]
    layers: list[tuple[Pair, str, _Seen]] = []
    wholes: list[tuple[Pair, str, _Seen]] = []
    for pair in pairs:
        names = [name for name in pair.parts if name != WHOLE_NETWORK]
        parts = [_part(pair, name) for name in names]
        found = _family(pair.before.key, parts)
        layers += [(pair, name, one) for name, one in zip(names, found, strict=True)]
        if WHOLE_NETWORK in pair.parts:
            (whole,) = _family(pair.before.key, [_part(pair, WHOLE_NETWORK)])
            wholes.append((pair, WHOLE_NETWORK, whole))
    seen = [*reference, *(one for _, _, one in layers)]
    absolute = Noise([one.absolute for one in seen])
    relative = Noise([one.relative for one in seen if one.relative])
    return [
        _effect(pair, name, one, drifts[pair.before.group] or Drift(), absolute, relative)
        for pair, name, one in (*layers, *wholes)
    ]


def _part(pair: Pair, name: str) -> tuple[Levels, bool]:
    before, after = pair.parts[name]
    return (pair.before.levels(before), pair.after.levels(after)), before.compute_bound


def _reference(kernels: Kernels) -> Iterator[_Seen]:
    """The reference's kernels, those of a case as a family."""
    families: dict[Hashable, list[tuple[Levels, bool]]] = defaultdict(list)
    for before, after in kernels:
        families[before.case.key].append((_levels(before, after), before.part.compute_bound))
    for key, parts in families.items():
        yield from _family(("reference", key), parts)


def _effect(
    pair: Pair, name: str, seen: _Seen, drift: Drift, absolute: Noise, relative: Noise
) -> _Effect:
    """The effect on a part.

    A layer is held against the other layers of its engine.  Only if all of them moved by more than
    chance moves them together, the engine as a whole has changed, and the machine's drift is all
    that is taken out.  The same holds where there are few layers, and of whole networks.
    """
    if seen.shared and seen.relative:
        error, _ = absolute.error(seen.shared)
        moved = seen.shared.value - drift.removed
        if abs(moved) <= CHANGED * math.hypot(error, drift.error):
            return _Effect(pair, name, seen, seen.relative.value, *relative.error(seen.relative))
    error, freedom = absolute.error(seen.absolute)
    value = seen.absolute.value - drift.removed
    return _Effect(pair, name, seen, value, math.hypot(error, drift.error), freedom)


def _changes(effects: Sequence[_Effect], threshold: float) -> Iterator[Change]:
    """What is told of each part; as slower only what is beyond the threshold."""
    weights = [effect.weight for effect in effects]
    slower = [effect.p_value(1, threshold) for effect in effects]
    faster = [effect.p_value(-1, threshold) for effect in effects]
    tested = zip(effects, *(levels(p, weights, ALPHA) for p in (slower, faster)), strict=True)
    for effect, slower_at, faster_at in tested:
        low, high = -effect.margin(slower_at), effect.margin(faster_at)
        verdict = SAME
        if effect.value + low > threshold:
            verdict = SLOWER
        elif effect.value + high < -threshold:
            verdict = FASTER
        yield Change(
            *effect.pair.before.key,
            layer=effect.layer,
            before_s=_seconds(effect.seen.absolute.before),
            after_s=_seconds(effect.seen.absolute.after),
            ratio=Ratio(*(math.exp(effect.value + by) for by in (0.0, low, high))),
            told_from=math.exp(threshold - low),
            verdict=verdict,
        )


def _seconds(levels_ns: Sequence[float]) -> float:
    return math.exp(float(np.mean(levels_ns))) * 1e-9


def _machine_drift(group: Group, found: Drift, kernels: int) -> MachineDrift:
    low, high = (found.value + sign * found.margin for sign in (-1, 1))
    ratio = Ratio(math.exp(found.value), math.exp(low), math.exp(high))
    return MachineDrift(*group, kernels, ratio, math.exp(found.removed))
