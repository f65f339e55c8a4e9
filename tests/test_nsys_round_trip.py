"""What the real nsys saw of a run of every engine, against what kernelprof's own clock says."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from kernelprof.engines import environment
from kernelprof.nsys import tool
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.importing import import_export
from kernelprof.nsys.record import profile
from kernelprof.probes.ranges import DOMAIN
from kernelprof.runfile import RunFile
from kernelprof.trace import Trace, TracedRange
from kernelprof.trace_store import TraceStore
from tests.conftest import ON_CPU

AGREEMENT = 0.01
BENT = 500e-6


class Recorded:
    """A run, and nsys's export of it, imported."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "all.kprof"
        command = [sys.executable, "-m", "tests.ranged_run", str(self.path)]
        self.export = profile(command, folder / "all").export
        self.trace: Trace = import_export(self.export, self.path)
        run = RunFile.open(self.path)
        self.pids = {facts["pid"]: engine for engine, _, facts in run.workers()}
        self.samples = {s.id: list(run.samples(s.id)) for s in run.cases()}
        self.engines = {s.id: s.case.engine for s in run.cases()}
        self.stored = TraceStore(run).traces()
        run.close()

    def ranges(self, engine: str) -> list[TracedRange]:
        """Those that the samples of an engine lie in."""
        return [r for r in self.trace.ranges if r.sampled and self.pids[r.pid] == engine]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """In a folder that workers in the Debian root see too, wherever TMPDIR points."""
    if tool.find() is None:
        pytest.skip("nsys is not installed: `kernelprof nsys install`")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Recorded(Path(folder))


@pytest.fixture(params=ON_CPU)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn; the test is skipped by name where it is not installed."""
    name: str = request.param
    if environment(name) is None:
        pytest.skip(f"engine {name} is not installed: `kernelprof engines install {name}`")
    return name


def test_every_sample_is_found(engine: str, recorded: Recorded) -> None:
    """Of whole networks and of kernels, those in the Debian root included."""
    own = {case: found for case, found in recorded.samples.items() if found}
    own = {case: found for case, found in own.items() if recorded.engines[case] == engine}
    wanted = {(case, sample["place"]) for case, found in own.items() for sample in found}
    seen = {
        (r.sampled.case_id, r.sampled.place): r.sampled
        for r in recorded.ranges(engine)
        if r.sampled
    }
    assert set(seen) == wanted
    assert wanted
    for (case, place), sampled in seen.items():
        same = [sample for sample in own[case] if sample["place"] == place]
        assert sampled.samples == len(same)
        assert sampled.calls == sum(sample["calls"] for sample in same)
        assert sampled.sampled_ns == sum(sample["duration_ns"] for sample in same)


def test_both_clocks_agree(engine: str, recorded: Recorded) -> None:
    """Within 1 %, and what the ranges are known to cost.

    In the median over what was sampled: a thread that loses its CPU right before a sample or after
    it is in the range, and rightly so.
    """
    own = [range_.sampled for range_ in recorded.ranges(engine) if range_.sampled]
    cost_ns = recorded.trace.range_cost_ns
    longer = [
        (sampled.traced_ns - sampled.samples * cost_ns) / sampled.sampled_ns - 1 for sampled in own
    ]
    assert median(longer) < AGREEMENT


def test_no_range_is_shorter_than_what_it_encloses(engine: str, recorded: Recorded) -> None:
    """But for the rates of two clocks, which a time daemon may bend by 500 ppm."""
    for range_ in recorded.ranges(engine):
        assert range_.sampled is not None
        assert range_.sampled.traced_ns > range_.sampled.sampled_ns * (1 - BENT), range_.path


def test_ranges_are_those_of_the_workers(recorded: Recorded) -> None:
    with ExportFile.open(recorded.export) as export:
        assert DOMAIN in export.domains.values()
    assert {r.domain for r in recorded.trace.ranges} == {DOMAIN}
    assert {r.pid for r in recorded.trace.ranges} == set(recorded.pids)


def test_without_a_gpu_nothing_is_assigned_and_nothing_is_left(recorded: Recorded) -> None:
    assert not any(r.gpu.count or r.work for r in recorded.trace.ranges)
    assert not recorded.trace.unassigned


def test_the_run_holds_what_was_imported(recorded: Recorded) -> None:
    assert recorded.stored == [recorded.trace]
