"""The layers of a case as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kernelprof.gpu.sides import Sides
from kernelprof.results import CaseResult, LayerResult
from kernelprof.units import TimeUnit, counted, gflop, in_unit, share, versus

from .derived import flop_per_s, layers_unit, predicted_share, speedup
from .labels import full_name
from .lines import printable
from .order import largest
from .text_table import WIDE, add_number_columns, or_none, text_table
from .traces import with_nsys

LAYERS_SHOWN = 25
BAR_WIDTH = 10
NSYS, HOST, GAPS, BAR, REFERENCE = 3, 4, 5, 7, 8  # columns that are not always there


def layers_table(case: CaseResult, width: int = WIDE) -> Table:
    """The layers in the network's order, what comes to them, and their sum beside the measured."""
    unit = layers_unit(case)
    table = text_table("layer", "kind")
    table.title = Text(printable(full_name(case)), style="bold")
    table.title_justify = "left"
    hidden = _hidden(case, width)
    engine, nsys, host, gaps, reference = (
        f"{who} {unit.symbol}" for who in ("engine", "nsys", "CPU", "waits", "reference")
    )
    headings = (engine, nsys, host, gaps, "share", "", reference, "than reference", "GFLOP/s")
    for place, heading in enumerate(headings, 2):
        if place in hidden:
            continue
        if place == BAR:
            table.add_column("", width=BAR_WIDTH)
        else:
            add_number_columns(table, heading)
    shown, folded = largest(case.layers, LAYERS_SHOWN, _never_folded_first)
    layer_rows = (_layer_row(case, layer, unit) for layer in shown)
    for cells in chain(layer_rows, _closing_rows(case, folded, unit)):
        table.add_row(*(cell for place, cell in enumerate(cells) if place not in hidden))
    return table


def _hidden(case: CaseResult, width: int) -> set[int]:
    """The columns without anything in them, or without room."""
    if case.gpu is not None:
        return {BAR} if with_nsys(case) else {NSYS, BAR} | (set() if width >= WIDE else {REFERENCE})
    if not with_nsys(case):
        return {NSYS, HOST, GAPS} if width >= WIDE else {NSYS, HOST, GAPS, BAR}
    return {HOST, GAPS} if width >= WIDE else {HOST, GAPS, BAR, REFERENCE}


def _never_folded_first(layer: LayerResult) -> float:
    """The layer's time; a layer without one must stay visible."""
    return math.inf if layer.engine_s is None else layer.engine_s


def _layer_row(case: CaseResult, layer: LayerResult, unit: TimeUnit) -> list[RenderableType]:
    return [
        Text(printable(layer.name)),
        Text(printable(layer.kind)),
        *_time_cells(case, layer.engine_s, layer.reference_s, unit, layer.nsys_s, layer.sides),
        or_none(flop_per_s(layer.least_flop, layer.engine_s), gflop),
    ]


def _closing_rows(
    case: CaseResult, folded: list[LayerResult], unit: TimeUnit
) -> Iterator[list[RenderableType]]:
    """What stands below the layers, so that the column adds up."""
    if folded:
        folded_s = sum(layer.engine_s or 0.0 for layer in folded)
        name = counted(len(folded), "smaller layer")
        yield [name, "", *_time_cells(case, folded_s, None, unit)]
    for name, seconds in case.beyond_s.items():
        yield [name, "", *_time_cells(case, seconds, None, unit)]
    if case.predicted:
        cells = _time_cells(case, case.predicted.value_s, case.reference_s, unit)
        yield [Text("predicted", style="bold"), "", *cells]
    cells = _time_cells(case, case.measured.value_s, case.reference_s, unit, case.nsys_s)
    yield [Text("measured", style="bold"), "", *cells]


def _time_cells(
    case: CaseResult,
    seconds: float | None,
    reference_s: float | None,
    unit: TimeUnit,
    nsys_s: float | None = None,
    sides: Sides | None = None,
) -> list[RenderableType]:
    part = predicted_share(case, seconds)
    return [
        "no primitive" if seconds is None else in_unit(seconds, unit),
        or_none(nsys_s, lambda traced_s: in_unit(traced_s, unit)),
        or_none(sides, lambda known: in_unit(known.host_s, unit)),
        or_none(sides, lambda known: in_unit(known.gaps_s, unit)),
        or_none(part, share),
        Bar(size=1, begin=0, end=min(part or 0.0, 1.0), width=BAR_WIDTH),
        or_none(reference_s, lambda known_s: in_unit(known_s, unit)),
        or_none(speedup(reference_s, seconds), versus),
    ]
