"""Timelines: every sample once, nested, in one clock, to the nanosecond."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter, defaultdict
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelprof.export import export
from kernelprof.perfetto import GPU, RANGES, ROUNDS, SAMPLES, events
from kernelprof.plan import Case
from kernelprof.runfile import RunFile
from kernelprof.trace import Trace
from kernelprof.trace_store import StoredOperation, StoredRange, TraceStore

from .test_runfile import KERNEL, META

HOSTILE = '"}],\n\x00\x1b[31m<script>\U0001f600'
LAYERS = ("fc1", "fc1", HOSTILE, "fc1")  # of the kernels, in their order
BEGIN_NS = 123_456_789_012_345_678
TRACE = Trace("a.sqlite", "2024.6", "3.16.1", 0, 0, (), ())


@contextmanager
def new_run():
    with tempfile.TemporaryDirectory() as folder:
        run = RunFile.create(Path(folder) / "a.kprof", META)
        yield run
        run.close()


class Clock:
    """Samples one after another, as a worker takes them."""

    def __init__(self, steps):
        self.now_ns = BEGIN_NS
        self._steps = steps

    def sample(self, calls=3, waited_ns=0):
        gap_ns, duration_ns = next(self._steps)
        started = self.now_ns + gap_ns
        self.now_ns = started + duration_ns
        return [calls, started, duration_ns, waited_ns, 0, 0, 0, 0, 0, 0]


def add_samples(run, clock, cases=2, rounds=3):
    """Two turns for each case, which alternate, by a worker of its own."""
    ids = []
    for number in range(cases):
        case = Case(f"net-{number}", "torch", (0, 1), 8, "train")
        case_id = run.add_case(case, calibration=False)
        run.describe_case(case_id, 1, [{**KERNEL, "layer": layer} for layer in LAYERS])
        ids.append((case_id, run.add_worker("torch", (0, 1), {"pid": 100 + number})))
    for round_ in range(rounds):
        for case_id, worker_id in ids:
            answer = {"round": round_, "whole": None, "kernels": {}}
            for part in ("whole", "kernels") if round_ % 2 else ("kernels", "whole"):
                if part == "whole":
                    answer["whole"] = clock.sample()
                else:
                    places = map(str, range(len(LAYERS)))
                    answer["kernels"] = {place: clock.sample() for place in places}
            run.add_turn(case_id, worker_id, {"rounds": [answer], "turn_ns": 1})


def steps(gap_ns=17, duration_ns=1001):
    while True:
        yield gap_ns, duration_ns


@pytest.fixture
def run():
    with new_run() as file:
        add_samples(file, Clock(steps()))
        yield file


def slices(found):
    return [event for event in found if event["ph"] == "X"]


def ns(microseconds):
    return round(microseconds * 1000)


def span(event):
    """As the timeline's readers count: in whole nanoseconds."""
    return ns(event["ts"]), ns(event["ts"]) + ns(event["dur"])


def assert_nested(found):
    """On a track each event lies within those that are open, or after them."""
    tracks = defaultdict(list)
    for event in slices(found):
        tracks[event["pid"], event["tid"]].append(event)
    for own in tracks.values():
        open_ = []
        for event in sorted(own, key=lambda event: event["ts"]):  # stable, as readers sort
            start, end = span(event)
            assert 0 <= start <= end
            while open_ and open_[-1] <= start:
                open_.pop()
            assert not open_ or end <= open_[-1]
            open_.append(end)


def names(found, what):
    return {e["tid"]: e["args"]["name"] for e in found if e["ph"] == "M" and e["name"] == what}


def stored_samples(run):
    return [sample for stored in run.cases() for sample in run.samples(stored.id)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**12)), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_every_sample_is_there_once_and_nested(cycle):
    def endless():
        while True:
            yield from cycle

    with new_run() as run:
        add_samples(run, Clock(endless()))
        found = list(events(run))
        begin_ns = min(sample["start_ns"] for sample in stored_samples(run))
        wanted = Counter(
            (one["start_ns"] - begin_ns, one["duration_ns"]) for one in stored_samples(run)
        )
        shown = (e for e in slices(found) if e["cat"] == "sample")
        assert Counter((ns(e["ts"]), ns(e["dur"])) for e in shown) == wanted
        assert_nested(found)


def test_samples_nest_in_layers_and_networks_and_rounds(run):
    found = slices(events(run))
    counted = Counter(event["cat"] for event in found)
    assert counted == {"round": 6, "network": 6, "layer": 18, "sample": 30}
    networks = [span(event) for event in found if event["cat"] == "network"]
    layers = [(event["name"], *span(event)) for event in found if event["cat"] == "layer"]
    rounds = [span(event) for event in found if event["cat"] == "round"]
    for event in (event for event in found if event["cat"] == "sample"):
        start, end = span(event)
        assert any(low <= start and end <= high for low, high in rounds)
        is_whole = event["name"] in ("net-0 train batch=8", "net-1 train batch=8")
        assert is_whole != any(low <= start and end <= high for low, high in networks)
        assert is_whole != any(low <= start and end <= high for _, low, high in layers)
    assert [name for name, *_ in layers[:3]] == ["fc1", HOSTILE, "fc1"]


