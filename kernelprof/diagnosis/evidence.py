"""What is known of a case: the measurement, and what was seen in passes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelprof.diagnosis.hardware_counters import Counters
from kernelprof.diagnosis.instruction_sets import InstructionSet
from kernelprof.diagnosis.ledger import Ledger
from kernelprof.diagnosis.stacks import DISPATCH, PYTHON, WAITING, Stacks
from kernelprof.diagnosis.verbose import Verbose
from kernelprof.gpu.slowdown import Slowdown
from kernelprof.launch import Variables
from kernelprof.probes.network import Network
from kernelprof.probes.primitive import UPDATE
from kernelprof.results import CaseResult, Finding, LayerResult
from kernelprof.units import share

LEAST_SHARE = 0.03  # of the time, from which a cause is worth a line


@dataclass(frozen=True)
class OnGpu:
    """What is known of a case's card, and of its work for the case."""

    card: Mapping[str, Any] = field(default_factory=dict)  # as the machine describes it
    tf32_speed: float | None = None  # of its products, as a multiple of those of float32
    slowdown: Slowdown | None = None  # while the whole network was sampled
    operations_s: Mapping[str, float] = field(default_factory=dict)  # by the profiler's name


@dataclass(frozen=True)
class Evidence:
    """Of one case.  What could not be had is None, or empty."""

    case: CaseResult
    network: Network
    machine: Mapping[str, Any]
    facts: Mapping[str, Any]  # of the worker that was looked at
    ledger: Ledger | None = None
    verbose: Verbose | None = None
    stacks: Stacks | None = None
    counters: Counters | None = None
    denormals: Mapping[str, float] = field(default_factory=dict)  # share of the numbers, by array
    faults: float = 0.0  # page faults of a call
    page_fault_s: float = 0.0
    late_s: float | None = None  # the whole network, in the later half of the rounds
    early_s: float | None = None  # and in the first rounds
    lost_s: float = 0.0  # of a call, to other processes, the hypervisor or a quota
    least_update_s: float | None = None  # that the machine needs for the update of all weights
    level_of_weights: Mapping[str, str] = field(default_factory=dict)  # that holds them, by layer
    others: tuple[CaseResult, ...] = ()  # the same case in other engines, fastest first
    gpu: OnGpu | None = None  # of a case on a GPU

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables of the worker that bear on speed."""
        found: Mapping[str, str] = self.facts.get("variables", {})
        return found

    @property
    def instruction_set(self) -> InstructionSet | None:
        """The best that the processor has."""
        name = self.facts.get("instruction_set")
        return None if name is None else InstructionSet[name]

    @property
    def measured_s(self) -> float:
        """What a call of the network takes."""
        return self.case.measured.value_s

    def alone_s(self, layer: LayerResult) -> float:
        """The layer's kernels by themselves, without updates."""
        return sum(k.seconds.value_s for k in layer.kernels if k.passes != (UPDATE,))


def suspect(
    cause: str,
    evidence: list[str],
    remedy: str,
    seconds: float | None = None,
    change: Variables | None = None,
    at_most_s: float = 0.0,
    between_kernels: bool = False,
) -> Finding:
    """A finding; without ``seconds`` a trial of its change is to tell them."""
    return Finding(
        cause,
        seconds,
        at_most_s if seconds is None else seconds,
        tuple(evidence),
        remedy,
        tuple((change or {}).items()),
        between_kernels=between_kernels,
    )


def above_ceiling_s(e: Evidence) -> float:
    """What kernels take beyond what the machine needs at least: no change saves more."""
    return e.measured_s - e.case.ceiling_s if e.case.ceiling_s else e.measured_s


def stacks_told(e: Evidence) -> Iterator[str]:
    """What samples of stacks tell of the CPU's time outside of kernels."""
    if e.stacks is not None:
        yield (
            f"stacks: {share(e.stacks.share(PYTHON))} Python, {share(e.stacks.share(DISPATCH))} "
            f"the engine's code around kernels, {share(e.stacks.share(WAITING))} waiting"
        )
