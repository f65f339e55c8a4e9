"""The two sides of a network's call on a GPU, as results: what the GPU takes, and what the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

DEVICE, HOST = "device", "host"  # the side that a call waits for


@dataclass(frozen=True)
class GpuCase:
    """Both sides of a call of a network, in seconds.

    ``device_s`` is what its kernels take on the GPU alone, ``host_s`` what the CPU takes to hand
    the call over, and ``gaps_s`` what the measured time has beyond the GPU's work.  ``bound`` is
    the side that sets the time: one that the other has to wait for.  ``clock`` tells what kernels'
    times are read from (``kernelprof.probes.device``); of ``samples`` that were taken the card was
    slowed down in ``throttled``, and ``sm_hz`` is its clock within them, where it was watched.
    """

    device_s: float
    host_s: float
    gaps_s: float
    bound: str
    clock: str
    samples: int = 0
    throttled: int = 0
    sm_hz: float | None = None


class Sides(NamedTuple):
    """What a layer takes of a call, as the prediction has it, in seconds.

    ``gaps_s`` is how long the GPU waits for the CPU to hand its kernels over.
    """

    device_s: float
    host_s: float
    gaps_s: float

    @property
    def bound(self) -> str:
        """The side that sets its time: the CPU where the GPU waits longer than it works."""
        return HOST if self.gaps_s > self.device_s else DEVICE
