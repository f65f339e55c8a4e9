"""Runs on a GPU that nobody measured: a simulated queue of known truth, in a real run file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernelprof.ceilings import Ceilings
from kernelprof.chains import chains
from kernelprof.gpu.samples import GpuReading
from kernelprof.plan import GPU_REFERENCE, Case, Options
from kernelprof.probes.decompose import Kernel, kernels
from kernelprof.probes.network import INFER, Network
from kernelprof.runfile import RunFile
from tests.planted_run import FUSION, MACHINE, described

DEVICE = "cuda:0"
CPUS = (0, 1, 2, 3)
ROUNDS = 9
CARD = {
    "device": DEVICE,
    "name": "Made-up GPU",
    "capability": "9.0",
    "sms": 100,
    "max_sm_hz": 2_000_000_000,
}


@dataclass(frozen=True)
class Gpu:
    """An engine on a GPU: seconds of each kernel on either side, by itself and in a network."""

    works_s: Callable[[Kernel], float]
    launch_s: float = 5e-6  # that the CPU takes for a kernel within a network
    alone_s: float = 4e-6  # and by itself beyond that
    call_s: float = 20e-6  # before the first kernel of a call
    calls: int = 4  # in a sample of the whole network
    graphs: bool = True  # whether calls can be recorded and replayed
    within: Callable[[Kernel, str], float] = lambda kernel, before: 1.0
    """By what share of its own time a kernel takes behind one of that kind in a network."""
    noise: float = 0.0


def simulated(
    host: Sequence[float], device: Sequence[float], lead: float, calls: int
) -> tuple[float, list[float]]:
    """When the GPU is done, and its idle times in the last call: event by event."""
    cpu = gpu = 0.0
    idle: list[float] = []
    for _ in range(calls):
        cpu += lead
        idle = []
        for host_time, device_time in zip(host, device, strict=True):
            cpu += host_time
            begins = max(cpu, gpu)
            idle.append(begins - gpu)
            gpu = begins + device_time
    return gpu, idle


def plant_on_gpu(
    path: Path,
    networks: Iterable[Network],
    gpu: Gpu,
    modes: tuple[str, ...] = (INFER,),
    batch: int = 64,
    reference: Gpu | None = None,
    extra_s: float = 0.0,
    readings: Iterable[GpuReading] = (),
    known: Ceilings | None = None,
    facts: dict[str, Any] | None = None,
) -> RunFile:
    """A run of these networks and their chains; in networks the CPU takes ``extra_s`` more."""
    options = Options(
        networks=tuple(networks),
        engines=("fake",),
        placements=(CPUS,),
        modes=modes,
        batches=(batch,),
        quick=True,
        budget_s=1.0,
        device=DEVICE,
    )
    meta = {"kernelprof": "0", "command": "", "started": "2026-01-01T00:00:00+00:00"}
    machine = {**MACHINE, "gpus": {DEVICE: CARD}}
    run = RunFile.create(path, {**meta, "machine": machine, "options": options.to_json()})
    if known is not None:
        run.record("ceilings", known.to_json())
    run.add_gpu_readings(DEVICE, readings)
    told = {"fusion": FUSION.to_json(), "thread_cpus": {}, "threads": 4, **(facts or {})}
    worker = run.add_worker("fake", CPUS, told)
    random = np.random.default_rng(1)
    for mode in modes:
        for chain in chains(options.networks):
            case = Case(chain.name, "fake", CPUS, chain.batch, mode, device=DEVICE)
            _add(run, worker, chain, case, gpu, random)
        for network in options.networks:
            case = Case(network.name, "fake", CPUS, batch, mode, device=DEVICE)
            slower = replace(gpu, call_s=gpu.call_s + extra_s)
            _add(run, worker, network, case, slower, random, calibration=False)
            if reference is not None:
                own = replace(case, engine=GPU_REFERENCE, whole=False)
                other = run.add_worker(GPU_REFERENCE, CPUS, {"thread_cpus": {}, "threads": None})
                _add(run, other, network, own, reference, random, calibration=False)
    return run


def _add(
    run: RunFile,
    worker: int,
    network: Network,
    case: Case,
    gpu: Gpu,
    random: np.random.Generator,
    calibration: bool = True,
) -> None:
    parts = kernels(network, case.batch, case.mode, FUSION)
    run.add_network(network.to_json())
    case_id = run.add_case(case, calibration)
    run.describe_case(case_id, 1, [described(part) for part in parts])
    rounds = []
    for number in range(ROUNDS):
        works = [gpu.works_s(part) * _jitter(gpu, random) for part in parts]
        launches = [gpu.launch_s * _jitter(gpu, random) for _ in parts]
        before = _kinds_before(parts)
        within = [
            work * gpu.within(part, kind)
            for work, part, kind in zip(works, parts, before, strict=True)
        ]
        ended, _ = simulated(launches, within, gpu.call_s, gpu.calls)
        handed = gpu.calls * (gpu.call_s + sum(launches))
        sides = {"-1": [_ns(ended), _ns(handed), 0]} if case.whole else {}
        for place, (work, launch) in enumerate(zip(works, launches, strict=True)):
            calls = 1000
            alone = calls * (launch + gpu.alone_s)
            events, _ = simulated([launch + gpu.alone_s], [work], 0.0, calls)
            graph = _ns(calls * work) if gpu.graphs else 0
            sides[str(place)] = [_ns(events), _ns(alone), graph]
        rounds.append(_round(number, sides, gpu.calls))
    run.add_turn(case_id, worker, {"turn_ns": 1, "rounds": rounds})


def _kinds_before(parts: Sequence[Kernel]) -> list[str]:
    """Of each kernel, what the one before it is; a bias counts with that which it is added to."""
    found, before = [], ""
    for part in parts:
        kind = part.primitives[0].kind
        found.append(before)
        before = before if kind == "bias" else kind
    return found


def _jitter(gpu: Gpu, random: np.random.Generator) -> float:
    return float(np.exp(gpu.noise * random.standard_normal())) if gpu.noise else 1.0


def _round(number: int, sides: dict[str, list[int]], calls: int) -> dict[str, Any]:
    """Rounds begin a tenth of a second after one another."""
    kernels = {p: _sample(number, s[2] or s[0], 1000) for p, s in sides.items() if p != "-1"}
    whole = _sample(number, sides["-1"][0], calls) if "-1" in sides else None
    return {"round": number, "whole": whole, "kernels": kernels, "gpu": sides}


def _sample(number: int, duration_ns: int, calls: int) -> list[int]:
    return [calls, number * 10**8, duration_ns, 0, 0, 0, 0, 0, 0, 0]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
