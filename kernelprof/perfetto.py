"""A run as a timeline that ui.perfetto.dev and chrome://tracing open.

Their JSON is Chrome's trace event format: complete events ("X") with their time in microseconds on
tracks (a thread of a process), and metadata ("M") that names the tracks.  On a track events have to
nest; one that crosses the end of another would be dropped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from kernelprof.disturbance import DISTURBED_SHARE, WHOLE, Rounds, Times, quiet
from kernelprof.runfile import RunFile, StoredCase, StoredKernel
from kernelprof.trace_store import StoredOperation, StoredRange, TraceStore

Event = dict[str, Any]
Sample = dict[str, Any]  # as the run file has them

ROUNDS, SAMPLES, RANGES, GPU = range(4)  # tracks of a process from top to bottom


def to_perfetto(run: RunFile) -> Iterator[bytes]:
    """The timeline: one JSON object, event by event.

    A process for each worker; in it rounds, samples as network > layer > primitive, and what nsys
    saw: ranges by thread, GPU work by device and stream.  Times begin at the first of all.
    """
    about = {key: run.meta(key) for key in ("kernelprof", "command", "started")}
    head = {"displayTimeUnit": "ns", "otherData": about}
    yield json.dumps(head)[:-1].encode() + b', "traceEvents": ['
    separator = b"\n"
    for event in events(run):
        yield separator + json.dumps(event).encode()
        separator = b",\n"
    yield b"\n]}\n"


def events(run: RunFile) -> Iterator[Event]:
    """All events; parents come before what they enclose."""
    store = TraceStore(run)
    tracks = Tracks(run, _begin_ns(run, store))
    for stored in run.cases():
        yield from _case_events(run, stored, tracks)
    for range_ in store.ranges():
        yield from _range_events(range_, tracks)
    for operation in store.operations():
        yield from _operation_events(operation, tracks)


def _begin_ns(run: RunFile, store: TraceStore) -> int:
    """The smallest of all times."""
    samples = (one["start_ns"] for stored in run.cases() for one in run.samples(stored.id))
    ranges = (one.start_ns for one in store.ranges())
    operations = (one.start_ns for one in store.operations())
    firsts = (min(starts, default=None) for starts in (samples, ranges, operations))
    return min((first for first in firsts if first is not None), default=0)


@dataclass(frozen=True)
class Track:
    """Where slices are drawn: in a process, which is a worker's by its id, or any other."""

    process: tuple[str, int]
    kind: int
    name: str

    @property
    def may_cross(self) -> bool:
        """Whether its slices may cross each other: rounds and samples come one after another."""
        return self.kind in (RANGES, GPU)


@dataclass(frozen=True)
class Slice:
    """Something that took time; ``args`` are for those who click on it."""

    category: str
    name: str
    start_ns: int
    end_ns: int
    args: Mapping[str, Any] = field(default_factory=dict)


