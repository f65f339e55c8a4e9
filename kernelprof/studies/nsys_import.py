"""How fast a large export of nsys comes into a run on one core, and how much memory that takes.

The exports are synthetic, of a training by two processes; each is imported by a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from kernelprof.console import err
from kernelprof.machine import usable_cpus
from kernelprof.measure import sole_measurement
from kernelprof.nsys.importing import import_export
from kernelprof.studies.command import run
from kernelprof.studies.export_schema import NEW
from kernelprof.studies.publish import publish, table
from kernelprof.studies.synthetic_training import generate
from kernelprof.units import size

LEAST_ROWS_PER_S = 200_000  # that an import should read, and store what came of them
MOST_BYTES = 2**30  # of memory that it should take
ROWS, MOST_ROWS = 2_000_000, 10_000_000
REPEATS = 3
WRITING = "writing"


@dataclass(frozen=True)
class Import:
    """One import in a process of its own.

    ``seconds`` is from the opening of the export until the run is closed, of them ``reading_s``
    until all rows are read and ``writing_s`` from the first event that is stored.
    """

    rows: int
    seconds: float
    reading_s: float
    writing_s: float
    peak_bytes: int
    export_bytes: int
    run_bytes: int

    @property
    def rows_per_s(self) -> float:
        """Rows that were read by the second."""
        return self.rows / self.seconds


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    rows: Annotated[int, typer.Option(help="Of the export whose import is timed.")] = ROWS,
    most: Annotated[
        int, typer.Option(help="Of a second export, which is imported once.")
    ] = MOST_ROWS,
    repeats: Annotated[int, typer.Option(help="Imports of the first export.")] = REPEATS,
    seed: Annotated[int, typer.Option(help="Of the exports.")] = 1,
) -> None:
    """Import synthetic exports of nsys on one core."""
    with sole_measurement(), tempfile.TemporaryDirectory() as folder:
        asked = ((rows, repeats), (most, 1))
        taken = [_imports(Path(folder), wanted, times, seed) for wanted, times in asked]
    data = {
        "asked": {"rows_per_s": LEAST_ROWS_PER_S, "peak_bytes": MOST_BYTES},
        "schema": NEW,
        "imports": [asdict(one) for several in taken for one in several],
    }
    body = _body(taken)
    publish(
        output, "kernelprof.studies.nsys_import", "Imports of large exports of nsys", body, data
    )
    err.print(f"wrote {output}", soft_wrap=True)


def _imports(folder: Path, rows: int, repeats: int, seed: int) -> list[Import]:
    """Imports of one export, which is gone afterwards."""
    export = folder / "training.sqlite"
    err.print(f"writing an export of {rows:,} rows")
    generate(export, rows, seed)
    found = []
    for repeat in range(repeats):
        err.print(f"import {repeat + 1} of {repeats}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_imported, (export, folder / "training.kprof")))
    export.unlink()
    return found


def _imported(export: Path, path: Path) -> Import:
    """Import on the first CPU that this process may use, which nothing was asked of before."""
    os.sched_setaffinity(0, usable_cpus()[:1])
    stages: dict[str, float] = {}  # when each was last heard of, and writing first

    def tell(what: str, share: float) -> None:
        if what.startswith(WRITING):
            stages.setdefault(WRITING, time.perf_counter())
        else:
            stages[what] = time.perf_counter()

    began = time.perf_counter()
    trace = import_export(export, path, tell)
    ended = time.perf_counter()
    found = Import(
        rows=trace.rows,
        seconds=ended - began,
        reading_s=stages["reading"] - began,
        writing_s=ended - stages[WRITING],
        peak_bytes=_peak_bytes(),
        export_bytes=export.stat().st_size,
        run_bytes=path.stat().st_size,
    )
    path.unlink()
    return found


def _peak_bytes() -> int:
    """The most memory that this process had at a time, its interpreter included."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, "Linux tells it of every process"
    return 1024 * int(found[1])


def _body(taken: list[list[Import]]) -> str:
    every = [one for several in taken for one in several]
    slowest = min(one.rows_per_s for one in every)
    largest = max(one.peak_bytes for one in every)
    is_met = slowest >= LEAST_ROWS_PER_S and largest <= MOST_BYTES
    rows = [
        (
            f"{several[0].rows:,}",
            size(several[0].export_bytes),
            f"{statistics.median(one.seconds for one in several):.1f} s",
            f"{statistics.median(one.rows_per_s for one in several):,.0f}",
            f"{min(one.rows_per_s for one in several):,.0f}",
            f"{statistics.median(one.reading_s for one in several):.1f} s",
            f"{statistics.median(one.writing_s for one in several):.1f} s",
            size(max(one.peak_bytes for one in several)),
            size(several[0].run_bytes),
        )
        for several in taken
    ]
    header = ("rows", "export", "time", "rows/s", "slowest", "reading", "writing", "memory", "run")
    return f"""
{"Both figures are met" if is_met else "**Not both figures are met**"}: the slowest import took in
**{slowest:,.0f} rows/s** ({LEAST_ROWS_PER_S:,} are asked for), the largest had **{size(largest)}**
of memory at most ({size(MOST_BYTES)} are allowed), each in a fresh process on one CPU.

An import reads ranges, launches and GPU work, finds what belongs to what, sums it up and stores
every range and operation in a run file.  Times are medians of {len(taken[0])} imports of the first
export and {len(taken[1])} of the second; between reading and writing, what was read is sorted out.
The exports are synthetic: two processes train a network, each with two threads, three streams, and
ranges up to four deep.

{table(header, rows)}"""


if __name__ == "__main__":
    run(main)
