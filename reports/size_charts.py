"""Heat-maps: how fast engines compute each size of a primitive."""

from __future__ import annotations

import altair as alt

from kernelprof.results import KernelResult, PrimitiveResult, Results

from .bench import pass_name
from .charts import PLACE_WIDTH, Picture, Rows, finished, named
from .charts import tooltip as shown
from .derived import flop_per_s
from .roofline_chart import Measured, placement_name

KINDS = ("gemm", "conv2d", "lstm_cell")  # the compute-bound primitives
ROW = 24
NARROW = f"{PLACE_WIDTH} < 600"  # so that names of engines do not fit side by side
BRIGHT = 0.55  # of the fastest: on cells as bright as that black letters are read best


def sizes_chart(results: Results, kind: str, pass_: str, placement: str) -> Picture:
    """All sizes of a kind of primitive in every engine, in one pass and at one placement."""
    everything: list[Measured] = [*results.cases, *results.primitives]
    rows = [
        row
        for one in everything
        for row in size_rows(one)
        if (row["kind"], row["pass"], row["placement"]) == (kind, pass_, placement)
    ]
    return Picture(sizes_spec(), {"sizes": rows}, f"{kind}, {pass_}, {placement}")


def sizes_spec() -> alt.LayerChart:
    """The chart of the `size_rows` of one kind, pass and placement: medians of what is alike."""
    cells = (
        named("sizes")
        .transform_aggregate(
            per_s="median(flop_per_s)",
            flop="max(flop)",
            kernels="count()",
            groupby=["size", "engine"],
        )
        .transform_joinaggregate(most="max(per_s)")
        .transform_calculate(
            told="format(datum.per_s / 1e9, '.3r')",
            rate="format(datum.per_s / 1e9, '.3r') + ' GFLOP/s'",
            ink=f"datum.per_s > {BRIGHT} * datum.most ? 'black' : 'white'",
        )
        .encode(
            y=alt.Y(
                "size:N",
                sort=alt.EncodingSortField("flop", op="max", order="descending"),
                title=None,
                axis=alt.Axis(grid=False),
            ),
            x=alt.X(
                "engine:N",
                sort=None,
                title=None,
                axis=alt.Axis(
                    orient="top",
                    grid=False,
                    labelAlign=alt.expr(f"{NARROW} ? 'left' : 'center'"),
                    labelAngle=alt.expr(f"{NARROW} ? -40 : 0"),
                ),
            ),
        )
    )
    colour = alt.Color(
        "per_s:Q",
        title="GFLOP/s",
        scale=alt.Scale(scheme="viridis", zero=True),
        legend=alt.Legend(labelExpr="format(datum.value / 1e9, '.3~r')", gradientLength=180),
    )
    layers = [
        cells.mark_rect().encode(
            color=colour, tooltip=shown("size", "engine", "rate", kernels="kernels")
        ),
        cells.mark_text(fontSize=11, color=alt.expr("datum.ink")).encode(text="told:N"),
    ]
    return finished(layers, "The rate of each size in each engine, in GFLOP/s", alt.Step(ROW))


def size_rows(one: Measured) -> Rows:
    """A row for each kernel that computes one of the kinds, in whatever network it is."""
    return [
        {
            "kind": kind,
            "size": size.removeprefix(f"{kind} "),
            "engine": one.engine,
            "placement": placement_name(one),
            "pass": pass_name(kernel.passes),
            "flop": kernel.flop,
            "flop_per_s": rate,
        }
        for kernel in _kernels(one)
        if (kind := kernel.primitives[0].partition(" ")[0]) in KINDS
        and (size := kernel.primitives[0])
        and (rate := flop_per_s(kernel.flop, kernel.seconds.value_s))
    ]


def _kernels(one: Measured) -> list[KernelResult]:
    if isinstance(one, PrimitiveResult):
        return [KernelResult((one.primitive,), one.passes, one.seconds, one.flop, one.least_bytes)]
    return [kernel for layer in one.layers for kernel in layer.kernels]
