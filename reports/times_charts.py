"""Charts of whole networks: engines side by side, and how good the predictions are."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from kernelprof.results import CaseResult, Estimate
from kernelprof.units import duration, percent, times

from .charts import (
    INK,
    Picture,
    Rows,
    distinct,
    finished,
    named,
    roles,
    row_names,
    seconds_axis,
)
from .charts import tooltip as shown
from .engine_colours import engine_colour, engine_shape
from .labels import contender, placement, workload

# A vertical line, as a path in a square of side 2: what a bar is held against.
TICK, THIN_TICK = "M-0.15,-1.2H0.15V1.2H-0.15Z", "M-0.08,-1.2H0.08V1.2H-0.08Z"
BESIDE = {"predicted": "diamond", "reference": TICK, "ceiling": THIN_TICK}
ERRORS = (-0.9, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SUBROW = 7  # pixels of an engine within a row


def overview_chart(cases: Sequence[CaseResult]) -> Picture:
    """How many times longer than the fastest engine each one takes."""
    engines = distinct(case.engine for case in cases)
    return Picture(overview_spec(engines), {"overview": overview_rows(cases)})


def overview_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of `overview_rows`."""
    base = named("overview").encode(
        y=row_names("work"), x=_times_axis(), tooltip=shown("engine", "work", "time", "than")
    )
    layers = [
        base.mark_point(filled=True, size=75, opacity=0.95).encode(
            color=engine_colour(engines), shape=engine_shape(engines)
        )
    ]
    return finished(layers, "How many times longer than the fastest engine each one takes")


def _times_axis() -> alt.X:
    return alt.X(
        "times:Q",
        title="times as long as the fastest engine",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~r", tickCount=6),
    )


def overview_rows(cases: Sequence[CaseResult]) -> Rows:
    """A row for each case that another engine's can be held against, in the order of the cases."""
    fastest: dict[tuple[object, ...], float] = {}
    for case in cases:
        at = _alike(case)
        fastest[at] = min(case.measured.value_s, fastest.get(at, case.measured.value_s))
    return [
        {
            "work": f"{case.network} {case.mode} {case.batch}, {placement(case)}",
            "engine": case.engine,
            "times": (times_longer := case.measured.value_s / fastest[_alike(case)]),
            "time": duration(case.measured.value_s),
            "than": f"{times(times_longer)} the fastest",
        }
        for case in cases
    ]


def _alike(case: CaseResult) -> tuple[object, ...]:
    return case.network, case.mode, case.batch, case.device, case.threads


def times_chart(cases: Sequence[CaseResult]) -> Picture:
    """Measured times of the same work as bars, with predictions, reference and ceiling."""
    engines = distinct(case.engine for case in cases)
    rows = [row for case in cases for row in times_rows(case)]
    title = f"{cases[0].network}, {workload(cases[0])}"
    return Picture(times_spec(engines), {"times": rows}, title)


def times_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of `times_rows`."""
    told = shown("case", "role", "time", "interval")
    base = named("times").encode(y=row_names("case"), tooltip=told)
    bars = base.transform_filter("datum.role == 'measured'")
    marks = base.transform_filter("datum.role != 'measured'")
    layers = [
        bars.mark_bar(height=12).encode(
            x=alt.X("s:Q", title="time of one call", axis=seconds_axis()),
            color=engine_colour(engines, legend=False),
        ),
        bars.mark_rule(strokeWidth=6, color=INK, opacity=0.35).encode(x="low:Q", x2="high:Q"),
        marks.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, color=INK)
        .encode(x="low:Q", x2="high:Q"),
        marks.mark_point(fill=INK, stroke=INK, strokeWidth=0.5, size=70, opacity=0.95).encode(
            x="s:Q", shape=roles(BESIDE)
        ),
    ]
    return finished(layers, "Measured and predicted times of one call")


def times_rows(case: CaseResult) -> Rows:
    """The measured time, and what it is held against; what is not known has no row."""
    known: dict[str, Estimate | float | None] = {
        "measured": case.measured,
        "predicted": case.predicted,
        "reference": case.reference_s,
        "ceiling": case.ceiling_s,
    }
    rows = []
    for role, value in known.items():
        row = {"case": contender(case), "engine": case.engine, "role": role}
        if isinstance(value, Estimate):
            interval = f"{duration(value.low_s)} to {duration(value.high_s)}"
            limits = {"low": value.low_s, "high": value.high_s, "interval": interval}
            rows.append({**row, "s": value.value_s, "time": duration(value.value_s), **limits})
        elif value is not None:
            rows.append({**row, "s": value, "time": duration(value), "interval": ""})
    return rows


def accuracy_chart(cases: Sequence[CaseResult]) -> Picture:
    """How far each prediction is from the measured time, with both intervals."""
    engines = distinct(case.engine for case in cases)
    rows = [row for case in cases for row in error_rows(case)]
    return Picture(accuracy_spec(engines), {"errors": rows})


def accuracy_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of `error_rows`."""
    told = shown("work", "case", "measured", "predicted", off="off by")
    base = named("errors").encode(
        y=row_names("work"),
        yOffset=alt.YOffset("case:N", sort=None),
        color=engine_colour(engines),
        tooltip=told,
    )
    format_ = "datum.value ? format(datum.value, '+.1~%') : '0'"
    axis = alt.Axis(labelExpr=f"replace({format_}, '%', ' %')", values=ERRORS)
    layers = [
        base.mark_bar(height=5, opacity=0.35).encode(
            x=alt.X(
                "measured_low:Q",
                title="predicted / measured - 1",
                axis=axis,
                scale=alt.Scale(type="symlog", constant=0.05, nice=False),
            ),
            x2="measured_high:Q",
        ),
        base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q"),
        base.mark_point(shape="diamond", filled=True, size=35, opacity=1).encode(x="error:Q"),
        named("errors").mark_rule(color=INK, strokeDash=[4, 3]).encode(x=alt.datum(0)),
    ]
    step = alt.Step(SUBROW, **{"for": "offset"})
    return finished(layers, "Predictions against measured times", step)


def error_rows(case: CaseResult) -> Rows:
    """Where the measured time is 0: the prediction and both intervals; nothing without one."""
    predicted, measured = case.predicted, case.measured.value_s
    if predicted is None:
        return []
    return [
        {
            "work": f"{case.network} {case.mode} {case.batch}",
            "case": contender(case),
            "engine": case.engine,
            "error": predicted.value_s / measured - 1,
            "low": predicted.low_s / measured - 1,
            "high": predicted.high_s / measured - 1,
            "measured_low": case.measured.low_s / measured - 1,
            "measured_high": case.measured.high_s / measured - 1,
            "measured": duration(measured),
            "predicted": duration(predicted.value_s),
            "off": percent(predicted.value_s / measured - 1),
        }
    ]
