"""What of a run arrived in nsys's export, by worker: ranges can be lost without any error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernelprof.engines import NVTX
from kernelprof.nsys.export_database import ExportDatabase
from kernelprof.nsys.export_file import RANGES, ExportFile
from kernelprof.nsys.rows import pid_of, process_of
from kernelprof.probes.ranges import DOMAIN, NONE

Facts = Mapping[str, Any]  # of a worker, see ``probes.worker``
NOWHERE = -2  # is no domain's number
LOST = "nsys lost them: try a newer one"


@dataclass(frozen=True)
class Arrived:
    """Ranges of kernelprof in an export: all, and by engine; and workers of which none came."""

    product: str
    ranges: int
    by_engine: Mapping[str, int]
    missing: Mapping[str, str]  # engines to why there is nothing of some of their workers


def captured(export: Path, workers: Iterable[tuple[str, Facts]]) -> Arrived:
    """Hold an export against the workers that were recorded, by engine.

    Raises:
        UsageError: it cannot be read.
    """
    with closing(ExportDatabase.open(export)) as database:
        product = database.product
        counts = _ranges_by_pid(ExportFile(database)) if database.has(RANGES) else Counter()
    by_engine: Counter[str] = Counter()
    missing: dict[str, str] = {}
    for engine, facts in workers:
        by_engine[engine] += counts[facts["pid"]]
        if not counts[facts["pid"]]:
            missing.setdefault(engine, why_missing(facts))
    return Arrived(product, counts.total(), by_engine, missing)


def _ranges_by_pid(export: ExportFile) -> Counter[int]:
    """How many ranges of kernelprof's domain there are of each process."""
    numbers = {
        process: domain for (process, domain), name in export.domains.items() if name == DOMAIN
    }
    counts: Counter[int] = Counter()
    for rows in export.ranges():
        processes = process_of(rows.thread)
        for process in np.unique(processes).tolist():
            ours = (processes == process) & (rows.domain == numbers.get(process, NOWHERE))
            counts[pid_of(process)] += int(ours.sum())
    return counts


def why_missing(facts: Facts) -> str:
    """Why a worker's ranges did not arrive, by what it says of NVTX itself."""
    emitter = facts.get("nvtx", NONE)
    if emitter == NONE:
        return f"it emits none: `pip install {NVTX}` for it, and leave NVTX_DISABLE unset"
    if facts.get("nvtx_tool", NONE) == NONE:
        return f"this nsys does not take those of its nvtx ({emitter}): pin {NVTX}, or update nsys"
    return LOST
