"""Spans from TensorFlow's profiler: which layer a node of the graph belongs to, and its work."""

from __future__ import annotations

import re

import pytest

from kernelprof.probes.network import TRAIN, Builder, Network
from kernelprof.probes.scopes import scope_of
from kernelprof.probes.spans import COPY, DISPATCH, KERNEL, UPDATE, Span
from kernelprof.probes.spans_tensorflow import CALL, Event, Owners, profiled

LEGAL = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")  # what TensorFlow takes for a scope


def network() -> Network:
    """Its layers' scopes begin with their places, from 0: the input's."""
    net = Builder()
    x = net.convolution("conv a/b", net.input(3, 8, 8), 4, 3)
    x = net.relu("relu", net.batch_norm("norm", x))
    net.softmax_loss(net.fully_connected("fc", net.pad_channels("pad", x, 8), 10))
    return Network("small", "", tuple(net.layers), 2, 2)


GRAPH = {
    "ReadVariableOp": ("ReadVariableOp", ()),
    "1.conv_a_b/Conv2D": ("Conv2D", ("ReadVariableOp",)),
    "1.conv_a_b/BiasAdd": ("BiasAdd", ("1.conv_a_b/Conv2D",)),
    "3.relu/Relu": ("Relu", ("1.conv_a_b/BiasAdd",)),
    "4.pad/Pad": ("Pad", ("3.relu/Relu",)),
    "5.fc/MatMul": ("MatMul", ("3.relu/Relu",)),
    "gradient_tape/5.fc/MatMul": ("MatMul", ("5.fc/MatMul",)),
    "gradient_tape/4.pad/Slice": ("Slice", ("gradient_tape/5.fc/MatMul",)),
    "AddN": ("AddN", ("gradient_tape/5.fc/MatMul", "gradient_tape/4.pad/Slice")),
    "AddN_1": ("AddN", ("gradient_tape/5.fc/MatMul", "gradient_tape/5.fc/MatMul")),
    "gradient_tape/3.relu/ReluGrad": ("ReluGrad", ("AddN", "AddN_1")),
}


@pytest.mark.parametrize(
    ("node", "operator", "layer", "what"),
    [
        ("1.conv_a_b/Conv2D", "_MklNativeConv2D", "conv a/b", KERNEL),
        ("3.relu/Relu", "Relu", "relu", KERNEL),
        ("3.relu/Relu", "_MklNativeFusedConv2D", "conv a/b", KERNEL),
        ("gradient_tape/3.relu/ReluGrad", "ReluGrad", "relu", KERNEL),
        ("AddN", "AddN", "relu", KERNEL),
        ("AddN_1", "AddN", "fc", KERNEL),
        ("5.fc/ResourceApplyMomentum_1", "ResourceApplyMomentum", "fc", UPDATE),
        ("ReadVariableOp", "ReadVariableOp", "conv a/b", DISPATCH),
        ("1.conv_a_b/Pad", "Pad", "conv a/b", COPY),
        ("4.pad/Pad", "Pad", "pad", KERNEL),
        ("gradient_tape/4.pad/Slice", "Slice", "pad", KERNEL),
        ("4.pad/Pad-0-TransposeNHWCToNCHW-LayoutOptimizer", "Transpose", "pad", COPY),
        ("Mkl2Tf/_3", "_MklToTf", "", COPY),
        ("2.norm/FusedBatchNormV3", "FusedBatchNormV3", "norm", KERNEL),
    ],
)
def test_a_node_has_a_layer_and_a_work(node: str, operator: str, layer: str, what: str) -> None:
    assert Owners(network(), TRAIN, GRAPH).span(node, operator) == (layer, what)


def test_scopes_are_legal_and_each_the_layers_alone() -> None:
    net = Builder()
    x = net.input(4)
    for name in ("a b", "a_b", "1/2", "é", "_", "gradient_tape"):
        x = net.relu(name, x)
    layers = Network("odd", "", tuple(net.layers), 1, 1)
    scopes = [scope_of(layers, layer.name) for layer in layers.layers]
    assert len(set(scopes)) == len(scopes)
    assert all(LEGAL.fullmatch(scope) and "/" not in scope for scope in scopes)


def test_a_call_has_the_operators_that_began_within_it() -> None:
    events = [
        Event("5.fc/MatMul:MatMul", 290, 320, 1),
        Event(CALL, 300, 400, 0),
        Event("EagerLocalExecute: __inference_1", 301, 399, 0),
        Event("KernelAndDeviceFunc::Run", 302, 398, 0),
        Event("ThreadpoolListener::Record", 303, 303, 1),
        Event("3.relu/Relu:Relu", 350, 360, 1),
        Event("5.fc/MatMul:_MklMatMul", 310, 350, 1),
        Event("5.fc/ResourceApplyMomentum:ResourceApplyMomentum", 390, 401, 1),
        Event("5.fc/MatMul:MatMul", 401, 402, 1),
        Event(CALL, 100, 200, 0),
    ]
    first, second = profiled(events, Owners(network(), TRAIN, GRAPH))
    assert (first.duration_ns, first.spans) == (100, [])
    assert second.spans == [
        Span("_MklMatMul", "fc", KERNEL, 10, 50, 1),
        Span("Relu", "relu", KERNEL, 50, 60, 1),
        Span("ResourceApplyMomentum", "fc", UPDATE, 90, 100, 1),
    ]
