"""Spans from MXNet's profiler: its text, and which node of the graph an operator stands for."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from kernelprof.probes.network import INFER, Builder, Network
from kernelprof.probes.spans import ALLOCATION, COPY, KERNEL, UPDATE, Span
from kernelprof.probes.spans_mxnet import (
    Event,
    Node,
    Owners,
    Window,
    events_of,
    executed,
    layers_of,
    nodes_of,
    profiled,
)

GRAPH = """Symbol Outputs:
\toutput[0]=fc/b/mean0(0)
\toutput[1]=sum_grad(0)
Variable:data
Variable:conv(1).0.w
--------------------
Op:_sg_mkldnn_conv, Name=sg_mkldnn_conv_act_0
Inputs:
\targ[0]=data(0) version=0
\targ[1]=conv(1).0.w(0) version=0
Attrs:
\twith_act=true
Variable:fc/b.0.b
--------------------
Op:FullyConnected, Name=fc/b/fullyconnected0
Inputs:
\targ[0]=sg_mkldnn_conv_act_0(0)
\targ[1]=fc/b.0.b(0) version=0
Attrs:
\tno_bias=True
--------------------
Op:_backward_FullyConnected, Name=fc/b/fullyconnected0_backward
Inputs:
\targ[0]=fc/b/fullyconnected0(0)
Control deps:
\tcdep[0]=fc/b/fullyconnected0
Total 12 MB allocated
"""


def node(operator: str, name: str, *reads: int) -> Node:
    return Node(operator, name, reads, ())


def test_a_printed_graph_is_read() -> None:
    assert nodes_of(GRAPH) == [
        Node("_sg_mkldnn_conv", "sg_mkldnn_conv_act_0", (), ("data", "conv(1).0.w")),
        Node("FullyConnected", "fc/b/fullyconnected0", (0,), ("fc/b.0.b",)),
        Node("_backward_FullyConnected", "fc/b/fullyconnected0_backward", (1, 1), ()),
    ]


def test_nodes_have_the_layer_of_their_name_and_fused_ones_that_of_their_weights() -> None:
    assert layers_of(nodes_of(GRAPH), ["data", "conv(1)", "fc/b"]) == ["conv(1)", "fc/b", "fc/b"]


def test_of_two_nodes_of_one_name_the_latest_is_read() -> None:
    text = "\n".join(
        f"Op:{operator}, Name={name}\n\targ[0]={read}(0)"
        for operator, name, read in [
            ("add_n", "sum_grad", "x"),
            ("add_n", "sum_grad", "sum_grad"),
            ("relu", "a/relu", "sum_grad"),
        ]
    )
    assert [found.reads for found in nodes_of(text)] == [(), (0,), (1,)]


def test_a_sum_of_gradients_is_of_its_one_source_or_else_of_its_reader() -> None:
    nodes = [
        node("conv", "a/conv"),
        node("_backward_conv", "b/conv_backward", 0),
        node("_backward_conv", "c/conv_backward", 0),
        node("add_n", "sum_grad", 1, 2),
        node("add_n", "sum_grad", 1, 1),
        node("_zeros", "zeros"),
        node("_backward_conv", "a/conv_backward", 3, 4, 5),
        node("_copy", "end", 1, 2),
    ]
    assert layers_of(nodes, "abc") == ["a", "b", "c", "a", "b", "a", "a", ""]


def random_graph(source: random.Random) -> list[Node]:
    """Nodes of a few operators, each of which reads some of those before it."""
    return [
        node(
            source.choice("abc"),
            str(place),
            *source.sample(range(place), min(place, source.randrange(3))),
        )
        for place in range(source.randrange(1, 30))
    ]


def some_order(source: random.Random, nodes: list[Node]) -> list[int]:
    """One in which no node runs before those it reads."""
    order: list[int] = []
    while len(order) < len(nodes):
        ready = [
            place
            for place, each in enumerate(nodes)
            if place not in order and set(each.reads) <= set(order)
        ]
        order.append(source.choice(ready))
    return order


@pytest.mark.parametrize("seed", range(50))
def test_what_runs_in_the_order_of_the_graph_is_told_apart(seed: int) -> None:
    nodes = random_graph(random.Random(seed))
    operators = [each.operator for each in nodes]
    order = list(range(len(nodes)))
    assert executed(operators, nodes) == order
    assert executed(["sgd_update", *operators, "a"], nodes) == [None, *order, None]


@pytest.mark.parametrize("seed", range(50))
def test_operators_that_occur_once_are_told_in_any_order(seed: int) -> None:
    source = random.Random(seed)
    nodes = [each._replace(operator=each.name) for each in random_graph(source)]
    order = some_order(source, nodes)
    assert executed([nodes[place].operator for place in order], nodes) == order


@pytest.mark.parametrize("seed", range(50))
def test_each_node_is_found_after_those_it_reads(seed: int) -> None:
    source = random.Random(seed)
    nodes = random_graph(source)
    operators = [nodes[place].operator for place in some_order(source, nodes)]
    found = [place for place in executed(operators, nodes) if place is not None]
    assert [nodes[place].operator for place in found] == operators
    assert all(set(nodes[p].reads) <= set(found[:rank]) for rank, p in enumerate(found))


def test_what_runs_later_tells_which_of_two_ran() -> None:
    nodes = [node("conv", "a"), node("conv", "b"), node("relu", "c", 1), node("add", "d", 0, 2)]
    assert executed(["conv", "relu", "conv", "add"], nodes) == [1, 2, 0, 3]


def test_what_cannot_be_is_not_told() -> None:
    assert executed(["relu", "conv"], [node("conv", "a"), node("relu", "b", 0)]) == [None, None]


def profile(*entries: tuple[str, int, int], comma: str = "") -> str:
    """What the profiler writes of operators with a begin and an end in microseconds."""
    about = {"cat": "operator", "pid": 0, "tid": 16257536769626468849}
    trace: list[dict[str, Any]] = [
        {**about, "name": name, "ph": phase, "ts": ts}
        for name, begin, end in entries
        for phase, ts in (("B", begin), ("E", end))
    ]
    trace.append({"ph": "M", "args": {"name": "cpu/0"}, "pid": 0, "name": "process_name"})
    trace.append({**about, "name": "late", "ph": "b", "ts": 5, "id": 7})
    return '{\n    "traceEvents": [\n' + comma + ",\n".join(map(json.dumps, trace)) + "\n]}"


@pytest.mark.parametrize("comma", ["", ",\n\n"])
def test_events_are_read_from_the_first_profile_and_from_later_ones(comma: str) -> None:
    text = profile(("[,Pooling", 3, 9), ("inner", 4, 5), comma=comma)
    assert events_of(text) == [Event("[,Pooling", 3000, 9000, 0), Event("inner", 4000, 5000, 0)]


def network() -> Network:
    net = Builder()
    x = net.convolution("conv", net.input(3, 8, 8), 4, 3)
    net.softmax_loss(net.fully_connected("fc", net.pad_channels("pad", x, 8), 10))
    return Network("small", "", tuple(net.layers), 2, 2)


def test_a_call_has_the_operators_that_began_within_it() -> None:
    nodes = [
        node("Pad", "conv/pad0"),
        node("Convolution", "conv/convolution0", 0),
        node("Concat", "pad/concat0", 1),
        node("_backward_Concat", "pad/concat0_backward", 2),
    ]
    events = [
        Event("Convolution", 90_000, 99_000, 0),
        Event("Pad", 100_000, 102_000, 0),  # begun at 100.7, rounded down
        Event("WaitForVar", 102_000, 103_000, 0),
        Event("Convolution", 103_000, 110_000, 0),
        Event("DeleteVariable", 109_000, 110_000, 0),
        Event("Concat", 110_000, 111_000, 0),
        Event("_backward_Concat", 111_000, 112_000, 0),
        Event("multi_sgd_mom_update", 112_000, 119_000, 0),
        Event("Pad", 130_000, 131_000, 0),
    ]
    (call,) = profiled([Window(100_700, 18_000)], events, Owners(network(), INFER, nodes))
    assert call.duration_ns == 18_000
    assert call.spans == [
        Span("Pad", "conv", COPY, 0, 1_300),
        Span("Convolution", "conv", KERNEL, 2_300, 9_300),
        Span("DeleteVariable", "", ALLOCATION, 8_300, 9_300),
        Span("Concat", "pad", KERNEL, 9_300, 10_300),
        Span("_backward_Concat", "pad", KERNEL, 10_300, 11_300),
        Span("multi_sgd_mom_update", "", UPDATE, 11_300, 18_000),
    ]


def test_an_operator_that_is_reported_within_itself_ran_once() -> None:
    nodes = [node("Convolution", "conv/convolution0"), node("Convolution", "conv/convolution1", 0)]
    events = [
        Event("Convolution", 2_000, 8_000, 0),
        Event("Convolution", 1_000, 9_000, 0),
        Event("Convolution", 9_000, 9_000, 0),
    ]
    (call,) = profiled([Window(0, 10_000)], events, Owners(network(), INFER, nodes))
    assert [(span.layer, span.start_ns, span.end_ns) for span in call.spans] == [
        ("conv", 1_000, 9_000),
        ("conv", 9_000, 9_000),
    ]
