"""Charts of layers: those of a case one by one, and those of engines stacked side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import altair as alt

from kernelprof.diagnosis.ledger import CALLING
from kernelprof.results import CaseResult
from kernelprof.units import TimeUnit, duration, gflop, share

from .charts import (
    INK,
    PALETTE,
    PAPER,
    Picture,
    Rows,
    distinct,
    finished,
    named,
    row_names,
    seconds_axis,
)
from .charts import tooltip as shown
from .derived import flop_per_s, layers_unit, predicted_share
from .engine_colours import engine_colour, letters_on
from .labels import contender, full_name, workload
from .ladder import Rungs, beyond_layers, layer_rungs, signed
from .ledger import with_ledger
from .text_table import or_none

NAMED_SHARE = 0.04  # of the time: a layer with less has no room for its name
NO_LAYER = "no layer"  # what is beyond the layers, in the place of their kind
ROOM = 28  # pixels that a name needs
NAMES = {"calling": CALLING}  # what the prediction adds, where the ledger has it too
PAIR = 44  # pixels of a row with two bars
UPPER, LOWER = -9, 9  # pixels from the middle of such a row to its bars
BAR = 16  # their height


def layers_chart(case: CaseResult) -> Picture:
    """The layers one after the other, adding up to the prediction, beside the measured total."""
    return Picture(layers_spec([case.engine]), {"layers": layer_rows(case)}, full_name(case))


def layers_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `layer_rows` of one case."""
    told = shown("layer", "kind", "alone", "within", "reference", "ceiling", "share")
    predicted = named("layers").transform_filter("datum.alone_s !== null || datum.is_layer")
    base = predicted.encode(y=row_names("layer"), tooltip=told)
    whole = named("layers").transform_filter("datum.order == 0")
    layers = [
        base.mark_bar(height=10, yOffset=-3).encode(
            x=alt.X("start:Q", title="layer after layer", axis=seconds_axis()),
            x2="end:Q",
            color=engine_colour(engines, legend=False),
        ),
        base.mark_bar(height=3, yOffset=4.5, color=PALETTE["reference"]).encode(
            x="start:Q", x2="reference_end:Q"
        ),
        whole.mark_rule(color=INK, strokeDash=[4, 3]).encode(x="measured:Q"),
        whole.mark_text(align="right", baseline="bottom", dx=-4, dy=-2, color=INK).encode(
            x="measured:Q", y=alt.value(0), text="whole:N"
        ),
    ]
    return finished(layers, "The time of each layer by itself, one after the other")


def stacks_chart(cases: Sequence[CaseResult]) -> Picture:
    """The layers of engines as stacks, predicted beside measured."""
    engines = distinct(case.engine for case in cases)
    rows = [row for case in cases for row in layer_rows(case)]
    return Picture(
        stacks_spec(engines), {"layers": rows}, f"{cases[0].network}, {workload(cases[0])}"
    )


def stacks_spec(engines: Sequence[str]) -> alt.LayerChart:
    """The chart of the `layer_rows` of cases of the same work."""
    rows = named("layers").encode(y=row_names("case"))
    predicted = rows.transform_filter("datum.end > datum.start").encode(
        x=alt.X("start:Q", title="predicted above, measured below", axis=seconds_axis()),
        x2="end:Q",
        tooltip=shown("case", "layer", "kind", alone="by itself", share="share"),
    )
    within = rows.transform_filter("isValid(datum.within_end)").encode(
        x="within_start:Q",
        x2="within_end:Q",
        tooltip=shown("case", "layer", "kind", within="within the network"),
    )
    colour = engine_colour(engines, legend=False)
    bar: dict[str, Any] = {"height": BAR, "stroke": PAPER, "strokeWidth": 1}
    whole = rows.transform_filter("datum.order == 0")
    layers = [
        predicted.mark_bar(**bar, yOffset=UPPER).encode(color=colour),
        within.mark_bar(**bar, yOffset=LOWER).encode(color=colour),
        _names(rows, engines, UPPER, ("start", "end", "label")),
        _names(rows, engines, LOWER, ("within_start", "within_end", "within_label")),
        whole.transform_filter("!datum.profiled")
        .mark_bar(height=BAR, yOffset=LOWER, opacity=0.3)
        .encode(x="nothing:Q", x2="measured:Q", color=colour, tooltip=shown("case", "whole")),
        whole.mark_tick(color=INK, thickness=2, height=BAR + 4, yOffset=LOWER).encode(
            x="measured:Q", tooltip=shown("case", "whole")
        ),
    ]
    return finished(layers, "The layers of each engine, predicted and measured", alt.Step(PAIR))


