"""What a run found, in seconds: the records that reports render and scripts read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelprof.ceilings import Ceilings
from kernelprof.fitness import Fitness
from kernelprof.gpu.sides import GpuCase, Sides
from kernelprof.trace import Trace

FORETOLD_SLACK = 0.25  # by which an actual saving may differ from the one foretold
SCHEMA = 1  # of the JSON report; keys may be added within a schema, never changed


@dataclass(frozen=True)
class Estimate:
    """A median over rounds with its distribution-free interval, in seconds.

    ``mad_s`` is the median absolute deviation of the rounds and ``least_s`` the fastest of them.
    """

    value_s: float
    low_s: float
    high_s: float
    mad_s: float | None = None
    least_s: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A median over rounds with its bootstrap interval, of times that are paired."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trait:
    """By which share of its own time a class of kernels takes more within a network, or less.

    -1 means that it costs nothing there: it is fused into the kernel before.
    """

    what: str
    share: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval tells it from nothing."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ContextResult:
    """What an engine's networks cost beyond their kernels, as its chains show.

    ``misfit`` is the relative half-width of 9 of 10 errors of chains that were predicted with it.
    """

    engine: str
    threads: int
    cpus: tuple[int, ...]
    mode: str
    per_call_s: float
    per_kernel_s: float
    traits: tuple[Trait, ...]
    misfit: float | None
    by_kind_s: dict[str, float] = field(default_factory=dict)  # per kernel, of kinds that differ


@dataclass(frozen=True)
class Sampling:
    """How a case was sampled.

    ``disturbed`` rounds are left out of the results, unless that was ``unavoidable``: there were
    too many.  ``half_width`` is the relative one of what the stop rule looks at.
    """

    rounds: int
    processes: int = 1
    disturbed: int = 0
    unavoidable: bool = False
    stopped_by: str = ""  # what ended the rounds: "interval", "rounds" or "budget"
    half_width: float = 0.0
    asked_half_width: float = 0.0

    @property
    def unmet(self) -> bool:
        """Whether less is known than was asked for."""
        return self.half_width > self.asked_half_width


@dataclass(frozen=True)
class GpuTime:
    """What GPUs did for one call, in seconds, as nsys saw it.

    Of ``busy_s`` something was at work, in ``gaps_s`` nothing was between the first operation and
    the last; ``overlap_s`` is what operations took side by side.
    """

    operations: float
    busy_s: float
    gaps_s: float
    overlap_s: float


@dataclass(frozen=True)
class KernelResult:
    """One kernel of a layer: primitives that an engine runs in a single call, for some passes."""

    primitives: tuple[str, ...]  # labels with sizes
    passes: tuple[str, ...]
    seconds: Estimate
    flop: int
    least_bytes: int
    cold_bytes: int = 0  # that came from memory at each call, as was asked for
    lukewarm: bool = False  # too small to be made cold
    nsys_s: float | None = None  # of a call in the mean, by nsys's clock; None without an import


@dataclass(frozen=True)
class LayerResult:
    """What one layer costs per call of the network: alone in the engine, and in the reference."""

    name: str
    kind: str
    kernels: tuple[KernelResult, ...]
    engine_s: float | None  # None where no primitive covers the layer
    reference_s: float | None
    flop: int
    least_flop: int  # without a convolution's products with its padding, which no engine computes
    ceiling_s: float | None = None  # what the machine needs at least, where its ceilings are known
    in_network_s: float | None = None  # within the network, as the engine's own profiler tells
    nsys_s: float | None = None  # of its kernels, where nsys saw them all
    gpu: GpuTime | None = None  # of its kernels, where any of them made a GPU work
    sides: Sides | None = None  # on a GPU

    @property
    def device_s(self) -> float | None:
        """What it takes the GPU within a call, as the prediction has it; None on the CPU."""
        return self.sides.device_s if self.sides else None

    @property
    def host_s(self) -> float | None:
        """What it takes the CPU to hand it over to a GPU; None where there is none."""
        return self.sides.host_s if self.sides else None

    @property
    def primitives(self) -> tuple[str, ...]:
        """The labels of the layer's primitives, each once, in the order of their first pass."""
        return tuple(dict.fromkeys(label for k in self.kernels for label in k.primitives))


@dataclass(frozen=True)
class LedgerPart:
    """A part of the measured time of a network, of one layer or of none."""

    part: str
    seconds: float
    layer: str = ""


@dataclass(frozen=True)
class Saving:
    """Seconds that a change saves per call, with their interval."""

    value_s: float
    low_s: float
    high_s: float

    def times(self, scale: float) -> Saving:
        """So many times as much."""
        return Saving(self.value_s * scale, self.low_s * scale, self.high_s * scale)


