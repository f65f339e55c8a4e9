"""What an engine computes on: the CPU, or a GPU that the CPU hands its work over to.

On a GPU a call returns before its work is done: the work queues up in a stream.  The time of the
GPU and that of the CPU are two, and whichever is longer is what a network takes.
"""

from __future__ import annotations

from typing import Any, Callable

CPU = "cpu"
CUDA = "cuda"

# What the time on a GPU is read from.
EVENTS = "events"  # of CUDA: marks in the stream, between which the GPU may also wait for the CPU
GRAPH = "graph"  # events around calls that were recorded once and are replayed without the CPU
HOST = "host"  # the CPU's clock, until all is done: for engines that show no stream


class NoDeviceError(Exception):
    """The device cannot be used by this engine; the message says why, and what to do."""


class Stream:
    """Where an engine's work queues up on a GPU: an adapter to the engine's own stream.

    ``clock`` is EVENTS or HOST.
    """

    clock = EVENTS

    def mark(self) -> Any:
        """A mark behind all work that was handed over so far."""
        raise NotImplementedError

    def elapsed_ns(self, first: Any, last: Any) -> int:
        """Nanoseconds between two marks, once the GPU has passed both."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until all work is done."""
        raise NotImplementedError

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        """So many calls, recorded as one CUDA graph: what replays it, without the CPU's part.

        Raises:
            Unsupported: the engine cannot record, or not these calls.
        """
        raise NotImplementedError


def number_of(device: str) -> int | None:
    """The number of a GPU, as CUDA counts those that the process may see; None for the CPU.

    >>> number_of("cuda:1")
    1

    Raises:
        ValueError: it is neither ``cpu`` nor ``cuda:N``.
    """
    if device == CPU:
        return None
    kind, _, number = device.partition(":")
    if kind != CUDA or not number.isdigit():
        raise ValueError(f"device {device!r}: cpu or cuda:N is needed, such as cuda:0")
    return int(number)
