"""NVTX ranges as a tool takes them: a logger of our own, which NVTX loads into real workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from kernelprof import launch
from kernelprof.analysis import results
from kernelprof.engines import (
    ENGINES,
    DebianRoot,
    Environment,
    environment,
    stamp,
)
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes.ranges import CLOCK, CLOCK_DOMAIN, COST_DOMAIN, DOMAIN, READINGS, REPEATS
from kernelprof.probes.wire import Message
from kernelprof.reports.text_engines import engines_table
from kernelprof.runfile import WHOLE, RunFile
from tests.conftest import ON_CPU, engine_worker
from tests.ranged_run import measure_all
from tests.test_launch import build, fake, process_environment

LOGGER = Path(__file__).resolve().parent / "nvtx_logger.c"
CPUS = usable_cpus()[:1]
HEADER = "nvtx3/nvToolsExt.h"
LIBRARY = "libnvtx3interop.so.1"
LSTM_LABEL = "lstm_cell batch=4 input=5 hidden=6 steps=3"
ABSENT = "/nonexistent/libtool.so"
PATIENCE_S = 60.0

# Emits three ranges, through the library where the package is hidden.
EMIT = f"""
import sys
sys.path.insert(0, {str(LOGGER.parent.parent)!r})
if "library" in sys.argv:
    sys.modules["nvtx"] = None
import kernelprof
from kernelprof.probes.ranges import Ranges
ranges = Ranges()
with ranges.range("network", "layer \\u00fc"):
    with ranges.range("primitive"):
        pass
