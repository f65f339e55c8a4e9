"""By how much each part moved from one run to another, without what the machine did.

A layer is held against the other layers of its engine, process by process: what they have in common
is mostly the machine's doing, and where memory came to lie.  Layers that moved by themselves do not
count for that: the one that did most clearly is left out first, and then the next is looked for.

If the layers moved together by more than chance moves them, the engine has changed as a whole, and
only the machine's drift is taken out.  So it is where an engine has few layers, and of whole
networks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kernelprof.compare.control import UNKNOWN, Drift, Levels, drift, shared_by_others
from kernelprof.compare.noise import Noise, Shift
from kernelprof.compare.observed import WHOLE_NETWORK, Group, Kernel, Key
from kernelprof.compare.pairing import Pair
from kernelprof.compare.significance import ALPHA

LEAST_LAYERS = 5  # of an engine of which a median means something
CHANGED = 2.5  # standard errors: layers that moved together by more changed
DOUBTFUL = 2.0  # standard errors: beyond that a layer must have moved by itself, and
OWN_SHARE = 1 / 3  # by at least so much of what it moved against the others

Place = tuple[Key, str]  # a layer of a case
Kernels = Sequence[tuple[Kernel, Kernel]]  # the same one before and after


@dataclass(frozen=True)
class Effect:
    """By how much a part moved and how well that is known, in logarithms of ratios.

    ``before`` and ``after`` are its levels in each process, as they were seen.
    """

    pair: Pair
    layer: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    value: float
    error: float
    freedom: float

    @property
    def sign(self) -> int:
        """1 of a slow-down, -1 of a speed-up."""
        return 1 if self.value > 0 else -1

    @property
    def weight(self) -> float:
        """How much it matters: the root of its share of the case's time."""
        share = float(np.mean(self.before)) - self.pair.before.total()
        return min(1.0, math.exp(share / 2))

    def p_value(self, sign: int, threshold: float) -> float:
        """The probability of moving this far or farther beyond the threshold by chance."""
        return float(stats.t.sf((sign * self.value - threshold) / self.error, self.freedom))

    def margin(self, level: float) -> float:
        """By how much chance moves it, but for a probability of ``level``."""
        return self.error * float(stats.t.isf(level, self.freedom))


@dataclass(frozen=True)
class _Seen:
    """How a part moved by itself, what the others moved together, and how it moved against them.

    Where there are too few others, only the first is known.
    """

    own: Shift
    others: Shift | None = None
    against: Shift | None = None


def drift_of(kernels: Kernels) -> Drift | None:
    """The machine's drift, by kernels that did not change; None if they are too few."""
    return drift([_levels(*both) for both in kernels])


def effects(
    pairs: Sequence[Pair], kernels: Mapping[Group, Kernels], drifts: Mapping[Group, Drift | None]
) -> list[Effect]:
    """The effects on all layers, and then on whole networks."""
    moved: set[Place] = set()
    while True:
        found = _effects(pairs, kernels, drifts, moved)
        more = {place for pair in pairs for place in _moved_most(pair, found, moved)}
        if not more:
            return found
        moved |= more


def _moved_most(pair: Pair, found: Sequence[Effect], moved: Collection[Place]) -> list[Place]:
    """The layer of a case that moved most clearly by itself, if any did and enough others are left.

    Told by Bonferroni's test of its layers, in both directions.
    """
    own = [one for one in found if one.pair is pair and one.layer != WHOLE_NETWORK]
    left = [one for one in own if (pair.before.key, one.layer) not in moved]
    if len(left) < LEAST_LAYERS:
        return []
    clearest = min(left, key=lambda one: one.p_value(one.sign, 0.0))
    is_clear = clearest.p_value(clearest.sign, 0.0) <= ALPHA / (2 * len(own))
    return [(pair.before.key, clearest.layer)] if is_clear else []


def _effects(
    pairs: Sequence[Pair],
    kernels: Mapping[Group, Kernels],
    drifts: Mapping[Group, Drift | None],
    moved: Collection[Place],
) -> list[Effect]:
    layers = [found for pair in pairs for found in _layers(pair, moved)]
    wholes = [
        (pair, WHOLE_NETWORK, _Seen(Shift.of(*_part(pair, WHOLE_NETWORK), pair.before.key)))
        for pair in pairs
        if WHOLE_NETWORK in pair.parts
    ]
    seen = [one for own in kernels.values() for one in _reference(own)]
    seen += [one for _, _, one in layers]
    noise = Noise([one.own for one in seen])
    against = Noise([one.against for one in seen if one.against])
    return [
        _effect(pair, name, one, drifts[pair.before.group] or Drift(0.0, UNKNOWN), noise, against)
        for pair, name, one in (*layers, *wholes)
    ]


def _layers(pair: Pair, moved: Collection[Place]) -> Iterator[tuple[Pair, str, _Seen]]:
    key = pair.before.key
    names = [name for name in pair.parts if name != WHOLE_NETWORK]
    counts = [(key, name) not in moved for name in names]
    found = _family(key, [_part(pair, name) for name in names], counts)
    for name, one in zip(names, found, strict=True):
        yield pair, name, one


def _part(pair: Pair, name: str) -> tuple[Levels, bool]:
    """Its levels, and whether arithmetic bounds it."""
    before, after = pair.parts[name]
    return (pair.before.levels(before), pair.after.levels(after)), before.compute_bound


def _reference(kernels: Kernels) -> Iterator[_Seen]:
    """The reference's kernels, those of a case as a family."""
    families: dict[Hashable, list[tuple[Levels, bool]]] = defaultdict(list)
    for before, after in kernels:
        families[before.case.key].append((_levels(before, after), before.part.compute_bound))
    for key, parts in families.items():
        yield from _family(("reference", key), parts, [True] * len(parts), unchanged=True)


def _levels(before: Kernel, after: Kernel) -> Levels:
    return before.case.levels(before.part), after.case.levels(after.part)


def _family(
    name: Hashable,
    parts: Sequence[tuple[Levels, bool]],
    counts: Sequence[bool],
    unchanged: bool = False,
) -> Iterator[_Seen]:
    """Parts that are timed in the same processes, and which of them count for the others."""
    if len(parts) < LEAST_LAYERS:
        yield from (_Seen(Shift.of(levels, heavy, name, unchanged)) for levels, heavy in parts)
        return
    shared = shared_by_others([levels for levels, _ in parts], counts)
    for (levels, heavy), others in zip(parts, shared, strict=True):
        against = _less(levels[0], others[0]), _less(levels[1], others[1])
        shifts = (Shift.of(one, heavy, name, unchanged) for one in (levels, others, against))
        yield _Seen(*shifts)


def _less(levels: Sequence[float], others: Sequence[float]) -> list[float]:
    return [own - other for own, other in zip(levels, others, strict=True)]


def _effect(
    pair: Pair, name: str, seen: _Seen, drift: Drift, noise: Noise, against: Noise
) -> Effect:
    levels = seen.own.before, seen.own.after
    error, freedom = noise.error(seen.own)
    value = seen.own.value - drift.removed
    by_itself = Effect(pair, name, *levels, value, math.hypot(error, drift.error), freedom)
    if seen.others is None or seen.against is None:
        return by_itself
    together, _ = noise.error(seen.others)
    if abs(seen.others.value - drift.removed) > CHANGED * math.hypot(together, drift.error):
        return by_itself
    relative = seen.against.value
    error, freedom = against.error(seen.against)
    if abs(relative) > DOUBTFUL * error and value / relative < OWN_SHARE:
        return by_itself  # it is the others that moved
    return Effect(pair, name, *levels, relative, error, freedom)
