"""CNTK's profiler: what it writes about a call, and the layer that each node belongs to.

With timing of nodes switched on, each node of a computation network has its forward and its
backward work written down, under the uid of the function or variable that it was made from.  Times
are whole microseconds since the profiler was last enabled.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .placement import loaded_libraries
from .spans import COPY, DISPATCH, KERNEL, UPDATE, ProfiledCall, Span

PASSES = ("Forward", "Backward")  # what the name of a node's event ends with
WEIGHT_UPDATE = "__Weight Update"  # the phase of a trainer's learners; its others hold the nodes
LEAVES = ("Constant", "Input", "Parameter")  # nodes without work
MOVES = (  # nodes that put data elsewhere and do nothing else
    "FutureValue",
    "Pad",
    "PastValue",
    "ReconcileDynamicAxis",
    "Reshape",
    "Slice",
    "Splice",
    "TransposeDimensions",
)
# CNTK::Internal::DisableNodeTimeing, which its Python interface has forgotten.
NODE_TIMING_OFF = "_ZN4CNTK8Internal18DisableNodeTimeingEv"
MICROSECOND_NS = 1000


class Owners(NamedTuple):
    """The layers of a graph's nodes by uid, and what of their work is what.

    ``rest`` is the layer of nodes that are none of the graph's; ``movers`` are layers whose whole
    work it is to move data.
    """

    layers: dict[str, str]
    rest: str
    movers: frozenset[str]

    def span(self, name: str, start_ns: int, end_ns: int) -> Span:
        """The span of an event."""
        if name.startswith("_"):  # a phase of a trainer's step
            return Span(name, "", UPDATE if name == WEIGHT_UPDATE else DISPATCH, start_ns, end_ns)
        passed = next((one for one in PASSES if name.endswith(one)), "")
        node = name[: len(name) - len(passed)]
        operation = node.rstrip("0123456789")
        layer = self.layers.get(node, self.rest)
        return Span(operation + passed, layer, self._what(operation, layer), start_ns, end_ns)

    def _what(self, operation: str, layer: str) -> str:
        if operation in LEAVES:
            return DISPATCH
        return COPY if operation in MOVES and layer not in self.movers else KERNEL


def layers_of_nodes(outputs: dict[str, Any]) -> dict[str, str]:
    """The layer of all functions and variables, by uid; ``outputs`` has each layer's last one.

    A layer's are those on the way to its output that are no earlier layer's.
    """
    found: dict[str, str] = {}
    for layer, output in outputs.items():
        waiting = [getattr(output, "root_function", output)]
        while waiting:
            each = waiting.pop()
            if each.uid not in found:
                found[each.uid] = layer
                waiting.extend(_sources(each))
    return found


def _sources(node: Any) -> list[Any]:
    """What a function reads, and what it is made of if it is a block; a variable's function."""
    if not hasattr(node, "root_function"):
        return [node.owner] if node.is_output else []
    inside = [node.block_root.root_function] if node.is_block else []
    return inside + list(node.inputs)


@contextmanager
def node_timing(profiler: Any) -> Iterator[None]:
    """Have nodes timed within; where a build of CNTK cannot stop it, it goes on."""
    profiler.enable_node_timing()
    try:
        yield
    finally:
        for path in loaded_libraries("libCntk.Core"):
            stop = getattr(ctypes.CDLL(path), NODE_TIMING_OFF, None)
            if stop is not None:
                stop()


def profiled_call(profiler: Any, call: Callable[[], object], owners: Owners) -> ProfiledCall:
    """One call under the profiler, ``cntk_py``, which writes to files when it stops.

    Raises:
        ValueError: what it wrote is not what CNTK 2.7 writes.
    """
    folder = tempfile.mkdtemp(prefix="kernelprof-")
    try:
        profiler.start_profiler(folder, False, profiler.default_profiler_buffer_size)
        try:
            profiler.enable_profiler()
            began = time.perf_counter_ns()
            call()
            duration = time.perf_counter_ns() - began
            profiler.disable_profiler()
        finally:
            profiler.stop_profiler()
        return ProfiledCall(duration, spans(_details(folder), duration, owners))
    finally:
        shutil.rmtree(folder)


def _details(folder: str) -> str:
    for path in Path(folder).glob("*_detail_*"):
        return path.read_text()
    raise ValueError("CNTK's profiler wrote no file of its events")


def spans(text: str, duration_ns: int, owners: Owners) -> list[Span]:
    """The spans of a call from the profiler's events; those too short to be told are left out.

    Raises:
        ValueError: the text is no JSON, or its events are no pairs of a begin and an end.
    """
    records = json.loads(text)
    found = []
    for begin, end in zip(records[::2], records[1::2]):
        if (begin["ph"], end["ph"]) != ("B", "E") or begin["name"] != end["name"]:
            raise ValueError(f"events of CNTK's profiler that are no pair: {begin}, {end}")
        start_ns, end_ns = _time_ns(begin, duration_ns), _time_ns(end, duration_ns)
        if end_ns > start_ns:
            found.append(owners.span(begin["name"], start_ns, end_ns))
    return sorted(found, key=lambda span: (span.start_ns, -span.end_ns))


def _time_ns(event: dict[str, Any], duration_ns: int) -> int:
    """The time of an event since its call began, with which the profiler was switched on."""
    return min(int(event["ts"]) * MICROSECOND_NS, duration_ns)