class Tracks:
    """Puts slices on tracks, which get their numbers and names as they come up."""

    def __init__(self, run: RunFile, begin_ns: int) -> None:
        self._begin_ns = begin_ns
        self._names: dict[tuple[str, int], str] = {}
        self._workers: dict[int, int] = {}  # by number of their process
        for worker_id, (engine, cpus, facts) in enumerate(run.workers(), 1):  # their ids, in order
            name = f"{engine} on CPU {', '.join(map(str, cpus))}"
            if "pid" in facts:
                name += f", process {facts['pid']}"
                self._workers[facts["pid"]] = worker_id
            self._names["worker", worker_id] = name
        self._processes: dict[tuple[str, int], int] = {}
        self._threads: dict[tuple[Track, int], int] = {}
        self._lanes: dict[Track, list[Lane]] = defaultdict(list)

    def process(self, pid: int) -> tuple[str, int]:
        """A worker, or another process, by the number that the operating system knows."""
        if pid in self._workers:
            return "worker", self._workers[pid]
        return "process", pid

    def put(self, track: Track, slice_: Slice) -> Iterator[Event]:
        """The event of a slice, and before it names that are new."""
        lane = self._lane(track, slice_) if track.may_cross else 0
        if (track, lane) not in self._threads:
            yield from self._introduced(track, lane)
        yield {
            "ph": "X",
            "cat": slice_.category,
            "name": slice_.name,
            **self._ids(track, lane),
            "ts": (slice_.start_ns - self._begin_ns) / 1000,
            "dur": (slice_.end_ns - slice_.start_ns) / 1000,
            "args": slice_.args,
        }

    def _lane(self, track: Track, slice_: Slice) -> int:
        """The first track of these in which the slice nests."""
        lanes = self._lanes[track]
        for number, lane in enumerate(lanes):
            if lane.takes(slice_):
                return number
        lanes.append(Lane(slice_))
        return len(lanes) - 1

    def _introduced(self, track: Track, lane: int) -> Iterator[Event]:
        """Names of a new track, and of its process if that is new too."""
        is_new = track.process not in self._processes
        self._processes.setdefault(track.process, len(self._processes) + 1)
        self._threads[track, lane] = len(self._threads) + 1
        ids = self._ids(track, lane)
        if is_new:
            kind, number = track.process
            name = self._names.get(track.process, f"{kind} {number}")
            yield {"ph": "M", "name": "process_name", **ids, "args": {"name": name}}
        name = f"{track.name} ({lane + 1})" if lane else track.name
        yield {"ph": "M", "name": "thread_name", **ids, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", **ids, "args": {"sort_index": track.kind}}

    def _ids(self, track: Track, lane: int) -> dict[str, int]:
        return {"pid": self._processes[track.process], "tid": self._threads[track, lane]}


class Lane:
    """Knows which slices of a track are open, for the next one to nest in them."""

    def __init__(self, first: Slice) -> None:
        self._start_ns = first.start_ns  # of the last one
        self._ends_ns = [first.end_ns]

    def takes(self, slice_: Slice) -> bool:
        """Take a slice in, if it neither crosses those here nor begins before the last of them."""
        while self._ends_ns and self._ends_ns[-1] <= slice_.start_ns:
            self._ends_ns.pop()
        crosses = bool(self._ends_ns) and slice_.end_ns > self._ends_ns[-1]
        if crosses or slice_.start_ns < self._start_ns:
            return False
        self._start_ns = slice_.start_ns
        self._ends_ns.append(slice_.end_ns)
        return True


@dataclass(frozen=True)
class _Case:
    """What the events of a case need to know of it."""

    stored: StoredCase
    kernels: dict[int, StoredKernel]
    times: Times
    kept: Rounds

    @property
    def title(self) -> str:
        case = self.stored.case
        return f"{case.network} {case.mode} batch={case.batch}"

    def slice(self, sample: Sample, name: str) -> Slice:
        """A sample, with its circumstances."""
        round_, place, start_ns = sample["round"], sample["place"], sample["start_ns"]
        time = self.times[round_][place]
        args = {
            "round": round_,
            "calls": sample["calls"],
            "ns per call": time.ns,
            "disturbed": time.lost_ns > DISTURBED_SHARE * time.ns,
            "counts in results": place in self.kept.get(round_, {}),
            "waited ns": sample["waited_ns"],
            "stolen ns": sample["stolen_ns"],
        }
        return Slice("sample", name, start_ns, start_ns + sample["duration_ns"], args)


def _case_events(run: RunFile, stored: StoredCase, tracks: Tracks) -> Iterator[Event]:
    kernels = {kernel.place: kernel for kernel in run.kernels(stored.id)}
    times = run.times(stored.id)
    case = _Case(stored, kernels, times, quiet(times).rounds)
    for _, samples in groupby(run.samples(stored.id), key=lambda sample: sample["round"]):
        yield from _round_events(case, sorted(samples, key=lambda one: one["start_ns"]), tracks)


def _round_events(case: _Case, samples: list[Sample], tracks: Tracks) -> Iterator[Event]:
    """A round: the whole network, and before or after it the kernels one by one."""
    process = ("worker", samples[0]["worker_id"])
    name = f"round {samples[0]['round']} of {case.title}"
    yield from tracks.put(Track(process, ROUNDS, "rounds"), _around(samples, "round", name))
    track = Track(process, SAMPLES, "samples")
    for is_whole, part in groupby(samples, key=lambda sample: sample["place"] == WHOLE):
        own = list(part)
        if is_whole:
            yield from tracks.put(track, case.slice(own[0], case.title))
            continue
        yield from tracks.put(track, _around(own, "network", f"{case.title}, by layers"))
        for layer, members in groupby(own, key=lambda one: case.kernels[one["place"]].layer):
            kernels = list(members)
            yield from tracks.put(track, _around(kernels, "layer", layer))
            for sample in kernels:
                kernel = case.kernels[sample["place"]]
                name = f"{' + '.join(kernel.labels)} {'+'.join(kernel.passes)}"
                yield from tracks.put(track, case.slice(sample, name))


def _around(samples: Sequence[Sample], category: str, name: str) -> Slice:
    """What encloses samples: from the first of them to the last."""
    ends = (sample["start_ns"] + sample["duration_ns"] for sample in samples)
    return Slice(category, name, min(sample["start_ns"] for sample in samples), max(ends))


def _range_events(range_: StoredRange, tracks: Tracks) -> Iterator[Event]:
    name = ", ".join(filter(None, (f"nsys: thread {range_.thread}", range_.domain)))
    track = Track(tracks.process(range_.pid), RANGES, name)
    args = {"domain": range_.domain}
    slice_ = Slice("range", range_.name, range_.start_ns, range_.end_ns, args)
    yield from tracks.put(track, slice_)


def _operation_events(operation: StoredOperation, tracks: Tracks) -> Iterator[Event]:
    name = f"cuda:{operation.device}, stream {operation.stream}"
    track = Track(tracks.process(operation.pid), GPU, name)
    args = {"bytes": operation.bytes} if operation.bytes else {}
    own = (operation.kind, operation.name, operation.start_ns, operation.end_ns)
    yield from tracks.put(track, Slice(*own, args))
