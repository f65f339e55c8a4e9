"""A kernel by kernelprof's own clocks and by the engine's profiler, in the same moments."""

from __future__ import annotations

from typing import Any

import numpy as np

from .data import primitive_arrays
from .decompose import Kernel
from .engine import Engine, Unsupported
from .gpu_timing import calls_per_block, replayed_ns, time_on_stream
from .primitive import FORWARD, Primitive
from .spans import DEVICE_THREAD
from .wire import Message

ROUNDS = 7  # of which the middle one counts
PROFILED_CALLS = 20


def compare_clocks(engine: Engine, primitive: Primitive, seed: int) -> Message:
    """Nanoseconds of a forward call on the GPU, as each clock has it.

    ``events_ns`` lie between marks in the stream; ``graph_ns`` are those of a replay, None where
    the call cannot be recorded; ``profiler_ns`` is what the engine's profiler says of all work that
    a call hands over.

    Raises:
        Unsupported: the engine has no such kernel, computes on the CPU, or has no profiler.
    """
    stream = engine.stream
    if stream is None:
        raise Unsupported("there is no GPU whose clocks could be compared")
    kernel = Kernel("", (primitive,), (FORWARD,), (0,))
    engine.require_dtypes(kernel)
    with engine.scope(False):
        arrays = [primitive_arrays(primitive, np.random.RandomState(seed))]
        call = engine.kernel(kernel, arrays, False)
        held: list[Any] = [None]
        first_ns = min(time_on_stream(stream, call, 1, held, 0).events_ns for _ in range(ROUNDS))
        calls = calls_per_block(first_ns, stream.clock)
        try:
            replay = stream.graph(call, calls)
        except Unsupported:
            replay = None
        events_ns, graph_ns, profiler_ns = [], [], []
        for _ in range(ROUNDS):
            events_ns.append(time_on_stream(stream, call, calls, held, 0).events_ns / calls)
            if replay is not None:
                graph_ns.append(replayed_ns(stream, replay) / calls)
            profiler_ns.append(_profiled_ns(engine, call))
    return {
        "events_ns": _middle(events_ns),
        "graph_ns": _middle(graph_ns) if graph_ns else None,
        "profiler_ns": _middle(profiler_ns),
    }


def _profiled_ns(engine: Engine, call: Any) -> float:
    """The GPU's work of a call; spans of one stream do not overlap."""
    spans = [span for one in engine.profile(call, PROFILED_CALLS) for span in one.spans]
    busy = sum(span.end_ns - span.start_ns for span in spans if span.thread == DEVICE_THREAD)
    return busy / PROFILED_CALLS


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
