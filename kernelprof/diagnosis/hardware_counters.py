"""What the processor counts while a worker calls its network, where perf and counters exist.

Virtual machines mostly have none.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kernelprof.diagnosis.outside_tools import run_tool
from kernelprof.errors import KernelprofError

INSTRUCTIONS, CYCLES = "instructions", "cycles"
CACHE_REFERENCES, CACHE_MISSES = "cache-references", "cache-misses"
EVENTS = (
    INSTRUCTIONS,
    CYCLES,
    CACHE_REFERENCES,
    CACHE_MISSES,
    "branch-misses",
    "dTLB-load-misses",
)
PATIENCE_S = 30.0
# ``cpu_core/instructions/u`` and ``instructions:u`` are instructions too, of some cores and of
# user code alone.
EVENT = re.compile(r"(?:\w+/)?([\w-]+)(?:/\w*)?(?::\w+)?")
NOTHING_COUNTED = ("<not supported>", "<not counted>")


@dataclass(frozen=True)
class Counters:
    """Events that were counted within some seconds, and the names of those that were not."""

    seconds: float
    counts: dict[str, int]
    missing: tuple[str, ...]

    @property
    def instructions_per_cycle(self) -> float | None:
        """How many instructions a cycle finishes; None where one of them was not counted."""
        return self._ratio(INSTRUCTIONS, CYCLES)

    @property
    def cache_miss_share(self) -> float | None:
        """Which share of what asks the last cache goes on to memory; None if not counted."""
        return self._ratio(CACHE_MISSES, CACHE_REFERENCES)

    def _ratio(self, part: str, whole: str) -> float | None:
        if part not in self.counts or not self.counts.get(whole):
            return None
        return self.counts[part] / self.counts[whole]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counters:
        """What ``to_json`` wrote."""
        return cls(data["seconds"], dict(data["counts"]), tuple(data["missing"]))


def count(pid: int, seconds: float) -> Counters:
    """Count the events of all threads of a process.

    Raises:
        KernelprofError: perf is not there, may not count, or has no counter to count with.
    """
    tool = shutil.which("perf")
    if tool is None:
        raise KernelprofError("perf is not installed: Debian's package is linux-perf")
    command = [
        *(tool, "stat", "-x,", "-e", ",".join(EVENTS), "-p", str(pid)),
        *("--", "sleep", str(seconds)),
    ]
    return parse(run_tool("perf", command, seconds + PATIENCE_S), seconds)


def parse(csv: str, seconds: float) -> Counters:
    """Read the lines of ``perf stat -x,``: value, unit, event, run time, percentage, ...

    Where there were more events than counters, perf has scaled the values up already.

    Raises:
        KernelprofError: no event was counted.
    """
    counts: dict[str, int] = {}
    for line in csv.splitlines():
        value, _, name, *_ = [*line.split(","), "", "", ""]
        event = EVENT.fullmatch(name)
        if event and event[1] in EVENTS and _is_number(value):
            counts[event[1]] = counts.get(event[1], 0) + round(float(value))
    missing = tuple(name for name in EVENTS if name not in counts)
    if not counts:
        said = next((words for words in NOTHING_COUNTED if words in csv), "nothing")
        raise KernelprofError(
            f"perf counts none of {', '.join(missing)} here: it says {said} "
            "(most virtual machines have no hardware counters)"
        )
    return Counters(seconds, counts, missing)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,20}(\.\d+)?", text) is not None
