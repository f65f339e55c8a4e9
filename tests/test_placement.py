"""Affinity and pools as the kernel tells them, of this process and of real NumPy threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from kernelprof.probes.placement import parse_cpus, thread_cpus, wait_until_idle
from tests.test_rules import ROOT

CPUS = tuple(sorted(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0-2,5", (0, 1, 2, 5)),
        ("3,7-8\n", (3, 7, 8)),
        (" 1,2 ", (1, 2)),
        ("10-11,64-66", (10, 11, 64, 65, 66)),
        ("", ()),
        ("\n", ()),
    ],
)
def test_lists_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


def test_threads_of_this_process() -> None:
    """All of them, the one that just started with its own mask among them."""
    ready, done = threading.Event(), threading.Event()
    tids = []

    def narrow() -> None:
        os.sched_setaffinity(0, CPUS[-1:])
        tids.append(threading.get_native_id())
        ready.set()
        done.wait()

    thread = threading.Thread(target=narrow)
    thread.start()
    ready.wait()
    allowed = thread_cpus()
    done.set()
    thread.join()
    assert allowed[os.getpid()] == CPUS
    assert allowed[tids[0]] == CPUS[-1:]
    assert tids[0] not in thread_cpus()


def in_subprocess(body: str, threads: int) -> Any:
    """What a fresh process with pools of that size prints as JSON at its end."""
    code = f"""
import json, os, threading, time
import numpy as np
from kernelprof.probes.placement import *
from kernelprof.probes import placement

def work(seconds=0.3):
    a = np.ones((400, 400))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        a @ a

def busiest(before):
    ran = {{tid: ns - before.get(tid, 0) for tid, ns in placement.run_ns().items()}}
    return sorted(ran, key=lambda tid: -ran[tid])

CPUS = tuple(sorted(os.sched_getaffinity(0)))
{body}
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("threads", [1, 2])
def test_size_of_the_pool_is_asked_of_openblas(threads: int) -> None:
    assert in_subprocess("print(json.dumps(openblas_threads()))", threads) == threads


def test_no_pool_where_openblas_is_not_loaded() -> None:
    code = "from kernelprof.probes.placement import openblas_threads; print(openblas_threads())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "None"


PINNED = """
free = threading.Event()
idle = threading.Thread(target=free.wait)  # never busy: it keeps all CPUs
idle.start()
before = run_ns()
work()
pin_busiest(CPUS, before)
pinned = thread_cpus()
pool = busiest(before)[:len(CPUS)]
unpin(CPUS)
freed = thread_cpus()
free.set()
print(json.dumps({"main": os.getpid(), "pool": pool, "idle": idle.native_id,
                  "pinned": pinned, "freed": freed}))
"""


@pytest.mark.skipif(len(CPUS) < 2, reason="two CPUs are needed")
def test_busiest_threads_get_a_cpu_each() -> None:
    """The calling thread the first one; threads that slept keep all; unpin frees everyone."""
    told = in_subprocess(PINNED, len(CPUS))
    pinned = {int(tid): tuple(cpus) for tid, cpus in told["pinned"].items()}
    assert set(told["pool"]) <= set(pinned)
    assert told["main"] in told["pool"]
    assert pinned[told["main"]] == CPUS[:1]
    assert sorted(pinned[tid] for tid in told["pool"]) == [(cpu,) for cpu in CPUS]
    assert pinned[told["idle"]] == CPUS
    assert {tuple(cpus) for cpus in told["freed"].values()} == {CPUS}


ENDED = """
before = {**run_ns()}
thread = threading.Thread(target=work, args=(0.05,))
thread.start()
thread.join()
placement._allow(thread.native_id, {CPUS[0]})
pin_busiest(CPUS, before)
print(json.dumps(sorted(thread_cpus()[os.getpid()])))
"""


def test_threads_that_ended_are_passed_over() -> None:
    assert in_subprocess(ENDED, 1) == [CPUS[0]]


def test_waiting_ends_when_the_others_rest() -> None:
    busy, stop = threading.Event(), threading.Event()

    def spin() -> None:
        busy.set()
        end = time.monotonic() + 0.3
        while not stop.is_set() and time.monotonic() < end:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    busy.wait()
    started = time.monotonic()
    wait_until_idle(patience_s=10.0)
    waited = time.monotonic() - started
    thread.join()
    assert 0.1 < waited < 5.0


def test_waiting_ends_with_its_patience() -> None:
    """A thread in C code that never rests: it does not even let the interpreter go."""
    told = in_subprocess(
        """
big = np.ones((1500, 1500))
thread = threading.Thread(target=lambda: [big @ big for _ in range(40)], daemon=True)
thread.start()
time.sleep(0.05)
started = time.monotonic()
wait_until_idle(patience_s=0.2)
waited = time.monotonic() - started
print(json.dumps([waited, thread.is_alive()]), flush=True)
os._exit(0)
""",
        1,
    )
    waited, alive = told
    assert alive
    assert 0.15 < waited < 2.0


def test_waiting_is_short_where_nobody_runs() -> None:
    started = time.monotonic()
    wait_until_idle(patience_s=10.0)
    assert time.monotonic() - started < 5.0
