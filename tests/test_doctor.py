"""The doctor: each check on machines where it passes and where it does not, and what is told."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from io import StringIO

import pytest
from rich.console import Console

from kernelprof import doctor, measure, timekeeping
from kernelprof.doctor import examine, needs
from kernelprof.engines import environment
from kernelprof.fitness import BLOCK, PASS, WARN, Check, Fitness, Started
from kernelprof.load import Load, Reading, load_between
from kernelprof.machine import usable_cpus
from kernelprof.plan import needed_bytes, primitive_groups
from kernelprof.probes.compute_bound import Gemm
from kernelprof.reports.contract import to_json
from kernelprof.reports.doctor import doctor_json, doctor_verdict, fitness_table, starts_table
from kernelprof.reports.page import to_html
from kernelprof.reports.text import to_text
from kernelprof.runfile import RunFile
from kernelprof.runner import choose
from kernelprof.timekeeping import Moment
from kernelprof.topology import CPUS
from kernelprof.worker_checks import run_fitness, start, worker_checks, worker_fitness

from .planted_machine import clocks, plant, server, version_1, version_2
from .sample_results import sample_results

USABLE = usable_cpus()
SOURCES = "sys/devices/system/clocksource/clocksource0"
MACHINE_CHECKS = [
    *("CPU quota", "affinity", "SMT siblings", "NUMA nodes", "CPU frequency", "load", "steal"),
    *("memory", "clock", "clock source"),
]
WORKER_CHECKS = ["threads", "OpenMP runtimes", "memory nodes", "denormals", "precision"]


def options(networks=("fcn-r",), threads="1"):
    return choose(networks, engines="numpy", threads=threads, modes="infer")


class TestQuota:
    """CPU time that the control group may take."""

    @pytest.mark.parametrize(
        ("cpu_max", "threads", "outcome"),
        [
            ("max 100000", 8, PASS),
            ("200000 100000", 2, PASS),
            ("200000 100000", 3, BLOCK),
            ("199000 100000", 2, BLOCK),
            ("50000 100000", 1, BLOCK),
        ],
    )
    def test_version_2(self, cpu_max, threads, outcome, tmp_path):
        plant(tmp_path, version_2("/box", {"box": {"cpu.max": cpu_max}}))
        placements = [(0,), tuple(range(threads))]
        assert doctor.quota(placements, tmp_path).outcome == outcome

    def test_version_1(self, tmp_path):
        group = {"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 100000}
        plant(tmp_path, version_1("cpu,cpuacct", "/box", {"box": group}))
        assert doctor.quota([(0,)], tmp_path).outcome == PASS
        check = doctor.quota([(0,), (0, 1)], tmp_path)
        assert check.outcome == BLOCK
        assert "the time of 1.5 CPUs; 2 threads" in check.reason
        assert check.remedy.startswith("--threads 1, or raise")

    def test_less_than_a_cpu(self, tmp_path):
        plant(tmp_path, version_2("/box", {"box": {"cpu.max": "50000 100000"}}))
        assert doctor.quota([(0,)], tmp_path).remedy.startswith("raise")

    def test_no_group(self, tmp_path):
        assert doctor.quota([(0,)], tmp_path).outcome == PASS


class TestAffinity:
    """Pinning, tried on this process."""

    def test_it_can_be_had_and_is_left_as_it_was(self):
        own = os.sched_getaffinity(0)
        assert doctor.affinity([USABLE[:1], USABLE]).outcome == PASS
        assert os.sched_getaffinity(0) == own

    def test_a_cpu_that_is_not_there(self):
        own = os.sched_getaffinity(0)
        check = doctor.affinity([(0,), (4000,)])
        assert check.outcome == BLOCK
        assert "CPUs 4000: Invalid argument" in check.reason
        assert os.sched_getaffinity(0) == own

    def test_a_system_that_only_says_so(self, monkeypatch):
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
        check = doctor.affinity([(1,)])
        assert (check.outcome, check.reason) == (BLOCK, "asked for CPUs 1, got 0-2,5")


class TestTopology:
    """Two sockets of two cores with two threads each."""

    @pytest.mark.parametrize(
        ("cpus", "shared"),
        [((0, 1), None), ((0, 1, 2, 3), None), ((0, 4), "CPUs 0,4 "), ((0, 1, 5, 3), "CPUs 1,5 ")],
    )
    def test_siblings(self, cpus, shared, tmp_path):
        check = doctor.smt([(0,), cpus], plant(tmp_path, server()))
        assert check.outcome == (WARN if shared else PASS)
        assert (shared or "") in check.reason

    def test_many_siblings(self, tmp_path):
        check = doctor.smt([tuple(range(8))], plant(tmp_path, server()))
        assert check.reason == (
            "of 8 threads, those on CPUs 0,4 share a core, and 3 more such cores"
        )
        assert check.remedy.startswith("--threads 4 takes one thread of each core")

    @pytest.mark.parametrize(
        ("cpus", "outcome"), [((0, 1), PASS), ((2, 3, 6, 7), PASS), ((0, 2), WARN)]
    )
    def test_nodes(self, cpus, outcome, tmp_path):
        check = doctor.numa([(0,), cpus], plant(tmp_path, server()))
        assert check.outcome == outcome
        if outcome == WARN:
            assert "2 threads on CPUs 0,2 lie on node0 and node1" in check.reason
            assert "node0 has 0-1,4-5" in check.remedy

    def test_a_machine_that_shows_nothing(self, tmp_path):
        plant(tmp_path, {f"{CPUS}/online": "0-1"})
        assert doctor.smt([(0, 1)], tmp_path).outcome == PASS
        assert doctor.numa([(0, 1)], tmp_path).outcome == PASS


class TestFrequency:
    """The clock of the CPUs."""

    @pytest.mark.parametrize(
        ("governor", "switch", "value", "remedy"),
        [
            ("performance", None, None, None),
            ("performance", "intel_pstate/no_turbo", 1, None),
            ("powersave", None, None, "as root: cpupower frequency-set -g performance"),
            (
                *("performance", "intel_pstate/no_turbo", 0),
                f"as root: echo 1 > /{CPUS}/intel_pstate/no_turbo",
            ),
            (
                *("schedutil", "cpufreq/boost", 1),
                f"as root: cpupower frequency-set -g performance; echo 0 > /{CPUS}/cpufreq/boost",
            ),
        ],
    )
    def test_what_moves_it(self, governor, switch, value, remedy, tmp_path):
        plant(tmp_path, clocks(scaling_governor=governor))
        if switch:
            plant(tmp_path, {f"{CPUS}/{switch}": value})
        check = doctor.frequency(tmp_path)
        assert check.outcome == (WARN if remedy else PASS)
        assert check.remedy == (remedy or "")
        assert governor in check.reason

    def test_nothing_is_shown(self, tmp_path):
        assert doctor.frequency(tmp_path).outcome == PASS


# Of cpu0 and cpu1: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice.
EARLY = """cpu  0 0 0 0 0 0 0 0 0 0
cpu0 1000 10 200 5000 50 0 7 3 400 0
cpu1 2000 20 100 6000 70 0 9 5 0 0
intr 1 2 3"""
LATE = """cpu  0 0 0 0 0 0 0 0 0 0
cpu0 1020 10 205 5024 50 0 7 4 420 0
cpu1 2000 20 100 6040 78 0 9 7 0 0
intr 1 2 3"""


def process(name, ticks, started=17):
    return f"7 ({name}) S 1 7 7 0 -1 4 0 0 0 0 {ticks} 5 0 0 20 0 1 0 {started} 0 0"


class TestLoad:
    """What CPUs do for others."""

    def readings(self, tmp_path):
        early, late = tmp_path / "early", tmp_path / "late"
        own = f"proc/{os.getpid()}/stat"
        plant(
            early,
            {
                "proc/stat": EARLY,
                own: process("kernelprof", 0),
                "proc/11/stat": process("a) (b", 100),
                "proc/12/stat": process("idle", 100),
                "proc/13/stat": process("ended", 9000),
            },
        )
        plant(
            late,
            {
                "proc/stat": LATE,
                own: process("kernelprof", 50),
                "proc/11/stat": process("a) (b", 115),
                "proc/12/stat": process("idle", 101),
                "proc/13/stat": process("another", 20, started=18),
            },
        )
        return Reading.now(early), Reading.now(late)

    def test_shares(self, tmp_path):
        load = load_between(*self.readings(tmp_path))
        assert load.busy == {0: 0.5, 1: 0.0}
        assert load.steal == {0: 0.02, 1: 0.04}

    def test_who_it_was(self, tmp_path):
        """In CPUs; this process and the idle are left out, a number that went on is a new one."""
        load = load_between(*self.readings(tmp_path))
        assert load.busiest == (("another (pid 13)", 0.5), ("a) (b (pid 11)", 0.3))

    def test_nothing_passed(self, tmp_path):
        early, _ = self.readings(tmp_path)
        assert load_between(early, early) == Load({}, {}, ())

    def test_nothing_is_shown(self, tmp_path):
        nothing = Reading.now(tmp_path)
        assert load_between(nothing, nothing) == Load({}, {}, ())

    def test_this_machine(self):
        """A process that computes is seen."""
        before = Reading.now()
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass
        load = load_between(before, Reading.now())
        assert set(USABLE) <= set(load.busy)
        assert max(load.busy.values()) > 0.2
        assert all(0 <= share <= 1 for share in [*load.busy.values(), *load.steal.values()])

    @pytest.mark.parametrize(
        ("busy", "cpus", "outcome"),
        [
            ({0: 0.05, 1: 0.02}, [0, 1], PASS),
            ({0: 0.05, 1: 0.6}, [0], PASS),
            ({0: 0.05, 1: 0.6}, [0, 1], WARN),
        ],
    )
    def test_check(self, busy, cpus, outcome):
        check = doctor.busy(Load(busy, {}, (("stress (pid 7)", 0.6),)), cpus)
        assert check.outcome == outcome
        if outcome == WARN:
            assert check.reason == "others take up to 60.0 % of CPU 1: stress (pid 7) 60.0 %"

    def test_check_of_what_is_not_shown(self):
        assert "nobody who is shown" in doctor.busy(Load({0: 0.9, 1: 0.8}, {}, ()), [0, 1]).reason
        assert "of CPUs 0-1" in doctor.busy(Load({0: 0.9, 1: 0.8}, {}, ()), [0, 1]).reason
        assert doctor.busy(Load({}, {}, ()), [0]).outcome == PASS

    @pytest.mark.parametrize(
        ("steal", "outcome"), [({}, PASS), ({0: 0.02, 1: 0.5}, PASS), ({0: 0.1}, WARN)]
    )
    def test_steal(self, steal, outcome):
        check = doctor.steal(Load({}, steal, ()), [0])
        assert check.outcome == outcome
        if outcome == WARN:
            assert "up to 10.0 % of a CPU" in check.reason


class TestMemory:
    """What is free against what is needed."""

    @pytest.mark.parametrize(
        ("free", "outcome", "words"),
        [
            (2**31, PASS, "no more than about 2.00 GiB"),
            (2**31 - 1, WARN, "1 of 2 need more, large about 2.00 GiB"),
            (2**30 - 1, BLOCK, "even small needs about 1.00 GiB"),
        ],
    )
    def test_check(self, free, outcome, words):
        check = doctor.memory(free, {"small": 2**30, "large": 2**31})
        assert check.outcome == outcome
        assert words in check.reason

    def test_needs_of_networks(self):
        """Without what is only calibrated with; a training step needs more than an inference."""
        found = needs(options(("fcn-r", "lstm"), threads="1"))
        assert set(found) == {"fcn-r", "lstm"}
        trained = needs(dataclasses.replace(options(("fcn-r",)), modes=("train",)))
        assert trained["fcn-r"] > found["fcn-r"]

    def test_needs_of_primitives(self):
        asked = dataclasses.replace(options(), primitives=(Gemm(64, 64, 64), Gemm(4096, 4096, 64)))
        groups = primitive_groups(asked)
        assert needs(asked) == {
            group.network.name: needed_bytes(group, "numpy") for group in groups
        }


def ticking(*steps):
    """A clock that goes on by these steps, again and again."""
    state = {"now": 0, "place": 0}

    def now():
        state["now"] += steps[state["place"] % len(steps)]
        state["place"] += 1
        return state["now"]

    return now


class TestClock:
    """Steps, rate and order of the clock."""

    @pytest.mark.parametrize(
        ("steps", "smallest"), [((100,), 100), ((0, 0, 300, 0, 200), 200), ((0,) * 99 + (7,), 7)]
    )
    def test_smallest_step(self, steps, smallest):
        assert timekeeping.step_ns(ticking(*steps)) == smallest

    def test_a_clock_that_stands_still(self, monkeypatch):
        monkeypatch.setattr(timekeeping, "MOST_READINGS", 1000)
        assert timekeeping.step_ns(lambda: 5) is None
        assert doctor.clock(USABLE, 0.0, lambda: 5).outcome == BLOCK

    def test_drift(self):
        assert timekeeping.drift(Moment(10, 110), Moment(1_001_010, 1_000_110)) == pytest.approx(
            1e-3
        )

    def test_two_clocks_at_one_moment(self):
        raw = iter([0, 100, 100, 110] + [200, 400] * 50)
        own = iter(range(7, 1000))
        assert Moment.now(lambda: next(own), lambda: next(raw)) == Moment(8, 105)

    def test_a_clock_that_goes_back_on_another_cpu(self):
        before = os.sched_getaffinity(0)
        assert timekeeping.goes_back(USABLE, ticking(5, 5, 5, -6))
        assert not timekeeping.goes_back(USABLE, ticking(5, 0))
        assert not timekeeping.goes_back(USABLE)
        assert os.sched_getaffinity(0) == before

    @pytest.mark.parametrize(
        ("steps", "drift", "outcome"),
        [
            ((40,), 0.0, PASS),
            ((1000,), -5e-4, PASS),
            ((1001,), 0.0, WARN),
            ((4_000_000,), 0.0, BLOCK),
            ((40,), -2e-3, WARN),
            ((40,), 2e-2, BLOCK),
            ((40, 40, -1), 0.0, BLOCK),
        ],
    )
    def test_check(self, steps, drift, outcome):
        check = doctor.clock(USABLE[:1], drift, ticking(*steps))
        assert check.outcome == outcome
        assert bool(check.remedy) == (outcome != PASS)

    @pytest.mark.parametrize(
        ("current", "available", "remedy"),
        [
            ("tsc", "tsc hpet acpi_pm", None),
            ("kvm-clock", "kvm-clock", None),
            ("arch_sys_counter", "arch_sys_counter", None),
            ("hpet", "hpet tsc acpi_pm", f"as root: echo tsc > /{SOURCES}/current_clocksource"),
            ("hpet", "hpet acpi_pm", "the machine offers no better one"),
        ],
    )
    def test_source(self, current, available, remedy, tmp_path):
        names = {"current_clocksource": current, "available_clocksource": available}
        plant(tmp_path, {f"{SOURCES}/{name}": value for name, value in names.items()})
        check = doctor.clock_source(tmp_path)
        assert check.outcome == (WARN if remedy else PASS)
        assert check.remedy == (remedy or "")

    def test_no_source(self, tmp_path):
        assert doctor.clock_source(tmp_path).outcome == PASS


def test_another_kernelprof(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "LOCK", tmp_path / "lock")
    assert doctor.other_runs().outcome == PASS
    with measure.sole_measurement():
        check = doctor.other_runs()
    assert check.outcome == BLOCK
    assert check.remedy == "wait until it is done"
    assert doctor.other_runs().outcome == PASS


def test_all_checks_of_this_machine_are_quick():
    started = time.monotonic()
    checks = list(examine(options(threads="1")))
    assert time.monotonic() - started < 5
    assert [check.name for check in checks] == MACHINE_CHECKS
    assert all(check.reason for check in checks)
    assert all(bool(check.remedy) == (check.outcome != PASS) for check in checks)


def test_a_machine_that_cannot_pin_is_not_asked_for_its_clocks(monkeypatch):
    """Else the question would fail as well."""
    placed = dataclasses.replace(options(), placements=((4000,),))
    checks = {check.name: check for check in examine(placed)}
    assert checks["affinity"].outcome == BLOCK
    assert "steps of" in checks["clock"].reason


CHECKS = (Check("a", PASS, "fine"), Check("b", WARN, "so so", "wait"))
BLOCKED = Check("c", BLOCK, "bad", "flee")


class TestFitness:
    """All checks together."""

    def test_json_and_back(self):
        for fitness in (Fitness(CHECKS), Fitness((*CHECKS, BLOCKED), forced=True)):
            assert Fitness.from_json(json.loads(json.dumps(fitness.to_json()))) == fitness
        assert Fitness(CHECKS).to_json()["fit"] is True
        assert Fitness((BLOCKED,)).to_json()["fit"] is False

    def test_two_goes_count_as_the_worse_one(self):
        first = Fitness((Check("a", WARN, "first", "wait"), BLOCKED), forced=True)
        second = Fitness((Check("a", PASS, "second"), Check("c", WARN, "second", "wait")))
        for both in (first.with_earlier(second), second.with_earlier(first)):
            assert both.forced
            assert {check.name: check.reason for check in both.checks} == {
                "a": "first",
                "c": "bad",
            }

    def test_of_equals_the_last_go_counts(self):
        early, late = (Fitness((Check("a", PASS, when),)) for when in ("early", "late"))
        assert late.with_earlier(early) == late


def worker(engine="torch", cpus=(0, 1), pool=None, **facts):
    """A worker in which all is well, but for some facts."""
    well = {
        "thread_cpus": {"1": [0], "2": [1]},
        "threads": 2,
        "openmp": ["libgomp.so.1"],
        "node_bytes": {"0": 95, "1": 5},
        "denormals": "kept",
        "denormal_slowdown": 1.1,
        "precision": "float32",
        "precision_variables": {},
    }
    return Started(engine, cpus, {**well, **facts}, pool)


def found(*workers):
    nodes = {"0": (0, 1), "1": (2, 3)}
    return {check.name: check for check in worker_checks(workers, nodes)}


class TestWorkers:
    """What workers tell."""

    def test_all_is_well(self):
        checks = found(worker(pool=2), worker("numpy", openmp=[]))
        assert list(checks) == WORKER_CHECKS
        assert {check.outcome for check in checks.values()} == {PASS}

    @pytest.mark.parametrize(
        ("pool", "facts", "words"),
        [
            (None, {"thread_cpus": {"1": [0, 7]}}, "torch at 2 threads: threads may run on CPUs"),
            (2, {"threads": 8}, "the engine's pool has 8 threads, not 2"),
            (None, {"threads": 8}, None),
        ],
    )
    def test_threads(self, pool, facts, words):
        check = found(worker("numpy"), worker(pool=pool, **facts))["threads"]
        assert check.outcome == (BLOCK if words else PASS)
        assert (words or "") in check.reason

    def test_two_openmp_runtimes(self):
        both = ["libgomp.so.1", "libiomp5.so"]
        check = found(worker("numpy"), worker("mxnet", openmp=both))["OpenMP runtimes"]
        assert check.outcome == WARN
        assert check.reason == "mxnet has 2: libgomp.so.1, libiomp5.so"

    def test_memory_that_is_far(self):
        near = {"0": 0, "1": 100}
        assert found(worker(cpus=(2, 3), node_bytes=near))["memory nodes"].outcome == PASS
        assert found(worker(cpus=(1, 2), node_bytes=near))["memory nodes"].outcome == PASS
        check = found(worker(node_bytes={"0": 60, "1": 40}))["memory nodes"]
        assert check.outcome == WARN
        assert "torch at 2 threads: 40.0 % of its memory is far from its CPUs, on node 1" in (
            check.reason
        )

    def test_denormals(self):
        flushing = worker("tensorflow", denormals="flushed to zero")
        check = found(flushing, worker(), worker("numpy"))["denormals"]
        assert check.outcome == WARN
        assert check.reason == (
            "flushed to zero by tensorflow, kept by torch, numpy; they cost no more here"
        )
        assert found(flushing)["denormals"].outcome == PASS
        assert found(worker())["denormals"].outcome == PASS
        slow = worker("numpy", denormal_slowdown=31.4159)
        assert found(slow)["denormals"].outcome == WARN
        assert "31.4x as much" in found(flushing, slow)["denormals"].reason
        fast = worker("tensorflow", denormals="flushed to zero", denormal_slowdown=31.4159)
        assert found(fast)["denormals"].outcome == PASS

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"precision": "float32, matrix products highest"}, None),
            ({"precision": "float32, matrix products medium"}, "torch: float32, matrix products m"),
            ({"precision": "TF32"}, "torch: TF32"),
            ({"precision_variables": {"NVIDIA_TF32_OVERRIDE": "1"}}, "NVIDIA_TF32_OVERRIDE=1"),
        ],
    )
    def test_precision(self, facts, words):
        check = found(worker("numpy"), worker(**facts))["precision"]
        assert check.outcome == (WARN if words else PASS)
        assert (words or "") in check.reason

    def test_a_tool_that_takes_no_ranges(self, monkeypatch):
        loaded, none = worker("numpy", nvtx_tool="tool.so"), worker("caffe", nvtx_tool="none")
        monkeypatch.delenv("NVTX_INJECTION64_PATH", raising=False)
        assert "NVTX tool" not in found(loaded, none)
        monkeypatch.setenv("NVTX_INJECTION64_PATH", "/no/such/tool.so")
        assert found(loaded)["NVTX tool"].outcome == PASS
        check = found(loaded, none)["NVTX tool"]
        assert check.outcome == WARN
        assert check.reason.endswith("no tool takes the ranges of caffe")

    def test_nothing_is_said_of_what_is_not_known(self):
        """Workers of an older kernelprof told less, and those that did not start tell nothing."""
        old = Started("torch", (0,), {"thread_cpus": {"1": [0]}, "threads": 1})
        broken = Started("caffe", (0,), {}, 1, "no such library")
        assert list(found(old, broken)) == ["threads"]
        assert found(broken) == {}
        assert found() == {}

    def test_a_real_worker(self):
        numpy = environment("numpy")
        assert numpy is not None
        started = start(numpy, USABLE[:1])
        assert not started.failure
        assert (started.cpus, started.pool) == (USABLE[:1], 1)
        assert list(found(started)) == WORKER_CHECKS
        decided = dataclasses.replace(numpy, variables={"OMP_NUM_THREADS": "1"})
        assert start(decided, USABLE[:1]).pool is None

    def test_an_engine_that_does_not_start(self):
        numpy = environment("numpy")
        assert numpy is not None
        started = start(dataclasses.replace(numpy, adapter="torch_of_nobody.py"), USABLE[:1])
        assert started.failure
        assert started.facts == {}


@pytest.fixture
def run(tmp_path):
    """A run with a worker."""
    machine = {"nodes": {"node0": {"cpus": "0-1"}, "node1": {"cpus": "2-3"}}}
    file = RunFile.create(tmp_path / "a.kprof", {"machine": machine})
    both = worker(openmp=["libgomp.so.1", "libiomp5.so"], node_bytes={"1": 9})
    file.add_worker("torch", both.cpus, dict(both.facts))
    yield file
    file.close()


class TestRun:
    """What a run file tells of its fitness."""

    def test_workers(self, run):
        names = ["OpenMP runtimes", "memory nodes"]
        assert [check.name for check in worker_fitness(run).warnings] == names

    def test_what_was_checked_before_comes_first(self, run):
        run.record("fitness", Fitness((*CHECKS, BLOCKED), forced=True).to_json())
        fitness = run_fitness(run)
        assert fitness is not None
        assert fitness.forced
        assert [check.name for check in fitness.checks] == ["a", "b", "c", *WORKER_CHECKS]

    def test_an_older_run(self, run):
        fitness = run_fitness(run)
        assert fitness is not None
        assert not fitness.forced
        assert [check.name for check in fitness.checks] == WORKER_CHECKS

    def test_nothing_is_known(self, tmp_path):
        file = RunFile.create(tmp_path / "b.kprof", {"machine": {}})
        assert run_fitness(file) is None
        file.close()


def printed(*what, width=80):
    console = Console(file=StringIO(), width=width)
    for one in what:
        console.print(one)
    return console.file.getvalue()


class TestReports:
    """Terminal, JSON and page."""

    @pytest.mark.parametrize("width", [80, 120])
    def test_table(self, width):
        long = Check("CPU quota", WARN, "why " * 40, "what to do " * 20)
        text = printed(fitness_table([*CHECKS, BLOCKED, long]), width=width)
        assert all(len(line) <= width for line in text.splitlines())
        rows = [line.split() for line in text.splitlines()]
        assert ["a", "pass", "fine"] in rows
        assert ["c", "block", "bad"] in rows
        assert ["->", "flee"] in rows
        assert " ".join(text.split()).count("what to do") == 1 + 20

    def test_engines(self):
        works = [worker(cpus=(0,), threads=1, version="2.0", python="3.11.1"), worker()]
        broken = Started("caffe", (0,), {}, 1, "no \x1b[31mlibrary")
        text = printed(starts_table([*works, broken]))
        assert ["torch", "works", "2.0", "3.11.1", "1,", "2"] in [
            line.split() for line in text.splitlines()
        ]
        assert "no  [31mlibrary" in text or "no [31mlibrary" in text
        assert "Why not" not in printed(starts_table(works))

    @pytest.mark.parametrize(
        ("checks", "started", "words"),
        [
            (CHECKS[:1], [], "Fit to measure."),
            (CHECKS, [], "Fit to measure, with 1 warning: b."),
            ((*CHECKS, BLOCKED), [], "Not fit to measure: c. With --force"),
            (CHECKS[:1], [Started("caffe", (0,), {}, 1, "x")], "cases of caffe would fail"),
        ],
    )
    def test_verdict(self, checks, started, words):
        text = doctor_verdict(Fitness(checks), started)
        assert words in text.plain

    def test_json(self):
        told = doctor_json(Fitness(CHECKS), [worker(version="2.0", python="3.11.1")])
        assert json.loads(json.dumps(told)) == told
        assert told["fit"] is True
        assert told["checks"][1] == {
            "name": "b",
            "outcome": "warn",
            "reason": "so so",
            "try": "wait",
        }
        assert told["engines"]["torch"] == {
            "works": True,
            "version": "2.0",
            "python": "3.11.1",
            "threads": [2],
            "reason": None,
        }
        broken = doctor_json(Fitness(CHECKS), [worker(), Started("torch", (0,), {}, 1, "gone")])
        assert broken["fit"] is False
        assert broken["engines"]["torch"]["reason"] == "gone"
        assert doctor_json(Fitness((BLOCKED,)), [])["fit"] is False

    def test_a_forced_run_says_so_everywhere(self):
        forced = Fitness((*CHECKS, BLOCKED), forced=True)
        results = dataclasses.replace(sample_results(), fitness=forced)
        sentence = "Forced, although the machine was not fit to measure: bad."
        warning = "1 warning of what may have disturbed: b."
        text = " ".join(to_text(results).split())
        for report in (text, to_html(results)):
            assert sentence in report
            assert warning in report
            assert "so so" in report
            assert "flee" in report
        assert to_json(results)["fitness"] == forced.to_json()

    def test_a_run_of_which_nothing_is_known(self):
        results = sample_results()
        assert to_json(results)["fitness"] is None
        assert "Forced" not in to_text(results)
        assert "kernelprof doctor" not in to_html(results)
