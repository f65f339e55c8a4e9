"""Time a primitive with torch.utils.benchmark.

``PYTHON -I -B torch_timer.py PRIMITIVE SECONDS [DEVICE]`` is what kernelprof is held against: the
same call, in a process that is set up as a worker is.  Prints a JSON object.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import types
from typing import Any

PACKAGE = "kernelprof_probes"


def main() -> None:
    """Build the kernel, pin the threads, time, print."""
    primitive, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
    device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
    folder = os.path.dirname(os.path.abspath(__file__))
    package = types.ModuleType(PACKAGE)
    package.__path__ = [folder]
    sys.modules[PACKAGE] = package
    sys.stdout.write(json.dumps(_timed(primitive, seconds, device)) + "\n")


def _timed(primitive: dict[str, Any], seconds: float, device: str) -> dict[str, Any]:
    from torch.utils.benchmark import Timer

    placement = importlib.import_module(f"{PACKAGE}.placement")
    engine = importlib.import_module(f"{PACKAGE}.on_torch").start(device)
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    with engine.scope(False):
        call = _call(engine, primitive)
        ran = placement.run_ns()
        for _ in range(3):
            call()
        if engine.stream is None:
            placement.pin_busiest(cpus, ran)
        timer = Timer("call()", globals={"call": call}, num_threads=engine.threads())
        started = time.perf_counter()
        measured = timer.blocked_autorange(min_run_time=seconds)
        spent = time.perf_counter() - started
    return {
        "median_s": measured.median,
        "samples": len(measured.raw_times),
        "sampled_s": sum(measured.raw_times),
        "spent_s": spent,
    }


def _call(engine: Any, primitive: dict[str, Any]) -> Any:
    """The call that a worker would time: forward, on random data."""
    data = importlib.import_module(f"{PACKAGE}.data")
    decompose = importlib.import_module(f"{PACKAGE}.decompose")
    primitives = importlib.import_module(f"{PACKAGE}.primitives")
    import numpy as np

    one = primitives.primitive_from_json(primitive)
    kernel = decompose.Kernel("", (one,), (one.passes[0],), (0,))
    arrays = [data.primitive_arrays(one, np.random.RandomState(1))]
    return engine.kernel(kernel, arrays, False)


if __name__ == "__main__":
    main()
