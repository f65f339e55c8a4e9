"""Disturbed samples are told by their circumstances, and results are made of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from kernelprof.disturbance import DISTURBED_SHARE, WHOLE, Sample, Time, quiet, times_of
from kernelprof.engines import Environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.plan import alone
from kernelprof.probes.compute_bound import Gemm
from kernelprof.studies.turns import build, turn

QUIET = Time(100.0, 0.0, 1)
NOISY = Time(180.0, 80.0, 1)
CPU = usable_cpus()[0]
ROUNDS = 10


def sample(duration_ns: int = 5000, **changes: int) -> Sample:
    plain = Sample(0, 0, 3, 10, duration_ns, 0, 0, 0, 0)
    return plain._replace(**changes)


class TestTimes:
    """What of a sample was lost."""

    def test_a_call_of_a_sample(self):
        found = times_of([sample(waited_ns=40, stolen_ns=10)])
        assert found == {0: {0: Time(500.0, 5.0, 3)}}

    @pytest.mark.parametrize("pause", [{"throttled_periods": 1}, {"stops": 2}])
    def test_a_pause_costs_the_sample_and_its_neighbours(self, pause):
        samples = [sample(round=n, **(pause if n == 2 else {})) for n in range(5)]
        lost = [times[0].lost_ns for times in times_of(samples).values()]
        assert lost == [0.0, 500.0, 500.0, 500.0, 0.0]

    def test_no_more_is_lost_than_there_was(self):
        assert times_of([sample(stolen_ns=10_000_000)])[0][0].lost_ns == 500.0


class TestQuiet:
    """What results are made of."""

    def test_nothing_disturbed(self):
        found = quiet({0: {WHOLE: QUIET, 0: QUIET}, 1: {WHOLE: QUIET}})
        assert found.rounds == {0: {WHOLE: 100.0, 0: 100.0}, 1: {WHOLE: 100.0}}
        assert (found.disturbed, found.taken, found.unavoidable) == (0, 2, False)

    def test_the_network_and_its_kernels_are_judged_apart(self):
        times = {r: {WHOLE: QUIET, 0: QUIET, 1: QUIET} for r in range(4)}
        times[1] = {WHOLE: NOISY, 0: QUIET, 1: QUIET}
        times[2] = {WHOLE: QUIET, 0: QUIET, 1: NOISY}
        found = quiet(times)
        assert found.rounds[1] == {0: 100.0, 1: 100.0}
        assert found.rounds[2] == {WHOLE: 100.0}
        assert (found.disturbed, found.unavoidable) == (2, False)

    def test_a_small_part_of_a_sum_may_be_disturbed(self):
        small = Time(1.0, 1.0, 1)
        assert quiet({0: {0: Time(1 / DISTURBED_SHARE, 0.0, 1), 1: small}}).disturbed == 0
        assert quiet({0: {0: Time(0.5 / DISTURBED_SHARE, 0.0, 1), 1: small}}).disturbed == 1

    def test_with_too_many_disturbed_all_count_and_it_is_said(self):
        times = {r: {0: QUIET if r < 2 else NOISY} for r in range(5)}
        found = quiet(times)
        assert found.unavoidable
        assert (found.disturbed, found.taken) == (3, 5)
        assert len(found.rounds) == 5

    def test_half_of_the_rounds_is_enough(self):
        times = {r: {0: QUIET if r < 2 else NOISY} for r in range(4)}
        found = quiet(times)
        assert not found.unavoidable
        assert set(found.rounds) == {0, 1}

    def test_without(self):
        found = quiet({0: {WHOLE: QUIET, 0: QUIET, 1: QUIET}}).without({1})
        assert found.rounds == {0: {WHOLE: 100.0, 0: 100.0}}

    def test_nothing_at_all(self):
        found = quiet({})
        assert (found.rounds, found.taken, found.unavoidable) == ({}, 0, False)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker of the reference on one CPU, with a product to time."""
    started = Worker(Environment("numpy", sys.executable, "numpy"), (CPU,))
    build(started, alone(Gemm(256, 256, 256)))
    yield started
    started.close()


class TestRealDisturbances:
    """What happens is seen in the samples: marks only, for times are a study's business."""

    def samples(self, worker: Worker, rounds: int = ROUNDS) -> list[Time]:
        return [sample[0] for sample in turn(worker, range(rounds)).times.values()]

    def test_a_process_on_the_same_cpu(self, worker):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            os.sched_setaffinity(other.pid, {CPU})
            samples = self.samples(worker, 200)
        finally:
            other.kill()
            other.wait()
        lost = sum(sample.lost_ns for sample in samples) / sum(sample.ns for sample in samples)
        assert 0.2 < lost < 0.9  # each of the two gets its half
        slow = [sample for sample in samples if sample.lost_ns > DISTURBED_SHARE * sample.ns]
        assert slow
        assert quiet({n: {0: s} for n, s in enumerate(samples)}).disturbed == len(slow)

    def test_watching_leaves_no_file_open(self, worker):
        """A long run has thousands of turns, and a process may open a thousand files."""
        self.samples(worker)
        before = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        for _ in range(20):
            self.samples(worker)
        assert len(list(Path(f"/proc/{worker.pid}/fd").iterdir())) == before

    def test_a_worker_that_is_stopped(self, worker):
        """In the midst of a sample, mostly; between two of them nothing is lost."""
        build(worker, alone(Gemm(768, 768, 768)))

        def stop() -> None:
            for _ in range(3):
                time.sleep(0.1)
                os.kill(worker.pid, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(worker.pid, signal.SIGCONT)

        stopping = threading.Thread(target=stop)
        stopping.start()
        samples = self.samples(worker, 100)
        stopping.join()
        stopped = [sample for sample in samples if sample.ns > 0.25e9]
        assert stopped
        assert all(sample.lost_ns == sample.ns for sample in stopped)

    def test_a_quota_that_is_used_up(self, worker):
        top = next(p for p in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")) if p.is_dir())
        group = top / f"kernelprof-test-{os.getpid()}"
        if not os.access(top, os.W_OK):
            return  # a machine that does not let itself be disturbed in this way
        group.mkdir()
        try:
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text("5000 20000")
            else:
                (group / "cpu.cfs_period_us").write_text("20000")
                (group / "cpu.cfs_quota_us").write_text("5000")
            (group / "cgroup.procs").write_text(str(worker.pid))
            samples = self.samples(worker, 200)
        finally:
            (top / "cgroup.procs").write_text(str(worker.pid))
            group.rmdir()
        usual = median(sample.ns for sample in samples)
        paused = [sample for sample in samples if sample.ns > 3 * usual]
        # Newer kernels pause a process when it leaves a system call: between samples, mostly.
        assert any(sample.lost_ns == sample.ns for sample in samples)
        assert all(sample.lost_ns > DISTURBED_SHARE * sample.ns for sample in paused)
