"""What all charts share: their look, their parts, and how they are saved.

A chart names the rows that it draws rather than holding them, so that one serves many cases.  Each
says in its description what it shows; colours never say it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from .engine_colours import REFERENCE

INK = "currentColor"  # a page's text colour, light or dark
PAPER = "var(--paper)"  # and what is behind it: lines of it stand between neighbours
# What rows without an engine are drawn in; 3:1 against white and near-black.
PALETTE = {"measured": "#197cb3", "predicted": "#c46016", "reference": REFERENCE}
DIAMOND: dict[str, Any] = {"shape": "diamond", "filled": True, "size": 80, "opacity": 1}
ROW_HEIGHT = 22
SAVED_WIDTH = 720
# A place on a page has a width, a file that of all files; names may take a part of it.
PLACE_WIDTH = f"(isFinite(containerSize()[0]) ? containerSize()[0] : {SAVED_WIDTH})"
LABEL_LIMIT = f"max(150, 0.34 * {PLACE_WIDTH})"
LEGEND_COLUMNS = f"max(2, floor({PLACE_WIDTH} / 110))"
SAVED_SCALE = 2  # pixels of a .png for each unit of length

THEME: dict[str, Any] = {
    "aria": False,  # its place on a page has the words: a reader need not go from mark to mark
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": {"expr": LABEL_LIMIT},
        "labelFlush": False,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 10,
        "gridColor": INK,
        "gridOpacity": 0.12,
    },
    "axisX": {"tickCount": 5},
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "orient": "top",
        "offset": 4,
        "title": None,
        "columns": {"expr": LEGEND_COLUMNS},
        "symbolOpacity": 1,
    },
    "header": {"labelColor": INK, "titleColor": INK},
    "text": {"color": INK},
    "title": {"color": INK, "anchor": "start", "fontSize": 14},
}

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """A chart with the rows that it draws, by the names that it has for them."""

    chart: alt.LayerChart
    rows: Mapping[str, Rows]
    title: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As Vega-Lite describes it, complete."""
        return {**self.chart.to_dict(), "datasets": dict(self.rows), "config": THEME}


def save_chart(picture: Picture, *paths: Path) -> None:
    """Write a chart, titled, on white, to .svg, .png or self-contained .html files.

    Raises:
        ValueError: another suffix.
    """
    spec = picture.to_dict()
    title = picture.title or spec["description"]
    save_spec({**spec, "background": "white", "title": title, "width": SAVED_WIDTH}, *paths)


def save_spec(spec: dict[str, Any], *paths: Path) -> None:
    """Write a chart as Vega-Lite describes it to .svg, .png or self-contained .html files.

    Raises:
        ValueError: another suffix.
    """
    spec = json.loads(json.dumps(spec).replace(json.dumps(PAPER), '"white"'))
    svg = vl_convert.vegalite_to_svg(spec)
    for path in paths:
        match path.suffix:
            case ".svg":
                path.write_text(svg, encoding="utf-8")
            case ".png":
                path.write_bytes(vl_convert.svg_to_png(svg, scale=SAVED_SCALE))
            case ".html":
                path.write_text(vl_convert.vegalite_to_html(spec, bundle=True), encoding="utf-8")
            case other:
                known = ".svg, .png or .html"
                raise ValueError(f"a chart is saved as {known}, not {other or path.name!r}")


def named(rows: str) -> alt.Chart:
    """A chart of the rows of that name."""
    return alt.Chart(alt.NamedData(name=rows))


def row_names(field: str, **options: Any) -> alt.Y:
    """A row for each name, in the order of the data."""
    return alt.Y(f"{field}:N", sort=None, title=None, axis=alt.Axis(grid=False), **options)


def seconds_axis(**options: Any) -> alt.Axis:
    """An axis of seconds, each tick in the unit that suits it."""
    written = "replace(format(datum.value, '~s'), /([a-zµ]?)$/, ' $1s')"
    return alt.Axis(labelExpr=f"datum.value ? {written} : '0'", **options)


def tooltip(*fields: str, **renamed: str) -> list[alt.Tooltip]:
    """Fields to show where the pointer is, under their own names or under those given."""
    own = [alt.Tooltip(f"{field}:N") for field in fields]
    return own + [alt.Tooltip(f"{field}:N", title=title) for field, title in renamed.items()]


def roles(shapes: Mapping[str, str]) -> alt.Shape:
    """The marks of what is beside the bars, which the legend names."""
    return alt.Shape(
        "role:N",
        scale=alt.Scale(domain=list(shapes), range=list(shapes.values())),
        legend=alt.Legend(symbolFillColor=INK, symbolStrokeColor=INK),
    )


def finished(
    layers: Sequence[alt.Chart], description: str, height: int | alt.Step | None = None
) -> alt.LayerChart:
    """One chart of some layers, as wide as its place; by default with rows of the same height."""
    chart = alt.layer(
        *layers,
        description=description,
        width="container",
        height=alt.Step(ROW_HEIGHT) if height is None else height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    assert isinstance(chart, alt.LayerChart)
    return chart


def distinct(values: Iterable[str]) -> list[str]:
    """Each once, in the order that they came in."""
    return list(dict.fromkeys(values))
