"""The machine that a run is taken on, as far as the operating system tells."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from kernelprof.errors import UsageError
from kernelprof.probes.placement import parse_cpus


@dataclass(frozen=True)
class Machine:
    """What must agree before two measurements may be compared."""

    processor: str
    isa: tuple[str, ...]  # the vector extensions that matter to kernels
    cpus: int
    physical_cores: int
    memory_bytes: int
    hypervisor: bool
    system: str

    @property
    def fingerprint(self) -> str:
        """A short name that changes when anything of the machine does."""
        facts = asdict(self)
        facts["memory_bytes"] //= 2**30  # kernels reserve a little more or less at each start
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The facts and the fingerprint."""
        return {**asdict(self), "isa": list(self.isa), "fingerprint": self.fingerprint}


CGROUP_MEMORY = (  # folder, file of the limit, file of what is used: versions 2 and 1
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
VECTOR_FLAGS = (
    "sse4_2",
    "avx",
    "fma",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)


def this_machine() -> Machine:
    """The machine that this process runs on."""
    flags = _cpuinfo("flags").split() or _cpuinfo("Features").split()
    return Machine(
        processor=_cpuinfo("model name") or platform.processor() or platform.machine(),
        isa=tuple(flag for flag in VECTOR_FLAGS if flag in flags),
        cpus=os.cpu_count() or 1,
        physical_cores=len(set(_siblings().values())),
        memory_bytes=psutil.virtual_memory().total,
        hypervisor="hypervisor" in flags,
        system=f"{platform.system()} {platform.release()}",
    )


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _siblings() -> dict[int, tuple[int, ...]]:
    """For each CPU the hardware threads of its core."""
    found = {}
    for cpu in range(os.cpu_count() or 1):
        listed = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found[cpu] = parse_cpus(listed.read_text()) if listed.is_file() else (cpu,)
    return found


def usable_cpus() -> tuple[int, ...]:
    """The CPUs that this process may use: the first thread of each core before the second ones."""
    allowed = os.sched_getaffinity(0)
    siblings = _siblings()

    def rank(cpu: int) -> tuple[int, int]:
        shared = [other for other in siblings.get(cpu, (cpu,)) if other in allowed]
        return shared.index(cpu), cpu

    return tuple(sorted(allowed, key=rank))


def placements(threads: list[int], cpus: list[int] | None) -> list[tuple[int, ...]]:
    """The CPUs for each thread count: the first of those named, or of those usable.

    Raises:
        UsageError: a CPU that is not there, or more threads than CPUs.
    """
    usable = usable_cpus()
    for cpu in cpus or ():
        if cpu not in usable:
            raise UsageError(f"CPU {cpu} is not there; usable are {_listed(usable)}")
    chosen = tuple(dict.fromkeys(cpus)) if cpus else usable
    for count in threads:
        if not 1 <= count <= len(chosen):
            raise UsageError(
                f"--threads {count}: from 1 to {len(chosen)} can be had on CPUs {_listed(chosen)}"
            )
    return [chosen[:count] for count in threads]


def available_bytes() -> int:
    """Memory that can still be taken: what the machine has free, or less where a cgroup ends it."""
    free = int(psutil.virtual_memory().available)
    for folder, limit, used in CGROUP_MEMORY:
        allowed, taken = _number(Path(folder, limit)), _number(Path(folder, used))
        if allowed is not None and taken is not None:
            free = min(free, allowed - taken + _reclaimable_bytes(Path(folder, "memory.stat")))
    return max(free, 0)


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _reclaimable_bytes(stat: Path) -> int:
    """Cached files that count as used, but give way."""
    lines = stat.read_text().splitlines() if stat.is_file() else []
    values = dict(line.split()[:2] for line in lines)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _listed(cpus: tuple[int, ...]) -> str:
    return ",".join(map(str, cpus))
