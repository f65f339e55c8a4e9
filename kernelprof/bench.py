"""What a bench measures, and how it keeps to its budget of time.

What a size costs is foretold from the machine's ceilings, so that a spread of sizes can be chosen
before anything is measured: the choice is the same whenever it is made, and a bench that was
stopped can be carried on with.  While it measures, what is done tells how much longer the engines
take than was foretold; what then has no room any more is left out, by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kernelprof.ceilings import Ceilings
from kernelprof.plan import Group, Options, alone, reference
from kernelprof.probes.primitive import Primitive
from kernelprof.roofline import attainable

# How many times as long as the roofline a kernel takes.  Of 41 of DeepBench's problems, with one
# thread and two, six engines took 3.3 times as long in the median, a tenth of them less than 1.4
# times (large products) and a tenth more than 12 times (images of a few channels, and threads that
# wait for one another while others take CPU time).
TIMES_CEILING = 3.0
BUILD_CALLS = 6  # of each kernel: the check, and those that warm it up
CALLS_PER_ROUND = 4 / 3  # an untimed one comes before three rounds
BUILD_S = 0.25  # that building a case takes beside its calls: data, the oracle, handing memory back
ROUNDS_S = 0.15  # that its least rounds take beside theirs: threads come to rest
START_S = 1.5  # until an engine has started
BESIDE_S = 3.0  # for the command's own start, a look at the machine, and the report
LARGEST_SHARE = 1 / 4  # of the budget for one size, while there are others
AMPLE = 3.0  # times the least that a size needs, where no budget is given
NO_WORK_S = 1e-9  # where nothing of the machine's ceilings could be measured


@dataclass(frozen=True)
class Cost:
    """Seconds that a size takes at one placement, in all engines: to be built, its least rounds."""

    build_s: float
    rounds_s: float

    @property
    def total_s(self) -> float:
        """Both."""
        return self.build_s + self.rounds_s

    def times(self, factor: float) -> Cost:
        """What it is where everything takes so many times as long."""
        return Cost(factor * self.build_s, factor * self.rounds_s)


def chosen(
    options: Options, primitives: Iterable[Primitive], ceilings: Ceilings
) -> tuple[Options, list[Primitive]]:
    """The options of a bench of these primitives, and those that its budget leaves no room for.

    Less work comes first.
    """
    threads = min(map(len, options.placements))
    works_s = {one: least_s(one, threads, options, ceilings) for one in primitives}
    ordered = sorted(works_s, key=lambda one: works_s[one])
    room_s = options.budget_s - BESIDE_S - _starts_s(options, len(options.placements))
    places = spread(
        [works_s[one] for one in ordered],
        [cost_s(one, options, ceilings) for one in ordered],
        room_s if options.keeps_budget else math.inf,
    )
    kept = tuple(ordered[place] for place in sorted(places))
    left_out = [one for place, one in enumerate(ordered) if place not in places]
    return replace(options, networks=(), primitives=kept), left_out


def least_s(primitive: Primitive, threads: int, options: Options, ceilings: Ceilings) -> float:
    """The seconds that one call of every pass takes at the machine's ceilings."""
    network = alone(primitive)
    return max(
        NO_WORK_S,
        sum(
            attainable(primitive, pass_, ceilings.at(threads, options.device)).seconds
            for mode in options.modes
            for pass_ in network.passes(network.layers[0], primitive, mode)
        ),
    )


def cost(primitive: Primitive, threads: int, options: Options, ceilings: Ceilings) -> Cost:
    """What measuring a primitive takes at a thread count, once its engines have started."""
    cases = _engines(options) * len(options.modes)
    call_s = _engines(options) * TIMES_CEILING * least_s(primitive, threads, options, ceilings)
    built_s = BUILD_S * cases + BUILD_CALLS * call_s
    if options.processes > 1:  # each takes a share of the rounds, and begins with a start
        built_s = options.processes * (built_s + START_S * _engines(options))
    calls = CALLS_PER_ROUND * options.stop.least
    return Cost(built_s, ROUNDS_S * cases + calls * call_s)


