"""Runs that nobody measured: a simulated machine whose truth is known, in a real run file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kernelprof.ceilings import DRAM, Ceilings, PlacementCeilings
from kernelprof.chains import chains
from kernelprof.plan import Case, Options
from kernelprof.probes.decompose import Fusion, Kernel, kernels
from kernelprof.probes.network import INFER, Builder, Network
from kernelprof.runfile import RunFile
from tests.test_roofline import CEILINGS

Truth = Callable[[Kernel, int], float]  # seconds of a kernel with so many threads
FUSION = Fusion({"forward": (("gemm", "bias"),)})
ROUNDS = 9
CALL_S, KERNEL_CALL_S = 20e-6, 1e-6
MACHINE = {"fingerprint": "planted", "processor": "Made-up CPU", "cpus": 64}


def perceptron(name: str = "planted", width: int = 512, depth: int = 3) -> Network:
    """Products, which arithmetic bounds, and activations, which memory does."""
    net = Builder()
    x = net.input(width)
    for number in range(1, depth + 1):
        x = net.fully_connected(f"fc{number}", x, width)
        x = net.relu(f"relu{number}", x)
    net.softmax_loss(x)
    return Network(name, "tests", tuple(net.layers), batch=64, quick_batch=16)


def ceilings(threads: Iterable[int], saturated_by: int = 64) -> Ceilings:
    """A machine whose arithmetic grows with the threads, and its memory up to so many."""
    one = CEILINGS
    return Ceilings("planted", {n: _scaled(one, n, min(n, saturated_by)) for n in threads})


def _scaled(one: PlacementCeilings, threads: int, channels: int) -> PlacementCeilings:
    def faster(rate: Any, factor: int) -> Any:
        return replace(rate, best_per_s=rate.best_per_s * factor)

    return replace(
        one,
        cpus=tuple(range(threads)),
        arithmetic=tuple(
            replace(found, rate=faster(found.rate, threads)) for found in one.arithmetic
        ),
        memory=tuple(
            replace(found, rate=faster(found.rate, channels if found.level == DRAM else threads))
            for found in one.memory
        ),
    )


def plant(
    path: Path,
    networks: Iterable[Network],
    truth: Truth,
    batches: Iterable[int] = (64,),
    threads: Iterable[int] = (1,),
    modes: tuple[str, ...] = (INFER,),
    noise: float = 0.0,
    seed: int = 1,
    known: Ceilings | None = None,
    extra_s: Callable[[int], float] = lambda threads: 0.0,
    machine: dict[str, Any] | None = None,
) -> RunFile:
    """A run of these networks; a whole one takes its kernels, what calls cost, and ``extra_s``.

    The noise is relative and normal: of each case as a whole, as between processes.
    """
    counts = list(threads)
    options = Options(
        networks=tuple(networks),
        engines=("fake",),
        placements=tuple(tuple(range(n)) for n in counts),
        modes=modes,
        batches=tuple(batches),
        quick=True,
        budget_s=1.0,
    )
    meta = {"kernelprof": "0", "command": "", "started": "2026-01-01T00:00:00+00:00"}
    own = machine or MACHINE
    run = RunFile.create(path, {**meta, "machine": own, "options": options.to_json()})
    run.record("ceilings", (known or ceilings(counts)).to_json())
    random = np.random.default_rng(seed)
    for count in counts:
        worker = run.add_worker("fake", tuple(range(count)), {"fusion": FUSION.to_json()})
        for mode in modes:
            for chain in chains(options.networks):
                _add(run, worker, chain, chain.batch, count, mode, truth, noise, random)
            for network in options.networks:
                for batch in options.batches:
                    _add(
                        *(run, worker, network, batch, count, mode, truth, noise, random),
                        extra_s(count),
                        calibration=False,
                    )
    return run


def _add(
    run: RunFile,
    worker: int,
    network: Network,
    batch: int,
    threads: int,
    mode: str,
    truth: Truth,
    noise: float,
    random: np.random.Generator,
    extra_s: float = 0.0,
    calibration: bool = True,
) -> None:
    parts = kernels(network, batch, mode, FUSION)
    run.add_network(network.to_json())
    case = Case(network.name, "fake", tuple(range(threads)), batch, mode)
    case_id = run.add_case(case, calibration)
    run.describe_case(case_id, 1, [described(part) for part in parts])
    factor = float(np.exp(noise * random.standard_normal()))
    seconds = [truth(part, threads) * factor for part in parts]
    whole = sum(seconds) + CALL_S + KERNEL_CALL_S * len(parts) + extra_s * factor
    jitter = np.exp(noise / 3 * random.standard_normal(ROUNDS)) if noise else np.ones(ROUNDS)
    rounds = [
        {
            "round": number,
            "whole": _sample(whole * jitter[number]),
            "kernels": {str(n): _sample(own * jitter[number]) for n, own in enumerate(seconds)},
        }
        for number in range(ROUNDS)
    ]
    run.add_turn(case_id, worker, {"turn_ns": 1, "rounds": rounds})


def _sample(seconds: float) -> list[int]:
    """A block of a thousand calls, so that whole nanoseconds are no coarse measure."""
    return [1000, 0, round(seconds * 1e12), 0, 0, 0, 0, 0, 0, 0]


def described(kernel: Kernel) -> dict[str, Any]:
    """A kernel as a worker describes it."""
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
        "failure": None,
    }
