"""Sum up what ranges took and what GPUs did for them, path by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kernelprof.nsys.activity import activities, instances
from kernelprof.nsys.assign import NOWHERE, Codes
from kernelprof.nsys.attribution import WHY, Launched, Traced, work
from kernelprof.nsys.columns import Reader
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.samples import Holders
from kernelprof.trace import Activity, Trace, TracedRange, Unassigned


@dataclass(frozen=True)
class Told:
    """What of an import only a kernelprof run knows; see ``Trace``."""

    held: Sequence[Holders] = ()
    range_cost_ns: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def summary(export: ExportFile, reader: Reader, found: Traced, done: Launched, told: Told) -> Trace:
    """What is told of an export.

    Kernels of a layer may be called the same.  The ranges that hold the samples of each are told
    of by themselves then; those of their path that hold none go with the first.
    """
    held = told.held
    sampled = _sampled(found, held)
    first = np.arange(len(held), len(held) + len(found.paths), dtype=np.int32)
    for group, holder in reversed(list(enumerate(held))):
        first[holder.path] = group
    rest = first[found.paths.of_range]
    group_of = np.where(sampled == NOWHERE, rest, sampled)
    groups = len(held) + len(found.paths)
    own_work = work(export, reader, done, done.owners(found.nest, group_of))
    gpu = _activities(found, done, np.where(sampled == NOWHERE, groups + rest, sampled), groups)
    count = np.bincount(group_of, minlength=groups)
    host_ns = np.zeros(groups, np.int64)
    np.add.at(host_ns, group_of, found.nest.ranges.lasted_ns)

    def traced_range(group: int) -> TracedRange:
        holder = held[group] if group < len(held) else None
        labels = found.paths.labels(holder.path if holder else group - len(held))
        origin = reader.origins[found.labels.origin(labels[-1])]
        return TracedRange(
            pid=origin.pid,
            domain=origin.domain,
            path=tuple(map(found.labels.name, labels)),
            count=int(count[group]),
            host_ns=int(host_ns[group]),
            gpu=_sum(gpu[group], gpu[groups + group]),
            work=tuple(own_work.get(group, ())),
            sampled=replace(holder.sampled, gpu=gpu[group]) if holder else None,
        )

    return Trace(
        source=export.database.path.name,
        product=export.product,
        schema=export.schema,
        rows=reader.rows,
        range_cost_ns=told.range_cost_ns,
        ranges=tuple(map(traced_range, _in_order(group_of))),
        unassigned=tuple(
            Unassigned(why, one) for owner, why in WHY.items() for one in own_work.get(owner, ())
        ),
        left_out=dict(told.left_out),
    )


def _sampled(found: Traced, held: Sequence[Holders]) -> Codes:
    """Which of the holders a range is of, or ``NOWHERE``."""
    sampled = np.full(len(found.nest), NOWHERE, np.int32)
    for place, own in enumerate(held):
        sampled[own.ranges] = place
    return sampled


def _activities(found: Traced, done: Launched, part: Codes, groups: int) -> list[Activity]:
    """By group: first of the ranges that hold samples, then of the rest."""
    pairs = done.enclosed(found.nest)
    return activities(instances(pairs, done.start_ns, done.lasted_ns), part, 2 * groups)


def _in_order(group: Codes) -> list[int]:
    """The groups in the order of their first range: what encloses comes first."""
    groups, first = np.unique(group, return_index=True)
    in_order: list[int] = groups[np.argsort(first)].tolist()
    return in_order


def _sum(one: Activity, other: Activity) -> Activity:
    return Activity(
        one.count + other.count,
        one.total_ns + other.total_ns,
        one.busy_ns + other.busy_ns,
        one.gaps_ns + other.gaps_ns,
    )
