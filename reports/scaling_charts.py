"""Pictures of scaling: speed-up and who loses it over threads, throughput over the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from kernelprof.scaling import OverBatches, OverThreads, Scaling, ThreadPoint
from kernelprof.units import column_unit, duration, share, times

from .charts import DIAMOND, INK, PALETTE, THEME, save_spec
from .scaling import title

PANEL_WIDTH, PANEL_HEIGHT = 330, 240
BOUND_BY = {
    "bound by arithmetic": PALETTE["measured"],
    "bound by memory": PALETTE["predicted"],
    "no layer": PALETTE["reference"],
}
IDEAL = "ideal"

Rows = list[dict[str, Any]]
Panel = alt.LayerChart | alt.FacetChart


def scaling_chart(found: Scaling) -> alt.VConcatChart:
    """A row per network, engine and mode, with two panels over threads or one over batches."""
    rows: list[Any] = [
        alt.hconcat(_speedups(one), _losses(one), spacing=40)
        .resolve_scale(color="independent")
        .properties(title=title(one))
        for one in found.over_threads
    ]
    rows += [_throughput(one).properties(title=title(one)) for one in found.over_batches]
    chart = alt.vconcat(*rows, spacing=30).resolve_scale(color="independent")
    described: alt.VConcatChart = chart.properties(
        description="Measured and predicted scaling, and what loses the time"
    )
    themed: alt.VConcatChart = described.configure(**THEME)
    return themed


def save_scaling_chart(found: Scaling, path: Path) -> None:
    """Write the chart on white to a .svg, .png or self-contained .html file.

    Raises:
        ValueError: another suffix.
    """
    save_spec(scaling_chart(found).properties(background="white").to_dict(), path)


def _speedups(one: OverThreads) -> Panel:
    """Measured points with their intervals, the predicted line, and the ideal one."""
    base = one.points[0].threads
    counts = [point.threads for point in one.points]
    measured: Rows = [
        {
            "threads": point.threads,
            "role": "measured",
            "speedup": point.speedup.value,
            "low": point.speedup.low,
            "high": point.speedup.high,
            "told": times(point.speedup.value),
            "efficiency": share(point.efficiency),
        }
        for point in one.points
    ]
    predicted: Rows = [
        {"threads": point.threads, "role": "predicted", "speedup": point.predicted_speedup}
        for point in one.points
        if point.predicted_speedup is not None
    ]
    ideal: Rows = [{"threads": n, "role": IDEAL, "speedup": n / base} for n in counts]
    scale = alt.Scale(type="log", base=2, domain=_padded(counts[0], counts[-1]), nice=False)
    x = alt.X("threads:Q", title="threads", scale=scale, axis=alt.Axis(values=counts, format="d"))
    foretold = [row["speedup"] for row in predicted]
    least = min([1.0, *foretold, *(row["low"] for row in measured)])
    most = max([counts[-1] / base, *foretold, *(row["high"] for row in measured)])
    y = alt.Y(
        "speedup:Q",
        title="speed-up",
        scale=alt.Scale(type="log", base=2, domain=_padded(least, most), nice=False),
        axis=alt.Axis(values=_powers_of_two(most), format="~g"),
    )
    roles = ["measured", "predicted", IDEAL]
    colour = alt.Color(
        "role:N",
        scale=alt.Scale(
            domain=roles, range=[PALETTE["measured"], PALETTE["predicted"], PALETTE["reference"]]
        ),
    )
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("threads", "told", "efficiency")]
    points = alt.Chart(alt.InlineData(values=measured)).encode(x=x, color=colour)
    layers = [
        alt.Chart(alt.InlineData(values=ideal))
        .mark_line(strokeDash=[5, 4])
        .encode(x=x, y=y, color=colour),
        alt.Chart(alt.InlineData(values=predicted))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=colour),
        points.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        points.mark_point(**DIAMOND).encode(y=y, tooltip=tooltip),
    ]
    return alt.layer(*layers, width=PANEL_WIDTH, height=PANEL_HEIGHT)


def _losses(one: OverThreads) -> Panel:
    """What each layer loses at the highest thread count, in CPU time."""
    last = one.points[-1]
    unit = column_unit([max(abs(lost) for _, lost, _ in _parts(last))])
    rows: Rows = [
        {
            "layer": name,
            "lost": lost / unit.seconds,
            "bound": bound,
            "told": duration(lost) if lost >= 0 else f"-{duration(-lost)}",
            "label": share(last.share(lost)) if lost > 0 else "",
        }
        for name, lost, bound in _parts(last)
    ]
    names = [row["layer"] for row in rows]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("layer:N", sort=names, title=None, axis=alt.Axis(grid=False)),
        x=alt.X("lost:Q", title=f"lost at {last.threads} threads, CPU {unit.symbol}"),
    )
    colour = alt.Color(
        "bound:N",
        scale=alt.Scale(domain=list(BOUND_BY), range=list(BOUND_BY.values())),
    )
    bars = base.mark_bar().encode(
        color=colour, tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("told:N", title="lost")]
    )
    labels = base.mark_text(align="left", dx=4, color=INK, fontSize=11).encode(text="label:N")
    height = max(PANEL_HEIGHT, 18 * len(rows))
    return alt.layer(bars, labels, width=PANEL_WIDTH, height=height)


def _parts(point: ThreadPoint) -> list[tuple[str, float, str]]:
    """All that adds up to what is lost: layers, calling, and what none of them explains."""
    layers = [
        (layer.name, layer.lost_s, "bound by memory" if layer.traffic else "bound by arithmetic")
        for layer in point.layers
    ]
    return [
        *layers,
        ("calling", point.calling_lost_s, "no layer"),
        ("beyond the kernels", point.unexplained_lost_s, "no layer"),
    ]


def _throughput(one: OverBatches) -> Panel:
    """Samples per second over the batch, and the batch from which on little is gained."""
    measured: Rows = [
        {
            "batch": point.batch,
            "role": "measured",
            "per_s": point.per_s,
            "low": point.batch / point.measured.high_s,
            "high": point.batch / point.measured.low_s,
        }
        for point in one.points
    ]
    predicted: Rows = [
        {
            "batch": point.batch,
            "role": "predicted",
            "per_s": point.batch / point.predicted.value_s,
        }
        for point in one.points
        if point.predicted
    ]
    batches = [point.batch for point in one.points]
    scale = alt.Scale(type="log", base=2, domain=_padded(batches[0], batches[-1]), nice=False)
    x = alt.X("batch:Q", title="batch", scale=scale, axis=alt.Axis(values=batches, format="d"))
    y = alt.Y("per_s:Q", title="samples per second", scale=alt.Scale(zero=True))
    roles = ["measured", "predicted"]
    colour = alt.Color(
        "role:N", scale=alt.Scale(domain=roles, range=[PALETTE[role] for role in roles])
    )
    points = alt.Chart(alt.InlineData(values=measured)).encode(x=x, color=colour)
    knee = alt.Chart(alt.InlineData(values=[{"batch": one.knee, "text": f"knee: {one.knee}"}]))
    layers = [
        alt.Chart(alt.InlineData(values=predicted))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=colour),
        points.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        points.mark_point(**DIAMOND).encode(y=y),
        knee.mark_rule(color=INK, strokeDash=[4, 3]).encode(x=x),
        knee.mark_text(align="left", baseline="bottom", dx=4, dy=-4, color=INK).encode(
            x=x, y=alt.value(PANEL_HEIGHT), text="text:N"
        ),
    ]
    return alt.layer(*layers, width=PANEL_WIDTH, height=PANEL_HEIGHT)


def _padded(least: float, most: float) -> list[float]:
    """The ends of a logarithmic axis, with room for a point at either."""
    room = (most / least) ** 0.05
    return [least / room, most * room]


def _powers_of_two(most: float) -> list[float]:
    found = [1.0]
    while 2 * found[-1] <= most * 1.001:
        found.append(2 * found[-1])
    return found
