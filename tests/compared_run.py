"""Runs of a simulated machine, to be compared: what each kernel takes there is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernelprof.plan import Case, Options, alone
from kernelprof.probes.decompose import Fusion, Kernel, kernels
from kernelprof.probes.network import INFER, Network
from kernelprof.probes.primitive import Primitive
from kernelprof.runfile import RunFile
from tests.planted_run import perceptron

FUSION = Fusion({"forward": (("gemm", "bias"),)})
MACHINE = {"fingerprint": "made up", "processor": "Made-up CPU", "system": "Linux 1", "cpus": 4}
NETWORK = perceptron("made-up", width=256, depth=3)
WHOLE_S = 1e-5  # beyond its kernels
PAGE_FAULT_S = 1e-6


@dataclass(frozen=True)
class Simulated:
    """A run: ``factors`` are what a layer's kernels, or a primitive, take of their usual time.

    ``noise`` is the relative scatter of a kernel's level among processes, and of its rounds, which
    can only be longer.  ``drift`` is how many times as long everything takes.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    drift: float = 1.0
    noise: float = 0.01
    seed: int = 1
    processes: int = 3
    rounds: int = 8  # of each process
    network: Network = NETWORK
    engines: tuple[str, ...] = ("fake",)
    modes: tuple[str, ...] = (INFER,)
    batches: tuple[int, ...] = (64,)
    threads: int = 1
    cache: str = "warm"
    quick: bool = False
    machine: Mapping[str, Any] = field(default_factory=lambda: MACHINE)
    versions: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()  # engines
    unmeasured: tuple[str, ...] = ()  # layers
    unsampled: bool = False
    faults: Callable[[str, int], int] = lambda layer, process: 0  # of a call
    primitives: tuple[Primitive, ...] = ()  # of a bench

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is measured, one after another."""
        return tuple(map(alone, self.primitives)) or (self.network,)


def simulate(path: Path, run: Simulated) -> Path:
    """Write it to a run file."""
    options = Options(
        networks=() if run.primitives else run.networks,
        primitives=run.primitives,
        engines=run.engines,
        placements=(tuple(range(run.threads)),),
        modes=run.modes,
        batches=run.batches,
        quick=run.quick,
        budget_s=1.0,
        cache=run.cache,
        processes=run.processes,
    )
    meta = {"kernelprof": "0", "command": "", "started": "2026-01-01T00:00:00+00:00"}
    file = RunFile.create(
        path, {**meta, "machine": dict(run.machine), "options": options.to_json()}
    )
    random = np.random.default_rng(run.seed)
    for network in run.networks:
        file.add_network(network.to_json())
        for batch in run.batches:
            for mode in run.modes:
                for engine in (*run.engines, "numpy"):
                    _add(file, run, network, engine, batch, mode, random)
    file.close()
    return path


def _add(
    file: RunFile,
    run: Simulated,
    network: Network,
    engine: str,
    batch: int,
    mode: str,
    random: np.random.Generator,
) -> None:
    cpus = tuple(range(run.threads))
    whole = engine in run.engines and not run.primitives
    case = Case(network.name, engine, cpus, batch, mode, whole)
    case_id = file.add_case(case, calibration=False)
    if engine in run.failed:
        file.add_failure(case_id, "crash", "it ended with signal SIGSEGV")
        return
    parts = kernels(network, batch, mode, FUSION)
    file.describe_case(case_id, 1, [_described(part, run) for part in parts])
    for process in range(0 if run.unsampled else run.processes):
        facts = {"version": run.versions.get(engine, "1"), "fusion": FUSION.to_json()}
        worker = file.add_worker(engine, cpus, facts)
        levels = [_seconds(part, run, engine, random) for part in parts]
        faults = [run.faults(part.layer, process) for part in parts]
        rounds = range(process * run.rounds, (process + 1) * run.rounds)
        turn = [_round(number, case.whole, parts, levels, faults, run, random) for number in rounds]
        file.add_turn(case_id, worker, {"turn_ns": 1, "rounds": turn})


def _seconds(part: Kernel, run: Simulated, engine: str, random: np.random.Generator) -> float:
    """What a kernel takes in a process: so long for each byte, however its operands came to lie."""
    usual = 1e-6 + part.compute_flop / 5e10 + part.least_bytes / 1e10
    layer = part.primitives[0].label if run.primitives else part.layer
    own = run.factors.get(layer, 1.0) if engine in run.engines else 1.0
    return usual * own * run.drift * float(np.exp(run.noise * random.standard_normal()))


def _round(
    number: int,
    whole: bool,
    parts: Iterable[Kernel],
    levels: list[float],
    faults: list[int],
    run: Simulated,
    random: np.random.Generator,
) -> dict[str, Any]:
    longer = np.exp(run.noise * np.abs(random.standard_normal(len(levels) + 1)))
    places = [n for n, part in enumerate(parts) if part.layer not in run.unmeasured]
    everything = (sum(levels) + WHOLE_S) * longer[-1]
    return {
        "round": number,
        "whole": _sample(everything, sum(faults)) if whole else None,
        "kernels": {str(n): _sample(levels[n] * longer[n], faults[n]) for n in places},
    }


def _sample(seconds: float, faults: int) -> list[int]:
    """A block of a thousand calls, so that whole nanoseconds are no coarse measure."""
    seconds += faults * PAGE_FAULT_S
    return [1000, 0, round(seconds * 1e12), 0, 0, 0, 0, 1000 * faults, 0, 0]


def _described(kernel: Kernel, run: Simulated) -> dict[str, Any]:
    failure = {"kind": "unsupported", "reason": "no operator"}
    return {
        "layer": kernel.layer,
        "primitives": [primitive.to_json() for primitive in kernel.primitives],
        "passes": list(kernel.passes),
        "flop": kernel.flop,
        "compute_flop": kernel.compute_flop,
        "least_bytes": kernel.least_bytes,
        "cold_bytes": 0,
        "lukewarm": False,
        "error": 0.0,
        "failure": failure if kernel.layer in run.unmeasured else None,
    }


def changed(run: Simulated, **fields: Any) -> Simulated:
    """Another run of the kind: other noise, and what else is named."""
    return replace(run, **{"seed": run.seed + 1, **fields})
