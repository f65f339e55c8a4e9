"""What a bench measures: all sizes that were asked for, or a spread of them that fits its budget.

How long a size takes is not known before it is measured, so it is foretold from rates that any
engine on any CPU of the last years reaches easily.  The choice is then the same whenever it is
made, and a bench that was stopped can be carried on with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kernelprof.engines import REFERENCE
from kernelprof.plan import Options, alone
from kernelprof.probes.primitive import Primitive

FLOP_PER_S = 2e10  # of one thread
BYTES_PER_S = 4e9
CALLS = 11  # of each kernel at least: warm-up, and two turns
SAMPLES_S = 0.8  # that a case takes for them, however small it is
SETUP_S = 0.7  # that it takes beyond them: data, the oracle's check, threads that come to rest
START_S = 3.0  # until an engine has started
LARGEST_SHARE = 1 / 8  # of the budget that one size may take, unless all are about as costly
AMPLE = 3.0  # times the least that is needed, where no budget is given


def chosen(
    options: Options, primitives: Iterable[Primitive], budget_s: float | None
) -> tuple[Options, list[Primitive]]:
    """The options of a bench of these primitives, and those that its budget leaves no room for.

    Less work comes first.
    """
    ordered = sorted(dict.fromkeys(primitives), key=lambda one: work_s(one, options))
    works_s = [work_s(one, options) for one in ordered]
    costs_s = [cost_s(one, options) for one in ordered]
    starts_s = START_S * _cases(options) / len(options.modes)
    room_s = AMPLE * sum(costs_s) if budget_s is None else budget_s - starts_s
    places = spread(works_s, costs_s, room_s)
    kept = tuple(ordered[place] for place in sorted(places))
    left_out = [one for place, one in enumerate(ordered) if place not in places]
    samples_s = max(room_s - SETUP_S * _cases(options) * len(kept), 0.0)
    return replace(options, networks=(), primitives=kept, budget_s=samples_s), left_out


def work_s(primitive: Primitive, options: Options) -> float:
    """Seconds that one call of every kernel takes on one thread."""
    network = alone(primitive)
    flop = sum(network.flop(1, mode) for mode in options.modes)
    moved = sum(
        primitive.least_bytes(pass_)
        for mode in options.modes
        for pass_ in network.passes(network.layers[0], primitive, mode)
    )
    return flop / FLOP_PER_S + moved / BYTES_PER_S


def cost_s(primitive: Primitive, options: Options) -> float:
    """Seconds that measuring takes at least, in all engines and placements."""
    calls_s = sum(CALLS * work_s(primitive, options) / len(cpus) for cpus in options.placements)
    return _cases(options) * (SAMPLES_S + SETUP_S) + len(_engines(options)) * calls_s


def _engines(options: Options) -> set[str]:
    return {*options.engines, REFERENCE}


def _cases(options: Options) -> int:
    """Of each primitive."""
    return len(_engines(options)) * len(options.placements) * len(options.modes)


def spread(works_s: Sequence[float], costs_s: Sequence[float], budget_s: float) -> set[int]:
    """The places of sizes that fit the budget together, spread over the range of their work.

    The cheapest is in.  Then comes, again and again, the one whose work is farthest in ratio from
    all that are in, among those that still fit and do not take too large a share for themselves.
    """
    everything = range(len(costs_s))
    if sum(costs_s) <= budget_s:
        return set(everything)
    latest = min(everything, key=lambda place: costs_s[place])
    most_s = max(LARGEST_SHARE * budget_s, 2 * costs_s[latest])
    found, left_s = {latest}, budget_s - costs_s[latest]
    distances = [math.inf] * len(costs_s)
    while True:
        for place in everything:
            ratio = abs(math.log(works_s[place] / works_s[latest]))
            distances[place] = min(distances[place], ratio)
        fitting = [p for p in everything if p not in found and costs_s[p] <= min(left_s, most_s)]
        if not fitting:
            return found
        latest = max(fitting, key=lambda place: distances[place])
        found.add(latest)
        left_s -= costs_s[latest]
