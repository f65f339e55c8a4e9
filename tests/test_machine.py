"""The machine: its facts, how it is built, its CPUs, its memory."""

from __future__ import annotations

import dataclasses
import doctest
import json
import os

import psutil
import pytest

from kernelprof import cgroups, topology
from kernelprof.errors import UsageError
from kernelprof.machine import available_bytes, placements, this_machine, usable_cpus
from kernelprof.topology import Cache, Frequency, Node

from .planted_machine import CPUS as CPU_FILES
from .planted_machine import UNLIMITED, clocks, plant, server, version_1, version_2

CPUS = usable_cpus()


def test_this_machine():
    found = this_machine()
    assert found.cpus == os.cpu_count()
    assert 1 <= found.sockets <= found.physical_cores <= found.cpus
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.processor
    assert found == this_machine()
    assert json.loads(json.dumps(found.to_json()))["fingerprint"] == found.fingerprint


CHANGED = {
    "processor": "Z80",
    "isa": ("mmx",),
    "sockets": 99,
    "cores": ((0, 1, 2, 3),),
    "caches": (Cache(1, "Data", 7, (0,)),),
    "nodes": (Node("node7", (0,), 2**34),),
    "memory_bytes": 1,
    "frequency": Frequency(governor="powersave"),
    "quota_cpus": 0.5,
    "system": "CP/M",
}


@pytest.mark.parametrize("field", CHANGED)
def test_another_machine_has_another_fingerprint(field):
    found = this_machine()
    changed = dataclasses.replace(found, **{field: CHANGED[field]})
    assert changed.fingerprint != found.fingerprint


def test_what_may_differ_between_comparable_runs():
    """The clock of the moment, the CPUs that are allowed, memory that moves with the host's."""
    found = dataclasses.replace(
        this_machine(),
        memory_bytes=2**34 + 2**20,
        nodes=(Node("node0", (0,), 2**34),),
        frequency=Frequency(min_mhz=800, now_mhz=1000),
        cpuset=None,
    )
    later = dataclasses.replace(
        found,
        memory_bytes=found.memory_bytes + 4096,
        nodes=(Node("node0", (0,), 2**33),),
        frequency=Frequency(min_mhz=800, now_mhz=3000),
        cpuset=(0,),
    )
    assert later.fingerprint == found.fingerprint


def test_a_server(tmp_path):
    found = this_machine(plant(tmp_path, server()))
    assert found.processor == "Made-up CPU"
    assert found.isa == ("sse4_2", "avx", "fma")
    assert (found.sockets, found.physical_cores, found.cpus) == (2, 4, 8)
    assert found.cores == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert found.memory_bytes == 32 * 2**30
    assert found.nodes == (
        Node("node0", (0, 1, 4, 5), 16 * 2**30),
        Node("node1", (2, 3, 6, 7), 16 * 2**30),
    )
    assert not found.hypervisor
    assert found.quota_cpus is None
    assert found.cpuset is None
    assert found.frequency == Frequency()


def test_each_cache_is_found_once(tmp_path):
    found = this_machine(plant(tmp_path, server())).caches_by_name()
    assert {name: len(same) for name, same in found.items()} == {
        "L1d": 4,
        "L1i": 4,
        "L2": 4,
        "L3": 2,
    }
    assert found["L1d"][1] == Cache(1, "Data", 32 * 2**10, (1, 5))
    assert found["L2"][0].size_bytes == 2**20
    assert found["L3"][1] == Cache(3, "Unified", 16 * 2**20, (2, 3, 6, 7))


def test_json_says_who_shares(tmp_path):
    found = this_machine(plant(tmp_path, server())).to_json()
    assert found["cores"] == ["0,4", "1,5", "2,6", "3,7"]
    assert found["caches"]["L3"] == {"size_bytes": 2**24, "shared_by": ["0-1,4-5", "2-3,6-7"]}
    assert found["nodes"]["node1"] == {"cpus": "2-3,6-7", "memory_bytes": 2**34}


def test_a_machine_that_shows_nothing(tmp_path):
    """As in some sandboxes: no /sys, hardly a /proc."""
    found = this_machine(plant(tmp_path, {f"{CPU_FILES}/online": "0-1"}))
    assert found.cores == ((0,), (1,))
    assert found.sockets == 1
    assert found.caches == ()
    assert found.nodes == ()
    assert json.dumps(found.to_json())


def test_a_processor_of_arm(tmp_path):
    files = {"proc/cpuinfo": "Features\t: fp asimd sve", f"{CPU_FILES}/online": "0"}
    found = this_machine(plant(tmp_path, files))
    assert found.isa == ("asimd", "sve")
    assert found.processor


def test_clocks(tmp_path):
    files = clocks(
        cpuinfo_min_freq=800000,
        cpuinfo_max_freq=3700000,
        scaling_max_freq=3500000,
        scaling_cur_freq=1200000,
        scaling_governor="schedutil",
    )
    plant(tmp_path, {**files, f"{CPU_FILES}/cpufreq/boost": 1})
    found = topology.frequency(tmp_path)
    assert found == Frequency(800, 3500, "schedutil", True)
    assert found.now_mhz == 1200


def test_clocks_of_unlike_cores(tmp_path):
    plant(tmp_path, clocks(cpuinfo_max_freq=3000000, scaling_governor="powersave"))
    other = f"{CPU_FILES}/cpufreq/policy4"
    plant(
        tmp_path, {f"{other}/cpuinfo_max_freq": 5000000, f"{other}/scaling_governor": "performance"}
    )
    found = topology.frequency(tmp_path)
    assert found.max_mhz == 5000
    assert found.governor == "performance, powersave"


