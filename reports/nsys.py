"""What nsys saw, for a terminal: after an import, and in the report of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from kernelprof.results import Results
from kernelprof.trace import Trace, Unassigned, Work
from kernelprof.units import TimeUnit, column_unit, count, counted, in_unit

from .lines import printable
from .text_table import WIDE, add_number_columns, text_table
from .trace_rows import Processes, Row, TraceTable, trace_table, unassigned_rows, work_name
from .traces import trace_sentences

BOLD = Style(bold=True)
MOST_NAME = 80  # characters of a kernel's name

Line = Text | Table


def nsys_lines(results: Results, width: int = WIDE) -> Iterator[Line]:
    """The section of a run's report; nothing where nothing was imported."""
    for trace in results.traces:
        yield Text()
        yield Text(f"Under nsys: {printable(trace.source)}", style=BOLD)
        yield from trace_lines(trace, results.processes, width)


def trace_lines(
    trace: Trace, processes: Processes | None = None, width: int = WIDE
) -> Iterator[Line]:
    """What came of an import: a verdict, what GPUs did for ranges, and what belongs to none.

    ``processes`` are those of the run, by their number.
    """
    for sentence in trace_sentences(trace, processes or {}):
        for line in textwrap.wrap(printable(sentence), width):
            yield Text(line)
    table = trace_table(trace, processes or {})
    if table is not None:
        yield Text()
        yield _ranges_table(table)
        if table.folded:
            yield Text(f"{counted(table.folded, 'smaller path')} beside these; JSON has all.")
    if unassigned := unassigned_rows(trace):
        yield Text()
        yield _unassigned_table(unassigned)


def _ranges_table(found: TraceTable) -> Table:
    unit = found.unit
    table = text_table("ranges" + " and GPU work" * found.has_gpu)
    add_number_columns(table, "count", f"host {unit.symbol}")
    if found.has_gpu:
        add_number_columns(table, *(f"{name} {unit.symbol}" for name in ("GPU", "gaps", "overlap")))
    for part in found.parts:
        table.add_row(Text(printable(part.heading), style=BOLD))
        for row in part.rows:
            table.add_row(*_row_cells(row, unit, found.has_gpu))
            for work in row.work:
                table.add_row(*_work_cells(work, unit))
    return table


def _row_cells(row: Row, unit: TimeUnit, with_gpu: bool) -> list[RenderableType]:
    cells: list[RenderableType] = [
        _indented(row.name, 2),
        count(row.count),
        in_unit(row.host_s, unit),
    ]
    if with_gpu:
        own = (row.gpu.busy_ns, row.gpu.gaps_ns, row.gpu.overlap_ns)
        cells += [in_unit(ns * 1e-9, unit) if row.gpu.count else "-" for ns in own]
    return cells


def _work_cells(work: Work, unit: TimeUnit) -> list[RenderableType]:
    name = _indented(_shortened(work_name(work)), 4)
    return [name, count(work.count), "", in_unit(work.total_ns * 1e-9, unit)]


def _shortened(name: str) -> str:
    """The beginning of a name: those of kernels made of templates fill screens."""
    return name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…"


def _indented(name: str, columns: int) -> RenderableType:
    """A name whose further lines are indented as the first one is."""
    return Padding(Text(printable(name), overflow="fold"), (0, 0, 0, columns))


def _unassigned_table(unassigned: Sequence[Unassigned]) -> Table:
    unit = column_unit(one.work.total_ns * 1e-9 for one in unassigned)
    table = text_table("GPU work of no range", "why")
    add_number_columns(table, "count", f"time {unit.symbol}")
    for one in unassigned:
        table.add_row(
            Text(_shortened(printable(work_name(one.work)))),
            Text(printable(one.why)),
            count(one.work.count),
            in_unit(one.work.total_ns * 1e-9, unit),
        )
    return table
