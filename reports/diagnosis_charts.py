"""Charts of a diagnosis: where the time of an engine's cases goes, and the ladder of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import altair as alt

from kernelprof.diagnosis.ledger import (
    CALLING,
    COPIES,
    FAULTS,
    FEEDING,
    IDLE,
    KERNELS,
    RESIDUAL,
    TIMER,
    UPDATING,
)
from kernelprof.results import CaseResult
from kernelprof.units import TimeUnit, column_unit

from .charts import INK, PALETTE, Rows, finished, inline, named_rows, tooltip
from .labels import full_name, of_engine
from .ladder import layer_rungs, steps, together
from .ledger import SHORT, SHOWN_SHARE, part_s, parts_shown, signed_duration, signed_share

# Neighbours in a bar differ in lightness, and where there is room a part has its name on it.
COLOURS = {
    KERNELS: PALETTE["engine"],
    COPIES: "#e3a008",
    FAULTS: "#8e3b8a",
    CALLING: PALETTE["predicted"],
    UPDATING: "#1d6f63",
    FEEDING: "#c9ced6",
    IDLE: "#5a636e",
    TIMER: "#c9ced6",
    RESIDUAL: "#b3261e",
}
ON_LIGHT, ON_DARK = "#1c2127", "#ffffff"
LIGHT = (COPIES, FEEDING, TIMER)  # parts whose colours dark letters are read on
NAMED_SHARE = 0.09  # of the time: so much of a bar has room for a name
NUMBERED_SHARE = 0.17  # and so much for a name and a number
KINDS = {
    "ceiling": PALETTE["measured"],
    "reference": PALETTE["reference"],
    "step up": PALETTE["predicted"],
    "step down": "#1d6f63",
    "measured": PALETTE["measured"],
}
ROOM = 1.02  # of the time, so that the tick at 100 % has room for its number
WITH_LABELS = 1.2  # times the longest bar, so that the numbers beside the bars have room
FAR = 1.5  # times the measured time: a reference beyond it would press all else together


def ledger_chart(cases: Sequence[CaseResult]) -> alt.LayerChart:
    """The parts of each case of an engine, as shares of its time that end at 100 %."""
    parts = parts_shown(cases)
    rows = [row for case in cases for row in _part_rows(case, parts)]
    base = alt.Chart(inline(rows)).encode(
        y=named_rows("case", rows),
        tooltip=tooltip("case", "part", "time", "share"),
    )
    scale = alt.Scale(
        domain=[SHORT[part] for part in parts], range=[COLOURS[part] for part in parts]
    )
    axis = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    layers = [
        base.mark_bar(height=16).encode(
            x=alt.X(
                "start:Q",
                title="share of the measured time",
                axis=axis,
                scale=alt.Scale(domain=[0, max(ROOM, *(row["end"] for row in rows))], nice=False),
            ),
            x2="end:Q",
            color=alt.Color("part:N", scale=scale, legend=alt.Legend(columns=len(parts))),
        ),
        base.mark_text(fontSize=11, clip=True).encode(
            x="middle:Q", text="label:N", color=alt.Color("ink:N", scale=None)
        ),
    ]
    return finished(layers, f"Where the time of {cases[0].engine} goes")


def _part_rows(case: CaseResult, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each part that is not nothing; each starts where the one before ends."""
    seconds = [part_s(case, part) for part in parts]
    measured_s = case.measured.value_s
    for part, own_s, end_s in zip(parts, seconds, accumulate(seconds), strict=True):
        if own_s:
            share = own_s / measured_s
            yield {
                "case": of_engine(case),
                "part": SHORT[part],
                "start": (end_s - own_s) / measured_s,
                "end": end_s / measured_s,
                "middle": (end_s - own_s / 2) / measured_s,
                "time": signed_duration(own_s),
                "share": signed_share(share),
                "label": _label(SHORT[part], share),
                "ink": ON_LIGHT if part in LIGHT else ON_DARK,
            }


def _label(name: str, share: float) -> str:
    if share < NAMED_SHARE:
        return ""
    return f"{name} {signed_share(share)}" if share >= NUMBERED_SHARE else name


def ladder_chart(case: CaseResult) -> alt.LayerChart:
    """The steps from the machine's ceiling up to the measured time, one after the other."""
    unit = column_unit([case.measured.value_s])
    rows = _rows_of_steps(case, unit)
    base = alt.Chart(inline(rows)).encode(
        y=named_rows("step", rows), tooltip=tooltip("step", "time", "share")
    )
    most = WITH_LABELS * max(row["right"] for row in rows)
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    scale = alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds])
    layers = [
        base.mark_bar(height=14).encode(
            x=alt.X(
                "start:Q", title=f"step by step, {unit.symbol}", scale=alt.Scale(domainMax=most)
            ),
            x2="end:Q",
            color=alt.Color("kind:N", scale=scale, legend=None),
        ),
        base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(
            x="right:Q", text="label:N"
        ),
    ]
    return finished(layers, f"The ladder of {full_name(case)}")


def _rows_of_steps(case: CaseResult, unit: TimeUnit) -> Rows:
    """The reference stands beside the ladder: no step begins where it ends."""
    measured_s, end_s = case.measured.value_s, 0.0
    rows = []
    for name, step_s in steps(case):
        start_s, end_s = end_s, end_s + step_s
        if abs(step_s) >= SHOWN_SHARE * measured_s:
            kind = "ceiling" if name == "ceiling" else "step up" if step_s > 0 else "step down"
            rows.append(_row(case, name, kind, start_s, end_s, unit))
    reference_s = together("", layer_rungs(case)).reference_s
    if reference_s is not None:
        place = 1 if rows and rows[0]["kind"] == "ceiling" else 0
        rows.insert(place, _row(case, "reference", "reference", 0.0, reference_s, unit))
    return [*rows, _row(case, "whole step", "measured", 0.0, measured_s, unit)]


def _row(
    case: CaseResult, name: str, kind: str, start_s: float, end_s: float, unit: TimeUnit
) -> dict[str, Any]:
    time = signed_duration(end_s - start_s)
    share = signed_share((end_s - start_s) / case.measured.value_s)
    label = f"{time}, {share}"
    if end_s > FAR * case.measured.value_s and kind == "reference":
        start_s, end_s, label = 0.0, 0.0, f"{label}: too long to be drawn"
    return {
        "step": name,
        "kind": kind,
        "start": start_s / unit.seconds,
        "end": end_s / unit.seconds,
        "right": max(start_s, end_s) / unit.seconds,
        "time": time,
        "share": share,
        "label": label,
    }
