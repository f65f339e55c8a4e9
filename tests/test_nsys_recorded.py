"""Imports of recorded runs: every sample finds its range, whatever else is in the export."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.disturbance import WHOLE
from kernelprof.errors import UsageError
from kernelprof.nsys import paths
from kernelprof.nsys.attribution import NO_LAUNCH, NO_RANGE
from kernelprof.nsys.importing import import_export
from kernelprof.nsys.recorded import OF_NO_WORKER, WITHOUT_CLOCK
from kernelprof.nsys.samples import Clock
from kernelprof.plan import Case
from kernelprof.probes.compute_bound import Gemm
from kernelprof.runfile import RunFile
from kernelprof.studies.export_schema import NEW, OLD
from kernelprof.studies.synthetic_export import Synthetic, process_id, thread_id
from kernelprof.trace import Activity, Trace, TracedRange, Work
from kernelprof.trace_store import TraceStore

OFFSET_NS = 7_000_000  # nsys's clock is behind the worker's by so much
LAG_NS = 900  # from a reading of the clock to the start of its range
COST_NS = 2_000  # by which a range is longer than its sample, at either end
TURN_NS = 50_000_000
GEMM = Gemm(8, 8, 8)
CASE = Case("net", "numpy", (0,), 4, "train")
TITLE, LAYERS = "net train batch=4", ("fc1", "fc2", "fc2")
LABEL = f"{GEMM.label} forward"


def kernel(layer: str) -> dict[str, Any]:
    """As a worker describes it."""
    return {
        "layer": layer,
        "primitives": [GEMM.to_json()],
        "passes": ["forward"],
        "failure": None,
        **dict.fromkeys(("flop", "compute_flop", "least_bytes", "cold_bytes"), 1),
        **dict.fromkeys(("lukewarm", "error"), 0),
    }


class Recording:
    """A run with one worker, and an export with the ranges that it would have emitted."""

    def __init__(self, folder: Path, pid: int = 70, schema: str = NEW) -> None:
        self.path, self.export = folder / "net.kprof", folder / "net.sqlite"
        self.pid = pid
        self.thread = thread_id(pid, pid)
        self.synthetic = Synthetic(self.export, schema)
        self.synthetic.session(0, 10**10)
        names = ("kernelprof", "kernelprof cost", "kernelprof clock", "CCCL")
        self.own, self.cost, self.clock, self.foreign = (
            self.synthetic.domain(name, self.thread) for name in names
        )
        meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}, "options": {}}
        self.run = RunFile.create(self.path, meta)
        self.worker = self.run.add_worker("numpy", (0,), {"pid": pid, "nvtx_ranges_ns": 3_000})
        self.case = self.run.add_case(CASE, calibration=False)
        # The second and the third kernel are called the same.
        self.run.describe_case(self.case, 1, [kernel(layer) for layer in LAYERS])
        self.now_ns = 10**9  # by the worker's clock
        self.rounds = 0

    def close(self) -> None:
        """Write both files."""
        self.run.close()
        self.synthetic.close()

    def turn(self, takes_ns: dict[int, list[int]]) -> None:
        """One round: the samples of each place, of which the last counts."""
        begins_ns = self.now_ns
        for lag_ns in (9 * LAG_NS, LAG_NS, 2 * LAG_NS):
            start_ns = self.traced(self.now_ns + lag_ns)
            clock = (start_ns, start_ns + 400, self.thread, self.clock)
            self.synthetic.range("clock", *clock, payload=self.now_ns)
            self.now_ns += 10 * LAG_NS
        sampled = {place: self.samples(place, all_ns)[-1] for place, all_ns in takes_ns.items()}
        answer = {
            "round": self.rounds,
            "whole": sampled.pop(WHOLE, None),
            "kernels": {str(place): sample for place, sample in sampled.items()},
        }
        turn = {"rounds": [answer], "turn_ns": self.now_ns - begins_ns}
        self.run.add_turn(self.case, self.worker, turn)
        self.rounds += 1
        self.now_ns += TURN_NS

    def samples(self, place: int, takes_ns: list[int]) -> list[list[int]]:
        """Samples as a worker answers them, with their ranges."""
        names = [(TITLE,), *((TITLE, layer, LABEL) for layer in LAYERS)]
        found = []
        for took_ns in takes_ns:
            for depth, name in enumerate(names[place + 1]):
                wider_ns = COST_NS * (len(names[place + 1]) - depth)
                start_ns = self.traced(self.now_ns - wider_ns)
                end_ns = self.traced(self.now_ns + took_ns + wider_ns)
                self.synthetic.range(name, start_ns, end_ns, self.thread, self.own)
            found.append([5, self.now_ns, took_ns, 0, 0, 0, 0, 0, 0, 0])
            self.now_ns += took_ns + 10 * COST_NS
        return found

    def traced(self, now_ns: int) -> int:
        """A time by nsys's clock."""
        return now_ns - OFFSET_NS


