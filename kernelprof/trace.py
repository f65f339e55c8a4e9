"""What a profiler's trace tells of ranges and of the GPU work that they launched.

All times are integer nanoseconds, sums over all ranges of one path in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """GPU work of one name."""

    kind: str  # kernel, memcpy, memset, graph
    name: str
    count: int
    total_ns: int
    bytes: int = 0


@dataclass(frozen=True)
class Unassigned:
    """What belongs to no range, and why."""

    why: str
    work: Work


@dataclass(frozen=True)
class Activity:
    """What the GPU did for ranges, whatever they enclose included.

    ``total_ns`` counts each operation; ``busy_ns`` is the time in which at least one was at work,
    ``gaps_ns`` the time between the first and the last of a range in which none was, both by range
    and summed.  What ran side by side is the difference of the first two.
    """

    count: int = 0
    total_ns: int = 0
    busy_ns: int = 0
    gaps_ns: int = 0

    @property
    def overlap_ns(self) -> int:
        """By how much operations overlapped: those of several streams may run side by side."""
        return self.total_ns - self.busy_ns


@dataclass(frozen=True)
class Sampled:
    """The samples of a kernelprof run that ranges of a path enclose, one each.

    ``case_id`` and ``place`` are those of the run file.  ``sampled_ns`` is what kernelprof's own
    clock says, ``traced_ns`` what nsys says of the ranges around.
    """

    case_id: int
    place: int
    samples: int
    calls: int
    sampled_ns: int
    traced_ns: int
    gpu: Activity = field(default_factory=Activity)  # within those ranges


@dataclass(frozen=True)
class TracedRange:
    """All ranges of one path in one process, together."""

    pid: int
    domain: str
    path: tuple[str, ...]  # names from the outermost range to this one
    count: int
    host_ns: int  # what they took on their threads
    gpu: Activity
    work: tuple[Work, ...]  # launched in these ranges themselves, not in those they enclose
    sampled: Sampled | None = None  # None of ranges that are no sample's


@dataclass(frozen=True)
class Trace:
    """One import."""

    source: str  # the name of the file
    product: str  # the version of nsys
    schema: str  # of the export
    rows: int  # that were read
    range_cost_ns: int  # that the ranges around a sample cost at most, as the workers found
    ranges: tuple[TracedRange, ...]
    unassigned: tuple[Unassigned, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)  # ranges that were not taken, by why

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trace:
        """The trace that ``to_json`` wrote."""
        unassigned = (Unassigned(one["why"], Work(**one["work"])) for one in data["unassigned"])
        return cls(
            **{
                **data,
                "ranges": tuple(map(_range, data["ranges"])),
                "unassigned": tuple(unassigned),
            }
        )


def _range(data: Mapping[str, Any]) -> TracedRange:
    sampled = data["sampled"]
    return TracedRange(
        **{
            **data,
            "path": tuple(data["path"]),
            "gpu": Activity(**data["gpu"]),
            "work": tuple(Work(**one) for one in data["work"]),
            "sampled": sampled and Sampled(**{**sampled, "gpu": Activity(**sampled["gpu"])}),
        }
    )
