"""The machine that a run is taken on, as far as the operating system tells."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from kernelprof import cgroups, topology
from kernelprof.errors import UsageError
from kernelprof.gpu.devices import GpuDevice, required
from kernelprof.probes.device import CPU
from kernelprof.topology import ROOT, Cache, Frequency, Node, listed

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


@dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    ``isa`` are the vector extensions that matter to kernels, ``cores`` the hardware threads of
    each core.  ``quota_cpus`` is the CPU time per time that the control group may take, and
    ``cpuset`` the CPUs that it may use; both are None where nothing limits them.
    """

    processor: str
    isa: tuple[str, ...]
    sockets: int
    cores: tuple[tuple[int, ...], ...]
    caches: tuple[Cache, ...]
    nodes: tuple[Node, ...]
    memory_bytes: int
    frequency: Frequency
    quota_cpus: float | None
    cpuset: tuple[int, ...] | None
    hypervisor: bool
    system: str

    @property
    def cpus(self) -> int:
        """How many hardware threads run."""
        return sum(len(core) for core in self.cores)

    @property
    def physical_cores(self) -> int:
        """How many cores they share."""
        return len(self.cores)

    @property
    def fingerprint(self) -> str:
        """A short name that changes with all that must agree before two runs may be compared.

        Which CPUs may be used is left out: every case tells those that it ran on.
        """
        facts = asdict(self)
        del facts["cpuset"], facts["frequency"]["now_mhz"]
        facts["memory_bytes"] //= 2**30  # kernels reserve a little more or less at each start
        for node in facts["nodes"]:
            del node["memory_bytes"]  # in a guest it follows what the host takes back
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The facts and the fingerprint; CPUs are written as the kernel writes them."""
        return {
            "processor": self.processor,
            "isa": list(self.isa),
            "sockets": self.sockets,
            "physical_cores": self.physical_cores,
            "cpus": self.cpus,
            "cores": [listed(core) for core in self.cores],
            "caches": {
                name: {"size_bytes": same[0].size_bytes, "shared_by": _sharing(same)}
                for name, same in self.caches_by_name().items()
            },
            "nodes": {
                node.name: {"cpus": listed(node.cpus), "memory_bytes": node.memory_bytes}
                for node in self.nodes
            },
            "memory_bytes": self.memory_bytes,
            "frequency": asdict(self.frequency),
            "quota_cpus": self.quota_cpus,
            "cpuset": None if self.cpuset is None else listed(self.cpuset),
            "hypervisor": self.hypervisor,
            "system": self.system,
            "fingerprint": self.fingerprint,
        }

    def caches_by_name(self) -> dict[str, list[Cache]]:
        """All caches of a level and kind, the nearest to the core first."""
        return {name: list(same) for name, same in groupby(self.caches, lambda one: one.name)}


def _sharing(caches: list[Cache]) -> list[str]:
    return [listed(cache.cpus) for cache in caches]


def this_machine(root: Path = ROOT) -> Machine:
    """The machine that this process runs on."""
    flags = _cpuinfo("flags", root).split() or _cpuinfo("Features", root).split()
    return Machine(
        processor=_cpuinfo("model name", root) or platform.processor() or platform.machine(),
        isa=tuple(flag for flag in VECTOR_FLAGS if flag in flags),
        sockets=topology.sockets(root),
        cores=topology.cores(root),
        caches=topology.caches(root),
        nodes=topology.nodes(root),
        memory_bytes=topology.memory_bytes(root),
        frequency=topology.frequency(root),
        quota_cpus=cgroups.quota_cpus(root),
        cpuset=cgroups.cpuset(root),
        hypervisor="hypervisor" in flags,
        system=f"{platform.system()} {platform.release()}",
    )


def fingerprint_with(machine: Machine, card: GpuDevice) -> str:
    """A short name of a machine and the card that it computes on: both must agree."""
    return f"{machine.fingerprint}-{card.fingerprint}"


def machine_facts(device: str = CPU) -> dict[str, Any]:
    """What is recorded of this machine by what computes on a device: with the card, if it is a GPU.

    Raises:
        KernelprofError: the GPU cannot be used.
    """
    facts = this_machine().to_json()
    return facts if device == CPU else {**facts, "gpus": {device: required(device).to_json()}}


def _cpuinfo(key: str, root: Path) -> str:
    for line in topology.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def usable_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """The CPUs that this process may use: the first thread of each core before the second ones."""
    allowed = os.sched_getaffinity(0)
    siblings = topology.siblings(root)

    def rank(cpu: int) -> tuple[int, int]:
        shared = [other for other in siblings.get(cpu, (cpu,)) if other in allowed]
        return shared.index(cpu), cpu

    return tuple(sorted(allowed, key=rank))


def caches_bytes(cpus: Iterable[int], root: Path = ROOT) -> int:
    """What the caches hold together that these CPUs use, alone or with others."""
    used = set(cpus)
    return sum(
        cache.size_bytes
        for cache in topology.caches(root)
        if cache.kind != topology.INSTRUCTIONS and used & set(cache.cpus)
    )


def placements(threads: list[int], cpus: list[int] | None) -> list[tuple[int, ...]]:
    """The CPUs for each thread count: the first of those named, or of those usable.

    Raises:
        UsageError: a CPU that is not there, or more threads than CPUs.
    """
    usable = usable_cpus()
    for cpu in cpus or ():
        if cpu not in usable:
            raise UsageError(f"CPU {cpu} is not there; usable are {_written(usable)}")
    chosen = tuple(dict.fromkeys(cpus)) if cpus else usable
    for count in threads:
        if not 1 <= count <= len(chosen):
            raise UsageError(
                f"--threads {count}: from 1 to {len(chosen)} can be had on CPUs {_written(chosen)}"
            )
    return [chosen[:count] for count in threads]


def available_bytes(root: Path = ROOT) -> int:
    """Memory that can still be taken: what the machine has free, or less where a cgroup ends it."""
    free = int(psutil.virtual_memory().available)
    left = cgroups.memory_left_bytes(root)
    return free if left is None else min(free, left)


def _written(cpus: tuple[int, ...]) -> str:
    return ",".join(map(str, cpus))