def cost_s(primitive: Primitive, options: Options, ceilings: Ceilings) -> float:
    """The seconds that measuring takes at least, at all placements."""
    counts = map(len, options.placements)
    return sum(cost(primitive, threads, options, ceilings).total_s for threads in counts)


def _starts_s(options: Options, placements: int) -> float:
    """What starting the engines takes, where they are started once for all sizes."""
    return START_S * _engines(options) * placements if options.processes == 1 else 0.0


def _engines(options: Options) -> int:
    return len({*options.engines, reference(options.device)})


def spread(works_s: Sequence[float], costs_s: Sequence[float], budget_s: float) -> set[int]:
    """The places of sizes that fit the budget together, spread over the range of their work.

    The cheapest is in.  Then comes, again and again, the one whose work is farthest in ratio from
    all that are in, among those that still fit; such as take a large share for themselves have to
    wait until nothing else does.
    """
    everything = range(len(costs_s))
    if sum(costs_s) <= budget_s:
        return set(everything)
    latest = min(everything, key=lambda place: costs_s[place])
    large_s = max(LARGEST_SHARE * budget_s, 2 * costs_s[latest])
    found, left_s = {latest}, budget_s - costs_s[latest]
    distances = [math.inf] * len(costs_s)
    while True:
        for place in everything:
            ratio = abs(math.log(works_s[place] / works_s[latest]))
            distances[place] = min(distances[place], ratio)
        fitting = [p for p in everything if p not in found and costs_s[p] <= left_s]
        if not fitting:
            return found
        small = [place for place in fitting if costs_s[place] <= large_s]
        latest = max(small or fitting, key=lambda place: distances[place])
        found.add(latest)
        left_s -= costs_s[latest]


class Pace:
    """How a bench keeps to its budget while it measures.

    Sizes come in the order of their work, so the latest one tells best how much longer than
    foretold the next will take.  Its building does, as that is done in full however little is left.
    """

    def __init__(self, options: Options, ceilings: Ceilings) -> None:
        self._options = options
        self._ceilings = ceilings
        self._started: set[tuple[int, ...]] = set()  # the placements that have their engines
        self._slower: dict[tuple[int, ...], float] = {}  # than foretold, by placement

    def built(self, group: Group, seconds: float) -> None:
        """Learn from what building a group in one process took."""
        once = self._options.processes == 1
        if group.cpus in self._started or not once:  # or most of it was the start of the engines
            foretold_s = self._foretold(group).build_s / self._options.processes
            # What fails is soon built, which says nothing about the next.
            self._slower[group.cpus] = max(1.0, seconds / foretold_s)
        self._started.add(group.cpus)

    def refusal(self, group: Group, left_s: float) -> str | None:
        """Why a group is left out, or None; the first one never is."""
        need = self._cost(group)
        need_s = need.build_s + need.rounds_s / 2 + self._to_start_s([group])
        room_s = max(0.0, left_s - BESIDE_S)
        if not (self._options.keeps_budget and self._started) or need_s <= room_s:
            return None
        return f"about {need_s:.0f} s are needed, {room_s:.0f} s of the budget are left"

    def rounds_s(self, left: Sequence[Group], left_s: float) -> float:
        """The seconds for the rounds of the first of the groups that are left.

        What the budget has more or less than all of them cost, each gets or lacks in proportion.
        """
        own = self._cost(left[0])
        if not self._options.keeps_budget:
            return AMPLE * own.total_s - own.build_s
        all_s = sum(self._cost(group).total_s for group in left)
        spare_s = left_s - BESIDE_S - self._to_start_s(left) - all_s
        return max(0.0, own.rounds_s + spare_s * own.total_s / all_s)

    def _cost(self, group: Group) -> Cost:
        slower = self._slower.get(group.cpus, max(self._slower.values(), default=1.0))
        return self._foretold(group).times(slower)

    def _foretold(self, group: Group) -> Cost:
        (layer,) = group.network.layers
        (primitive,) = group.network.primitives(layer, group.batch, self._options.modes[0])
        return cost(primitive, len(group.cpus), self._options, self._ceilings)

    def _to_start_s(self, groups: Iterable[Group]) -> float:
        waiting = {group.cpus for group in groups} - self._started
        return _starts_s(self._options, len(waiting))
