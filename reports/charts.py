"""Charts of a run. Each says in its description what it shows; colours never say it alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from kernelprof.results import CaseResult
from kernelprof.units import TimeUnit, column_unit, duration, percent, share

from .derived import layers_unit, predicted_share
from .labels import contender, full_name, short_name, workload

# Told apart in every common form of colour blindness and in grey; 3:1 against white and near-black.
PALETTE = {
    "measured": "#2878b5",
    "engine": "#2878b5",
    "predicted": "#d9601a",
    "reference": "#8a8f98",
}
DIAMOND: dict[str, Any] = {"shape": "diamond", "filled": True, "size": 80, "opacity": 1}
INK = "currentColor"  # a page's text colour, light or dark
ROW_HEIGHT = 22
SAVED_WIDTH = 720

THEME: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 300,
        "labelFlush": False,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 10,
        "gridColor": INK,
        "gridOpacity": 0.12,
    },
    "axisX": {"tickCount": 6},
    "legend": {
        "labelColor": INK,
        "labelFontSize": 12,
        "orient": "top",
        "offset": 4,
        "title": None,
        "symbolType": "square",
        "symbolOpacity": 1,
    },
    "text": {"color": INK},
    "title": {"color": INK, "anchor": "start", "fontSize": 14},
}

Rows = list[dict[str, Any]]


def accuracy_chart(cases: Sequence[CaseResult]) -> alt.LayerChart:
    """How far each prediction is from the measured time, with both intervals."""
    rows = [_error_row(case) for case in cases if case.predicted]
    base = alt.Chart(inline(rows)).encode(
        y=named_rows("case", rows),
        color=_colours("measured", "predicted"),
        tooltip=tooltip("case", "measured", "predicted", "off by"),
    )
    axis = alt.Axis(labelExpr="datum.value ? format(datum.value, '+.1~%') : '0%'")
    measured = _as("measured", base)
    predicted = _as("predicted", base)
    layers = [
        measured.mark_bar(height=10, opacity=0.5).encode(
            x=alt.X("measured_low:Q", title="predicted / measured - 1", axis=axis),
            x2="measured_high:Q",
        ),
        predicted.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        predicted.mark_point(**DIAMOND).encode(x="error:Q"),
        _rule(0.0),
    ]
    return finished(layers, "Predictions against measured times")


def times_chart(cases: Sequence[CaseResult]) -> alt.LayerChart:
    """Measured times of a network's cases as bars, with the predictions and the reference."""
    unit = column_unit(case.measured.value_s for case in cases)
    rows = [_time_row(case, unit) for case in cases]
    base = alt.Chart(inline(rows)).encode(
        y=named_rows("case", rows),
        color=_colours("measured", "predicted", "reference"),
        tooltip=tooltip("case", "measured", "predicted", "reference"),
    )
    axis_title = f"time of one call, {unit.symbol}"
    predicted = _as("predicted", base)
    layers = [
        _as("measured", base)
        .mark_bar(height=12)
        .encode(x=alt.X("measured_value:Q", title=axis_title)),
        base.mark_rule(strokeWidth=2).encode(
            x="measured_low:Q", x2="measured_high:Q", color=alt.value(INK)
        ),
        _as("reference", base).mark_tick(thickness=3, height=18).encode(x="reference_value:Q"),
        predicted.mark_rule(strokeWidth=2).encode(x="predicted_low:Q", x2="predicted_high:Q"),
        predicted.mark_point(**DIAMOND).encode(x="predicted_value:Q"),
    ]
    return finished(layers, f"Measured and predicted times of {cases[0].network}")


def layers_chart(case: CaseResult) -> alt.LayerChart:
    """The layers one after the other, adding up to the prediction, beside the measured total."""
    unit = layers_unit(case)
    rows = _layer_rows(case, unit)
    base = alt.Chart(inline(rows)).encode(
        y=named_rows("layer", rows),
        color=_colours("engine", "reference"),
        tooltip=tooltip("layer", "kind", "engine", "reference", "share"),
    )
    axis_title = f"layer after layer, {unit.symbol}"
    measured = case.measured.value_s / unit.seconds
    layers = [
        _as("engine", base)
        .mark_bar(height=10, yOffset=-2)
        .encode(x=alt.X("start:Q", title=axis_title), x2="end:Q"),
        _as("reference", base)
        .mark_bar(height=4, yOffset=6)
        .encode(x="start:Q", x2="reference_end:Q"),
        _rule(measured),
        _rule_label(measured, f"measured {duration(case.measured.value_s)}"),
    ]
    return finished(layers, f"{full_name(case)}: layer by layer")


def save_chart(chart: alt.LayerChart, path: Path) -> None:
    """Write a chart, titled, on white, to a .svg, .png or self-contained .html file.

    Raises:
        ValueError: another suffix.
    """
    saved = chart.properties(background="white", title=chart.description, width=SAVED_WIDTH)
    save_spec(saved.to_dict(), path)


