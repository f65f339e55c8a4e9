"""Charts of scaling for the page: engines side by side over threads, and over batches.

`scaling_charts` looks at each engine alone, and at who loses the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import altair as alt

from kernelprof.results import CaseResult
from kernelprof.scaling import speedup
from kernelprof.units import duration, percent, share, significant, times

from .charts import INK, Picture, Rows, distinct, finished, named
from .charts import tooltip as shown
from .engine_colours import engine_colour, engine_shape
from .text_table import NONE

HEIGHT = 260
MEASURED, PREDICTED, IDEAL = "measured", "predicted", "ideal"
DASHES = {MEASURED: [1, 0], PREDICTED: [5, 4], IDEAL: [1, 4]}

Key = tuple[object, ...]


def over_threads(cases: Iterable[CaseResult]) -> list[list[CaseResult]]:
    """Cases that differ in their threads only, fewest first; where there are several."""
    found = _alike(cases, lambda c: (c.network, c.engine, c.device, c.batch, c.mode))
    own = [sorted(group, key=lambda case: case.threads) for group in found.values()]
    return [group for group in own if group[0].threads < group[-1].threads]


def over_batches(cases: Iterable[CaseResult]) -> list[list[CaseResult]]:
    """Cases that differ in their batch only, the smallest first; where there are several."""
    found = _alike(cases, lambda c: (c.network, c.engine, c.device, c.threads, c.mode))
    own = [sorted(group, key=lambda case: case.batch) for group in found.values()]
    return [group for group in own if group[0].batch < group[-1].batch]


def _alike(
    cases: Iterable[CaseResult], key: Callable[[CaseResult], Key]
) -> Mapping[Key, list[CaseResult]]:
    found: dict[Key, list[CaseResult]] = defaultdict(list)
    for case in cases:
        found[key(case)].append(case)
    return found


def speedups_chart(cases: Sequence[CaseResult]) -> Picture:
    """How much faster more threads make each engine."""
    rows = [
        row
        for group in over_threads(cases)
        for case in group
        for row in speedup_rows(case, group[0])
    ]
    return Picture(speedups_spec(distinct(case.engine for case in cases)), {"speedups": rows})


def speedups_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `speedup_rows` of the same work."""
    x = alt.X("threads:Q", title="threads", scale=_log(), axis=alt.Axis(format="d", tickCount=6))
    y = alt.Y("speedup:Q", title="speed-up", scale=_log(), axis=alt.Axis(format="~r", tickCount=5))
    told = shown("engine", "threads", "role", "times", "interval", "efficiency")
    return _lines("speedups", x, y, engines, told, "Speed-up over threads")


def speedup_rows(case: CaseResult, base: CaseResult) -> Rows:
    """What a case gains over that with the fewest threads: measured, predicted, and at best."""
    change = speedup(base.measured, case.measured)
    is_base = case is base
    row = {"engine": case.engine, "threads": case.threads}
    efficient = change.value * base.threads / case.threads
    rows = [
        {
            **row,
            "work": f"{case.network} {case.mode} {case.batch}",
            "role": MEASURED,
            "base": is_base,
            "speedup": change.value,
            "low": None if is_base else change.low,
            "high": None if is_base else change.high,
            "times": times(change.value),
            "interval": NONE if is_base else f"{times(change.low)} to {times(change.high)}",
            "efficiency": share(efficient),
            "efficient": efficient,
            "measured": duration(case.measured.value_s),
            "s": case.measured.value_s,
            "foretold": NONE,
            "foretold_times": None,
        },
        {**row, "role": IDEAL, "speedup": case.threads / base.threads},
    ]
    if base.predicted and case.predicted:
        foretold = base.predicted.value_s / case.predicted.value_s
        rows[0] |= {"foretold": times(foretold), "foretold_times": foretold}
        rows.append({**row, "role": PREDICTED, "speedup": foretold, "times": times(foretold)})
    return rows


def throughput_chart(cases: Sequence[CaseResult]) -> Picture:
    """How many samples a second each engine computes at each batch."""
    rows = [row for group in over_batches(cases) for case in group for row in batch_rows(case)]
    return Picture(throughput_spec(distinct(case.engine for case in cases)), {"batches": rows})


def throughput_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `batch_rows` of the same network, mode and placement."""
    x = alt.X("batch:Q", title="batch", scale=_log(), axis=alt.Axis(format="d", tickCount=6))
    y = alt.Y("per_s:Q", title="samples per second", axis=alt.Axis(format="~s"))
    told = shown("engine", "batch", "role", "rate", "time")
    return _lines("batches", x, y, engines, told, "Samples per second over the batch")


def batch_rows(case: CaseResult) -> Rows:
    """The samples per second of a case: measured and predicted."""
    row = {"engine": case.engine, "batch": case.batch}
    known = {MEASURED: case.measured, PREDICTED: case.predicted}
    rows = [
        {
            **row,
            "role": role,
            "per_s": case.batch / time.value_s,
            "low": case.batch / time.high_s if role == MEASURED else None,
            "high": case.batch / time.low_s if role == MEASURED and time.low_s else None,
            "rate": f"{significant(case.batch / time.value_s)} samples/s",
            "time": duration(time.value_s),
        }
        for role, time in known.items()
        if time is not None
    ]
    if case.error is not None:
        rows[0]["error"] = percent(case.error)
    return rows


def _log() -> alt.Scale:
    return alt.Scale(type="log", base=2, nice=False, padding=12)


def _lines(
    rows: str,
    x: alt.X,
    y: alt.Y,
    engines: Sequence[str],
    told: list[alt.Tooltip],
    description: str,
) -> alt.LayerChart:
    """A line for each engine and role, and on the measured ones points with their intervals."""
    colour = engine_colour(engines)
    dash = alt.StrokeDash(
        "role:N",
        scale=alt.Scale(domain=list(DASHES), range=list(DASHES.values())),
        legend=alt.Legend(symbolType="stroke", symbolStrokeColor=INK, orient="bottom"),
    )
    everything = named(rows).encode(x=x, y=y, color=colour)
    measured = everything.transform_filter(f"datum.role == '{MEASURED}'")
    layers = [
        named(rows)
        .transform_filter(f"datum.role == '{IDEAL}'")
        .mark_line(color=INK, opacity=0.6)
        .encode(x=x, y=y, strokeDash=dash),
        everything.transform_filter(f"datum.role != '{IDEAL}'")
        .mark_line(strokeWidth=1.75)
        .encode(strokeDash=dash),
        measured.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(y="low:Q", y2="high:Q"),
        measured.mark_point(filled=True, size=60, opacity=1).encode(
            shape=engine_shape(engines), tooltip=told
        ),
    ]
    return finished(layers, description, HEIGHT)
