"""Where the measured time of networks goes: the parts of each case, and of each of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kernelprof.diagnosis.ledger import (
    CALLING,
    COPIES,
    FAULTS,
    FEEDING,
    IDLE,
    JUDGED_SHARE,
    KERNELS,
    OF_LAYERS,
    PARTS,
    RESIDUAL,
    TIMER,
    UPDATING,
)
from kernelprof.diagnosis.ledger_on_gpu import (
    ALLOCATING,
    FROM_GPU,
    GPU_PARTS,
    LAUNCHING,
    OF_LAYERS_ON_GPU,
    TO_GPU,
    WAITING,
)
from kernelprof.results import CaseResult, Diagnosis
from kernelprof.units import TimeUnit, column_unit, count, counted, duration, in_unit, share

from .labels import of_engine
from .lines import printable
from .order import largest
from .text_table import WIDE, add_number_columns, text_table

SHORT = {
    KERNELS: "kernel",
    COPIES: "copies",
    FAULTS: "faults",
    CALLING: "dispatch",
    UPDATING: "update",
    FEEDING: "feeding",
    IDLE: "idle",
    TIMER: "timer",
    RESIDUAL: "residual",
    TO_GPU: "to GPU",
    FROM_GPU: "from GPU",
    LAUNCHING: "launch gaps",
    ALLOCATING: "allocation",
    WAITING: "waiting",
}
HYPHENATED = {  # where room is dear
    "threads": "thr-\neads",
    "kernel": "ker-\nnel",
    "copies": "cop-\nies",
    "faults": "fau-\nlts",
    "dispatch": "dis-\npatch",
    "update": "up-\ndate",
    "feeding": "feed-\ning",
    "residual": "resi-\ndual",
    "to GPU": "to\nGPU",
    "from GPU": "from\nGPU",
    "launch gaps": "launch\ngaps",
    "allocation": "allo-\ncation",
    "waiting": "wait-\ning",
}
JUDGED = f"{100 * JUDGED_SHARE:g} %"
NOTHING_S = 1e-12  # what rounding leaves of nothing
SHOWN_SHARE = (
    0.0005  # of the time, which is written as 0.1 %: a part that never has it needs no room
)


def diagnosis_of(case: CaseResult) -> Diagnosis:
    """The diagnosis of a case that has one."""
    assert case.diagnosis is not None, "not diagnosed"
    return case.diagnosis


def with_ledger(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """Those of which one knows where the time goes."""
    return [case for case in cases if case.diagnosis is not None and case.diagnosis.ledger]


def part_s(case: CaseResult, part: str, layer: str | None = None) -> float:
    """The seconds of a part of a case: of one layer, or of all."""
    return sum(
        one.seconds
        for one in diagnosis_of(case).ledger
        if one.part == part and layer in (None, one.layer)
    )


def parts_of(case: CaseResult) -> tuple[str, ...]:
    """The parts that the ledger of a case has, in their order."""
    return PARTS if case.gpu is None else GPU_PARTS


def layer_parts(case: CaseResult) -> tuple[str, ...]:
    """Those of them that are told by layer."""
    return OF_LAYERS if case.gpu is None else OF_LAYERS_ON_GPU


def parts_unit(case: CaseResult) -> TimeUnit:
    """The unit for the parts of a case: that of a tenth of its time, as large layers take."""
    return column_unit([case.measured.value_s / 10])


def tidy(seconds: float) -> float:
    """The seconds, without what rounding leaves of nothing."""
    return 0.0 if abs(seconds) <= NOTHING_S else seconds


def ledger_json(case: CaseResult) -> list[dict[str, Any]]:
    """The parts for scripts; none where nothing was diagnosed."""
    return [
        {"part": one.part, "layer": one.layer, "seconds": one.seconds}
        for one in (case.diagnosis.ledger if case.diagnosis else ())
    ]


def ledger_table(cases: Sequence[CaseResult], most: int, width: int = WIDE) -> Table:
    """The largest cases of an engine, a row each, with their parts in percent of the time."""
    shown, folded = largest(cases, most, lambda case: case.measured.value_s)
    parts = parts_shown(cases)
    unit = column_unit(case.measured.value_s for case in cases)
    heads = ["network", "mode", "threads", unit.symbol, *(SHORT[part] for part in parts)]
    if width < WIDE or parts == list(GPU_PARTS):
        heads = [HYPHENATED.get(head, head) for head in heads]
    heads[4] += " %"  # and so are those that follow
    table = text_table(*heads[:2])
    add_number_columns(table, *heads[2:])
    several = len({(c.network, c.mode, c.threads) for c in cases}) < len(cases)
    for case in shown:
        mode = f"{case.mode} {count(case.batch)}" if several else case.mode
        where = [Text(printable(case.network)), Text(mode), Text(str(case.threads))]
        table.add_row(*where, *_cells([case], parts, unit))
    if folded:
        name = f"{counted(len(folded), 'smaller case')}" if shown else "all cases"
        table.add_row(Text(name), Text(""), Text(""), *_cells(folded, parts, unit))
    return table


def parts_shown(cases: Sequence[CaseResult]) -> list[str]:
    """All parts, but for the timer's where it never counts; a run is on a GPU, or is not."""
    if any(case.gpu is not None for case in cases):
        return list(GPU_PARTS)
    timed = any(part_s(c, TIMER) >= SHOWN_SHARE * c.measured.value_s for c in cases)
    return [part for part in PARTS if part != TIMER or timed]


