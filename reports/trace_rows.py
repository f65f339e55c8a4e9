"""What GPUs did for ranges, as rows: of a kernelprof run by layer, of other programs by path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from kernelprof.chains import CHAINS
from kernelprof.results import WorkerProcess
from kernelprof.trace import Activity, Trace, TracedRange, Unassigned, Work
from kernelprof.units import TimeUnit, column_unit, count, counted

MOST_ROWS = 20  # of a table
MOST_WORK = 3  # of a row
MOST_UNASSIGNED = 10
NETWORK, LAYER = 1, 2  # names in the path of a range around either
WHOLE = "whole network"

Processes = Mapping[int, WorkerProcess]
Key = tuple[str, tuple[str, ...]]  # whose ranges, and their path


@dataclass(frozen=True)
class Row:
    """Ranges that are shown together.

    ``work`` was launched in them, the largest first and the last of it all that is left; what was
    launched in ranges that have a row of their own is there.
    """

    name: str
    count: int
    host_s: float
    gpu: Activity
    work: tuple[Work, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of one engine and network, or of a process."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class TraceTable:
    """All rows of a trace, and how many paths have none, as they are smaller."""

    parts: tuple[Rows, ...]
    folded: int
    has_gpu: bool

    @property
    def unit(self) -> TimeUnit:
        """Of all its times."""
        return column_unit(row.host_s for part in self.parts for row in part.rows)


def is_of_kernelprof(trace: Trace) -> bool:
    """Whether ranges stand around samples of the run."""
    return any(traced.sampled for traced in trace.ranges)


def has_gpu(trace: Trace) -> bool:
    """Whether any range made a GPU work."""
    return any(traced.gpu.count for traced in trace.ranges)


def trace_table(trace: Trace, processes: Processes) -> TraceTable | None:
    """The rows; None where they would say nothing that a report of the run does not."""
    if not trace.ranges or (is_of_kernelprof(trace) and not has_gpu(trace)):
        return None
    ranges: dict[Key, list[TracedRange]] = defaultdict(list)
    for traced in trace.ranges:
        ranges[_key(trace, traced, processes)].append(traced)
    listed = _layers(ranges) if is_of_kernelprof(trace) else list(ranges)
    shown = _shown(trace, listed, ranges)
    work = _work(shown, ranges)
    parts: dict[str, list[Row]] = defaultdict(list)
    for key in shown:
        heading, name = _headed(trace, key)
        parts[heading].append(_row(name, ranges[key], work[key]))
    if is_of_kernelprof(trace):
        for (whose, path), own in ranges.items():
            heading = f"{path[0]}, {whose}"
            if len(path) == NETWORK and heading in parts:
                parts[heading] += _whole(own)
    return TraceTable(
        tuple(Rows(heading, tuple(rows)) for heading, rows in parts.items()),
        len(listed) - len(shown),
        has_gpu(trace),
    )


def worker_name(pid: int, processes: Processes) -> str:
    """Engine and threads of a worker, or nothing."""
    worker = processes.get(pid)
    return f"{worker.engine}, {counted(worker.threads, 'thread')}" if worker else ""


def _key(trace: Trace, traced: TracedRange, processes: Processes) -> Key:
    """What is one row: the same in all processes of an engine, or in one of another program.

    Of whatever domain: ranges of one may lie in those of another.
    """
    worker = worker_name(traced.pid, processes) if is_of_kernelprof(trace) else ""
    return worker or f"process {traced.pid}", traced.path


def _layers(keys: Iterable[Key]) -> list[Key]:
    """Those of layers, without the chains of a calibration."""
    return [
        (whose, path)
        for whose, path in keys
        if len(path) == LAYER and not path[0].startswith(_chains())
    ]


@cache
def _chains() -> tuple[str, ...]:
    """How the titles of chains begin."""
    return tuple(f"{chain.make().name} " for chain in CHAINS)


def _shown(
    trace: Trace, listed: Sequence[Key], ranges: Mapping[Key, Sequence[TracedRange]]
) -> list[Key]:
    """The largest of them: of each network in its order, of another program by size."""
    by_size = sorted(listed, key=lambda key: -_size_ns(ranges[key]))
    if not is_of_kernelprof(trace):
        return by_size[:MOST_ROWS]
    kept: dict[str, list[Key]] = defaultdict(list)
    for key in by_size:
        own = kept[_headed(trace, key)[0]]
        if len(own) < MOST_ROWS:
            own.append(key)
    chosen = {key for own in kept.values() for key in own}
    return [key for key in listed if key in chosen]


def _size_ns(ranges: Sequence[TracedRange]) -> int:
    """What they took on their threads or of GPUs, the larger of both."""
    host_ns = sum(traced.host_ns for traced in ranges)
    return max(host_ns, sum(traced.gpu.busy_ns for traced in ranges))


def _work(
    shown: Sequence[Key], ranges: Mapping[Key, Sequence[TracedRange]]
) -> dict[Key, list[Work]]:
    """The work of each row: its own, and that of ranges in it without a row."""
    found: dict[Key, list[Work]] = {key: [] for key in shown}
    for (whose, path), own in ranges.items():
        enclosing = ((whose, path[:length]) for length in range(len(path), 0, -1))
        nearest = next((key for key in enclosing if key in found), None)
        if nearest is not None:
            found[nearest] += [work for traced in own for work in traced.work]
    return found


def _headed(trace: Trace, key: Key) -> tuple[str, str]:
    """Under which heading a row stands, and its name there."""
    whose, path = key
    if is_of_kernelprof(trace):
        return f"{path[0]}, {whose}", path[1]
    return whose, " > ".join(path)


def _row(name: str, ranges: Sequence[TracedRange], work: Iterable[Work]) -> Row:
    return Row(
        name,
        sum(traced.count for traced in ranges),
        sum(traced.host_ns for traced in ranges) * 1e-9,
        _together(traced.gpu for traced in ranges),
        tuple(_largest(_merged(work))),
    )


def _whole(ranges: Sequence[TracedRange]) -> Iterator[Row]:
    """The row of a network's own samples: its ranges stand around those of layers too."""
    samples = [traced.sampled for traced in ranges if traced.sampled is not None]
    if samples:
        yield Row(
            WHOLE,
            sum(sampled.samples for sampled in samples),
            sum(sampled.traced_ns for sampled in samples) * 1e-9,
            _together(sampled.gpu for sampled in samples),
            tuple(_largest(_merged(work for traced in ranges for work in traced.work))),
        )


