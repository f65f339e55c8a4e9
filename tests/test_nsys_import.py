"""Imports of nsys's exports: everything is where it should be, and nothing is lost or doubled."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelprof.errors import KernelprofError, UsageError
from kernelprof.nsys import paths
from kernelprof.nsys.attribution import NO_LAUNCH, NO_RANGE
from kernelprof.nsys.importing import import_export
from kernelprof.nsys.paths import OTHERS
from kernelprof.runfile import RunFile
from kernelprof.studies.export_schema import NEW, OLD
from kernelprof.studies.synthetic_export import Synthetic, process_id, thread_id
from kernelprof.trace import Activity, Trace, Work
from kernelprof.trace_store import StoredOperation, StoredRange, TraceStore

PIDS = (70, 80)
THREADS = tuple((pid, pid + place) for pid in PIDS for place in (0, 1))
DOMAINS = ("", "one", "two")
SESSION_NS = 60
Counts = Counter[tuple[str, str, str]]  # count, ns and bytes by kind and name


class Range(NamedTuple):
    """A range as it is put into an export; ``end_thread`` is one of the process, or None."""

    thread: tuple[int, int]
    start: int
    end: int | None
    domain: int
    name: str
    elsewhere: bool = False

    @property
    def end_ns(self) -> int:
        return max(self.start, SESSION_NS if self.end is None else self.end)


class Launch(NamedTuple):
    """A call."""

    thread: tuple[int, int]
    start: int
    end: int
    correlation: int | None


class Operation(NamedTuple):
    """Work of a GPU."""

    kind: str
    pid: int
    start: int
    end: int
    correlation: int | None
    stream: int

    @property
    def name(self) -> str:
        return {"kernel": f"k{self.stream}<float>()", "memcpy": "HtoD"}.get(self.kind, self.kind)

    @property
    def bytes(self) -> int:
        return 3 if self.kind in ("memcpy", "memset") else 0


class Program(NamedTuple):
    """All that an export holds."""

    ranges: list[Range]
    launches: list[Launch]
    operations: list[Operation]


@st.composite
def spans(draw, longest: int) -> tuple[int, int]:
    start = draw(st.integers(0, 40))
    return start, start + draw(st.integers(0, longest))


threads = st.sampled_from(THREADS)
correlations = st.one_of(st.none(), st.integers(0, 6))
ranges_of = st.builds(
    lambda thread, span, is_open, *rest: Range(
        thread, span[0], None if is_open else span[1], *rest
    ),
    threads,
    spans(20),
    st.sampled_from([False] * 6 + [True]),
    st.integers(0, 2),
    st.sampled_from("abc"),
    st.sampled_from([False] * 6 + [True]),
)
launches_of = st.builds(lambda t, span, c: Launch(t, *span, c), threads, spans(6), correlations)
operations_of = st.builds(
    lambda kind, pid, span, *rest: Operation(kind, pid, *span, *rest),
    st.sampled_from(["kernel", "kernel", "memcpy", "memset", "graph"]),
    st.sampled_from(PIDS),
    spans(15),
    correlations,
    st.integers(1, 3),
)
programs = st.builds(
    Program,
    st.lists(ranges_of, min_size=1, max_size=10),
    st.lists(launches_of, max_size=10),
    st.lists(operations_of, max_size=12),
)


def write(path: Path, program: Program, schema: str = NEW) -> None:
    with Synthetic(path, schema) as export:
        numbers = {
            (pid, place): export.domain(name, thread_id(pid, pid)) if name else 0
            for pid in PIDS
            for place, name in enumerate(DOMAINS)
        }
        for one in program.ranges:
            thread = thread_id(*one.thread)
            domain = numbers[one.thread[0], one.domain]
            if one.elsewhere:
                other = thread_id(one.thread[0], 99)
                export.start_end(one.name, one.start, one.end, thread, other, domain)
            else:
                export.range(one.name, one.start, one.end, thread, domain, one.domain != 1)
        for call in program.launches:
            export.launch(call.start, call.end, thread_id(*call.thread), call.correlation)
        for work in program.operations:
            own = (work.start, work.end, work.correlation, process_id(work.pid))
            if work.kind == "kernel":
                export.kernel(work.name, *own, stream=work.stream)
            elif work.kind == "graph":
                export.graph(*own, stream=work.stream, graph=-1)
            else:
                getattr(export, work.kind)(*own, work.bytes, stream=work.stream)
        export.session(0, SESSION_NS)


def imported(program: Program, schema: str = NEW) -> tuple[Trace, list[Any], list[Any]]:
    """What a new run holds of a program."""
    with tempfile.TemporaryDirectory() as folder:
        export, path = Path(folder) / "a.sqlite", Path(folder) / "a.kprof"
        write(export, program, schema)
        trace = import_export(export, path)
        with closing(RunFile.open(path)) as run:
            store = TraceStore(run)
            assert store.traces() == [trace]
            return trace, list(store.ranges()), list(store.operations())


# The rule, applied to every pair.


def around(program: Program, thread: tuple[int, int], start: int, end: int) -> list[int]:
    """The ranges around something, the innermost last."""
    found = [
        place
        for place, one in enumerate(program.ranges)
        if not one.elsewhere and one.thread == thread and one.start <= start and end <= one.end_ns
    ]
    return sorted(found, key=lambda place: order(program, place))


def order(program: Program, place: int) -> tuple[int, int, int]:
    one = program.ranges[place]
    return one.start, -one.end_ns, place


def launch_of(program: Program, operation: Operation) -> Launch | None:
    own = (operation.pid, operation.correlation)
    same = [call for call in program.launches if (call.thread[0], call.correlation) == own]
    same = sorted(same, key=lambda call: call.start) if operation.correlation is not None else []
    before = [call for call in same if call.start <= operation.start]
    return (before[-1:] or same[:1] or [None])[0]


def path_of(program: Program, place: int) -> tuple[tuple[int, str], ...]:
    """Domain and name of a range and of all around it."""
    one = program.ranges[place]
    own = ((one.domain, one.name),)
    if one.elsewhere:
        return own
    outer = [
        other
        for other in around(program, one.thread, one.start, one.end_ns)
        if order(program, other) < order(program, place)
    ]
    return path_of(program, outer[-1]) + own if outer else own


def activity_of(operations: list[Operation]) -> Activity:
    if not operations:
        return Activity()
    busy = {moment for one in operations for moment in range(one.start, one.end)}
    extent = max(one.end for one in operations) - min(one.start for one in operations)
    total = sum(one.end - one.start for one in operations)
    return Activity(len(operations), total, len(busy), extent - len(busy))


def plus(one: Activity, other: Activity) -> Activity:
    return Activity(*(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


def told(program: Program, place: int) -> tuple[int, str, tuple[str, ...]]:
    """What is told of a range: the domain is that of the last name alone."""
    path = path_of(program, place)
    names = tuple(name for _, name in path)
    return program.ranges[place].thread[0], DOMAINS[path[-1][0]], names


def expected(program: Program) -> tuple[dict[Any, list[Any]], dict[Any, Counts]]:
    """What is told of ranges, and work by these or by why it belongs to none."""
    found: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, Activity()])
    inside: dict[int, list[Operation]] = defaultdict(list)
    work: dict[Any, Counts] = defaultdict(Counter)
    for operation in program.operations:
        call = launch_of(program, operation)
        enclosing = around(program, *call[:3]) if call else []
        why = NO_LAUNCH if call is None else NO_RANGE
        work[told(program, enclosing[-1]) if enclosing else why].update(counts_of(operation))
        for place in enclosing:
            inside[place].append(operation)
    for place, one in enumerate(program.ranges):
        add(found[told(program, place)], 1, one.end_ns - one.start, activity_of(inside[place]))
    return found, work


def add(sums: list[Any], count: int, host_ns: int, activity: Activity) -> None:
    sums[:] = [sums[0] + count, sums[1] + host_ns, plus(sums[2], activity)]


def counts_of(one: Operation) -> Counts:
    work = Work(one.kind, one.name, 1, one.end - one.start, one.bytes)
    return work_of([work])


def work_of(several: Iterable[Work]) -> Counts:
    found: Counts = Counter()
    for one in several:
        found[one.kind, one.name, "count"] += one.count
        found[one.kind, one.name, "ns"] += one.total_ns
        found[one.kind, one.name, "bytes"] += one.bytes
    return +found


@settings(max_examples=150, deadline=None)
@given(programs, st.sampled_from([OLD, NEW]))
def test_every_nanosecond_is_where_it_should_be(program, schema):
    trace, _, _ = imported(program, schema)
    ranges, work = expected(program)
    seen: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, Activity()])
    done: dict[Any, Counts] = defaultdict(Counter)
    for one in trace.ranges:  # paths that differ in outer domains are told of by themselves
        add(seen[one.pid, one.domain, one.path], one.count, one.host_ns, one.gpu)
        done[one.pid, one.domain, one.path].update(work_of(one.work))
    for left in trace.unassigned:
        done[left.why].update(work_of([left.work]))
    assert seen == ranges
    assert {key: +own for key, own in done.items() if +own} == {k: +own for k, own in work.items()}


@settings(max_examples=60, deadline=None)
@given(programs)
def test_what_is_assigned_and_what_is_not_is_all_there_is(program):
    trace, _, _ = imported(program)
    found = work_of([w for one in trace.ranges for w in one.work])
    found.update(work_of(left.work for left in trace.unassigned))
    total: Counts = Counter()
    for one in program.operations:
        total.update(counts_of(one))
    assert found == +total
    assert sum(one.count for one in trace.ranges) == len(program.ranges)
    assert trace.rows == len(program.ranges) + len(program.launches) + len(program.operations)


@settings(max_examples=60, deadline=None)
@given(programs)
def test_the_run_keeps_every_event(program):
    _, ranges, operations = imported(program)
    assert Counter(ranges) == Counter(
        StoredRange(*one.thread, DOMAINS[one.domain], one.name, one.start, one.end_ns)
        for one in program.ranges
    )
    assert Counter(operations) == Counter(
        StoredOperation(o.pid, 0, o.stream, o.kind, o.name, o.start, o.end, o.bytes)
        for o in program.operations
    )
    starts = [one.start_ns for one in operations]
    assert starts == sorted(starts)
    for thread in THREADS:
        own = [(r.start_ns, -r.end_ns) for r in ranges if (r.pid, r.thread) == thread]
        assert own == sorted(own)


@settings(max_examples=40, deadline=None)
@given(programs, st.integers(1, 3))
def test_however_many_kinds_there_are_nothing_is_lost(program: Program, most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paths, "MOST_PATHS", most)
        trace, _, _ = imported(program)
    full, _, _ = imported(program)
    assert sum(one.count for one in trace.ranges) == len(program.ranges)
    assert sum(one.host_ns for one in trace.ranges) == sum(one.host_ns for one in full.ranges)
    assert sum(one.gpu.busy_ns for one in trace.ranges) == sum(
        one.gpu.busy_ns for one in full.ranges
    )
    roots = {(one.pid, one.domain, one.path) for one in trace.ranges if len(one.path) == 1}
    assert len([root for root in roots if root[2] != (OTHERS,)]) <= most


# What cannot be imported: a line, and nothing of it in a run.


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(export: Path, run: Path, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        import_export(export, run)
    assert "\n" not in str(caught.value)


PROGRAM = Program([Range((70, 70), 1, 9, 1, "a")], [], [])


def test_exports_of_programs_may_share_a_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.sqlite", PROGRAM)
        import_export(tmp_path / f"{name}.sqlite", tmp_path / "both.kprof")
    with closing(RunFile.open(tmp_path / "both.kprof")) as run:
        assert [trace.source for trace in TraceStore(run).traces()] == ["a.sqlite", "b.sqlite"]
        assert run.cases() == []
        assert run.meta("machine") == {}
        assert run.meta("options")["networks"] == []


@pytest.mark.parametrize("is_there", [False, True])
def test_an_export_without_ranges_is_refused(tmp_path: Path, is_there: bool) -> None:
    export, path = tmp_path / "a.sqlite", tmp_path / "a.kprof"
    if is_there:
        write(export, PROGRAM)
        import_export(export, path)
        export.unlink()
    write(export, Program([], [Launch((70, 70), 1, 2, 1)], []))
    with sqlite3.connect(export) as db:  # nothing but domains
        assert db.execute("SELECT DISTINCT eventType FROM NVTX_EVENTS").fetchall() == [(75,)]
    db.close()
    refused(export, path, "holds no NVTX ranges")
    assert path.exists() == is_there


@pytest.mark.parametrize("field", ["start", "end"])
def test_times_that_cannot_be_are_refused(tmp_path: Path, field: str) -> None:
    export = tmp_path / "a.sqlite"
    write(export, PROGRAM)
    with sqlite3.connect(export) as db:
        db.execute(f"UPDATE NVTX_EVENTS SET {field} = {2**62} WHERE eventType = 59")
    db.close()
    refused(export, tmp_path / "a.kprof", "which no trace lasts")
    assert files(tmp_path) == {"a.sqlite"}


def test_what_has_no_end_ends_with_the_trace_and_nothing_ends_before_it_starts(
    tmp_path: Path,
) -> None:
    thread, process = thread_id(70, 70), process_id(70)
    with Synthetic(tmp_path / "a.sqlite") as export:
        export.range("a", 10, None, thread)
        export.range("b", 30, 20, thread)
        export.launch(12, 13, thread, 1)
        export.kernel("open", 40, 50, 1, process)
        export.kernel("early", 60, 55, 1, process)
        export.session(0, 100)
    outer, inner = import_export(tmp_path / "a.sqlite", tmp_path / "a.kprof").ranges
    assert (outer.path, outer.host_ns) == (("a",), 90)
    assert (inner.path, inner.host_ns) == (("a", "b"), 0)
    assert outer.gpu == Activity(2, 10, 10, 10)


def test_times_may_count_from_1970(tmp_path: Path) -> None:
    """As ``nsys export --ts-normalize`` has them."""
    since_ns = 1_763_000_000 * 10**9
    export, path = tmp_path / "a.sqlite", tmp_path / "a.kprof"
    with Synthetic(export) as synthetic:
        thread = thread_id(70, 70)
        synthetic.range("a", since_ns, since_ns + 90, thread)
        for place in range(3):
            synthetic.launch(since_ns + 9 * place, since_ns + 9 * place + 1, thread, 7)
            times = (since_ns + 9 * place + 3, since_ns + 9 * place + 5)
            synthetic.kernel(f"k{place}", *times, 7, process_id(70))
        synthetic.session(since_ns, since_ns + 100)
    (one,) = import_export(export, path).ranges
    assert (one.host_ns, one.gpu) == (90, Activity(3, 6, 6, 14))


def test_a_new_run_that_cannot_be_written_is_gone_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    write(tmp_path / "a.sqlite", PROGRAM)
    monkeypatch.setattr(TraceStore, "add", full)
    with pytest.raises(KernelprofError, match=r"cannot write .*: database or disk is full"):
        import_export(tmp_path / "a.sqlite", tmp_path / "a.kprof")
    assert files(tmp_path) == {"a.sqlite"}


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    hostile = "'); DROP TABLE traces; --\x1b[31m{0.__class__}<script>\n"
    write(tmp_path / "a.sqlite", Program([Range((70, 70), 1, 9, 2, hostile)], [], []))
    trace = import_export(tmp_path / "a.sqlite", tmp_path / "a.kprof")
    assert [one.path for one in trace.ranges] == [(hostile,)]
