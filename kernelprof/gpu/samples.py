"""What is recorded of samples on a GPU, beside what every sample has."""

from __future__ import annotations

from typing import NamedTuple

# Why a card's clock was lowered: bits of nvmlDeviceGetCurrentClocksEventReasons that take speed.
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "temperature, by software",
    0x40: "temperature, by hardware",
    0x80: "power brake",
}


class GpuSample(NamedTuple):
    """The two sides of a sample: a block of ``calls``, as the GPU's clock and the CPU's saw it.

    ``events_ns`` lies between the first and the last of its work on the GPU, waiting for the CPU
    included (with an engine that shows no stream: until all was done, by the CPU's clock);
    ``host_ns`` is what the CPU took to hand it over, and ``graph_ns`` the GPU's time when the same
    calls are replayed without the CPU, 0 where they cannot be.
    """

    calls: int
    start_ns: int
    events_ns: int
    host_ns: int
    graph_ns: int

    @property
    def device_ns(self) -> int:
        """What the GPU takes by itself, as near as it is known."""
        return self.graph_ns or self.events_ns


class GpuReading(NamedTuple):
    """What NVML told of a card at a moment of the monotonic clock (``time.perf_counter_ns``)."""

    time_ns: int
    sm_hz: int
    temperature_c: int | None  # None where the card does not tell
    power_w: float | None
    reasons: int  # a mask, whose bits are named in THROTTLING

    @property
    def throttled_by(self) -> tuple[str, ...]:
        """Why the clock was lowered; nothing where it was not."""
        return tuple(name for bit, name in THROTTLING.items() if self.reasons & bit)
