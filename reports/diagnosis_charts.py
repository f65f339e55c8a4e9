"""Charts of a diagnosis: where the time of an engine's cases goes, and the ladder of each."""

from __future__ import annotations

from collections.abc import Sequence
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
    PARTS,
    RESIDUAL,
    TIMER,
    UPDATING,
)
from kernelprof.results import CaseResult

from .charts import (
    INK,
    PALETTE,
    PLACE_WIDTH,
    Picture,
    Rows,
    finished,
    named,
    row_names,
    seconds_axis,
)
from .charts import tooltip as shown
from .engine_colours import engine_colour
from .labels import full_name, of_engine
from .ladder import layer_rungs, steps, together
from .ledger import SHORT, SHOWN_SHARE, part_s, parts_shown, signed_duration, signed_share

# Neighbours in a bar differ in lightness, and where there is room a part has its name on it.
COLOURS = {
    KERNELS: "#8a94a0",
    COPIES: "#e3a008",
    FAULTS: "#8e3b8a",
    CALLING: "#d9601a",
    UPDATING: "#1d6f63",
    FEEDING: "#c9ced6",
    IDLE: "#3f474f",
    TIMER: "#c9ced6",
    RESIDUAL: "#b3261e",
}
ON_LIGHT, ON_DARK = "#1c2127", "#ffffff"
LIGHT = (KERNELS, COPIES, FEEDING, TIMER)  # parts whose colours dark letters are read on
NAMED_SHARE = 0.09  # of the time: so much of a bar has room for a name
NUMBERED_SHARE = 0.17  # and so much for a name and a number
WITH_LABELS = 1.3  # times the longest bar, so that the numbers beside the bars have room
FAR = 1.5  # times the measured time: a reference beyond it would press all else together
CEILING, REFERENCE, UP, DOWN, WHOLE = "ceiling", "reference", "step up", "step down", "measured"


def ledger_chart(cases: Sequence[CaseResult]) -> Picture:
    """The parts of each case of an engine, as shares of its time that end at 100 %."""
    rows = [row for case in cases for row in part_rows(case)]
    title = f"Where the time of {cases[0].engine} goes"
    return Picture(ledger_spec(parts_shown(cases)), {"parts": rows}, title)


def ledger_spec(parts: Sequence[str] = PARTS) -> alt.LayerChart:
    """The chart of `part_rows`."""
    base = named("parts").encode(
        y=row_names("case"), tooltip=shown("case", "part", "time", "share")
    )
    scale = alt.Scale(
        domain=[SHORT[part] for part in parts], range=[COLOURS[part] for part in parts]
    )
    written = "replace(format(datum.value, '.0%'), '%', ' %')"
    axis = alt.Axis(labelExpr=written, values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    layers = [
        base.mark_bar(height=16).encode(
            x=alt.X("start:Q", title="share of the measured time", axis=axis),
            x2="end:Q",
            color=alt.Color("part:N", scale=scale, legend=alt.Legend(symbolType="square")),
        ),
        base.mark_text(fontSize=11, clip=True).encode(
            x="middle:Q", text="label:N", color=alt.Color("ink:N", scale=None)
        ),
    ]
    return finished(layers, "Where the measured time goes")


def part_rows(case: CaseResult) -> Rows:
    """A row for each part that is not nothing; each starts where the one before ends."""
    seconds = [part_s(case, part) for part in PARTS]
    measured_s = case.measured.value_s
    return [
        {
            "case": of_engine(case),
            "part": SHORT[part],
            "start": (end_s - own_s) / measured_s,
            "end": end_s / measured_s,
            "middle": (end_s - own_s / 2) / measured_s,
            "time": signed_duration(own_s),
            "share": signed_share(own_s / measured_s),
            "label": _label(SHORT[part], own_s / measured_s),
            "ink": ON_LIGHT if part in LIGHT else ON_DARK,
        }
        for part, own_s, end_s in zip(PARTS, seconds, accumulate(seconds), strict=True)
        if own_s
    ]


def _label(name: str, share: float) -> str:
    if share < NAMED_SHARE:
        return ""
    return f"{name} {signed_share(share)}" if share >= NUMBERED_SHARE else name


def ladder_chart(case: CaseResult) -> Picture:
    """The steps from the machine's ceiling up to the measured time, one after the other."""
    title = f"The ladder of {full_name(case)}"
    return Picture(ladder_spec([case.engine]), {"steps": step_rows(case)}, title)


def ladder_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `step_rows` of one case."""
    fitting = f"{PLACE_WIDTH} < 480 ? datum.time : datum.label"
    rows = named("steps").transform_calculate(told=fitting)
    base = rows.encode(y=row_names("step"), tooltip=shown("step", "time", "share"))
    beside = f"datum.kind == '{CEILING}' || datum.kind == '{REFERENCE}'"
    bars = base.mark_bar(height=14).encode(
        x=alt.X("start:Q", title="step by step", axis=seconds_axis()), x2="end:Q"
    )
    layers = [
        bars.transform_filter(beside).encode(
            color=alt.condition(
                f"datum.kind == '{CEILING}'", alt.value(INK), alt.value(PALETTE["reference"])
            ),
            opacity=alt.condition(f"datum.kind == '{CEILING}'", alt.value(0.4), alt.value(1)),
        ),
        bars.transform_filter(f"!({beside})").encode(
            color=engine_colour(engines, legend=False),
            opacity=alt.condition(f"datum.kind == '{DOWN}'", alt.value(0.5), alt.value(1)),
        ),
        base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(
            x="right:Q", text="told:N"
        ),
        base.mark_point(opacity=0).encode(x="room:Q"),  # so that the labels have room
    ]
    return finished(layers, "From the machine's ceiling up to the measured time, step by step")


def step_rows(case: CaseResult) -> Rows:
    """The reference stands beside the ladder: no step begins where it ends."""
    measured_s, end_s = case.measured.value_s, 0.0
    rows = []
    for name, step_s in steps(case):
        start_s, end_s = end_s, end_s + step_s
        if abs(step_s) >= SHOWN_SHARE * measured_s:
            kind = CEILING if name == CEILING else UP if step_s > 0 else DOWN
            rows.append(_row(case, name, kind, start_s, end_s))
    reference_s = together("", layer_rungs(case)).reference_s
    if reference_s is not None:
        place = 1 if rows and rows[0]["kind"] == CEILING else 0
        rows.insert(place, _row(case, REFERENCE, REFERENCE, 0.0, reference_s))
    rows.append(_row(case, "whole step", WHOLE, 0.0, measured_s))
    room_s = WITH_LABELS * max(row["right"] for row in rows)
    return [{**row, "room": room_s} for row in rows]


def _row(case: CaseResult, name: str, kind: str, start_s: float, end_s: float) -> dict[str, Any]:
    time = signed_duration(end_s - start_s)
    share = signed_share((end_s - start_s) / case.measured.value_s)
    label = f"{time}, {share}"
    if end_s > FAR * case.measured.value_s and kind == REFERENCE:
        start_s, end_s, label = 0.0, 0.0, f"{label}: too long to be drawn"
    return {
        "step": name,
        "engine": case.engine,
        "kind": kind,
        "start": start_s,
        "end": end_s,
        "right": max(start_s, end_s),
        "time": time,
        "share": share,
        "label": label,
    }
