"""What came of a comparison, in the form that reports show.  Ratios are of after to before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kernelprof.results import Ratio

SAME_OR_FASTER, REGRESSED, NOTHING_COMPARABLE = 0, 1, 3  # exit statuses; 2 tells of an error
SAME, SLOWER, FASTER = "same", "slower", "faster"


@dataclass(frozen=True)
class Side:
    """A run that is compared."""

    name: str  # the path that the user gave
    started: str
    kernelprof: str
    engines: dict[str, str]  # version by engine


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both runs."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """A layer of a case, or with an empty name the whole network, in both runs.

    ``ratio`` is without what the machine drifted.  Its interval is as wide as it must be for all
    comparisons to hold together.  ``told_from`` is the least ratio that would have been told.
    """

    network: str
    engine: str
    device: str
    threads: int
    batch: int
    mode: str
    layer: str
    before_s: float
    after_s: float
    ratio: Ratio
    told_from: float
    verdict: str  # SAME, SLOWER or FASTER


@dataclass(frozen=True)
class MachineDrift:
    """How many times as long the reference's kernels took, which did not change."""

    network: str
    device: str
    threads: int
    batch: int
    kernels: int
    ratio: Ratio
    removed: float  # the ratio that was taken out of the changes


@dataclass(frozen=True)
class Unmatched:
    """A case, or a layer of one, that could not be compared, and why."""

    network: str
    engine: str
    device: str
    threads: int
    batch: int
    mode: str
    layer: str
    reason: str


@dataclass(frozen=True)
class RunComparison:
    """Two runs, and all that can be told of one against the other."""

    before: Side
    after: Side
    threshold: float  # a slow-down up to this is none
    alpha: float  # the probability that anything is told where nothing changed
    machine: tuple[Difference, ...]  # with one of them nothing is comparable
    settings: tuple[Difference, ...]
    changes: tuple[Change, ...] = ()
    drifts: tuple[MachineDrift, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()

    @property
    def slower(self) -> tuple[Change, ...]:
        """What became slower."""
        return tuple(one for one in self.changes if one.verdict == SLOWER)

    @property
    def faster(self) -> tuple[Change, ...]:
        """What became faster."""
        return tuple(one for one in self.changes if one.verdict == FASTER)

    @property
    def exit_status(self) -> int:
        """For whoever gates on it."""
        if not self.changes:
            return NOTHING_COMPARABLE
        return REGRESSED if self.slower else SAME_OR_FASTER
