"""The roofline: how fast every kernel is, beneath what the machine allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import altair as alt

from kernelprof.ceilings import DRAM, Ceilings, PlacementCeilings
from kernelprof.results import CaseResult, KernelResult, PrimitiveResult, Results
from kernelprof.units import bandwidth, counted, duration, magnitude, rate, significant, size

from .bench import pass_name
from .charts import INK, Picture, Rows, distinct, finished, named
from .charts import tooltip as shown
from .derived import flop_per_s, half_width
from .engine_colours import engine_colour, engine_shape
from .text_table import NONE, or_none

HEIGHT = 420
INTENSITIES = (2**-7, 2**11)  # flop per byte that a roof is drawn over, beyond most kernels'
BESIDE = 2.5  # times farther to the right stands the name of each next level of memory
DTYPES = ("float32", "tf32", "float16", "bfloat16")  # of arithmetic that a roof is drawn for
SI = "replace(format(datum.value, '~s'), /([kMGT]?)$/, ' $1FLOP/s')"

# The first digit of a tick's value: of 1 alone there is a number, and a line that is not faint.
LEADING = "(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
FAINT: Any = {"condition": {"test": f"{LEADING} < 1.5", "value": 0.25}, "value": 0.06}

Measured = CaseResult | PrimitiveResult


def roofline_chart(results: Results, placement: str) -> Picture:
    """Every kernel at one placement."""
    everything: list[Measured] = [*results.cases, *results.primitives]
    own = [one for one in everything if placement_name(one) == placement]
    rows = [row for one in own for row in kernel_rows(one)]
    chart = roofline_spec(distinct(one.engine for one in everything))
    roofs = roof_rows(results.ceilings, [placement])
    return Picture(chart, {"kernels": rows, "roofs": roofs}, f"Roofline, {placement}")


def roofline_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `kernel_rows` and the `roof_rows` of one placement."""
    x = alt.X(
        "intensity:Q",
        title="flop per byte that must move",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(format="~r", tickCount=8, gridOpacity=FAINT),
    )
    y = alt.Y(
        "flop_per_s:Q",
        title=None,
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(labelExpr=f"{LEADING} < 1.5 ? {SI} : ''", gridOpacity=FAINT),
    )
    roofs = named("roofs").encode(x=x, y=y)
    points = named("kernels").transform_filter("isValid(datum.flop_per_s)")
    told = shown(
        "engine", "what", "pass", "layer", "work", gflop="rate", time="time", least="bytes at least"
    )
    layers = [
        roofs.mark_line(color=INK, opacity=0.55, strokeWidth=1.5).encode(
            detail="roof:N", order="order:Q"
        ),
        points.mark_point(filled=True, size=38, opacity=0.65).encode(
            x=x, y=y, color=engine_colour(engines), shape=engine_shape(engines), tooltip=told
        ),
        roofs.transform_filter("isValid(datum.label)")
        .mark_text(fontSize=11, baseline="bottom", dy=-4, align=alt.expr("datum.align"))
        .encode(text="label:N"),
    ]
    return finished(layers, "The rate of every kernel by its arithmetic intensity", HEIGHT)


def kernel_rows(one: Measured) -> Rows:
    """A row for each kernel: its point, where it computes anything, and its cells of a table."""
    if isinstance(one, PrimitiveResult):
        kernel = KernelResult((one.primitive,), one.passes, one.seconds, one.flop, one.least_bytes)
        return [_kernel_row(one, "", kernel)]
    return [
        _kernel_row(one, layer.name, kernel) for layer in one.layers for kernel in layer.kernels
    ]


def _kernel_row(one: Measured, layer: str, kernel: KernelResult) -> dict[str, object]:
    seconds = kernel.seconds.value_s
    per_s = flop_per_s(kernel.flop, seconds)
    return {
        "engine": one.engine,
        "work": "" if isinstance(one, PrimitiveResult) else f"{one.network} {one.mode} {one.batch}",
        "layer": layer,
        "what": " + ".join(kernel.primitives),
        "pass": pass_name(kernel.passes),
        "intensity": kernel.flop / kernel.least_bytes if kernel.least_bytes else None,
        "flop_per_s": per_s if kernel.least_bytes else None,
        "gflop": or_none(per_s, rate),
        "time": duration(seconds),
        "s": seconds,
        "spread": magnitude(half_width(kernel.seconds)) if seconds else NONE,
        "least": size(kernel.least_bytes),
        "bytes": kernel.least_bytes,
    }


def placement_name(one: Measured) -> str:
    """Where it ran, as ceilings are known: the device, and on the CPU the threads."""
    return one.device if one.device != "cpu" else counted(one.threads, "thread")


def roof_rows(ceilings: Ceilings | None, placements: Iterable[str]) -> Rows:
    """The lines that nothing can be above: for each level of memory, and for arithmetic."""
    if ceilings is None:
        return []
    known = {counted(threads, "thread"): at for threads, at in ceilings.placements.items()}
    known |= ceilings.devices
    return [
        {"placement": name, "order": order, **row}
        for name in placements
        if name in known
        for order, row in enumerate(_roofs(known[name]))
    ]


def _roofs(known: PlacementCeilings) -> Iterator[dict[str, object]]:
    peaks = {dtype: rate for dtype in DTYPES if (rate := known.flop_per_s(dtype))}
    if not peaks:
        return
    most = max(peaks.values())
    least, far = INTENSITIES
    ridges = []
    named_at = least
    for level in [*known.capacity_bytes, DRAM]:
        per_s = known.bytes_per_s(level)
        if per_s is not None:
            ridges.append(most / per_s)
            yield _end(level, least, least * per_s)
            yield _end(level, named_at, named_at * per_s, f"{level} {bandwidth(per_s)}")
            yield _end(level, most / per_s, most)
            named_at = min(named_at * BESIDE, most / per_s)
    for dtype, per_s in peaks.items():
        label = f"{dtype} {significant(per_s / 1e9)} GFLOP/s"
        yield _end(dtype, min(ridges, default=least), per_s)
        yield _end(dtype, far, per_s, label, "right")


def _end(
    roof: str, intensity: float, per_s: float, label: str | None = None, align: str = "left"
) -> dict[str, object]:
    return {
        "roof": roof,
        "intensity": intensity,
        "flop_per_s": per_s,
        "label": label,
        "align": align,
    }
