"""A call of a Caffe net layer by layer, each timed by itself, as ``caffe time`` does it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Callable, NamedTuple

from .spans import COPY, KERNEL, UPDATE, ProfiledCall, Span

SOURCES = ("Input", "DummyData")  # layers that do nothing once their blobs are filled


class Step(NamedTuple):
    """A part of a call, and what its time is spent on."""

    name: str
    layer: str
    what: str
    run: Callable[[], object]


def inference_steps(net: Any, owners: dict[str, str]) -> list[Step]:
    """The way forward; ``owners`` has the network's layer for each of the net's own."""
    return [
        Step(f"{layer.type} forward", layer.owner, layer.forward, partial(net._forward, i, i))
        for i, layer in _working_layers(net, owners)
    ]


def training_steps(net: Any, owners: dict[str, str], solver: Any) -> list[Step]:
    """What a solver's step does: it clears the gradients, runs both ways, updates the weights."""
    backward = [
        Step(f"{layer.type} backward", layer.owner, layer.backward, partial(net._backward, i, i))
        for i, layer in _working_layers(net, owners)
    ]
    return [
        Step("clear gradients", "", UPDATE, net.clear_param_diffs),
        *inference_steps(net, owners),
        *reversed(backward),
        Step("update", "", UPDATE, solver.apply_update),
    ]


def profiled_call(steps: list[Step]) -> ProfiledCall:
    """Run the steps and time each."""
    times: list[tuple[int, int]] = []
    began = time.perf_counter_ns()
    for step in steps:
        start = time.perf_counter_ns()
        step.run()
        times.append((start, time.perf_counter_ns()))
    duration = time.perf_counter_ns() - began
    spans = [
        Span(step.name, step.layer, step.what, start - began, end - began)
        for step, (start, end) in zip(steps, times)
    ]
    return ProfiledCall(duration, spans)


class _Layer(NamedTuple):
    """The type of a net's layer, the network's layer it belongs to, and what its passes are."""

    type: str
    owner: str
    forward: str
    backward: str


def _working_layers(net: Any, owners: dict[str, str]) -> list[tuple[int, _Layer]]:
    """The layers that do something, with their places in the net.

    Where a blob has several readers Caffe puts in a layer of its own: it belongs to the layer that
    made the blob.
    """
    found = []
    makers: dict[str, str] = {}  # blob -> the network's layer
    for place, (name, layer) in enumerate(zip(net._layer_names, net.layers)):
        bottoms = net.bottom_names[name]
        owner = owners[name] if name in owners else makers[bottoms[0]]
        makers.update(dict.fromkeys(net.top_names[name], owner))
        if layer.type not in SOURCES:
            found.append((place, _Layer(layer.type, owner, *_whats(layer.type, name == owner))))
    return found


def _whats(type_: str, itself: bool) -> tuple[str, str]:
    """What the passes of a type of layer are; ``itself`` if it is the network's layer whole.

    The way back through a Split adds up gradients.  A Concat beside the layer itself puts a frame
    around what the layer reads.
    """
    if type_ == "Split":
        return COPY, KERNEL
    if type_ == "Concat" and not itself:
        return COPY, COPY
    return KERNEL, KERNEL