def save_spec(spec: dict[str, Any], path: Path) -> None:
    """Write a chart as Vega-Lite describes it to a .svg, .png or self-contained .html file.

    Raises:
        ValueError: another suffix.
    """
    match path.suffix:
        case ".svg":
            path.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
        case ".png":
            path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        case ".html":
            path.write_text(vl_convert.vegalite_to_html(spec, bundle=True), encoding="utf-8")
        case other:
            raise ValueError(f"a chart is saved as .svg, .png or .html, not {other or path.name!r}")


def _error_row(case: CaseResult) -> dict[str, Any]:
    assert case.predicted
    measured = case.measured.value_s
    return {
        "case": short_name(case),
        "error": case.predicted.value_s / measured - 1,
        "low": case.predicted.low_s / measured - 1,
        "high": case.predicted.high_s / measured - 1,
        "measured_low": case.measured.low_s / measured - 1,
        "measured_high": case.measured.high_s / measured - 1,
        "measured": duration(measured),
        "predicted": duration(case.predicted.value_s),
        "off by": percent(case.predicted.value_s / measured - 1),
    }


def _time_row(case: CaseResult, unit: TimeUnit) -> dict[str, Any]:
    row: dict[str, Any] = {"case": f"{workload(case)}: {contender(case)}"}
    for name, estimate in (("measured", case.measured), ("predicted", case.predicted)):
        if estimate:
            row[name] = duration(estimate.value_s)
            row[f"{name}_value"] = estimate.value_s / unit.seconds
            row[f"{name}_low"] = estimate.low_s / unit.seconds
            row[f"{name}_high"] = estimate.high_s / unit.seconds
    if case.reference_s is not None:
        row["reference"] = duration(case.reference_s)
        row["reference_value"] = case.reference_s / unit.seconds
    return row


def _layer_rows(case: CaseResult, unit: TimeUnit) -> Rows:
    """Each layer starts where the one before ended; what is no layer, calling say, comes last."""
    steps = [
        (layer.name, layer.kind, layer.engine_s, layer.reference_s) for layer in case.layers
    ] + [(name, "dispatch", seconds, None) for name, seconds in case.beyond_s.items()]
    starts = accumulate((engine_s or 0.0 for _, _, engine_s, _ in steps), initial=0.0)
    return [
        {
            "layer": name if engine_s is not None else f"{name} (no primitive)",
            "kind": kind,
            "start": start / unit.seconds,
            "end": (start + (engine_s or 0.0)) / unit.seconds,
            "reference_end": (start + (reference_s or 0.0)) / unit.seconds,
            "engine": "no primitive" if engine_s is None else duration(engine_s),
            "reference": "none" if reference_s is None else duration(reference_s),
            "share": share(predicted_share(case, engine_s) or 0.0),
        }
        for start, (name, kind, engine_s, reference_s) in zip(starts, steps, strict=False)
    ]


def inline(rows: Rows) -> alt.InlineData:
    """Data that is part of the chart."""
    return alt.InlineData(values=rows)


def named_rows(field: str, rows: Rows) -> alt.Y:
    """A row for each name, in the order of the data."""
    names = list(dict.fromkeys(row[field] for row in rows))
    return alt.Y(f"{field}:N", sort=names, title=None, axis=alt.Axis(grid=False))


def _colours(*roles: str) -> alt.Color:
    """The colours of the roles in a chart, which the legend names."""
    scale = alt.Scale(domain=roles, range=[PALETTE[role] for role in roles])
    return alt.Color("role:N", scale=scale)


def _as(role: str, chart: alt.Chart) -> alt.Chart:
    return chart.transform_calculate(role=f"'{role}'")


def _rule(x: float) -> alt.Chart:
    line = alt.Chart(inline([{"x": x}])).mark_rule(color=INK, strokeDash=[4, 3])
    placed: alt.Chart = line.encode(x="x:Q")
    return placed


def _rule_label(x: float, text: str) -> alt.Chart:
    label = alt.Chart(inline([{"x": x, "text": text}])).mark_text(
        align="right", baseline="bottom", dx=-4, dy=-2
    )
    placed: alt.Chart = label.encode(x="x:Q", y=alt.value(0), text="text:N")
    return placed


def tooltip(*fields: str) -> list[alt.Tooltip]:
    """Fields to show where the pointer is, under their own names."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


def finished(layers: list[alt.Chart], description: str) -> alt.LayerChart:
    """One chart of some layers, as wide as its place, with rows of the same height."""
    chart = alt.layer(*layers).properties(
        description=description, width="container", height=alt.Step(ROW_HEIGHT)
    )
    themed: alt.LayerChart = chart.configure(**THEME)
    return themed
