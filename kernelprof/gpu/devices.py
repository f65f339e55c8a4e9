"""Which GPUs there are, and whether one can be used, as NVML tells: it is read and never set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any, TypeVar

import pynvml

from kernelprof.errors import KernelprofError, UsageError
from kernelprof.gpu import driver
from kernelprof.gpu.samples import GpuReading
from kernelprof.probes.device import number_of

LEAST_CUDA = 12, 2  # of the driver: the first whose NVML tells why a clock was lowered
VISIBLE = "CUDA_VISIBLE_DEVICES"
EXCLUSIVE = (pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD, pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)

Value = TypeVar("Value")


@dataclass(frozen=True)
class GpuDevice:
    """A card, as its driver describes it; None is what the driver keeps to itself.

    ``number`` is its place by PCI bus, from 0, as nvidia-smi counts.  ``cuda`` is the newest
    version of CUDA that the driver can run.
    """

    number: int
    uuid: str
    name: str
    driver: str
    cuda: str
    capability: str
    memory_bytes: int
    sms: int | None
    l2_bytes: int | None
    max_sm_hz: int | None
    max_memory_hz: int | None
    power_limit_w: float | None
    ecc: bool | None

    @property
    def device(self) -> str:
        """What it is called: cuda:0."""
        return f"cuda:{self.number}"

    @property
    def fingerprint(self) -> str:
        """A short name that changes with all that must agree before two runs may be compared."""
        facts = [self.name, self.memory_bytes // 2**20, self.driver]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The facts and the fingerprint."""
        return {**asdict(self), "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class GpuState:
    """How a card fares at the moment; ``processes`` are those that compute on it."""

    free_bytes: int
    compute_mode: int
    processes: tuple[int, ...]
    persistent: bool | None
    reading: GpuReading


class Nvml:
    """What NVML is asked; within ``session`` only."""

    def count(self) -> int:
        """How many cards there are."""
        return int(pynvml.nvmlDeviceGetCount())

    def device(self, number: int) -> GpuDevice:
        """The facts of a card."""
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        bus = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
        told = driver.attributes(bus, (driver.MULTIPROCESSORS, driver.L2_BYTES))
        limit_mw = _told(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return GpuDevice(
            number=number,
            uuid=pynvml.nvmlDeviceGetUUID(handle),
            name=pynvml.nvmlDeviceGetName(handle),
            driver=pynvml.nvmlSystemGetDriverVersion(),
            cuda=_version(self.cuda()),
            capability=_version(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
            memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            sms=told.get(driver.MULTIPROCESSORS),
            l2_bytes=told.get(driver.L2_BYTES),
            max_sm_hz=_max_hz(handle, pynvml.NVML_CLOCK_SM),
            max_memory_hz=_max_hz(handle, pynvml.NVML_CLOCK_MEM),
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
            ecc=_told(lambda: bool(pynvml.nvmlDeviceGetEccMode(handle)[0])),
        )

    def state(self, number: int) -> GpuState:
        """How a card fares."""
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        running = _told(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        return GpuState(
            free_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).free),
            compute_mode=int(pynvml.nvmlDeviceGetComputeMode(handle)),
            processes=tuple(sorted({int(one.pid) for one in running})),
            persistent=_told(lambda: bool(pynvml.nvmlDeviceGetPersistenceMode(handle))),
            reading=self.reading(number),
        )

    def reading(self, number: int) -> GpuReading:
        """Its clock, temperature and power, and why the clock was lowered."""
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        before_ns = perf_counter_ns()
        sm_mhz = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        after_ns = perf_counter_ns()
        power_mw = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        return GpuReading(
            time_ns=(before_ns + after_ns) // 2,
            sm_hz=sm_mhz * 10**6,
            temperature_c=_told(
                lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            ),
            power_w=None if power_mw is None else power_mw / 1e3,
            reasons=int(reasons),
        )

    def cuda(self) -> tuple[int, int]:
        """The newest version of CUDA that the driver can run."""
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return version // 1000, version % 1000 // 10


def _told(ask: Callable[[], Value]) -> Value | None:
    """An answer, or None where this card, or a guest's share of one, has none."""
    try:
        return ask()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
        return None


def _max_hz(handle: Any, clock: int) -> int | None:
    mhz = _told(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, clock))
    return None if mhz is None else int(mhz) * 10**6


@contextmanager
def session() -> Iterator[Nvml]:
    """NVML, open as long as this lasts.

    Raises:
        pynvml.NVMLError: there is no driver, or it refuses.
    """
    pynvml.nvmlInit()
    try:
        yield Nvml()
    finally:
        pynvml.nvmlShutdown()


def gpus() -> list[GpuDevice]:
    """The cards of this machine; none where no driver tells of any."""
    try:
        with session() as nvml:
            return [nvml.device(number) for number in range(nvml.count())]
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        return []


def asked_number(device: str) -> int | None:
    """The number of a GPU; None for the CPU.

    Raises:
        UsageError: the word is no device.
    """
    try:
        return number_of(device)
    except ValueError as error:
        raise UsageError(str(error)) from error


class UnusableError(KernelprofError):
    """A GPU cannot be used: why, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def required(device: str) -> GpuDevice:
    """The card that is called so, which can be used.

    Raises:
        UsageError: the word is no GPU.
        UnusableError: there is no driver or too old a one, no such card, or it cannot be had.
    """
    number = asked_number(device)
    if number is None:
        raise UsageError(f"device {device!r} is no GPU; cuda:N is needed, such as cuda:0")
    try:
        with session() as nvml:
            return _usable(nvml, device, number)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
        why, remedy = _refusal(error)
        raise UnusableError(f"{device} cannot be used: {why}", remedy) from error


def _usable(nvml: Nvml, device: str, number: int) -> GpuDevice:
    if nvml.cuda() < LEAST_CUDA:
        raise UnusableError(
            f"{device} cannot be used: its driver runs CUDA {_version(nvml.cuda())} at most, and "
            f"{_version(LEAST_CUDA)} is needed",
            "install a newer driver",
        )
    count = nvml.count()
    if number >= count:
        there = ", ".join(f"cuda:{each}" for each in range(count)) or "no GPU at all"
        raise UnusableError(f"{device} is not there", f"this machine has {there}")
    found, state = nvml.device(number), nvml.state(number)
    if not _is_visible(found):
        raise UnusableError(
            f"{device} is hidden by {VISIBLE}={os.environ[VISIBLE]} (cards are counted as "
            "nvidia-smi does, hidden ones too)",
            "name one that is visible, or unset the variable",
        )
    if state.compute_mode == pynvml.NVML_COMPUTEMODE_PROHIBITED:
        raise UnusableError(
            f"{device} cannot be used: its compute mode is Prohibited",
            "ask whoever runs this machine, or take another GPU",
        )
    if state.compute_mode in EXCLUSIVE and state.processes:
        raise UnusableError(
            f"{device} cannot be used: it is in exclusive mode, and in use by "
            f"{named(state.processes)}",
            "wait until that ends, or take another GPU",
        )
    return found


def _is_visible(found: GpuDevice) -> bool:
    """Whether the user's own choice of cards, if there is one, has this one in it."""
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return True
    words = [word.strip() for word in chosen.split(",")]
    return any(
        word == str(found.number) or (word.startswith("GPU-") and found.uuid.startswith(word))
        for word in words
    )


def named(processes: tuple[int, ...]) -> str:
    """Processes by their ids.

    >>> named((7,)), named((7, 9))
    ('process 7', 'processes 7, 9')
    """
    return f"process{'es'[: 2 * len(processes) - 2]} {', '.join(map(str, processes))}"


def _refusal(error: Exception) -> tuple[str, str]:
    """Why NVML does not answer, and what to do."""
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return (
            "no NVIDIA driver is loaded on this machine (libnvidia-ml.so.1 is not there)",
            "run on a machine with a GPU, or with --device cpu",
        )
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return (
            "the NVIDIA driver is installed but not loaded",
            "as root: modprobe nvidia; or run with --device cpu",
        )
    if isinstance(error, pynvml.NVMLError_LibRmVersionMismatch):
        return "the driver was updated since it was loaded", "restart the machine"
    if isinstance(error, (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLLibraryMismatchError)):
        return (
            f"its driver is too old; one that runs CUDA {_version(LEAST_CUDA)} is needed",
            "install a newer driver",
        )
    return f"the driver says {str(error).rstrip('.')!r}", "`nvidia-smi` may tell more"


def _version(numbers: tuple[int, int]) -> str:
    return "{}.{}".format(*numbers)
