"""The machine: its facts, its CPUs, its memory."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from kernelprof import machine
from kernelprof.errors import UsageError
from kernelprof.machine import available_bytes, placements, this_machine, usable_cpus

CPUS = usable_cpus()


def test_this_machine():
    found = this_machine()
    assert found.cpus == os.cpu_count()
    assert 1 <= found.physical_cores <= found.cpus
    assert found.memory_bytes > 2**28
    assert found.processor
    assert found == this_machine()
    assert json.loads(json.dumps(found.to_json()))["fingerprint"] == found.fingerprint


@pytest.mark.parametrize("field", ["processor", "isa", "cpus", "memory_bytes", "system"])
def test_another_machine_has_another_fingerprint(field):
    found = this_machine()
    changed = {
        "processor": "Z80",
        "isa": ("mmx",),
        "cpus": 999,
        "memory_bytes": 1,
        "system": "CP/M",
    }
    assert dataclasses.replace(found, **{field: changed[field]}).fingerprint != found.fingerprint


def test_a_kernel_may_reserve_a_little_more():
    found = dataclasses.replace(this_machine(), memory_bytes=2**34 + 2**20)
    more = dataclasses.replace(found, memory_bytes=found.memory_bytes + 4096)
    assert more.fingerprint == found.fingerprint


def test_usable_cpus_are_those_of_this_process():
    own = os.sched_getaffinity(0)
    assert set(CPUS) == own
    try:
        os.sched_setaffinity(0, {CPUS[-1]})
        assert usable_cpus() == (CPUS[-1],)
    finally:
        os.sched_setaffinity(0, own)


def test_first_threads_of_cores_come_first(monkeypatch):
    cores = {0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)}
    monkeypatch.setattr(machine, "_siblings", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert usable_cpus() == (0, 2, 1, 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3})
    assert usable_cpus() == (1, 2, 3)


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


CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


@pytest.mark.parametrize("files", CGROUPS, ids=["version 2", "version 1"])
def test_a_cgroup_ends_the_memory(files, tmp_path, monkeypatch):
    limit, used = files
    monkeypatch.setattr(machine, "CGROUP_MEMORY", ((str(tmp_path), limit, used),))
    (tmp_path / used).write_text("6000000\n")
    (tmp_path / limit).write_text("8000000\n")
    assert available_bytes() == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert available_bytes() == 2_500_000
    (tmp_path / limit).write_text("5000000\n")
    assert available_bytes() == 0
    (tmp_path / limit).write_text("max\n")
    assert available_bytes() > 10_000_000