@pytest.fixture(params=[OLD, NEW])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Recording:
    return Recording(tmp_path, schema=str(request.param))


def by_place(trace: Trace) -> dict[int, TracedRange]:
    return {one.sampled.place: one for one in trace.ranges if one.sampled}


def test_ranges_find_their_samples(recording: Recording) -> None:
    recording.turn({WHOLE: [900_000], 0: [100_000, 400_000], 1: [500_000], 2: [600_000]})
    recording.turn({0: [410_000], 1: [510_000], 2: [610_000], WHOLE: [910_000]})
    recording.close()
    trace = import_export(recording.export, recording.path)
    found = by_place(trace)
    assert set(found) == {WHOLE, 0, 1, 2}
    wanted = {WHOLE: 1_810_000, 0: 810_000, 1: 1_010_000, 2: 1_210_000}
    for place, sampled_ns in wanted.items():
        sampled = found[place].sampled
        assert sampled is not None
        assert (sampled.case_id, sampled.samples, sampled.calls) == (recording.case, 2, 10)
        assert sampled.sampled_ns == sampled_ns
        assert sampled.traced_ns == sampled_ns + 2 * 2 * COST_NS
    assert found[WHOLE].path == (TITLE,)
    assert found[0].path == (TITLE, "fc1", LABEL)
    assert found[1].path == found[2].path == (TITLE, "fc2", LABEL)
    # The sample that was retaken is a range, and so are those around kernels.
    assert [found[place].count for place in (WHOLE, 0, 1, 2)] == [9, 3, 2, 2]
    assert found[0].host_ns == 910_000 + 3 * 2 * COST_NS
    assert {one.path for one in trace.ranges if not one.sampled} == {(TITLE, "fc1"), (TITLE, "fc2")}
    assert trace.range_cost_ns == 3_000
    assert trace.left_out == {}


