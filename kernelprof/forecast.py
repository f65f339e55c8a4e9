"""What is foretold of a network that was not measured like this, and what that rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernelprof.results import Estimate

# How a kernel's time came about, the surest first.
MEASURED, BETWEEN, BEYOND, OTHER_SIZES = BASES = (
    "measured",
    "interpolated",
    "extrapolated",
    "other sizes",
)


@dataclass(frozen=True)
class Term:
    """A kernel's part of a forecast."""

    layer: str
    kernel: str  # primitives with sizes, and the passes
    seconds: float
    basis: str


@dataclass(frozen=True)
class Spread:
    """How far a model is off where the run can tell: half of a 90 % interval, relative.

    ``count`` tells how many of the run's own times were predicted from the others; with none of
    them ``half_width`` is nothing that is known.
    """

    half_width: float
    count: int


@dataclass(frozen=True)
class Forecast:
    """A network in an engine at a batch and a thread count, predicted from kernels at others.

    ``uncovered`` are the layers with a kernel that nothing in the run is like.  ``spreads`` tells
    what widens the interval, by cause, as relative half-widths of the whole.
    """

    network: str
    engine: str
    threads: int
    batch: int
    mode: str
    predicted: Estimate
    beyond_s: float  # what the prediction has beside its kernels
    coverage: float  # share of flop
    uncovered: tuple[str, ...]
    terms: tuple[Term, ...]
    batches: tuple[int, ...]  # of this network that the run holds
    thread_counts: tuple[int, ...]
    spreads: Mapping[str, float] = field(default_factory=dict)
    rests_on: tuple[str, ...] = ()  # what the interval rests on, in words

    def count(self, basis: str) -> int:
        """The kernels of a basis."""
        return sum(term.basis == basis for term in self.terms)

    def share(self, basis: str) -> float:
        """The share of the kernels' time that has a basis."""
        total = sum(term.seconds for term in self.terms)
        own = sum(term.seconds for term in self.terms if term.basis == basis)
        return own / total if total else 0.0


def widened(seconds: float, relative: float, low_s: float, high_s: float) -> Estimate:
    """A time whose logarithm is known to within ``relative``, beside the bounds of logic."""
    return Estimate(
        seconds,
        min(low_s, seconds) * math.exp(-relative),
        max(high_s, seconds) * math.exp(relative),
    )