def _cells(cases: Sequence[CaseResult], parts: Sequence[str], unit: TimeUnit) -> Iterator[Text]:
    """The time of some cases together, and its parts."""
    total_s = sum(case.measured.value_s for case in cases)
    yield Text(in_unit(total_s, unit))
    for part in parts:
        own_s = sum(part_s(case, part) for case in cases)
        yield Text(f"{round(100 * own_s / total_s, 1) + 0.0:.1f}")  # + 0.0 turns -0.0 into 0.0


def layers_ledger_table(case: CaseResult) -> Table:
    """The parts of a case by layer, and below them those of none, which add up to the time."""
    unit = parts_unit(case)
    table = text_table("layer")
    told = layer_parts(case)
    add_number_columns(table, *(f"{SHORT[part]} {unit.symbol}" for part in told))
    add_number_columns(table, f"all {unit.symbol}", "share")
    for layer in ledger_layers(case):
        own = [part_s(case, part, layer) for part in told]
        name = Text(printable(layer) or "no layer")
        cells = [in_unit(seconds, unit) for seconds in own]
        table.add_row(name, *cells, *_sum_cells(case, sum(own), unit))
    for part in parts_of(case):
        if part not in told and (seconds := tidy(part_s(case, part))):
            table.add_row(part, *[""] * len(told), *_sum_cells(case, seconds, unit))
    totals = [in_unit(part_s(case, part), unit) for part in told]
    measured = _sum_cells(case, case.measured.value_s, unit)
    table.add_row(Text("measured", style="bold"), *totals, *measured)
    return table


def ledger_layers(case: CaseResult) -> list[str]:
    """The layers that the ledger names, in the network's order; time of none comes last."""
    named = {one.layer for one in diagnosis_of(case).ledger if one.part in layer_parts(case)}
    order = [layer.name for layer in case.layers if layer.name in named]
    return [*order, *sorted(named - {*order, ""}), *([""] if "" in named else [])]


def _sum_cells(case: CaseResult, seconds: float, unit: TimeUnit) -> list[str]:
    return [in_unit(seconds, unit), signed_share(seconds / case.measured.value_s)]


def signed_share(fraction: float) -> str:
    """A part of the time in percent; a residual may be less than nothing.

    >>> signed_share(0.0321), signed_share(-0.0321)
    ('3.2 %', '-3.2 %')
    """
    return f"-{share(-fraction)}" if fraction < 0 else share(fraction)


def signed_duration(seconds: float) -> str:
    """A duration that may be less than nothing: a residual, a step down, a saving that is none.

    >>> signed_duration(0.0021), signed_duration(-0.0021)
    ('2.10 ms', '-2.10 ms')
    """
    return f"-{duration(-seconds)}" if seconds < 0 else duration(seconds)


def unknown_sentence(cases: Sequence[CaseResult]) -> str:
    """In how many cases one does not know where the time goes; nothing if there are none."""
    known = with_ledger(cases)
    judged = [case for case in known if abs(_residual(case)) > JUDGED_SHARE]
    if not judged:
        return ""
    worst = max(judged, key=lambda case: abs(_residual(case)))
    rest = signed_share(_residual(worst))
    if len(known) == 1:
        return f"It is not known where the time goes: the residual is {rest}."
    return (
        f"It is not known where the time goes in {len(judged)} of {counted(len(known), 'case')}: "
        f"their residual is over {JUDGED}, at worst {rest} ({of_engine(worst)})."
    )


def profiler_sentence(cases: Sequence[CaseResult]) -> str:
    """By how much the engine's profiler made calls longer; nothing where it told of none."""
    known = with_ledger(cases)
    if not known:
        return ""
    worst = max(known, key=_profiler_share)
    where = "" if len(known) == 1 else f" at worst ({of_engine(worst)})"
    return (
        f"The profiler made calls {share(_profiler_share(worst))} longer{where}; the ledger is of "
        "calls without it."
    )


def _profiler_share(case: CaseResult) -> float:
    """What the profiler adds to a call; where calls were even shorter with it, nothing."""
    return max(diagnosis_of(case).profiler_share, 0.0)


def _residual(case: CaseResult) -> float:
    return part_s(case, RESIDUAL) / case.measured.value_s