print(ranges.emitter, ranges.tool)
"""


class Event(NamedTuple):
    """A line of the logger."""

    kind: str
    ns: int
    pid: int
    tid: int
    domain: str
    name: str
    payload: int


class Range(NamedTuple):
    """A range that was opened and closed, with the names of those around it."""

    path: tuple[str, ...]
    begin_ns: int
    end_ns: int


def events_of(log: Path) -> list[Event]:
    """What was logged, in order."""
    found = []
    for line in log.read_text().splitlines():
        kind, ns, pid, tid, domain, name, payload = line.split("\t")
        found.append(Event(kind, int(ns), int(pid), int(tid), domain, name, int(payload)))
    return found


def ranges_of(events: list[Event]) -> list[Range]:
    """The ranges of one thread in one domain, as they were closed; each was opened before."""
    opened: list[Event] = []
    closed = []
    for event in events:
        if event.kind == "push":
            opened.append(event)
        else:
            path = tuple(each.name for each in opened)
            closed.append(Range(path, opened.pop().ns, event.ns))
    assert not opened
    return closed


def packaged(name: str) -> Path:
    """Where a file of the package nvidia-nvtx lies."""
    files = metadata.files("nvidia-nvtx") or []
    return Path(str(next(file.locate() for file in files if str(file).endswith(name))))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that workers in the Debian root see too, wherever TMPDIR points."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def logger(folder: Path) -> Path:
    """The logger, compiled, in a folder of its own."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: `apt-get install gcc libc6-dev`")
    library = folder / "tool" / "liblogger.so"
    library.parent.mkdir()
    include = packaged(HEADER).parent.parent
    warnings = ("-Wall", "-Wextra", "-Werror", f"-isystem{include}")
    command = [compiler, "-O2", "-shared", "-fPIC", *warnings, str(LOGGER), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def log(logger: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the logger writes what this test's processes emit."""
    path = folder / "test.log"
    path.write_text("")
    monkeypatch.setenv("NVTX_INJECTION64_PATH", str(logger))
    monkeypatch.setenv("NVTX_LOG", str(path))
    return path


class Logged:
    """A run of all engines, and what the logger took from it."""

    def __init__(self, run: RunFile, log: Path) -> None:
        self.run = run
        self.events = events_of(log)

    def facts(self, engine: str) -> Message:
        """Of the engine's one worker."""
        (facts,) = [facts for name, _, facts in self.run.workers() if name == engine]
        return facts

    def events_in(self, engine: str, domain: str = DOMAIN) -> list[Event]:
        """What its worker emitted in a domain."""
        pid = self.facts(engine)["pid"]
        return [e for e in self.events if (e.pid, e.domain) == (pid, domain)]

    def paths(self, engine: str) -> dict[int, dict[int, tuple[str, ...]]]:
        """What the ranges around each sample have to be called, by case and place."""
        found: dict[int, dict[int, tuple[str, ...]]] = {}
        for stored in self.run.cases():
            case = stored.case
            if case.engine != engine:
                continue
            title = f"{case.network} {case.mode} batch={case.batch}"
            found[stored.id] = {WHOLE: (title,)} if case.whole else {}
            for kernel in self.run.kernels(stored.id):
                if kernel.failure is None:
                    sizes = f"{' + '.join(kernel.labels)} {'+'.join(kernel.passes)}"
                    found[stored.id][kernel.place] = (title, kernel.layer, sizes)
        return found


@pytest.fixture(scope="module")
def logged(logger: Path, folder: Path) -> Iterator[Logged]:
    """Whole networks and kernels, inference and training, of all engines that there are."""
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("NVTX_INJECTION64_PATH", str(logger))
        variables.setenv("NVTX_LOG", str(folder / "run.log"))
        variables.setenv("NVTX_DISABLE", "1")  # what a shell holds is no reason for silence
        run = measure_all(folder / "a.kprof")
    yield Logged(run, folder / "run.log")
    run.close()


@pytest.fixture(params=ON_CPU)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn; the test is skipped by name where it is not installed."""
    name: str = request.param
    if environment(name) is None:
        pytest.skip(f"engine {name} is not installed: `kernelprof engines install {name}`")
    return name


class TestWholeRun:
    """Every engine's ranges, around every sample."""

    def test_nothing_failed(self, engine: str, logged: Logged) -> None:
        own = {s.id for s in logged.run.cases() if s.case.engine == engine}
        assert own
        assert not own & set(logged.run.failures())

    def test_the_tool_is_attached_once(self, engine: str, logged: Logged, logger: Path) -> None:
        facts = logged.facts(engine)
        kinds = [event.kind for event in logged.events if event.pid == facts["pid"]]
        assert kinds.count("attach") == 1
        assert kinds[0] == "attach"
        assert facts["nvtx_tool"] == logger.name
        assert facts["nvtx"] == ("library" if engine == "cntk" else "package 0.2.11")

    def test_ranges_are_balanced_on_the_thread_that_calls(
        self, engine: str, logged: Logged
    ) -> None:
        events = logged.events_in(engine)
        assert {event.tid for event in events} == {logged.facts(engine)["pid"]}
        closed = ranges_of(events)
        assert 2 * len(closed) == len(events) > 0

    def test_they_nest_network_layer_primitive_with_sizes(
        self, engine: str, logged: Logged
    ) -> None:
        wanted = {path for paths in logged.paths(engine).values() for path in paths.values()}
        found = {closed.path for closed in ranges_of(logged.events_in(engine))}
        assert found == {path[:depth] for path in wanted for depth in range(1, len(path) + 1)}
        assert any("lstm" in path and path[-1].startswith(LSTM_LABEL) for path in found)

    def test_they_stand_around_samples_and_never_within(self, engine: str, logged: Logged) -> None:
        """By the one clock that tool and worker read."""
        by_path = defaultdict(list)
        events = logged.events_in(engine)
        for closed in ranges_of(events):
            by_path[closed.path].append(closed)
        times = [event.ns for event in events]
        for case_id, paths in logged.paths(engine).items():
            samples = list(logged.run.samples(case_id))
            assert {sample["place"] for sample in samples} == set(paths)
            for sample in samples:
                begin, end = sample["start_ns"], sample["start_ns"] + sample["duration_ns"]
                same = by_path[paths[sample["place"]]]
                (around,) = [r for r in same if r.begin_ns < begin < r.end_ns]
                assert end < around.end_ns
                assert bisect(times, begin) == bisect(times, end)

    def test_each_turn_tells_the_clock_of_its_samples(self, engine: str, logged: Logged) -> None:
        """The logger reads the same clock: it must be later, and not by much."""
        told = [e for e in logged.events_in(engine, CLOCK_DOMAIN) if e.kind == "push"]
        own = {s.id for s in logged.run.cases() if s.case.engine == engine}
        turns = {sample["turn_id"] for case_id in own for sample in logged.run.samples(case_id)}
        assert len(told) == READINGS * len(turns)
        assert {event.name for event in told} == {CLOCK}
        assert 0 < min(event.ns - event.payload for event in told) < 100_000

    @pytest.mark.parametrize("engine", ["numpy", "caffe", "cntk"], indirect=True)
    def test_their_cost_is_known_with_a_tool_and_without(
        self, engine: str, logged: Logged, capsys: pytest.CaptureFixture[str]
    ) -> None:
        attached = logged.facts(engine)
        assert len(logged.events_in(engine, COST_DOMAIN)) == 6 * REPEATS
        worker = engine_worker(engine)
        alone = worker.ask("facts", PATIENCE_S)
        worker.close()
        assert alone["nvtx_tool"] == "none"
        assert 0 < alone["nvtx_ranges_ns"] < attached["nvtx_ranges_ns"]
        with capsys.disabled():
            costs = f"{alone['nvtx_ranges_ns']} ns, with a tool {attached['nvtx_ranges_ns']} ns"
            sys.stdout.write(f"\n{engine}: three nested ranges take {costs}\n")

    def test_reports_say_so(self, engine: str, logged: Logged, logger: Path) -> None:
        console = Console(width=4000)
        with console.capture() as printed:
            console.print(engines_table(results(logged.run)))
        (line,) = [row for row in printed.get().splitlines() if row.split()[:1] == [engine]]
        assert f"nvtx tool: {logger.name}; nvtx ranges: " in line


class TestEmitters:
    """The package, and what stands in for it."""

    @pytest.mark.parametrize("emitter", ["package", "library"])
    def test_both_emit_the_same(self, emitter: str, log: Path, logger: Path) -> None:
        """The names prove the layout of the structure that the library is given."""
        told = subprocess.run(
            [sys.executable, "-c", EMIT, emitter],
            env={**os.environ, "LD_LIBRARY_PATH": str(packaged(LIBRARY).parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert (told[0], told[-1]) == (emitter, logger.name)
        attach, *events = events_of(log)
        assert attach.kind == "attach"
        assert [(event.kind, event.domain, event.name) for event in events] == [
            ("push", DOMAIN, "network"),
            ("push", DOMAIN, "layer \u00fc"),
            ("push", DOMAIN, "primitive"),
            *3 * [("pop", DOMAIN, "")],
        ]


def emitted(worker: Worker) -> Message:
    """The facts of a worker that has taken samples, closed."""
    try:
        facts = worker.ask("facts", PATIENCE_S)
        build(worker)
        worker.ask("turn", PATIENCE_S, subject="infer", rounds=[0])
    finally:
        worker.close()
    return facts


def test_an_environment_of_before_the_library_is_made_anew() -> None:
    cntk = ENGINES["cntk"]
    assert isinstance(cntk.kind, DebianRoot)
    before = replace(cntk, kind=replace(cntk.kind, libraries=()))
    assert stamp(before) != stamp(cntk)


class TestMistakes:
    """A tool that cannot be had disturbs no measurement."""

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            *(("numpy", path) for path in (ABSENT, "libtool.so", "/dev/null", "/tmp", str(LOGGER))),
            *(("caffe", str(LOGGER)), ("cntk", ABSENT)),
        ],
    )
    def test_a_wrong_path(
        self, name: str, path: str, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NVTX_INJECTION64_PATH", path)
        assert emitted(engine_worker(name))["nvtx_tool"] == "none"
        assert events_of(log) == []

    def test_a_tool_that_refuses(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NVTX_LOG", "/nonexistent/folder/log")
        assert emitted(engine_worker("numpy"))["nvtx_tool"] == "none"

    def test_an_engine_without_ranges(self, log: Path) -> None:
        """Who wants none says so for an engine."""
        facts = emitted(engine_worker("numpy", variables={"NVTX_DISABLE": "1"}))
        assert (facts["nvtx"], facts["nvtx_tool"]) == ("none", "none")
        assert events_of(log) == []

    def test_a_library_that_is_preloaded_stays_outside_of_the_root(
        self, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was made for another C library; and threads of nsys's spin in bubblewrap."""
        monkeypatch.setenv("LD_PRELOAD", str(log))
        monkeypatch.setenv("KEPT", "yes")
        worker = engine_worker("caffe")
        inside, outside = worker.ask("facts", PATIENCE_S)["pid"], worker.pid
        variables = [process_environment(pid) for pid in (inside, outside)]
        worker.close()
        assert inside != outside
        assert not any("LD_PRELOAD" in own for own in variables)
        assert all(own["KEPT"] == "yes" for own in variables)


class TestHandingOver:
    """A tool may hold ranges back until the process ends: then it has to end by itself."""

    @pytest.fixture
    def leaver(self, tmp_path: Path) -> Environment:
        """An engine that says so when it ends by itself."""
        adapter = tmp_path / "leaver.py"
        words = f"import atexit\natexit.register(open, {str(tmp_path / 'left')!r}, 'w')\n"
        adapter.write_text(f"{words}from .on_numpy import NumpyEngine as start\n")
        return fake(str(adapter))

    @pytest.mark.parametrize("attached", [True, False])
    def test_a_worker_ends_by_itself_for_a_tool(
        self,
        attached: bool,
        leaver: Environment,
        log: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if not attached:
            monkeypatch.delenv("NVTX_INJECTION64_PATH")
        worker = Worker(leaver, CPUS)
        worker.close()
        assert not worker.alive
        assert (Path(leaver.adapter).parent / "left").exists() >= attached

    def test_one_that_hangs_is_ended(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launch, "HAND_OVER_S", 0.2)
        worker = Worker(fake(), CPUS, {"FAKE_HANG": "gemm"})
        with pytest.raises(WorkerError, match="no answer within 1 s"):
            build(worker, 1.0)
        assert not worker.alive
