"""Workers as processes: what they are started with, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelprof.chains import calls
from kernelprof.engines import Environment
from kernelprof.errors import WorkerError
from kernelprof.launch import (
    DROPPED_VARIABLES,
    POOL_VARIABLES,
    Worker,
    misplacement,
    worker_environment,
)
from kernelprof.machine import usable_cpus
from kernelprof.probes.wire import Message

FAKE = str(Path(__file__).resolve().parent / "fake_engine.py")
ROOT = Path(__file__).resolve().parent.parent
CPUS = usable_cpus()

HOST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from kernelprof.launch import Worker
from tests.test_launch import build, fake
worker = Worker(fake(), {CPUS[:1]!r}, {{"FAKE_HANG": "gemm"}})
print(worker.ask("facts", 30)["pid"], flush=True)
build(worker, 600)  # a worker at work does not see that the pipe is closed
"""


def fake(adapter: str = FAKE, python: str = sys.executable) -> Environment:
    return Environment("fake", python, adapter)


Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers of the fake engine, which end with the test."""
    started = []

    def _start(cpus: tuple[int, ...] = CPUS[:1], **variables: str) -> Worker:
        started.append(Worker(fake(), cpus, variables))
        return started[-1]

    yield _start
    for worker in started:
        worker.close()


def build(worker: Worker, timeout_s: float = 60.0, mode: str = "infer") -> Message:
    """Build a tiny network in a worker."""
    network = calls(1)
    return worker.ask(
        "build",
        timeout_s,
        network=network.to_json(),
        batch=2,
        subjects={mode: {"mode": mode, "whole": True}},
        seed=1,
        warm_up_s=0.01,
    )


def process_environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_gets_its_cpus_and_pools(count, start):
    if len(CPUS) < count:
        pytest.skip(f"{count} CPUs are needed")
    own = os.sched_getaffinity(0)
    cpus = CPUS[-count:]
    facts = start(cpus).ask("facts", 30.0)
    assert {tuple(allowed) for allowed in facts["thread_cpus"].values()} == {tuple(sorted(cpus))}
    assert facts["threads"] == count
    found = process_environment(facts["pid"])
    assert [found[name] for name in POOL_VARIABLES] == [str(count)] * len(POOL_VARIABLES)
    assert os.sched_getaffinity(0) == own


def test_a_shell_cannot_move_threads(start, monkeypatch):
    for name in DROPPED_VARIABLES:
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("KEPT", "yes")
    found = process_environment(start(EXTRA="given").ask("facts", 30.0)["pid"])
    assert not set(DROPPED_VARIABLES) & set(found)
    assert found["OMP_NUM_THREADS"] == "1"
    assert (found["KEPT"], found["EXTRA"]) == ("yes", "given")


def test_an_engines_own_variables_come_last():
    assert worker_environment(4, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    assert worker_environment(4, {})["MKL_NUM_THREADS"] == "4"


def test_a_crash_tells_the_signal_and_the_last_words(start):
    worker = start(FAKE_CRASH="gemm")
    with pytest.raises(WorkerError, match=r"signal SIGKILL: .*a fake crash") as crash:
        build(worker)
    assert crash.value.kind == "crash"
    assert not worker.alive


def test_a_worker_that_was_killed_answers_with_a_crash(start):
    worker = start()
    os.kill(worker.ask("facts", 30.0)["pid"], signal.SIGSEGV)
    with pytest.raises(WorkerError, match="SIGSEGV") as crash:
        worker.ask("facts", 30.0)
    assert crash.value.kind == "crash"


def test_a_worker_that_hangs_is_ended(start):
    worker = start(FAKE_HANG="gemm")
    pid = worker.ask("facts", 30.0)["pid"]
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"no answer within 1 s \(build\)") as hung:
        build(worker, 1.0)
    assert hung.value.kind == "timeout"
    assert 1.0 <= time.monotonic() - started < 5.0
    assert is_gone(pid)


def test_a_failure_leaves_the_worker_alive(start):
    worker = start()
    with pytest.raises(WorkerError, match="KeyError") as failure:
        worker.ask("turn", 30.0, subject="none", rounds=[0])
    assert failure.value.kind == "error"
    assert "kernels" in build(worker)["infer"]


def test_what_an_engine_prints_is_no_answer(start):
    worker = start(FAKE_NOISE="2")
    assert "kernels" in build(worker)["infer"]
    turn = worker.ask("turn", 30.0, subject="infer", rounds=[0, 1])
    assert [round_["round"] for round_ in turn["rounds"]] == [0, 1]


def test_an_interpreter_that_is_not_there():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WorkerError, match="cannot run /nonexistent/python") as missing:
        Worker(fake(python="/nonexistent/python"), CPUS[:1])
    assert missing.value.kind == "no_engine"
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_engine_that_is_not_there():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WorkerError, match="No module named 'fake'") as missing:
        Worker(fake(), CPUS[:1], {"FAKE_ABSENT": "1"})
    assert missing.value.kind == "no_engine"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["adapter.py", "adapter"])
def test_an_adapter_that_is_not_there(name, tmp_path):
    with pytest.raises(WorkerError) as missing:
        Worker(fake(str(tmp_path / name)), CPUS[:1])
    assert str(tmp_path / name) in missing.value.reason


def test_an_adapter_that_is_broken(tmp_path):
    adapter = tmp_path / "broken.py"
    adapter.write_text("1 / 0\n")
    with pytest.raises(WorkerError, match="ZeroDivisionError") as broken:
        Worker(fake(str(adapter)), CPUS[:1])
    assert broken.value.kind == "crash"


def test_a_worker_dies_with_a_host_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert not is_gone(pid, 1.0)
        host.kill()
        host.wait()
        assert is_gone(pid)


def test_close_ends_a_worker_at_work(start):
    worker = start()
    pid = worker.ask("facts", 30.0)["pid"]
    worker.close()
    worker.close()
    assert is_gone(pid)


@pytest.mark.parametrize(
    ("threads", "cpus", "pool", "wrong"),
    [
        (2, [0, 1], 2, None),
        (1, [0, 1], 2, "the engine's pool has 1 threads, not 2"),
        (1, [0, 1], None, None),
        (None, [0, 1], 2, None),
        (2, [0, 1, 3], 2, "threads may run on CPUs [3], not only on [0, 1]"),
    ],
)
def test_a_placement_that_was_not_obtained_is_said(
    threads: int | None, cpus: list[int], pool: int | None, wrong: str | None
) -> None:
    facts = {"threads": threads, "thread_cpus": {"1": [0], "2": cpus}}
    assert misplacement(facts, (0, 1), pool) == wrong