def test_however_many_kernels_a_run_has_they_are_told_apart(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike the ranges of other programs: samples are found by the names of theirs."""
    monkeypatch.setattr(paths, "MOST_NAMES", 1)
    monkeypatch.setattr(paths, "MOST_PATHS", 1)
    recording.turn({WHOLE: [900_000], 0: [400_000], 1: [500_000], 2: [600_000]})
    recording.close()
    assert set(by_place(import_export(recording.export, recording.path))) == {WHOLE, 0, 1, 2}


def test_events_are_kept_by_the_clock_of_the_worker(recording: Recording) -> None:
    start_ns = recording.now_ns + 3 * 10 * LAG_NS
    recording.turn({0: [400_000]})
    call_ns = recording.traced(start_ns + 10_000)
    recording.synthetic.launch(call_ns, call_ns + 10, recording.thread, 1)
    recording.synthetic.kernel("k", call_ns + 100, call_ns + 300, 1, process_id(recording.pid))
    recording.close()
    trace = import_export(recording.export, recording.path)
    with closing(RunFile.open(recording.path)) as run:
        ranges = [r for r in TraceStore(run).ranges() if r.name == LABEL]
        (operation,) = TraceStore(run).operations()
    # The clock's reading was taken a little before its range began.
    (range_,) = ranges
    assert range_.start_ns == start_ns - COST_NS - LAG_NS
    assert range_.end_ns == start_ns + 400_000 + COST_NS - LAG_NS
    assert operation.start_ns == start_ns + 10_000 + 100 - LAG_NS
    gpu = by_place(trace)[0].sampled
    assert gpu is not None
    assert gpu.gpu == Activity(1, 200, 200, 0)


def test_of_a_recorded_run_only_the_ranges_of_its_workers_count(recording: Recording) -> None:
    recording.turn({0: [400_000]})
    synthetic, stranger = recording.synthetic, thread_id(99, 99)
    synthetic.range("network", 10, 20, recording.thread, recording.cost)
    synthetic.range("cub::Sort", 10, 20, recording.thread, recording.foreign)
    synthetic.range("bare", 10, 20, recording.thread, 0)
    synthetic.range("stranger", 10, 20, stranger, synthetic.domain("kernelprof", stranger))
    late = thread_id(71, 71)
    recording.run.add_worker("numpy", (0,), {"pid": 71, "nvtx_ranges_ns": 1})
    synthetic.range("late", 10, 20, late, synthetic.domain("kernelprof", late))
    recording.close()
    trace = import_export(recording.export, recording.path)
    assert {one.domain for one in trace.ranges} == {"kernelprof"}
    assert {one.pid for one in trace.ranges} == {recording.pid}
    assert trace.left_out == {
        "of the domain CCCL": 1,
        "of no domain": 1,
        OF_NO_WORKER: 1,
        WITHOUT_CLOCK: 1,
    }


def test_work_outside_of_the_runs_ranges_is_told_of(recording: Recording) -> None:
    recording.turn({0: [400_000]})
    process = process_id(recording.pid)
    recording.synthetic.range("cub::Sort", 10, 90, recording.thread, recording.foreign)
    recording.synthetic.launch(20, 30, recording.thread, 1)
    recording.synthetic.kernel("sort", 40, 60, 1, process)
    recording.synthetic.kernel("lost", 70, 75, 2, process)
    recording.close()
    trace = import_export(recording.export, recording.path)
    left = {one.why: one.work for one in trace.unassigned}
    assert left == {
        NO_RANGE: Work("kernel", "sort", 1, 20),
        NO_LAUNCH: Work("kernel", "lost", 1, 5),
    }


def test_a_second_import_replaces_the_first(recording: Recording) -> None:
    recording.turn({0: [400_000]})
    recording.close()
    first = import_export(recording.export, recording.path)
    again = import_export(recording.export, recording.path)
    assert again == first
    with closing(RunFile.open(recording.path)) as run:
        assert TraceStore(run).traces() == [first]
        assert len(list(TraceStore(run).ranges())) == 3


def test_progress_is_told(recording: Recording) -> None:
    recording.turn({0: [400_000]})
    recording.close()
    told: list[tuple[str, float]] = []
    import_export(recording.export, recording.path, lambda what, share: told.append((what, share)))
    assert {what for what, _ in told} == {"reading", "writing ranges"}
    assert all(0 <= share <= 1 for _, share in told)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=5, unique=True), st.data())
def test_a_clock_that_drifts_and_readings_that_are_late(moments: list[int], data: Any) -> None:
    """By 100 ns in a millisecond, told by three readings of which two may come late."""
    asked = 10**7 * np.array(sorted(moments))
    read = (asked[:, None] + [0, 50, 100]).ravel()
    late = [data.draw(st.sampled_from([(0, 9, 70_000), (8, 0, 1), (10**7, 30, 0)])) for _ in asked]
    clock = Clock(read, read + read // 10_000 + 5 + np.ravel(late))
    between = (asked[1:] + asked[:-1]) // 2
    for times in (asked, between):
        right = times + times // 10_000 + 5
        assert (np.abs(clock.to_traced(times) - right) <= 2).all()
        assert (np.abs(clock.to_read(right) - times) <= 2).all()


def refused(export: Path, run: Path, said: str) -> None:
    """By one line, which matches."""
    with pytest.raises(UsageError, match=said) as caught:
        import_export(export, run)
    assert "\n" not in str(caught.value)


def test_the_export_of_a_run_needs_that_run(recording: Recording, tmp_path: Path) -> None:
    recording.turn({0: [400_000]})
    recording.close()
    missing = tmp_path / "missing.kprof"
    refused(recording.export, missing, "no such file; .* import it into the file that was recorded")
    assert not missing.exists()


def test_the_export_of_another_run_is_refused(tmp_path: Path) -> None:
    """By its processes, or by its clock if these happen to have the same numbers."""
    recordings = {}
    for name, pid, begins_ns in (("a", 70, 10**9), ("b", 71, 10**9), ("c", 70, 10**12)):
        (tmp_path / name).mkdir()
        recordings[name] = Recording(tmp_path / name, pid)
        recordings[name].now_ns = begins_ns
        recordings[name].turn({0: [400_000]})
        recordings[name].close()
    run = recordings["a"].path
    refused(recordings["b"].export, run, "no worker of .* another run")
    refused(recordings["c"].export, run, "no sample of .* another run")
    with closing(RunFile.open(run)) as opened:
        assert TraceStore(opened).traces() == []
        with opened.transaction() as db:
            assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'traces'").fetchall()


def test_another_programs_export_is_kept_out_of_a_measured_run(
    recording: Recording, tmp_path: Path
) -> None:
    recording.close()
    with Synthetic(tmp_path / "other.sqlite") as export:
        export.range("a", 1, 9, recording.thread)
    said = "no ranges of kernelprof, .* name a new file"
    refused(tmp_path / "other.sqlite", recording.path, said)