@dataclass(frozen=True)
class Finding:
    """A named cause of slowness in one case.

    ``seconds`` is what a call would take less without it, from a counterfactual: its part of the
    ledger, or kernels timed with the change.  Where neither is known it is None, and ``at_most_s``
    bounds it.  ``change`` are the environment variables that take the cause away (None: unset);
    one that acts ``between_kernels`` shows in whole networks only.
    """

    cause: str
    seconds: float | None
    at_most_s: float
    evidence: tuple[str, ...]
    remedy: str
    change: tuple[tuple[str, str | None], ...] = ()
    between_kernels: bool = False
    foretold: Saving | None = None  # by kernels that were timed with the change
    actual: Saving | None = None  # of the whole network with the change

    @property
    def confirmed(self) -> bool | None:
        """Whether trying the change moved the time as foretold; None where it was not tried.

        Kernels foretell nothing of a change that acts between them: there it is but whether the
        time became less.
        """
        if self.actual is None or self.seconds is None:
            return None
        if self.between_kernels:
            return self.actual.low_s > 0
        slack_s = FORETOLD_SLACK * self.seconds
        near = self.actual.low_s - slack_s <= self.seconds <= self.actual.high_s + slack_s
        return self.actual.low_s > 0 and near


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a case: where its time goes, why, and what could not be looked at."""

    ledger: tuple[LedgerPart, ...]
    profiler_share: float
    findings: tuple[Finding, ...]
    missing: Mapping[str, str]  # kind of evidence -> why it is not there


@dataclass(frozen=True)
class CaseResult:
    """A network in an engine at a placement, batch and mode: predicted against measured."""

    network: str
    engine: str
    device: str
    threads: int
    cpus: tuple[int, ...]
    batch: int
    mode: str
    measured: Estimate
    predicted: Estimate | None
    dispatch_s: float  # the share of the prediction that is the cost of calling, not of kernels
    reference_s: float | None
    coverage: float  # share of flop that measured primitives explain, 0 to 1
    uncovered: tuple[str, ...]  # layers without a measured primitive
    parameters: int
    flop: int
    sampling: Sampling
    first_call_s: float
    layers: tuple[LayerResult, ...]
    ceiling_s: float | None = None  # the sum of the layers' ones
    traits_s: dict[str, float] = field(default_factory=dict)  # what each adds to the prediction
    diagnosis: Diagnosis | None = None  # where `kernelprof diagnose` looked
    nsys_s: float | None = None  # of a call of the whole network in the mean, by nsys's clock
    gpu: GpuCase | None = None  # on a GPU

    @property
    def beyond_s(self) -> dict[str, float]:
        """What the prediction has beyond its kernels: calling, and what the engine's traits add."""
        return {"calling": self.dispatch_s, **self.traits_s}

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        if self.predicted is None:
            return None
        return self.predicted.value_s / self.measured.value_s - 1

    @property
    def flop_per_s(self) -> float:
        """The rate that the measured time implies."""
        return self.flop / self.measured.value_s


@dataclass(frozen=True)
class PrimitiveResult:
    """A primitive by itself in an engine at a placement: one call of it, for some passes."""

    primitive: str  # kind and size, as ``kernelprof bench`` takes them
    engine: str
    device: str
    threads: int
    cpus: tuple[int, ...]
    mode: str
    passes: tuple[str, ...]
    seconds: Estimate
    speedup: Ratio | None  # the reference's time / the engine's, paired by round
    ceiling_s: float | None  # what the machine needs at least, where its ceilings are known
    flop: int
    least_bytes: int
    cold_bytes: int
    lukewarm: bool
    compute_bound: bool
    sampling: Sampling

    @property
    def flop_per_s(self) -> float:
        """The rate of arithmetic."""
        return self.flop / self.seconds.value_s

    @property
    def bytes_per_s(self) -> float:
        """The rate at which the bytes go by that must move at least."""
        return self.least_bytes / self.seconds.value_s

    @property
    def attained(self) -> float | None:
        """The share of what the machine could do."""
        return None if self.ceiling_s is None else self.ceiling_s / self.seconds.value_s


@dataclass(frozen=True)
class FailureResult:
    """A case without a measurement, or some passes of a primitive by itself, and why."""

    network: str
    engine: str
    threads: int
    batch: int
    mode: str
    kind: str
    reason: str
    passes: tuple[str, ...] = ()  # none if it is the case that failed


@dataclass(frozen=True)
class WorkerProcess:
    """What a process of the run was."""

    engine: str
    threads: int


@dataclass(frozen=True)
class Results:
    """Everything that a report shows of a run."""

    kernelprof: str  # version that wrote the run
    command: str
    started: str  # ISO 8601, UTC
    quick: bool
    machine: dict[str, Any]
    engines: dict[str, dict[str, Any]]
    cases: tuple[CaseResult, ...]
    failures: tuple[FailureResult, ...]
    primitives: tuple[PrimitiveResult, ...] = ()  # of a bench
    fitness: Fitness | None = None  # what was checked of the machine and of the workers
    ceilings: Ceilings | None = None  # None where they were not measured
    contexts: tuple[ContextResult, ...] = ()  # by engine, placement and mode
    traces: tuple[Trace, ...] = ()  # what was imported of nsys's
    processes: Mapping[int, WorkerProcess] = field(default_factory=dict)  # by pid, of the workers


@dataclass
class EngineCheck:
    """What came of trying an engine: errors relative to the oracle, and failures, by label."""

    engine: str
    version: str = ""
    threads: int | None = None
    errors: dict[str, float] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether the engine started and no result was wrong."""
        return bool(self.errors) and not self.failures
