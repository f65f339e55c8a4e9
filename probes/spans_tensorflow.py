# ruff: noqa: SIM905  tables of words read best as words
"""What TensorFlow's profiler tells of a network: each operator of the graph, by layer.

The profiler of TensorFlow 2 names every operator that the executor runs: the node's name, then its
type after fusing.  A node is called after the layer whose scope it was put into; its gradient, and
what the graph's passes put beside it, keep that within their names.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from .network import Network
from .scopes import scope_of
from .spans import COPY, DISPATCH, KERNEL, UPDATE, ProfiledCall, Span, moving_layers

CALL = "kernelprof_call"  # an event around each call that is profiled
OPERATOR = re.compile(r"(?P<node>[^\s:]+):(?P<type>\w+)")  # how an operator's event is called
REWRITTEN = re.compile(r"^_(MklNative|Mkl|Host)?")  # what passes put before an operator's type

UPDATES = re.compile(r"^(Resource(Sparse)?Apply|Assign(Add|Sub)?Variable)")
# Operators that pass on what they are given, or tell its shape: what they take is the executor's.
NO_WORK = set(
    "Arg BroadcastGradientArgs Const ExpandDims Identity IdentityN NoOp ReadVariableOp Reshape "
    "Retval Shape ShapeN Squeeze StopGradient VarHandleOp".split()
)
MOVES = set(
    "Cast Concat ConcatV2 DeepCopy InputConversion Pad PadV2 Slice Split SplitV StridedSlice "
    "StridedSliceGrad ToTf Transpose".split()
)
# What a fused operator's time goes into; its name is that of the last operator fused into it.
FUSED_INTO = ("Conv2D", "MatMul", "BatchNorm")

Nodes = Mapping[str, tuple[str, tuple[str, ...]]]  # name -> type, and the nodes it reads
Edges = Mapping[str, Sequence[str]]


class Event(NamedTuple):
    """What the profiler recorded, in nanoseconds of its own clock."""

    name: str
    start_ns: int
    end_ns: int
    thread: int


class Owners:
    """Which layer a node of the graph belongs to, and what it does for it.

    ``nodes`` are those of the graph before TensorFlow's passes rewrite it.
    """

    def __init__(self, network: Network, mode: str, nodes: Nodes) -> None:
        self.types = {name: type_ for name, (type_, _) in nodes.items()}
        self.reads = {name: inputs for name, (_, inputs) in nodes.items()}
        self.readers: dict[str, list[str]] = {}
        for name, inputs in self.reads.items():
            for read in inputs:
                self.readers.setdefault(read, []).append(name)
        self.layers = {scope_of(network, layer.name): layer.name for layer in network.layers}
        self.moving = moving_layers(network, 1, mode)

    def span(self, node: str, operator: str) -> tuple[str, str]:
        """The layer, or nothing where none can be told, and what the node's time is spent on."""
        layer, plain = self.layer(node, operator), REWRITTEN.sub("", operator)
        if UPDATES.match(plain):
            return layer, UPDATE
        if plain in NO_WORK:
            return layer, DISPATCH
        if plain in MOVES and (layer not in self.moving or node not in self.types):
            return layer, COPY
        return layer, KERNEL

    def layer(self, node: str, operator: str) -> str:
        """By the node's own name; that of a fused one by what most of its time goes into.

        What autodiff puts between layers has no scope.  A sum of gradients is of the layer that
        they all come from, or else of the one whose gradient it is, which reads it.
        """
        into = next((kind for kind in FUSED_INTO if kind in operator), "")
        if "Fused" in operator and into:
            node = self._nearest(node, self.reads, lambda name: into in self.types[name])
        sources = {self._named(read) for read in self.reads.get(node, ())} - {""}
        if not self._named(node) and len(sources) == 1:
            return sources.pop()
        return self._named(self._nearest(node, self.readers, self._named))

    def _named(self, node: str) -> str:
        """The layer whose scope is part of the name, or nothing."""
        return next((self.layers[part] for part in node.split("/") if part in self.layers), "")

    def _nearest(self, node: str, edges: Edges, wanted: Callable[[str], object]) -> str:
        """The first node that is wanted, of this one and those behind its edges; or this one."""
        seen, queue = {node}, [node]
        for name in queue:  # which grows meanwhile
            if name in self.types and wanted(name):
                return name
            fresh = [each for each in edges.get(name, ()) if each not in seen]
            seen.update(fresh)
            queue += fresh
        return node


def profiled(events: list[Event], owners: Owners) -> list[ProfiledCall]:
    """The calls, in order, each with the operators that began within it."""
    operators = [(event, OPERATOR.fullmatch(event.name)) for event in events]
    calls = []
    for call in sorted((e for e in events if e.name == CALL), key=lambda event: event.start_ns):
        spans = [
            _span(event, found["node"], found["type"], call, owners)
            for event, found in operators
            if found and call.start_ns <= event.start_ns < call.end_ns
        ]
        spans.sort(key=lambda span: (span.start_ns, -span.end_ns))
        calls.append(ProfiledCall(call.end_ns - call.start_ns, spans))
    return calls


def _span(event: Event, node: str, operator: str, call: Event, owners: Owners) -> Span:
    layer, what = owners.span(node, operator)
    start_ns = event.start_ns - call.start_ns
    end_ns = min(event.end_ns, call.end_ns) - call.start_ns
    return Span(operator, layer, what, start_ns, end_ns, event.thread)


def recorded(call: Callable[[], object], calls: int) -> list[Event]:
    """The events of so many calls, after one that is not recorded: the profiler warms up too."""
    import tensorflow as tf

    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=1, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, options)
        try:
            call()
            for _ in range(calls):
                with tf.profiler.experimental.Trace(CALL):
                    call()
        finally:
            tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return _events(path.read_bytes())


def _events(data: bytes) -> list[Event]:
    """The events of a profile as TensorFlow writes it, with the threads numbered."""
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    events = []
    for plane in XSpace.FromString(data).planes:
        names = {place: metadata.name for place, metadata in plane.event_metadata.items()}
        for thread, line in enumerate(plane.lines):
            for event in line.events:
                start_ns = line.timestamp_ns + event.offset_ps // 1000
                end_ns = line.timestamp_ns + (event.offset_ps + event.duration_ps) // 1000
                events.append(Event(names[event.metadata_id], start_ns, end_ns, thread))
    return events
