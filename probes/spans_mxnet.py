# ruff: noqa: SIM905  tables of words read best as words
"""What MXNet's profiler tells of a network: each operator that its engine runs, by layer.

The profiler names operators, not the nodes of the graph that they stand for.  Which node one is
follows from the order: the engine runs them as the graph has them, but for those that wait longer.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .network import Network
from .spans import ALLOCATION, COPY, KERNEL, UPDATE, ProfiledCall, Span, moving_layers

# How an executor prints its graph.
NODE = re.compile(r"Op:(?P<operator>\S+), Name=(?P<name>.*)")
READ = re.compile(r"\t(arg|cdep)\[\d+\]=(?P<name>.*?)(\(\d+\))?( version=\d+)?")
SECOND_DUMP = re.compile(r'^(\s*\{\s*"traceEvents"\s*:\s*\[)\s*,')  # begins with a comma
MICROSECOND_NS = 1000  # the profiler's resolution

TRIALS = 100  # for each operator that ran, of which node it may stand for

GRADIENT = "_backward_"
MOVES = set(
    "CopyCPU2CPU Cast Concat Pad Reshape SliceChannel _copy _copyto _identity_with_attr_like_rhs "
    "expand_dims identity reshape slice slice_axis transpose".split()
)
WAITING = {"WaitForVar"}
FREEING = {"DeleteVariable"}


class Node(NamedTuple):
    """An operator of a graph; what it reads are places of earlier nodes, and variables."""

    operator: str
    name: str
    reads: tuple[int, ...]
    variables: tuple[str, ...]


class Window(NamedTuple):
    """A call: when it began, in nanoseconds of the system's clock, and how long it took."""

    start_ns: int
    duration_ns: int


class Event(NamedTuple):
    """An operator that ran, in nanoseconds of the system's clock."""

    operator: str
    start_ns: int
    end_ns: int
    thread: int


def nodes_of(text: str) -> list[Node]:
    """The nodes of an executor's graph as it prints them: in the order in which it starts them.

    Names of sums of gradients occur more than once: what is read is the latest.
    """
    nodes: list[Node] = []
    latest: dict[str, int] = {}
    for line in text.splitlines():
        started, read = NODE.fullmatch(line), READ.fullmatch(line)
        if started:
            if nodes:
                latest[nodes[-1].name] = len(nodes) - 1
            nodes.append(Node(started["operator"], started["name"], (), ()))
        elif read and read["name"] in latest:
            nodes[-1] = nodes[-1]._replace(reads=(*nodes[-1].reads, latest[read["name"]]))
        elif read:
            nodes[-1] = nodes[-1]._replace(variables=(*nodes[-1].variables, read["name"]))
    return nodes


def layers_of(nodes: Sequence[Node], names: Iterable[str]) -> list[str]:
    """Which layer of these names each node belongs to; nothing where none can be told.

    A node is called ``layer/...``.  One that several were fused into has lost that name, and
    belongs where its weights do.  What is put between layers is of the layer that all it reads
    comes from, or else of the one that reads it: that of whose gradients it is the sum.
    """
    known = set(names)
    found = [_named(node, known) for node in nodes]
    for place, node in enumerate(nodes):
        sources = {found[read] for read in node.reads} - {""}
        if not found[place] and len(sources) == 1:
            found[place] = sources.pop()
    for place in reversed(range(len(nodes))):
        for read in nodes[place].reads:
            found[read] = found[read] or found[place]
    return found


def _named(node: Node, known: set[str]) -> str:
    layer, separator, _ = node.name.rpartition("/")
    if separator and layer in known:
        return layer
    for variable in node.variables:  # layer.member.operand, or layer.operand
        for parts in (variable.rsplit(".", 2), variable.rsplit(".", 1)):
            if len(parts) > 1 and parts[0] in known:
                return parts[0]
    return ""


def executed(operators: Sequence[str], nodes: Sequence[Node]) -> list[int | None]:
    """Which node each operator that ran stands for, in order; None for what the graph lacks.

    No node runs before those it reads.  Of several nodes of one operator the first one has run,
    unless what runs later tells otherwise.  What cannot be told after many trials is None.
    """
    beyond = Counter(operators) - Counter(node.operator for node in nodes)
    ready = _Ready(nodes)
    found: list[int | None] = []
    untried: list[list[int | None]] = []  # for each of those found
    trials = TRIALS * len(operators)
    while len(found) < len(operators) and trials:
        trials -= 1
        operator = operators[len(found)]
        untried.append([*ready.of(operator), *([None] if beyond[operator] > 0 else [])])
        while untried and not untried[-1]:
            untried.pop()
            if found:
                ready.undo(found.pop())
        if not untried:
            break
        found.append(untried[-1].pop(0))
        ready.run(found[-1])
    return found + [None] * (len(operators) - len(found))


