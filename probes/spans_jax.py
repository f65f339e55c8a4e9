# ruff: noqa: SIM905  tables of words read best as words
"""What JAX's profiler tells of a network: each operation of XLA's program, by layer.

The profiler names operations as the text of the compiled program does.  There each says by
``op_name`` from which line of the network it comes: within the scope of a layer, on the way back
too, as in ``jit(step)/transpose(jvp(3.fc))/dot_general``.  On a GPU kernels bear the name of the
operation that they are of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Callable, NamedTuple

from .engine import Unsupported
from .jax_profiler import CALL, Event, recorded
from .network import Network
from .primitive import FORWARD
from .scopes import scope_of
from .spans import (
    ALLOCATION,
    COPY,
    DEVICE_THREAD,
    DISPATCH,
    KERNEL,
    UPDATE,
    ProfiledCall,
    Span,
    moving_layers,
)

UPDATING = "update"  # the scope of an update, within that of its layer
MOVING_ON_GPU = ("Memcpy", "Memset")  # begin the names of what is no kernel
# What the calling thread does, by how its events' names begin.
CALLING = {"PjitFunction(": DISPATCH, "AllocateOutputBuffers": ALLOCATION}

INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%(?P<name>\S+) = (?:\(.*?\)|\S+) (?P<operator>[a-z][\w-]*)\((?P<operands>[^)]*)"
)
COMPUTATION = re.compile(r"(?:ENTRY )?%(?P<name>\S+) \(.*\{$")
CALLED = re.compile(r"(?:calls|body|to_apply)=%([^\s,]+)")
COMES_FROM = re.compile(r'op_name="([^"]*)"')
SCOPES = re.compile(r"[/()]")  # what stands between the parts of ``op_name``

PRODUCTS = ("convolution", "dot")
AROUND_OTHERS = ("call", "conditional", "while")
MOVES = set(
    "concatenate copy dynamic-slice dynamic-update-slice pad reverse slice transpose".split()
)
# What may be fused with that and yet nothing is computed; by itself it fills memory for a kernel.
ALONG_WITH_MOVES = set(
    "bitcast broadcast constant fusion get-tuple-element parameter reshape tuple".split()
)
# What most of a fused operation's time goes into, the heaviest first.
HEAVY = (
    "convolution dot custom-call scatter select-and-scatter reduce-window gather reduce sort"
).split()


class Instruction(NamedTuple):
    """An operation of a program: what it reads, what is fused in it, where it comes from."""

    operator: str
    reads: tuple[str, ...]
    calls: str  # the computation of what is fused in it, or nothing
    comes_from: tuple[str, ...]  # the parts of ``op_name``


class Owners:
    """Which layer an operation of a compiled program belongs to, and what it does for it."""

    def __init__(self, network: Network, mode: str, text: str) -> None:
        self.layers = {scope_of(network, layer.name): layer.name for layer in network.layers}
        self.moving = moving_layers(network, 1, mode)
        self.flop = {
            layer.name: sum(
                primitive.flop(FORWARD)
                for primitive in network.primitives(layer, 1, mode)
                if primitive.compute_bound
            )
            for layer in network.layers
        }
        self.instructions: dict[str, Instruction] = {}
        self.computations: dict[str, list[str]] = {}
        self._read(text)
        self.readers: dict[str, list[str]] = {}
        for name, instruction in self.instructions.items():
            for read in instruction.reads:
                self.readers.setdefault(read, []).append(name)

    def _read(self, text: str) -> None:
        inside: list[str] = []
        for line in text.splitlines():
            if found := COMPUTATION.match(line):
                inside = self.computations.setdefault(found["name"], [])
            elif found := INSTRUCTION.match(line):
                called, comes_from = CALLED.search(line), COMES_FROM.search(line)
                inside.append(found["name"])
                self.instructions[found["name"]] = Instruction(
                    found["operator"],
                    tuple(re.findall(r"%([^\s,)]+)", found["operands"])),
                    called[1] if called else "",
                    tuple(SCOPES.split(comes_from[1])) if comes_from else (),
                )

    def span(self, name: str) -> tuple[str, str]:
        """The layer, or nothing where none can be told, and what the time is spent on."""
        if self.is_around_others(name):
            return self._nearest(name), DISPATCH
        if name not in self.instructions:
            return "", DISPATCH
        weightiest = self._weightiest(name)
        layer = self._layer(weightiest) or self._nearest(name)
        operators = {self.instructions[part].operator for part in self._parts(name)}
        if UPDATING in self.instructions[weightiest].comes_from:
            return layer, UPDATE
        moves = bool(operators & MOVES) and operators <= MOVES | ALONG_WITH_MOVES
        if moves and layer not in self.moving:
            return layer, COPY
        return layer, KERNEL if layer else DISPATCH

    def shares(self, name: str) -> list[tuple[str, str, float]]:
        """The layers, what the time is spent on, and each one's share of it.

        XLA may fuse products of several layers: the time is divided as their flop are.
        """
        products = [
            self._layer(part)
            for part in (self._parts(name) if name in self.instructions else ())
            if self.instructions[part].operator in PRODUCTS and self._layer(part)
        ]
        total = sum(self.flop[layer] for layer in products)
        if len(set(products)) < 2 or not total:
            return [(*self.span(name), 1.0)]
        return [
            (layer, KERNEL, count * self.flop[layer] / total)
            for layer, count in Counter(products).items()
        ]

    def is_around_others(self, name: str) -> bool:
        """Whether other operations, with spans of their own, make it up."""
        return name in self.instructions and self.instructions[name].operator in AROUND_OTHERS

    def _parts(self, name: str) -> list[str]:
        """The operation, or all that is fused in it."""
        return self.computations.get(self.instructions[name].calls, []) or [name]

    def _weightiest(self, name: str) -> str:
        """Of what is fused together, that which most of the time goes into; or the last one."""
        parts = self._parts(name)
        for operator in HEAVY:
            for part in parts:
                if self.instructions[part].operator == operator and self._layer(part):
                    return part
        named = [part for part in parts if self._layer(part)]
        return name if self._layer(name) or not named else named[-1]

    def _layer(self, name: str) -> str:
        comes_from = self.instructions[name].comes_from
        return next((self.layers[part] for part in comes_from if part in self.layers), "")

    def _nearest(self, name: str) -> str:
        """The layer of the operation itself, or of the nearest one that reads what it yields.

        XLA's own copies come from no line of the network; what reads none of them is held against
        what it reads.
        """
        for edges in (self._readers_of, self._read_by):
            seen, queue = {name}, [name]
            for each in queue:  # which grows meanwhile
                if layer := self._layer(each):
                    return layer
                fresh = [other for other in edges(each) if other not in seen]
                seen.update(fresh)
                queue += fresh
        return ""

    def _readers_of(self, name: str) -> Sequence[str]:
        return self.readers.get(name, ())

    def _read_by(self, name: str) -> Sequence[str]:
        reads = self.instructions[name].reads
        return [read for read in reads if read in self.instructions]


def profiled_calls(
    call: Callable[[], object],
    calls: int,
    text: str,
    network: Network,
    mode: str,
    finish: Callable[[], object] | None = None,
) -> list[ProfiledCall]:
    """So many calls of a program, of which this is the text, under the profiler.

    On a GPU ``finish`` waits until a call is done.

    Raises:
        Unsupported: the profiler sees nothing of the GPU.
    """
    events = recorded(call, calls, finish)
    if finish is not None and all(event.thread != DEVICE_THREAD for event in events):
        raise Unsupported(
            "JAX's profiler sees nothing of the GPU: CUPTI, which it asks, is missing, "
            "not allowed here, or in use by another tool"
        )
    return profiled(events, Owners(network, mode, text))


def profiled(events: list[Event], owners: Owners) -> list[ProfiledCall]:
    """The calls, in order, each with the operations that began within it."""
    found = []
    for call in sorted((e for e in events if e.name == CALL), key=lambda event: event.start_ns):
        within = [e for e in events if call.start_ns <= e.start_ns < call.end_ns and e is not call]
        found.append(ProfiledCall(call.end_ns - call.start_ns, _spans(within, call, owners)))
    return found


def _spans(events: list[Event], call: Event, owners: Owners) -> list[Span]:
    spans, lanes, gpu_ns = [], Lanes(), call.start_ns
    for event in sorted(events, key=lambda event: (event.start_ns, -event.end_ns)):
        around = True
        start_ns, end_ns = event.start_ns, min(event.end_ns, call.end_ns)
        if event.thread == DEVICE_THREAD:  # where several streams work at a time, that counts once
            shares = _shares_on_gpu(event, owners)
            start_ns = max(start_ns, gpu_ns)
            if start_ns >= end_ns:
                continue
            gpu_ns, lane = end_ns, DEVICE_THREAD
        else:
            if event.operation:
                shares = owners.shares(event.operation)
                around = owners.is_around_others(event.operation)
            elif event.thread == call.thread and (found := _calling(event.name)):
                shares = [("", found, 1.0)]
            else:
                continue
            lane = lanes.take(event.thread, start_ns, end_ns, around)
        name = re.sub(r"[.\d]+$", "", event.name)  # of several that are alike
        took_ns, done = end_ns - start_ns, 0.0
        for layer, what, share in shares:
            begin, done = done, done + share
            began, ended = (start_ns + round(part * took_ns) for part in (begin, done))
            spans.append(
                Span(name, layer, what, began - call.start_ns, ended - call.start_ns, lane)
            )
    return spans


def _shares_on_gpu(event: Event, owners: Owners) -> list[tuple[str, str, float]]:
    """As those of an operation; what is of none, or around others, is work of no known layer."""
    shares = owners.shares(event.operation) if event.operation else [("", DISPATCH, 1.0)]
    copies = event.name.startswith(MOVING_ON_GPU)
    return [
        (layer, (COPY if copies else KERNEL) if what == DISPATCH else what, share)
        for layer, what, share in shares
    ]


def _calling(name: str) -> str:
    return next((what for begins, what in CALLING.items() if name.startswith(begins)), "")


class Lanes:
    """Where spans lie so that they nest: threads, or more of them.

    A thread turns to another operation while the pool goes on with the one before.
    """

    def __init__(self) -> None:
        self.open: dict[tuple[int, int], list[tuple[int, bool]]] = {}
        self.numbers: dict[tuple[int, int], int] = {}

    def take(self, thread: int, start_ns: int, end_ns: int, around: bool) -> int:
        """The lane of a span that begins now; those before began no later."""
        place = 0
        while not self._fits((thread, place), start_ns, end_ns):
            place += 1
        self.open[thread, place].append((end_ns, around))
        return self.numbers.setdefault((thread, place), len(self.numbers))

    def _fits(self, lane: tuple[int, int], start_ns: int, end_ns: int) -> bool:
        """Whether nothing goes on there, or only what may have others within."""
        going = self.open.setdefault(lane, [])
        while going and going[-1][0] <= start_ns:
            going.pop()
        return not going or (going[-1][1] and end_ns <= going[-1][0])