def test_a_sample_says_how_it_was_taken():
    with new_run() as run:
        clock = Clock(steps())
        case_id = run.add_case(Case("net", "numpy", (0,), 1, "infer"), calibration=False)
        run.describe_case(case_id, 1, [KERNEL])
        worker_id = run.add_worker("numpy", (0,), {"pid": 7})
        rounds = [
            {
                "round": r,
                "whole": clock.sample(calls=7),
                "kernels": {"0": clock.sample(waited_ns=w)},
            }
            for r, w in ((0, 0), (1, 500), (2, 0))
        ]
        run.add_turn(case_id, worker_id, {"rounds": rounds, "turn_ns": 1})
        found = [event for event in slices(events(run)) if event["cat"] == "sample"]
    by_round = defaultdict(list)
    for event in found:
        by_round[event["args"]["round"]].append(event["args"])
    whole, kernel = by_round[1]
    assert (whole["calls"], whole["ns per call"]) == (7, 143.0)
    assert (whole["disturbed"], whole["counts in results"]) == (False, True)
    assert (kernel["disturbed"], kernel["counts in results"]) == (True, False)
    assert (kernel["waited ns"], kernel["stolen ns"]) == (500, 0)


def test_workers_are_processes_with_their_tracks(run):
    found = list(events(run))
    processes = {e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert processes == {f"torch on CPU 0, 1, process {pid}" for pid in (100, 101)}
    assert sorted(names(found, "thread_name").values()) == [
        "rounds",
        "rounds",
        "samples",
        "samples",
    ]
    named = {(e["pid"], e["tid"]) for e in found if e["name"] == "thread_name"}
    assert named == {(e["pid"], e["tid"]) for e in slices(found)}
    assert 0 not in {e["pid"] for e in found} | {e["tid"] for e in found}


intervals = st.tuples(st.integers(0, 50), st.integers(0, 30))


@given(
    st.lists(st.tuples(intervals, st.sampled_from(["", "a"]), st.integers(1, 2)), max_size=25),
    st.lists(st.tuples(intervals, st.integers(0, 1), st.integers(7, 8)), max_size=25),
)
@settings(max_examples=30, deadline=None)
def test_whatever_ranges_and_operations_cross_nothing_is_lost(ranges, operations):
    with new_run() as run:
        run.add_worker("torch", (0,), {"pid": 7})
        own = [
            StoredRange(7, thread, domain, HOSTILE, start, start + length)
            for (start, length), domain, thread in ranges
        ]
        work = [
            StoredOperation(9, device, stream, "kernel", "gemm", start, start + length, 0)
            for (start, length), device, stream in operations
        ]
        TraceStore(run).add(TRACE, own, work)
        found = list(events(run))
    begin = min((one.start_ns for one in [*own, *work]), default=0)
    wanted = Counter((one.start_ns - begin, one.end_ns - begin, one.name) for one in [*own, *work])
    assert Counter((*span(event), event["name"]) for event in slices(found)) == wanted
    assert_nested(found)
    tracks = names(found, "thread_name")
    for event in slices(found):
        assert tracks[event["tid"]].startswith("nsys: " if event["cat"] == "range" else "cuda:")


def test_what_nests_shares_a_track_and_what_crosses_does_not():
    with new_run() as run:
        own = [(0, 100), (10, 50), (10, 20), (40, 60), (50, 60), (100, 100)]
        ranges = [StoredRange(5, 5, "app", "r", start, end) for start, end in own]
        TraceStore(run).add(TRACE, ranges, [])
        found = list(events(run))
    assert sorted(names(found, "thread_name").values()) == [
        "nsys: thread 5, app",
        "nsys: thread 5, app (2)",
    ]
    assert {e["args"]["name"] for e in found if e["name"] == "process_name"} == {"process 5"}


def test_what_a_gpu_did_stands_below_the_samples_of_its_worker(run):
    start = BEGIN_NS + 500
    operation = StoredOperation(101, 0, 13, "memcpy", "HtoD", start, start + 40, 4096)
    TraceStore(run).add(TRACE, [], [operation])
    found = list(events(run))
    (copy,) = [event for event in slices(found) if event["cat"] == "memcpy"]
    assert (copy["name"], copy["args"], ns(copy["dur"])) == ("HtoD", {"bytes": 4096}, 40)
    assert names(found, "thread_name")[copy["tid"]] == "cuda:0, stream 13"
    processes = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert processes[copy["pid"]] == "torch on CPU 0, 1, process 101"
    orders = [e["args"]["sort_index"] for e in found if e["name"] == "thread_sort_index"]
    assert set(orders) == {ROUNDS, SAMPLES, GPU}
    assert ROUNDS < SAMPLES < RANGES < GPU


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_the_file_is_json_that_hostile_names_do_not_leave(run, tmp_path, name):
    run.record("command", HOSTILE)
    path = tmp_path / name
    export(run, "perfetto", path)
    data = path.read_bytes()
    read = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    assert read["traceEvents"] == list(events(run))
    assert HOSTILE in {event["name"] for event in read["traceEvents"]}
    assert read["otherData"]["command"] == HOSTILE
    export(run, "perfetto", tmp_path / "again.gz")
    if name.endswith(".gz"):
        assert (tmp_path / "again.gz").read_bytes() == data  # no time or name of a file in it


def test_a_run_without_anything_is_an_empty_timeline(tmp_path):
    with new_run() as run:
        export(run, "perfetto", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"] == []


def test_parents_come_first(run):
    """Readers sort by start alone: what encloses has to come before."""
    starts = defaultdict(list)
    for event in slices(events(run)):
        starts[event["pid"], event["tid"], event["ts"]].append(event["dur"])
    for durations in starts.values():
        assert all(first >= second for first, second in pairwise(durations))
