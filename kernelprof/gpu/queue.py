"""How long a GPU takes for kernels that the CPU hands over one by one: a queue with one server.

The CPU hands a kernel over when it has done its own work for it, and goes on to the next.  The GPU
begins the kernel then, or when it is done with the one before, whichever is later.  So whenever the
GPU is done, there was a kernel that it had to wait for, and since then it never paused: that one
was handed over after all of the CPU's work up to it, and from there on the GPU's work adds up.  The
kernel for which this is latest tells the time (the longest path through the two chains).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Call:
    """What a call takes on either side, kernel by kernel in their order, in nanoseconds.

    ``lead_ns`` is the CPU's work before it turns to the first kernel.
    """

    host_ns: Sequence[float]
    device_ns: Sequence[float]
    lead_ns: float = 0.0

    def __post_init__(self) -> None:
        """Each kernel has both sides."""
        assert len(self.host_ns) == len(self.device_ns), "kernels with one side only"

    @property
    def host_sum_ns(self) -> float:
        """What the CPU takes for a call."""
        return self.lead_ns + float(np.sum(self.host_ns))

    @property
    def device_sum_ns(self) -> float:
        """What the GPU takes for a call, if it never waits."""
        return float(np.sum(self.device_ns))

    @property
    def handed_over_ns(self) -> Times:
        """When each kernel of a call is handed over, since the CPU began with the call."""
        return self.lead_ns + np.cumsum(np.asarray(self.host_ns, dtype=float))

    def finished_ns(self, calls: int) -> float:
        """When the GPU is done with so many calls, one after another, that began with it idle.

        Of later calls the CPU's work shifts when a kernel is handed over, and the GPU's what is
        left to do; what is between the first call and the last goes by on the slower side.
        """
        if calls < 1:
            return 0.0
        slower_ns = (calls - 1) * max(self.host_sum_ns, self.device_sum_ns)
        if not len(self.host_ns):
            return self.lead_ns + slower_ns
        left_ns = np.cumsum(np.asarray(self.device_ns, dtype=float)[::-1])[::-1]
        return float(np.max(self.handed_over_ns + left_ns)) + slower_ns

    def gaps_ns(self, calls: int) -> Times:
        """How long the GPU idles before each kernel in the last of so many calls."""
        free_ns = self.finished_ns(calls - 1)
        begun_ns = (calls - 1) * self.host_sum_ns
        gaps = np.zeros(len(self.host_ns))
        for place, handed_ns in enumerate(begun_ns + self.handed_over_ns):
            gaps[place] = max(handed_ns - free_ns, 0.0)
            free_ns = max(handed_ns, free_ns) + self.device_ns[place]
        return gaps
