"""What JAX's profiler records of calls, as events of threads and of a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .spans import DEVICE_THREAD

CALL = "kernelprof_call"  # an event around each call that is profiled
END = "end: "  # begins the event at which an operation ends that other threads went on with
GPU = "/device:GPU"  # begins what the profiler calls a card
STREAM = "Stream"  # begins the names of what kernels of a card queue up in


class Event(NamedTuple):
    """What the profiler recorded, in nanoseconds of its own clock.

    ``operation`` is the program's name for it, or nothing.
    """

    name: str
    operation: str
    start_ns: int
    end_ns: int
    thread: int


def recorded(
    call: Callable[[], object], calls: int, finish: Callable[[], object] | None = None
) -> list[Event]:
    """The events of so many calls, after one that is not recorded: the profiler warms up too."""
    import jax

    def awaited() -> None:
        call()
        if finish is not None:
            finish()

    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = 1
    options.python_tracer_level = 0
    options.device_tracer_level = int(finish is not None)
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder, profiler_options=options)
        try:
            awaited()
            for _ in range(calls):
                with jax.profiler.TraceAnnotation(CALL):
                    awaited()
        finally:
            jax.profiler.stop_trace()
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    return events_of(profile.planes)


def events_of(planes: Iterable[Any]) -> list[Event]:
    """What happened on each thread, and in the streams of a GPU, as if they were one.

    An operation ends where the last thread at it says so.
    """
    found: list[tuple[Event, Any]] = []
    ends: dict[Any, int] = {}
    lines = [(plane.name.startswith(GPU), line) for plane in planes for line in plane.lines]
    for number, (on_gpu, line) in enumerate(lines):
        if on_gpu and not line.name.startswith(STREAM):  # the same once more, put together
            continue
        thread = DEVICE_THREAD if on_gpu else number
        for event in line.events:
            told = dict(event.stats)
            start_ns, end_ns = round(event.start_ns), round(event.end_ns)
            if event.name.startswith(END):
                ends[told["_c"]] = start_ns
            else:
                operation = str(told.get("hlo_op", ""))
                made = Event(event.name, operation, start_ns, end_ns, thread)
                found.append((made, told.get("_p") if operation else None))
    return [
        event._replace(end_ns=max(event.end_ns, ends.get(number, 0))) for event, number in found
    ]
