"""Stands in for the module pynvml: cards with known facts, that change and refuse as they are told.

Its errors and numbers are NVML's own, from the real module, which needs no driver for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

DRIVER = "580.95.05"
CUDA = 13000  # as NVML writes 13.0
GIB = 2**30


@dataclass
class Card:
    """A card of known truth; a fact that is an exception is raised."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-5a1d2d34-0000-1111-2222-333344445555"
    capability: tuple[int, int] = (9, 0)
    total: int = 80 * GIB
    free: int = 79 * GIB
    sm_mhz: Any = 1980
    max_sm_mhz: int = 1980
    max_memory_mhz: int = 2619
    reasons: Any = 0
    temperature_c: Any = 41
    power_mw: Any = 120_500
    limit_mw: Any = 700_000
    mode: int = pynvml.NVML_COMPUTEMODE_DEFAULT
    processes: list[int] = field(default_factory=list)
    ecc: Any = (1, 1)
    persistence: Any = 1
    bus: int = 0x1B


def _told(fact: Any) -> Any:
    if isinstance(fact, Exception):
        raise fact
    return fact() if callable(fact) else fact


class FakeNvml:
    """The functions of pynvml that kernelprof calls; all else comes from the real module.

    ``refusal`` is what opening it raises.  None of the functions that set something is there.
    """

    def __init__(self, *cards: Card, cuda: int = CUDA, refusal: Exception | None = None) -> None:
        self.cards = cards
        self.cuda = cuda
        self.refusal = refusal
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml") and not name.startswith("nvmlClocksEventReason"):
            raise AssertionError(f"kernelprof calls {name}, which this stand-in has not")
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.refusal is not None:
            raise self.refusal
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check_open()
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Card:  # noqa: N802
        self._check_open()
        return self.cards[number]

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return DRIVER

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        self._check_open()
        return self.cuda

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetPciInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(domain=0, bus=card.bus, device=0, busId=b"00000000:1B:00.0")

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:  # noqa: N802
        return card.capability

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=card.total, free=card.free, used=card.total - card.free)

    def nvmlDeviceGetMaxClockInfo(self, card: Card, clock: int) -> int:  # noqa: N802
        known = {
            pynvml.NVML_CLOCK_SM: card.max_sm_mhz,
            pynvml.NVML_CLOCK_MEM: card.max_memory_mhz,
        }
        return known[clock]

    def nvmlDeviceGetClockInfo(self, card: Card, clock: int) -> int:  # noqa: N802
        self._check_open()
        assert clock == pynvml.NVML_CLOCK_SM
        return int(_told(card.sm_mhz))

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: Card) -> int:  # noqa: N802
        return int(_told(card.reasons))

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return int(_told(card.temperature_c))

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:  # noqa: N802
        return int(_told(card.power_mw))

    def nvmlDeviceGetEnforcedPowerLimit(self, card: Card) -> int:  # noqa: N802
        return int(_told(card.limit_mw))

    def nvmlDeviceGetEccMode(self, card: Card) -> list[int]:  # noqa: N802
        return list(_told(card.ecc))

    def nvmlDeviceGetPersistenceMode(self, card: Card) -> int:  # noqa: N802
        return int(_told(card.persistence))

    def nvmlDeviceGetComputeMode(self, card: Card) -> int:  # noqa: N802
        return card.mode

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in card.processes]

    def _check_open(self) -> None:
        if not self.opened:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)


def refusal(code: int) -> Exception:
    """NVML's own error of a number: of the class that the real module raises."""
    error: Exception = pynvml.NVMLError(code)
    return error
