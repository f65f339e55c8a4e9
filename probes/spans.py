"""What an engine's own profiler tells of a call of a network: spans of time, by layer."""

from __future__ import annotations

from typing import NamedTuple

from .network import Network

# What a span's own time is spent on: all of it that no span within it covers.
KERNEL = "kernel"  # the arithmetic of a layer, forwards or backwards
COPY = "copy"  # moving data from one place or layout to another
ALLOCATION = "allocation"
UPDATE = "update"  # of the weights
DISPATCH = "dispatch"  # finding out what to run next: Python, a graph's executor, a wrapper
WHATS = (KERNEL, COPY, ALLOCATION, UPDATE, DISPATCH)
DEVICE_THREAD = -1  # of spans of a GPU: what it did, and when
MOVING = {"copy", "pad_channels", "transpose"}  # primitives whose very work it is to move data


class Span(NamedTuple):
    """One operation within a call, in nanoseconds since the call began.

    ``name`` is the engine's own for its kind, and ``layer`` the network's layer, or nothing.  On
    one thread spans nest.  A profiler that tells sums alone has them one after another.
    """

    name: str
    layer: str
    what: str
    start_ns: int
    end_ns: int
    thread: int = 0


class ProfiledCall(NamedTuple):
    """One call of a network under a profiler, which slows it down."""

    duration_ns: int
    spans: list[Span]


def moving_layers(network: Network, batch: int, mode: str) -> set[str]:
    """The layers that do nothing but move data: for them that is no copy, but the kernel."""
    found = set()
    for layer in network.layers:
        kinds = {primitive.kind for primitive in network.primitives(layer, batch, mode)}
        if kinds and kinds <= MOVING:
            found.add(layer.name)
    return found
