"""Which samples were disturbed from outside, by their circumstances and never by their values.

A disturbed sample stays in the run file.  Results are made of the others, as long as there are
enough of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

WHOLE = -1  # the place of samples of the whole network; kernels count from 0

DISTURBED_SHARE = 0.02  # of a sample: more than this was lost, and a result may be off by as much
QUIET_SHARE = 0.5  # of the rounds have to be undisturbed, or all of them count


class Sample(NamedTuple):
    """What of a sample tells whether it was disturbed."""

    round: int
    place: int
    worker: int
    calls: int
    duration_ns: int
    waited_ns: int
    stolen_ns: int
    throttled_periods: int
    stops: int

    @property
    def paused(self) -> bool:
        """Whether the process stood still for a while."""
        return bool(self.throttled_periods or self.stops)


@dataclass(frozen=True)
class Time:
    """Nanoseconds of one call in a sample, of them lost to others, and who took the sample."""

    ns: float
    lost_ns: float
    worker: int


Times = Mapping[int, Mapping[int, Time]]  # round -> place -> what a sample took
Rounds = Mapping[int, Mapping[int, float]]  # round -> place -> nanoseconds per call


def times_of(samples: Iterable[Sample]) -> dict[int, dict[int, Time]]:
    """The times of samples, which come in the order in which they were taken.

    One in which the process was paused is lost altogether, and so is the next: its caches are
    cold (a product in cache takes 5 % longer after a quota's pause of 10 ms).  The one before it is
    lost too, as some kernels count a pause only afterwards.
    """
    taken = list(samples)
    paused = [False, *(sample.paused for sample in taken), False]
    found: dict[int, dict[int, Time]] = {}
    for place, sample in enumerate(taken):
        lost_ns = sample.waited_ns + sample.stolen_ns
        if any(paused[place : place + 3]):
            lost_ns = sample.duration_ns
        found.setdefault(sample.round, {})[sample.place] = Time(
            sample.duration_ns / sample.calls,
            min(lost_ns, sample.duration_ns) / sample.calls,
            sample.worker,
        )
    return found


@dataclass(frozen=True)
class Quiet:
    """What is left without the disturbed samples.

    ``disturbed`` counts the rounds in which there was one, of ``taken``.  With ``unavoidable``
    there were too many of them, and they are in ``rounds`` too.
    """

    rounds: Rounds
    disturbed: int
    taken: int
    unavoidable: bool

    def without(self, places: Container[int]) -> Quiet:
        """Without the samples at some places."""
        rounds = {
            round_: {place: ns for place, ns in sample.items() if place not in places}
            for round_, sample in self.rounds.items()
        }
        return replace(self, rounds=rounds)


def quiet(times: Times) -> Quiet:
    """The rounds without their disturbed parts: the whole network is one, its kernels the other.

    A part is judged as a whole, as its sum is what counts.
    """
    whole = {r: {p: t for p, t in found.items() if p == WHOLE} for r, found in times.items()}
    kernels = {r: {p: t for p, t in found.items() if p != WHOLE} for r, found in times.items()}
    kept: dict[int, dict[int, float]] = {}
    disturbed: set[int] = set()
    unavoidable = False
    for part in (whole, kernels):
        taken = [round_ for round_, found in part.items() if found]
        noisy = {round_ for round_ in taken if _is_disturbed(part[round_].values())}
        too_many = len(noisy) > (1 - QUIET_SHARE) * len(taken)
        disturbed |= noisy
        unavoidable = unavoidable or too_many
        for round_ in taken:
            if too_many or round_ not in noisy:
                ns = {place: time.ns for place, time in part[round_].items()}
                kept.setdefault(round_, {}).update(ns)
    return Quiet(dict(sorted(kept.items())), len(disturbed), len(times), unavoidable)


def _is_disturbed(times: Iterable[Time]) -> bool:
    some = list(times)
    return sum(time.lost_ns for time in some) > DISTURBED_SHARE * sum(time.ns for time in some)
