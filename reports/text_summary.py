"""The summary of a run and its failures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from kernelprof.probes.device import CPU, CUDA
from kernelprof.results import CaseResult, FailureResult, Results
from kernelprof.units import (
    TimeUnit,
    column_unit,
    count,
    gflop,
    in_unit,
    magnitude,
    percent,
    share,
    times,
)

from .derived import half_width, speedup
from .lines import printable
from .order import Group, groups
from .text_table import WIDE, add_number_columns, or_none, text_table


@dataclass(frozen=True)
class Column:
    """A column of the summary, and how a case fills it."""

    title: str
    cell: Callable[[CaseResult, TimeUnit], str]
    wide_only: bool = False
    device: str = ""  # the kind that alone has it, where one has


SUMMARY = (
    Column("measured\n{unit}", lambda case, unit: in_unit(case.measured.value_s, unit)),
    Column("\n±", lambda case, unit: magnitude(half_width(case.measured))),
    Column(
        "predicted\n{unit}",
        lambda case, unit: or_none(
            case.predicted, lambda predicted: in_unit(predicted.value_s, unit)
        ),
    ),
    Column(
        "\n±",
        lambda case, unit: or_none(case.predicted, lambda p: magnitude(half_width(p))),
        wide_only=True,
    ),
    Column("\nerror", lambda case, unit: or_none(case.error, percent)),
    Column(
        "reference\n{unit}",
        lambda case, unit: or_none(case.reference_s, lambda s: in_unit(s, unit)),
        wide_only=True,
        device=CPU,
    ),
    Column(
        "x\nfaster",
        lambda case, unit: or_none(speedup(case.reference_s, case.measured.value_s), times),
    ),
    Column(
        "GPU\n{unit}",
        lambda case, unit: or_none(case.gpu, lambda gpu: in_unit(gpu.device_s, unit)),
        device=CUDA,
    ),
    Column(
        "CPU\n{unit}",
        lambda case, unit: or_none(case.gpu, lambda gpu: in_unit(gpu.host_s, unit)),
        wide_only=True,
        device=CUDA,
    ),
    Column(
        "\nbound",
        lambda case, unit: or_none(case.gpu, lambda gpu: gpu.bound),
        wide_only=True,
        device=CUDA,
    ),
    Column("\nGFLOP/s", lambda case, unit: gflop(case.flop_per_s)),
    Column("\ncovered", lambda case, unit: share(case.coverage), wide_only=True, device=CPU),
)


def summary_table(results: Results, width: int = WIDE) -> Table:
    """A row per measured case, under the network, mode and batch that it shares with others."""
    device = CUDA if any(case.gpu is not None for case in results.cases) else CPU
    columns = [
        column
        for column in SUMMARY
        if (width >= WIDE or not column.wide_only) and column.device in ("", device)
    ]
    unit = column_unit(case.measured.value_s for case in results.cases)
    table = text_table("network mode batch\n  engine     threads")
    add_number_columns(table, *(column.title.format(unit=unit.symbol) for column in columns))
    for group in groups(results):
        if group.cases:
            table.add_row(Text(_heading(group), style="bold"))
        for case in group.cases:
            table.add_row(Text(_contender(case)), *(column.cell(case, unit) for column in columns))
    return table


def failures_table(failures: Iterable[FailureResult]) -> Table:
    """A row per case without a measurement, with the reason in full."""
    table = text_table("failed")
    table.add_column("kind")
    table.add_column("reason", overflow="fold")
    for failure in failures:
        table.add_row(
            Text(f"{printable(failure.network)} {failure.mode} {count(failure.batch)}\n").append(
                _contender(failure)
            ),
            Text(failure.kind, style="bold red"),
            Text(printable(failure.reason)),
        )
    return table


def _heading(group: Group) -> str:
    return f"{printable(group.network)} {group.mode} {count(group.batch)}"


def _contender(case: CaseResult | FailureResult) -> str:
    device = case.device if isinstance(case, CaseResult) and case.device != "cpu" else ""
    return f"  {printable(case.engine):<10} {case.threads:>3} {device}".rstrip()
