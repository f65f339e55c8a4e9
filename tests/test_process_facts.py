"""What a worker tells of its own process: libraries, memory, arithmetic, precision."""

from __future__ import annotations

import doctest
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelprof.probes import process_facts
from kernelprof.probes.process_facts import node_bytes, openmp_runtimes, precision_variables

from .conftest import engine_worker
from .test_rules import ROOT

PATIENCE_S = 60


def in_subprocess(body: str, **variables: str) -> Any:
    """What a fresh process prints as JSON at its end."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import ctypes, json\n{body}"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("names", "runtimes"),
    [
        (["libgomp.so.1", "libiomp5.so"], ["libgomp.so.1", "libiomp5.so"]),
        (["libomp.so.5", "libomp-14.so"], ["libomp.so.5", "libomp-14.so"]),
        (["libgomp-a34b3233.so.1.0.0"], ["libgomp-a34b3233.so.1.0.0"]),
        (["libomptarget.so", "libgompertz.so", "libcompress.so", "libmkl_core.so"], []),
    ],
)
def test_names_of_openmp_runtimes(names, runtimes):
    assert openmp_runtimes([f"/lib/{name}" for name in names]) == runtimes


def test_examples():
    failed, attempted = doctest.testmod(process_facts)
    assert attempted
    assert not failed


def test_two_runtimes_in_one_process(tmp_path):
    """Of any libraries that are loaded, as it is their names that tell."""
    library = in_subprocess(
        "from kernelprof.probes.placement import loaded_libraries\n"
        "print(json.dumps(loaded_libraries('libm')))"
    )[0]
    copies = [tmp_path / "libgomp.so.1", tmp_path / "libiomp5.so", tmp_path / "other.so"]
    for copy in copies:
        shutil.copy(library, copy)
    loads = "\n".join(f"ctypes.CDLL({str(copy)!r})" for copy in copies)
    told = in_subprocess(
        f"from kernelprof.probes.process_facts import process_facts\n{loads}\n"
        "print(json.dumps(process_facts()['openmp']))"
    )
    assert told == ["libgomp.so.1", "libiomp5.so"]


FLUSH = """
from kernelprof.probes.process_facts import process_facts
before = process_facts()["denormals"]
environment = (ctypes.c_uint32 * 8)()  # its last word is the control register of SSE
libm = ctypes.CDLL("libm.so.6")
libm.fegetenv(environment)
environment[7] |= 0x8040  # results and operands that are denormal count as zero
libm.fesetenv(environment)
print(json.dumps([before, process_facts()["denormals"]]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the control register is that of x86")
def test_denormals_that_a_thread_flushes():
    assert in_subprocess(FLUSH) == ["kept", "flushed to zero"]


def test_cost_of_denormals_is_a_ratio():
    """At most what the slowest processors take; where they cost nothing, about one."""
    assert 0.3 < process_facts.denormal_slowdown() < 1000


def test_cost_of_denormals_that_are_slow(monkeypatch):
    times = {process_facts.TINY: 50_000, 1.0: 1_000}
    monkeypatch.setattr(process_facts, "_best_ns", lambda operation, a, b: times[a])
    assert process_facts.denormal_slowdown.__wrapped__() == 50


NUMA_MAPS = """
00400000 default file=/usr/bin/python3.9 mapped=31 mapmax=3 N1=31 kernelpagesize_kB=4
01e3c000 default heap anon=700 dirty=700 N0=500 N1=200 kernelpagesize_kB=4
7f0000000000 interleave:0-1 anon=2 dirty=2 N1=2 kernelpagesize_kB=2048
7f0001000000 default anon=10 dirty=10 active=5 N0=10
7ffd00000000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
"""


def test_memory_on_nodes(tmp_path):
    maps = tmp_path / "numa_maps"
    maps.write_text(NUMA_MAPS.lstrip())
    assert node_bytes(str(maps)) == {"0": 513 * 4096, "1": 200 * 4096 + 2 * 2**21}
    assert node_bytes(str(tmp_path / "none")) == {}


def test_memory_of_this_process():
    """Its own pages, as far as the kernel tells of nodes at all."""
    held = node_bytes()
    if Path("/proc/self/numa_maps").exists():
        assert sum(held.values()) > 2**20


@pytest.mark.parametrize(
    ("name", "value", "reduces"),
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", True),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "strict", False),
        ("NVIDIA_TF32_OVERRIDE", "1", True),
        ("NVIDIA_TF32_OVERRIDE", "0", False),
        ("NVIDIA_TF32_OVERRIDE", "", False),
    ],
)
def test_variables_that_reduce_precision(name, value, reduces, monkeypatch):
    for variable in process_facts.PRECISION_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert precision_variables() == {}
    monkeypatch.setenv(name, value)
    assert precision_variables() == ({name: value} if reduces else {})


def test_a_worker_tells_it_all():
    worker = engine_worker("numpy", variables={"ONEDNN_DEFAULT_FPMATH_MODE": "ANY"})
    try:
        facts = worker.ask("facts", PATIENCE_S)
    finally:
        worker.close()
    assert facts["openmp"] == []
    assert facts["denormals"] == "kept"
    assert facts["precision_variables"] == {"ONEDNN_DEFAULT_FPMATH_MODE": "ANY"}
    assert {"denormal_slowdown", "node_bytes"} <= set(facts)
    assert next(iter(facts)) == "version"


def test_an_engine_that_knows_better():
    """TensorFlow's kernels flush, whatever the thread does that calls them."""
    worker = engine_worker("tensorflow")
    try:
        assert worker.ask("facts", PATIENCE_S)["denormals"] == "flushed to zero"
    finally:
        worker.close()


def test_variables_that_bear_on_speed(monkeypatch):
    """And no others: what a user's environment holds is nobody's business."""
    for name in os.environ:
        monkeypatch.delenv(name)
    bearing = {"OMP_WAIT_POLICY": "passive", "TF_NUM_INTRAOP_THREADS": "2", "MALLOC_ARENA_MAX": "1"}
    bearing |= {"KERNELPROF_TF32": "1", "KERNELPROF_ALGORITHM_SEARCH": "off", "CUPY_TF32": "1"}
    bearing |= {"PYTORCH_CUDA_ALLOC_CONF": "x", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    others = {"TF_VAR_password": "secret", "HOME": "/", "KERNELPROF_HOME": "/", "MKLROOT": "/mkl"}
    others |= {"CUDA_VISIBLE_DEVICES": "0", "CUDA_HOME": "/cuda", "NVIDIA_API_KEY": "secret"}
    for name, value in {**bearing, **others}.items():
        monkeypatch.setenv(name, value)
    assert process_facts.speed_variables() == bearing


@pytest.mark.parametrize(
    ("preloaded", "told"),
    [
        (
            "/nsys/libProxy.so:/usr/lib/libtcmalloc.so.4",
            {"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"},
        ),
        ("/nsys/libProxy.so /nsys/libKeys.so", {}),
        ("", {}),
    ],
)
def test_what_a_profiler_preloads_is_no_setting(preloaded, told, monkeypatch):
    """Who tries a change later does so without it."""
    for name in os.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/nsys/libInjection.so")
    assert process_facts.speed_variables() == told
    monkeypatch.delenv("NVTX_INJECTION64_PATH")
    assert process_facts.speed_variables().get("LD_PRELOAD", "") == preloaded.replace(" ", ":")
