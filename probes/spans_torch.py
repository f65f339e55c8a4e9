# ruff: noqa: SIM905  tables of words read best as words
"""What torch's own profiler tells of calls of a network: the events of kineto as spans.

An operator of torch calls others, and the one within does the work: what the outer ones take
themselves is dispatch.  Which layer a node of the backward pass belongs to is told by its sequence
number: that of the operator which made the node on the way forward.

On a GPU all that the CPU does is dispatch.  What the GPU does belongs to the layer of the operator
that handed it over, whose number it bears.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple

from torch.autograd import DeviceType
from torch.autograd.profiler import profile, record_function

from .engine import Call, Unsupported
from .spans import (
    ALLOCATION,
    COPY,
    DEVICE_THREAD,
    DISPATCH,
    KERNEL,
    UPDATE,
    ProfiledCall,
    Span,
)

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

# Calls of CUDA, whose numbers are others than those of operators.
OF_CUDA = re.compile("cu(da)?[A-Z]")
MOVING_ON_GPU = ("Memcpy", "Memset")  # begin the names of what is no kernel
WITHIN_GPU = ("Memcpy DtoD", "Memset")
LONGEST_NAME = 120  # of a kernel's, with all arguments of its templates


class Recorded:
    """Steps of a network, each carried out within a range that tells the profiler its layer."""

    def __init__(self, steps: Iterable[Any]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        for step in self.steps:
            with record_function(LAYER + step.layer):
                yield step


def profiled_calls(
    call: Call,
    calls: int,
    moving: set[str],
    forks: dict[str, str],
    finish: Callable[[], object] | None = None,
) -> list[ProfiledCall]:
    """So many calls under the profiler, whose steps are ``Recorded``.

    ``moving`` are the layers whose own work it is to move data.  ``forks`` tells of layers which
    one before them others read too, whose gradients are added up.  On a GPU ``finish`` waits until
    a call is done.

    Raises:
        Unsupported: the profiler sees nothing of the GPU.
    """
    with profile(use_kineto=True, use_device=finish and "cuda") as profiler:
        if finish is not None:
            call()  # in which the profiler gets itself ready for the GPU
            finish()
        for _ in range(calls):
            with record_function(CALL):
                call()
                if finish is not None:
                    finish()
    return read_calls(profiler.kineto_results.events(), moving, forks, finish is not None)


def read_calls(
    events: Iterable[Any], moving: set[str], forks: dict[str, str], on_gpu: bool
) -> list[ProfiledCall]:
    """The calls that the profiler's events tell of."""
    reader = _Reader(moving, forks, on_gpu)
    of_gpu = []
    for event in sorted(events, key=_outer_first):
        if event.device_type() != DeviceType.CPU:
            of_gpu.append(event)
        elif event.correlation_id() or not on_gpu:  # else it is the profiler's own doing
            reader.read(event)
    for event in of_gpu:
        reader.read_gpu(event)
    if on_gpu and not any(span.thread == DEVICE_THREAD for c in reader.calls for span in c.spans):
        raise Unsupported(
            "torch's profiler sees nothing of the GPU: CUPTI, which it asks, is missing, "
            "not allowed here, or in use by another tool"
        )
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


class _Owner(NamedTuple):
    """The operator that hands work over to the GPU."""

    call: int
    layer: str
    what: str


class _Reader:
    """Makes spans of events, which come by their start, outer ones first."""

    def __init__(self, moving: set[str], forks: dict[str, str], on_gpu: bool) -> None:
        self.moving = moving
        self.forks = forks
        self.on_gpu = on_gpu
        self.owners: dict[int, _Owner] = {}  # by the number of the operator
        self.ranges: list[tuple[int, int]] = []  # of the calls
        self.gpu_ns = 0  # until when the GPU is known to work
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
            self.ranges.append((event.start_ns(), event.end_ns()))
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
        if self.on_gpu:
            if not OF_CUDA.match(name):
                number = event.correlation_id()
                self.owners[number] = _Owner(len(self.calls) - 1, layer, what)
            what = what if what == ALLOCATION else DISPATCH
        self.calls[-1].spans.append(
            Span(own, layer, what, start_ns - began, end_ns - began, thread)
        )

    def read_gpu(self, event: Any) -> None:
        """Take in what the GPU did, once all that the CPU did is read.

        Where several streams work at a time, that counts once.
        """
        if event.is_user_annotation():  # from the first to the last of what a range handed over
            return
        owner = self.owners.get(event.linked_correlation_id()) or self._unowned(event)
        if owner is None:
            return
        began_ns, ended_ns = self.ranges[owner.call]
        start_ns = max(event.start_ns(), self.gpu_ns, began_ns)
        end_ns = min(event.end_ns(), ended_ns)
        if start_ns >= end_ns:
            return
        self.gpu_ns = end_ns
        name = event.name().removeprefix("void ")[:LONGEST_NAME]
        what = self._what_on_gpu(name, owner)
        times = start_ns - began_ns, end_ns - began_ns
        self.calls[owner.call].spans.append(Span(name, owner.layer, what, *times, DEVICE_THREAD))

    def _unowned(self, event: Any) -> _Owner | None:
        """What no operator handed over belongs to the call in which it ran, if there is one."""
        for place, (began_ns, ended_ns) in enumerate(self.ranges):
            if began_ns <= event.start_ns() < ended_ns:
                return _Owner(place, "", KERNEL)
        return None

    def _what_on_gpu(self, name: str, owner: _Owner) -> str:
        if owner.what == UPDATE:
            return UPDATE
        if name.startswith(MOVING_ON_GPU):
            own_work = name.startswith(WITHIN_GPU) and owner.layer in self.moving
            return KERNEL if own_work else COPY
        return COPY if owner.what == COPY else KERNEL

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
