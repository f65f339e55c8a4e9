"""The colour and the shape of each engine, the same in all charts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain

import altair as alt

from .verdict import REFERENCE_ENGINES

# Chosen together: at least 3:1 against white and near-black, and pairwise 0.09 apart in OKLab to
# all common forms of colour vision (simulated after Machado, Oliveira, Fernandes 2009).
REFERENCE = "#659ea1"
COLOURS = {
    "torch": "#197cb3",
    "tensorflow": "#c46016",
    "mxnet": "#a780e6",
    "caffe": "#a34a3d",
    "cntk": "#8b5379",
    "jax": "#f36069",
    **dict.fromkeys(REFERENCE_ENGINES, REFERENCE),
}
SPARE = ("#8362ed", *COLOURS.values())  # of engines that are not known here
MIDDLE = 0.179  # the luminance on which black and white are read equally well
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def colours(engines: Iterable[str]) -> dict[str, str]:
    """A colour for each engine; of others than those above one that none of these has."""
    names = list(dict.fromkeys(engines))
    taken = {COLOURS[name] for name in names if name in COLOURS}
    left = chain((one for one in SPARE if one not in taken), SPARE)
    return {name: COLOURS.get(name) or next(left, REFERENCE) for name in names}


def engine_colour(engines: Iterable[str], legend: bool = True) -> alt.Color:
    """The colours of engines in a chart whose rows name them."""
    known = colours(engines)
    scale = alt.Scale(domain=list(known), range=list(known.values()))
    found = alt.Color("engine:N", scale=scale)
    return found if legend else found.legend(None)


def letters_on(engines: Iterable[str]) -> str:
    """What is read best on the bar of a row's engine, as an expression of Vega's."""
    light = [name for name, colour in colours(engines).items() if luminance(colour) > MIDDLE]
    return f"indexof({json.dumps(light)}, datum.engine) < 0 ? 'white' : 'black'"


def luminance(colour: str) -> float:
    """The relative luminance of a colour, 0 to 1, after WCAG 2."""
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def engine_shape(engines: Iterable[str]) -> alt.Shape:
    """The shapes of engines in such a chart, which tell them apart where colours do not."""
    names = list(dict.fromkeys(engines))
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(names))]
    return alt.Shape("engine:N", scale=alt.Scale(domain=names, range=shapes))
