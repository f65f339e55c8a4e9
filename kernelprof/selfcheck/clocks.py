"""Asks a worker how its clocks agree on primitives."""

from __future__ import annotations

from collections.abc import Iterable

from kernelprof.engines import Environment
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.plan import alone
from kernelprof.probes.primitive import Primitive

PATIENCE_S = 120.0
SEED = 1


def compared(
    environment: Environment, cpus: tuple[int, ...], device: str, primitives: Iterable[Primitive]
) -> dict[str, tuple[float, float]]:
    """Seconds of each primitive by kernelprof's clock and by the engine's profiler, by its name.

    Those that the engine cannot run or profile are left out.

    Raises:
        WorkerError: the engine did not start, or crashed.
    """
    found = {}
    worker = Worker(environment, cpus, device=device)
    try:
        for primitive in primitives:
            try:
                told = worker.ask(
                    "compare_clocks", PATIENCE_S, primitive=primitive.to_json(), seed=SEED
                )
            except WorkerError as error:
                if error.kind != "unsupported":
                    raise
                continue
            own_ns = told["graph_ns"] or told["events_ns"]
            found[alone(primitive).name] = own_ns * 1e-9, told["profiler_ns"] * 1e-9
    finally:
        worker.close()
    return found
