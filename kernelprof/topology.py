"""How a machine is built: cores, caches, memory nodes and clocks, as Linux shows them in /sys.

Every function takes the root of the file system, so that tests can plant another machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kernelprof.probes.placement import parse_cpus

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
INSTRUCTIONS = "Instruction"  # the kind of cache that holds no data
SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
TURBO_SWITCHES = (  # the file, and what it holds where the clock may go above its base
    ("intel_pstate/no_turbo", "0"),
    ("cpufreq/boost", "1"),
)


@dataclass(frozen=True)
class Cache:
    """One cache, and the CPUs that share it."""

    level: int
    kind: str
    size_bytes: int
    cpus: tuple[int, ...]

    @property
    def name(self) -> str:
        """The usual name: L1d, L1i, L2."""
        return f"L{self.level}{self.kind[0].lower() if self.level == 1 else ''}"


@dataclass(frozen=True)
class Node:
    """A part of the memory, and the CPUs that are near to it."""

    name: str
    cpus: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Frequency:
    """What may be known of the clock; None where the system does not show it, as in most guests.

    ``max_mhz`` is the least of what the hardware can do and what the settings allow.
    """

    min_mhz: int | None = None
    max_mhz: int | None = None
    governor: str | None = None
    turbo: bool | None = None
    now_mhz: int | None = field(default=None, compare=False)


def online_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """The CPUs that run, whether or not this process may use them."""
    listed = text(root / CPUS / "online")
    return parse_cpus(listed) if listed else tuple(range(os.cpu_count() or 1))


def siblings(root: Path = ROOT) -> dict[int, tuple[int, ...]]:
    """For each CPU the hardware threads of its core."""
    return {
        cpu: parse_cpus(text(_cpu(root, cpu) / "topology/thread_siblings_list")) or (cpu,)
        for cpu in online_cpus(root)
    }


def cores(root: Path = ROOT) -> tuple[tuple[int, ...], ...]:
    """The hardware threads of each core."""
    return tuple(sorted(set(siblings(root).values())))


def sockets(root: Path = ROOT) -> int:
    """How many packages the CPUs are spread over."""
    return len(
        {text(_cpu(root, cpu) / "topology/physical_package_id") for cpu in online_cpus(root)}
    )


def caches(root: Path = ROOT) -> tuple[Cache, ...]:
    """Every cache once, the nearest to the core first."""
    found = {
        Cache(
            level=int(text(folder / "level")),
            kind=text(folder / "type"),
            size_bytes=size_bytes(text(folder / "size")),
            cpus=parse_cpus(text(folder / "shared_cpu_list")),
        )
        for cpu in online_cpus(root)
        for folder in (_cpu(root, cpu) / "cache").glob("index*")
        if text(folder / "size")
    }
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind, cache.cpus)))


def nodes(root: Path = ROOT) -> tuple[Node, ...]:
    """The memory nodes that have memory."""
    return tuple(
        Node(folder.name, parse_cpus(text(folder / "cpulist")), memory_bytes)
        for folder in sorted(
            (root / NODES).glob("node[0-9]*"), key=lambda folder: int(folder.name[4:])
        )
        if (memory_bytes := _memory_total_bytes(folder / "meminfo"))
    )


def memory_bytes(root: Path = ROOT) -> int:
    """All memory that the system manages."""
    return _memory_total_bytes(root / "proc/meminfo")


def frequency(root: Path = ROOT) -> Frequency:
    """The clocks of all CPUs: the lowest minimum, the highest maximum, every governor in use."""
    policies = sorted((root / CPUS / "cpufreq").glob("policy*"))

    def mhz(name: str) -> list[int]:
        return [int(khz) // 1000 for policy in policies if (khz := text(policy / name)).isdigit()]

    hardware, allowed = mhz("cpuinfo_max_freq"), mhz("scaling_max_freq")
    return Frequency(
        min_mhz=min(mhz("cpuinfo_min_freq"), default=None),
        max_mhz=min((max(found) for found in (hardware, allowed) if found), default=None),
        governor=_joined(text(policy / "scaling_governor") for policy in policies),
        turbo=_turbo(root),
        now_mhz=max(mhz("scaling_cur_freq"), default=None),
    )


def _turbo(root: Path) -> bool | None:
    for name, on in TURBO_SWITCHES:
        if switch := text(root / CPUS / name):
            return switch == on
    return None


def _joined(names: Iterable[str]) -> str | None:
    return ", ".join(sorted(set(filter(None, names)))) or None


def _memory_total_bytes(meminfo: Path) -> int:
    match = re.search(r"MemTotal:\s*(\d+) kB", text(meminfo))
    return int(match[1]) * 1024 if match else 0


def _cpu(root: Path, cpu: int) -> Path:
    return root / CPUS / f"cpu{cpu}"


def size_bytes(size: str) -> int:
    """A size as the kernel writes it.

    >>> size_bytes("32K"), size_bytes("2M")
    (32768, 2097152)
    """
    digits = size.rstrip("KMG")
    return int(digits) * SUFFIXES[size[len(digits) :]]


def listed(cpus: Iterable[int]) -> str:
    """CPU ids as the kernel writes them; ``parse_cpus`` reads them back.

    >>> listed((0, 1, 2, 5))
    '0-2,5'
    """
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def text(path: Path) -> str:
    """What a file of the kernel says; nothing where it is not there or not to be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