@pytest.mark.parametrize(
    ("name", "value", "turbo"),
    [
        ("intel_pstate/no_turbo", 0, True),
        ("intel_pstate/no_turbo", 1, False),
        ("cpufreq/boost", 0, False),
    ],
)
def test_turbo(name, value, turbo, tmp_path):
    assert topology.frequency(plant(tmp_path, {f"{CPU_FILES}/{name}": value})).turbo is turbo


def test_examples_of_topology():
    failed, attempted = doctest.testmod(topology)
    assert attempted
    assert not failed


def test_usable_cpus_are_those_of_this_process():
    own = os.sched_getaffinity(0)
    assert set(CPUS) == own
    try:
        os.sched_setaffinity(0, {CPUS[-1]})
        assert usable_cpus() == (CPUS[-1],)
    finally:
        os.sched_setaffinity(0, own)


def test_first_threads_of_cores_come_first(tmp_path, monkeypatch):
    plant(tmp_path, server())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5})
    assert usable_cpus(tmp_path) == (0, 1, 4, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 6})
    assert usable_cpus(tmp_path) == (0, 6, 4)


def test_placements_are_the_first_cpus():
    counts = [1, len(CPUS)]
    assert placements(counts, None) == [CPUS[:1], CPUS]
    assert placements([1], [CPUS[-1], CPUS[-1]]) == [(CPUS[-1],)]
    assert placements([len(CPUS)], list(CPUS[::-1])) == [CPUS[::-1]]


@pytest.mark.parametrize("count", [0, len(CPUS) + 1, 999])
def test_thread_counts_that_cannot_be_had(count):
    with pytest.raises(UsageError, match=rf"--threads {count}: from 1 to {len(CPUS)} can be had"):
        placements([1, count], None)


def test_a_cpu_that_is_not_there():
    usable = ",".join(map(str, CPUS))
    with pytest.raises(UsageError, match=rf"CPU 77777 is not there; usable are {usable}"):
        placements([1], [CPUS[0], 77777])


def test_more_threads_than_named_cpus():
    with pytest.raises(UsageError, match=r"--threads 2: from 1 to 1 can be had on CPUs"):
        placements([2], [CPUS[0]])


def test_a_quota_of_version_2_holds_for_all_groups_below(tmp_path):
    groups = {
        "pod": {"cpu.max": "150000 100000"},
        "pod/box": {"cpu.max": "max 100000", "cpuset.cpus.effective": "2-3,5"},
    }
    plant(tmp_path, version_2("/pod/box", groups))
    assert cgroups.quota_cpus(tmp_path) == 1.5
    assert cgroups.cpuset(tmp_path) == (2, 3, 5)


def test_the_least_of_several_quotas_counts(tmp_path):
    groups = {"pod": {"cpu.max": "400000 100000"}, "pod/box": {"cpu.max": "50000 100000"}}
    plant(tmp_path, version_2("/pod/box", groups))
    assert cgroups.quota_cpus(tmp_path) == 0.5
    assert this_machine(tmp_path).quota_cpus == 0.5


def test_no_quota_in_version_2(tmp_path):
    plant(tmp_path, version_2("/pod", {"pod": {"cpu.max": "max 100000"}}))
    assert cgroups.quota_cpus(tmp_path) is None


def test_a_quota_of_version_1(tmp_path):
    groups = {
        "": {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000},
        "docker": {"cpu.cfs_quota_us": 250000, "cpu.cfs_period_us": 100000},
        "docker/box": {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000},
    }
    plant(tmp_path, version_1("cpu,cpuacct", "/docker/box", groups))
    assert cgroups.quota_cpus(tmp_path) == 2.5


def test_a_quota_seen_from_inside_a_container(tmp_path):
    """The mount shows only the container's own group, whose path is that of the outside."""
    groups = {
        "": {"cpu.cfs_quota_us": 200000, "cpu.cfs_period_us": 100000},
        "job": {"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 100000},
    }
    plant(tmp_path, version_1("cpu,cpuacct", "/docker/box", groups, shown="/docker/box"))
    assert cgroups.quota_cpus(tmp_path) == 2.0
    plant(tmp_path, version_1("cpu,cpuacct", "/docker/box/job", groups, shown="/docker/box"))
    assert cgroups.quota_cpus(tmp_path) == 1.5


def test_a_group_outside_of_what_the_mount_shows(tmp_path):
    plant(tmp_path, version_2("/../other", {"": {"cpu.max": "100000 100000"}}))
    assert cgroups.quota_cpus(tmp_path) == 1.0


VERSIONS = {
    "version 2": ("memory.max", "memory.current", lambda groups: version_2("/box", groups)),
    "version 1": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        lambda groups: version_1("memory", "/box", groups),
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cgroup_ends_the_memory(version, tmp_path):
    limit, used, files = VERSIONS[version]

    def left(allowed: object, stat: str = "") -> int:
        plant(tmp_path, files({"box": {limit: allowed, used: 6_000_000, "memory.stat": stat}}))
        return available_bytes(tmp_path)

    assert left(8_000_000) == 2_000_000
    assert left(8_000_000, "anon 1\ninactive_file 500000") == 2_500_000
    assert left(5_000_000) == 0
    assert left("max") > 10_000_000
    assert left(UNLIMITED) > 10_000_000


def test_a_group_above_ends_the_memory(tmp_path):
    groups = {
        "pod": {"memory.max": 7_000_000, "memory.current": 6_000_000},
        "pod/box": {"memory.max": 9_000_000, "memory.current": 1_000_000},
    }
    plant(tmp_path, version_2("/pod/box", groups))
    assert available_bytes(tmp_path) == 1_000_000
