"""What an engine computes on: the CPU, or a GPU that the CPU hands its work over to.

On a GPU a call returns before its work is done: the work queues up in a stream.  The time of the
GPU and that of the CPU are two, and whichever is longer is what a network takes.
"""

from __future__ import annotations

from typing import Any, Callable

CPU = "cpu"
CUDA = "cuda"
TF32 = "KERNELPROF_TF32"  # the variable: at 1, products of float32 may round their factors to TF32

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


class DeviceArrays:
    """Arrays of an engine on its GPU, and what the ceilings of a GPU are measured with.

    Each operation hands its work over to the engine's stream and returns at once.
    """

    dtypes: tuple[str, ...] = ()
    """In which it multiplies: of float32, tf32 (kept as float32), float16, bfloat16, float64."""
    l2_bytes: int = 0
    """What the card's last cache holds, as CUDA tells."""
    free_bytes: int = 0
    """Memory of the card that can be taken."""

    def random(self, rows: int, columns: int, dtype: str) -> Any:
        """A matrix of normally distributed numbers."""
        raise NotImplementedError

    def product(self, dtype: str, a: Any, b: Any, out: Any) -> None:
        """Multiply two matrices into a third one; float32 without TF32, tf32 with it."""
        raise NotImplementedError

    def read(self, a: Any) -> None:
        """Read all of it, and write next to nothing: a sum."""
        raise NotImplementedError

    def write(self, a: Any) -> None:
        """Write all of it: a number to everywhere."""
        raise NotImplementedError

    def copy(self, source: Any, target: Any) -> None:
        """Read one and write another."""
        raise NotImplementedError

    def triad(self, a: Any, b: Any, out: Any) -> None:
        """Write a + 3 b to a third one, in one kernel."""
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


def require_cpu(device: str, engine: str) -> None:
    """Refuse a GPU, on behalf of an engine that has kernels for the CPU alone.

    Raises:
        NoDeviceError: the device is a GPU.
    """
    if number_of(device) is not None:
        raise NoDeviceError(
            f"{engine} computes on the CPU only here, not on {device}: "
            f"choose another engine (--engine) or --device {CPU}"
        )