class _Ready:
    """The nodes that have not run and whose inputs are there."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.missing = [len(set(node.reads)) for node in nodes]
        self.readers: list[list[int]] = [[] for _ in nodes]
        for place, node in enumerate(nodes):
            for read in set(node.reads):
                self.readers[read].append(place)
        self.places = {place for place, missing in enumerate(self.missing) if not missing}

    def of(self, operator: str) -> list[int]:
        """The nodes of an operator, in the order of the graph."""
        return sorted(place for place in self.places if self.nodes[place].operator == operator)

    def run(self, place: int | None) -> None:
        """Now its readers miss one thing less."""
        if place is not None:
            self.places.remove(place)
            for reader in self.readers[place]:
                self.missing[reader] -= 1
                if not self.missing[reader]:
                    self.places.add(reader)

    def undo(self, place: int | None) -> None:
        """As if it had not run; none of its readers has."""
        if place is not None:
            self.places.add(place)
            for reader in self.readers[place]:
                self.places.discard(reader)
                self.missing[reader] += 1


class Owners:
    """Which layer the operators of a call belong to, and what they do for it."""

    def __init__(self, network: Network, mode: str, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.layers = layers_of(nodes, [layer.name for layer in network.layers])
        self.moving = moving_layers(network, 1, mode)

    def of(self, operators: Sequence[str]) -> list[tuple[str, str]]:
        """The layer, or nothing where none can be told, and what each one's time is spent on."""
        found = []
        for operator, place in zip(operators, executed(operators, self.nodes)):
            layer = "" if place is None else self.layers[place]
            found.append((layer, self._what(operator, layer)))
        return found

    def _what(self, operator: str, layer: str) -> str:
        plain = operator[len(GRADIENT) :] if operator.startswith(GRADIENT) else operator
        if plain.endswith("_update"):
            return UPDATE
        if plain in FREEING:
            return ALLOCATION
        return COPY if plain in MOVES and layer not in self.moving else KERNEL


def profiled(
    windows: Sequence[Window], events: Sequence[Event], owners: Owners
) -> list[ProfiledCall]:
    """The calls, each with the operators that began within it."""
    ran = _once(events)
    calls = []
    for window in windows:
        first_ns = window.start_ns - MICROSECOND_NS  # the profiler's times are rounded down
        end_ns = window.start_ns + window.duration_ns
        within = [event for event in ran if first_ns < event.start_ns < end_ns]
        found = owners.of([event.operator for event in within])
        spans = [_span(event, window, *owner) for event, owner in zip(within, found)]
        calls.append(ProfiledCall(window.duration_ns, spans))
    return calls


def _once(events: Iterable[Event]) -> list[Event]:
    """What is work, by its start: MXNet's synchronous engine reports an operator within itself."""
    ran: list[Event] = []
    for event in sorted(events, key=lambda event: (event.start_ns, -event.end_ns)):
        again = ran and event.operator == ran[-1].operator and event.start_ns < ran[-1].end_ns
        if event.operator not in WAITING and not again:
            ran.append(event)
    return ran


def _span(event: Event, window: Window, layer: str, what: str) -> Span:
    start_ns = max(event.start_ns - window.start_ns, 0)
    end_ns = min(event.end_ns - window.start_ns, window.duration_ns)
    return Span(event.operator, layer, what, start_ns, max(start_ns, end_ns), event.thread)


def recorded(call: Callable[[], object], calls: int) -> tuple[list[Window], list[Event]]:
    """So many calls, each of which waits for its end, and what ran meanwhile."""
    import mxnet as mx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        mx.profiler.set_config(
            filename=str(path),
            profile_symbolic=True,
            profile_imperative=True,
            profile_memory=False,
            profile_api=False,
            aggregate_stats=False,
            continuous_dump=False,
        )
        mx.profiler.set_state("run")
        try:
            windows = [_timed(call) for _ in range(calls)]
        finally:
            mx.profiler.set_state("stop")
            mx.profiler.dump(False)
        return windows, events_of(path.read_text())


def _timed(call: Callable[[], object]) -> Window:
    start_ns, started = time.time_ns(), time.perf_counter_ns()
    call()
    return Window(start_ns, time.perf_counter_ns() - started)


def events_of(text: str) -> list[Event]:
    """The operators of a profile, whose begins and ends are events of their own."""
    events = []
    begun: dict[tuple[str, int], list[int]] = {}
    threads: dict[int, int] = {}
    trace: list[Mapping[str, Any]] = json.loads(SECOND_DUMP.sub(r"\1", text))["traceEvents"]
    for entry in trace:
        if entry.get("cat") != "operator" or entry["ph"] not in ("B", "E"):
            continue
        thread = threads.setdefault(entry["tid"], len(threads))
        starts = begun.setdefault((entry["name"], thread), [])
        if entry["ph"] == "B":
            starts.append(entry["ts"] * MICROSECOND_NS)
        elif starts:
            events.append(Event(entry["name"], starts.pop(), entry["ts"] * MICROSECOND_NS, thread))
    return events