def _names(
    rows: alt.Chart, engines: Sequence[str], offset: int, fields: tuple[str, str, str]
) -> alt.Chart:
    """The names of the layers that have room for one, in the middle of their bars."""
    start, end, label = fields
    placed = rows.transform_filter(f"isValid(datum.{label})").transform_calculate(
        middle=f"(datum.{start} + datum.{end}) / 2", ink=letters_on(engines)
    )
    room = f"scale('x', datum.{end}) - scale('x', datum.{start})"
    style: dict[str, Any] = {
        "limit": alt.expr(f"{room} - 4"),
        "opacity": alt.expr(f"{room} < {ROOM} ? 0 : 1"),
    }
    written: alt.Chart = placed.mark_text(fontSize=10, yOffset=offset, **style).encode(
        x="middle:Q", text=f"{label}:N", color=alt.Color("ink:N", scale=None)
    )
    return written


def layer_rows(case: CaseResult) -> Rows:
    """A row for each layer, then for what is none: where its bars start and end, in words too.

    Bars of the prediction follow each other, and so do those of the time within the network, where
    it is known.  What is no layer comes last.
    """
    steps, profiled = _steps(case), bool(with_ledger([case]))
    starts = accumulate((one.alone_s for one in steps), initial=0.0)
    within = accumulate((one.within_s for one in steps), initial=0.0)
    return [
        {
            "case": contender(case),
            "engine": case.engine,
            "order": order,
            "profiled": profiled,
            "is_layer": one.kind != NO_LAYER,
            "nothing": 0.0,
            "measured": case.measured.value_s,
            "whole": f"measured {duration(case.measured.value_s)}",
            "start": start,
            "end": start + one.alone_s,
            "reference_end": start + (one.rungs.reference_s or 0.0),
            "within_start": begin if one.within_s else None,
            "within_end": begin + one.within_s if one.within_s else None,
            **one.words(case),
        }
        for order, (one, start, begin) in enumerate(zip(steps, starts, within, strict=False))
    ]


@dataclass(frozen=True)
class Step:
    """What adds to the time of a case: a layer, or what is none."""

    rungs: Rungs
    kind: str
    least_flop: int = 0
    nsys_s: float | None = None

    @property
    def alone_s(self) -> float:
        """Its bar of the prediction."""
        return self.rungs.alone_s or 0.0

    @property
    def within_s(self) -> float:
        """Its bar of the measured time; what is less than nothing has none."""
        return max(self.rungs.in_network_s or 0.0, 0.0)

    def words(self, case: CaseResult) -> dict[str, str | float | None]:
        """The cells of its row in a table, and what they are sorted by."""
        unit, rungs = layers_unit(case), self.rungs
        part = predicted_share(case, rungs.alone_s)
        rate = flop_per_s(self.least_flop, rungs.alone_s)
        known = {
            "ceiling": rungs.ceiling_s,
            "reference": rungs.reference_s,
            "alone": rungs.alone_s,
            "within": rungs.in_network_s,
            "nsys": self.nsys_s,
        }
        steps = {"kernel": rungs.kernel_s, "context": rungs.context_s}
        return {
            "layer": rungs.name,
            "kind": self.kind,
            **{
                name: or_none(seconds, lambda s: duration(s, unit))
                for name, seconds in known.items()
            },
            **{name: or_none(seconds, lambda s: _step(s, unit)) for name, seconds in steps.items()},
            **{f"{name}_s": seconds for name, seconds in (known | steps).items()},
            "share": or_none(part, share),
            "gflop": or_none(rate, gflop),
            "flop_per_s": rate,
            "label": rungs.name if self.alone_s > NAMED_SHARE * case.measured.value_s else None,
            "within_label": rungs.name
            if self.within_s > NAMED_SHARE * case.measured.value_s
            else None,
        }


def _step(seconds: float, unit: TimeUnit) -> str:
    return f"{signed(seconds, unit)} {unit.symbol}"


def _steps(case: CaseResult) -> list[Step]:
    """The layers, what the prediction adds to them, and what the engine's profiler does."""
    layers = [
        Step(rungs, layer.kind, layer.least_flop, layer.nsys_s)
        for rungs, layer in zip(layer_rungs(case), case.layers, strict=True)
    ]
    predicted = {NAMES.get(name, name): seconds for name, seconds in case.beyond_s.items()}
    measured = beyond_layers(case)
    beyond = [
        Step(Rungs(name, None, None, predicted.get(name), measured.get(name)), NO_LAYER)
        for name in dict.fromkeys([*(predicted if case.predicted else ()), *measured])
    ]
    return [*layers, *(one for one in beyond if one.alone_s or one.within_s)]