def _together(activities: Iterable[Activity]) -> Activity:
    own = list(activities)
    return Activity(
        sum(gpu.count for gpu in own),
        sum(gpu.total_ns for gpu in own),
        sum(gpu.busy_ns for gpu in own),
        sum(gpu.gaps_ns for gpu in own),
    )


def _merged(work: Iterable[Work]) -> list[Work]:
    """Work by kind and name, the largest first."""
    found: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for one in work:
        found[one.kind, one.name].append(one)
    merged = [_sum(kind, name, same) for (kind, name), same in found.items()]
    return sorted(merged, key=lambda one: -one.total_ns)


def _largest(work: Sequence[Work]) -> Iterator[Work]:
    """The first ones, and all others as one; a last one stands for itself."""
    most = MOST_WORK if len(work) > MOST_WORK + 1 else len(work)
    yield from work[:most]
    if rest := work[most:]:
        yield _sum("", f"{count(len(rest))} others", rest)


def unassigned_rows(trace: Trace) -> list[Unassigned]:
    """The largest of what belongs to no range, and by reason how much there is besides."""
    ordered = sorted(trace.unassigned, key=lambda one: -one.work.total_ns)
    most = MOST_UNASSIGNED if len(ordered) > MOST_UNASSIGNED + 1 else len(ordered)
    rest: dict[str, list[Work]] = defaultdict(list)
    for one in ordered[most:]:
        rest[one.why].append(one.work)
    folded = (
        Unassigned(why, _sum("", f"{count(len(own))} others", own)) for why, own in rest.items()
    )
    return [*ordered[:most], *folded]


def work_name(work: Work) -> str:
    """What work is called; copies and sets by their kind too, as their names are short."""
    alone = work.kind in ("", "kernel", work.name)
    return work.name if alone else f"{work.kind} {work.name}"


def _sum(kind: str, name: str, work: Sequence[Work]) -> Work:
    return Work(
        kind,
        name,
        sum(one.count for one in work),
        sum(one.total_ns for one in work),
        sum(one.bytes for one in work),
    )
