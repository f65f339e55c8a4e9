"""What an import of nsys's tells: in words, and as keys of the JSON report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from kernelprof.results import CaseResult
from kernelprof.trace import Activity, Sampled, Trace, TracedRange, Work
from kernelprof.units import count, counted, duration, significant

from .trace_rows import Processes, worker_name

AGREES = 0.01  # by which two clocks may differ, beside what ranges cost


@dataclass(frozen=True)
class Difference:
    """What nsys says of the samples of a path, beside what kernelprof does."""

    traced: TracedRange
    sampled: Sampled

    @property
    def share(self) -> float:
        """How much longer they are by nsys's clock, of the time by kernelprof's."""
        return self.sampled.traced_ns / self.sampled.sampled_ns - 1

    def is_explained(self, range_cost_ns: int) -> bool:
        """Whether the clocks agree, as far as one can tell: ranges are longer than samples."""
        own = self.sampled
        slack_ns = AGREES * own.sampled_ns + range_cost_ns * own.samples
        return abs(own.traced_ns - own.sampled_ns) <= slack_ns


def differences(trace: Trace) -> list[Difference]:
    """Of all paths with samples."""
    return [
        Difference(traced, traced.sampled)
        for traced in trace.ranges
        if traced.sampled is not None and traced.sampled.sampled_ns
    ]


def with_nsys(case: CaseResult) -> bool:
    """Whether nsys saw any of a case."""
    return case.nsys_s is not None or any(layer.nsys_s is not None for layer in case.layers)


def trace_sentences(trace: Trace, processes: Processes) -> list[str]:
    """What came of an import, the most important first."""
    found = [_verdict(trace, processes), _unexplained(trace), _gpu(trace), _left_out(trace)]
    return [sentence for sentence in found if sentence]


def _verdict(trace: Trace, processes: Processes) -> str:
    ranges = sum(traced.count for traced in trace.ranges)
    said = f"nsys {trace.product}: {counted(ranges, 'range')} of {_whose(trace, processes)}"
    found = differences(trace)
    if not found:
        return f"{said}."
    worst = max(found, key=lambda one: abs(one.share))
    usual = median(abs(one.share) for one in found)
    return (
        f"{said}; its times and kernelprof's own differ by {_finely(usual)} in the median, "
        f"{_finely(worst.share)} at worst ({_place(worst.traced, processes)}); ranges cost up to "
        f"{duration(trace.range_cost_ns * 1e-9)} a sample."
    )


def _whose(trace: Trace, processes: Processes) -> str:
    pids = {traced.pid for traced in trace.ranges}
    engines = {processes[pid].engine for pid in pids if pid in processes}
    if engines:
        return counted(len(engines), "engine")
    domains = len({traced.domain for traced in trace.ranges})
    return f"{counted(domains, 'domain')} in {count(len(pids))} process{'es' * (len(pids) != 1)}"


def _place(traced: TracedRange, processes: Processes) -> str:
    worker = worker_name(traced.pid, processes)
    return ", ".join(filter(None, (worker, " > ".join(traced.path))))


def _unexplained(trace: Trace) -> str:
    found = differences(trace)
    off = sum(not one.is_explained(trace.range_cost_ns) for one in found)
    if not off:
        return ""
    return (
        f"For {count(off)} of {counted(len(found), 'path')} they differ by more than "
        f"{AGREES * 100:.0f} % and what ranges cost."
    )


def _gpu(trace: Trace) -> str:
    """Each operation counts once: with the range that launched it, or with none."""
    assigned = sum(work.count for traced in trace.ranges for work in traced.work)
    lost = sum(one.work.count for one in trace.unassigned)
    if not assigned and not lost:
        return ""
    busy_ns = sum(traced.gpu.busy_ns for traced in trace.ranges if len(traced.path) == 1)
    said = f"GPU work: {counted(assigned, 'operation')} of ranges"
    if assigned:
        said += f", busy for {duration(busy_ns * 1e-9)}"
    return f"{said}; {count(lost)} of none." if lost else f"{said}."


def _left_out(trace: Trace) -> str:
    parts = [f"{counted(many, 'range')} ({why})" for why, many in trace.left_out.items() if many]
    return f"Left out: {', '.join(parts)}." if parts else ""


def _finely(fraction: float) -> str:
    """The size of a difference as a percentage, however small."""
    return f"{significant(100 * abs(fraction), 2)} %"


def trace_json(trace: Trace, processes: Processes) -> dict[str, Any]:
    """A trace in the JSON report; times in seconds."""
    return {
        "source": trace.source,
        "product": trace.product,
        "schema": trace.schema,
        "rows": trace.rows,
        "range_cost_s": trace.range_cost_ns * 1e-9,
        "ranges": [dict(_range_json(traced, processes)) for traced in trace.ranges],
        "unassigned": [{"why": one.why, **_work_json(one.work)} for one in trace.unassigned],
        "left_out": trace.left_out,
    }


def _range_json(traced: TracedRange, processes: Processes) -> Iterator[tuple[str, Any]]:
    worker = processes.get(traced.pid)
    yield "path", traced.path
    yield "domain", traced.domain
    yield "pid", traced.pid
    yield "engine", worker.engine if worker else None
    yield "threads", worker.threads if worker else None
    yield "count", traced.count
    yield "host_s", traced.host_ns * 1e-9
    yield "gpu", _activity_json(traced.gpu)
    yield "work", [_work_json(work) for work in traced.work]
    yield "sampled", _sampled_json(traced.sampled) if traced.sampled else None


def _sampled_json(sampled: Sampled) -> dict[str, Any]:
    return {
        "samples": sampled.samples,
        "calls": sampled.calls,
        "sampled_s": sampled.sampled_ns * 1e-9,
        "nsys_s": sampled.traced_ns * 1e-9,
        "gpu": _activity_json(sampled.gpu),
    }


def _activity_json(gpu: Activity) -> dict[str, Any]:
    return {
        "count": gpu.count,
        "total_s": gpu.total_ns * 1e-9,
        "busy_s": gpu.busy_ns * 1e-9,
        "gaps_s": gpu.gaps_ns * 1e-9,
        "overlap_s": gpu.overlap_ns * 1e-9,
    }


def _work_json(work: Work) -> dict[str, Any]:
    return {
        "kind": work.kind,
        "name": work.name,
        "count": work.count,
        "total_s": work.total_ns * 1e-9,
        "bytes": work.bytes,
    }
