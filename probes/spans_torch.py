# ruff: noqa: SIM905  tables of words read best as words
"""What torch's own profiler tells of calls of a network: the events of kineto as spans.

An operator of torch calls others, and the one within does the work: what the outer ones take
themselves is dispatch.  Which layer a node of the backward pass belongs to is told by its sequence
number: that of the operator which made the node on the way forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch.autograd.profiler import profile, record_function

from .engine import Call
from .spans import ALLOCATION, COPY, DISPATCH, KERNEL, UPDATE, ProfiledCall, Span

CALL = "kernelprof call"
LAYER = "kernelprof layer "
NODE = "autograd::engine::evaluate_function: "  # of the backward pass
OPERATOR = "aten::"
SUMS = ("aten::add", "aten::add_")  # directly within a node: of gradients that meet
STEP = "Optimizer.step#"
DROPPING = "Optimizer.zero_grad#"  # the gradients, whose memory goes back

# Operators that hand the work to others, or only look at memory in another way.
DISPATCHING = set(
    "_batch_norm_impl_index _convolution _unsafe_view alias as_strided as_strided_ batch_norm "
    "conv2d convolution cross_entropy_loss cudnn_is_acceptable detach dropout embedding expand "
    "expand_as flatten layer_norm linear log_softmax lstm matmul max_pool2d narrow nll_loss "
    "nll_loss_nd pad permute reshape resolve_conj resolve_neg result_type select slice softmax "
    "squeeze squeeze_ t thnn_conv2d to transpose unsqueeze unsqueeze_ view view_as".split()
)
ALLOCATING = set(
    "empty empty_like empty_permuted empty_strided new_empty new_empty_strided resize_ "
    "resize_as_".split()
)
COPYING = set("_to_copy cat clone constant_pad_nd contiguous copy_ stack to_dense".split())


class Recorded:
    """Steps of a network, each carried out within a range that tells the profiler its layer."""

    def __init__(self, steps: Iterable[Any]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        for step in self.steps:
            with record_function(LAYER + step.layer):
                yield step


def profiled_calls(
    call: Call, calls: int, moving: set[str], forks: dict[str, str]
) -> list[ProfiledCall]:
    """So many calls under the profiler, whose steps are ``Recorded``.

    ``moving`` are the layers whose own work it is to move data.  ``forks`` tells of layers which
    one before them others read too, whose gradients are added up.
    """
    with profile(use_kineto=True) as profiler:
        for _ in range(calls):
            with record_function(CALL):
                call()
    reader = _Reader(moving, forks)
    for event in sorted(profiler.kineto_results.events(), key=_outer_first):
        reader.read(event)
    return reader.calls


def _outer_first(event: Any) -> tuple[int, int, int]:
    return event.start_ns(), -event.duration_ns(), event.correlation_id()


class _Open(NamedTuple):
    """A span that the next ones may lie in, in the profiler's own nanoseconds."""

    name: str
    layer: str
    what: str
    end_ns: int
    forward: bool
    updating: bool


class _Reader:
    """Makes spans of events, which come by their start, outer ones first."""

    def __init__(self, moving: set[str], forks: dict[str, str]) -> None:
        self.moving = moving
        self.forks = forks
        self.calls: list[ProfiledCall] = []
        self.began_ns = 0  # the latest call
        self.outermost = _Open("", "", DISPATCH, 0, False, False)
        self.open: dict[int, list[_Open]] = {}  # by thread
        self.layers: dict[int, str] = {}  # of nodes, by sequence number
        self.before: dict[int, str] = {}  # the layer of a thread's latest node

    def read(self, event: Any) -> None:
        """Take in one event; what lies in no call is left out."""
        if event.name() == CALL:
            self.calls.append(ProfiledCall(event.duration_ns(), []))
            self.began_ns = event.start_ns()
            self.outermost = self.outermost._replace(end_ns=event.end_ns())
        elif event.start_ns() < self.outermost.end_ns:
            self._add(event)

    def _add(self, event: Any) -> None:
        name, start_ns, thread = event.name(), event.start_ns(), event.start_thread_id()
        around = self.open.setdefault(thread, [])
        while around and around[-1].end_ns <= start_ns:
            around.pop()
        outer = around[-1] if around else self.outermost
        layer = self._layer(event, thread, outer)
        updating = outer.updating or name.startswith(STEP)
        what = self._what(name, layer, outer)
        end_ns = min(event.end_ns(), outer.end_ns)
        forward = outer.forward or name.startswith(LAYER)
        around.append(_Open(name, layer, what, end_ns, forward, updating))
        began = self.began_ns
        own = "layer" if name.startswith(LAYER) else name
        self.calls[-1].spans.append(
            Span(own, layer, what, start_ns - began, end_ns - began, thread)
        )

    def _layer(self, event: Any, thread: int, outer: _Open) -> str:
        name, number = event.name(), event.sequence_nr()
        if name.startswith(LAYER):
            return str(name[len(LAYER) :])
        if name.startswith(NODE):
            # What adds a gradient up has no number, and follows the node that yields it.
            self.before[thread] = self.layers.get(number, self.before.get(thread, ""))
            return self.before[thread]
        if name in SUMS and outer.name.startswith(NODE):
            return self.forks.get(outer.layer, outer.layer)
        if outer.forward and number >= 0:
            self.layers[number] = outer.layer  # the last operator before the count goes on
        return outer.layer

    def _what(self, name: str, layer: str, outer: _Open) -> str:
        if name.startswith(DROPPING):
            return ALLOCATION
        if not name.startswith(OPERATOR):
            return DISPATCH
        operator = name[len(OPERATOR) :]
        if operator in ALLOCATING:
            return ALLOCATION
        if operator in DISPATCHING:
            return DISPATCH
        if outer.updating:
            return UPDATE
        if not layer:
            return DISPATCH
        copies = operator in COPYING or outer.what == COPY
        return COPY if copies and layer not in self.moving else KERNEL
