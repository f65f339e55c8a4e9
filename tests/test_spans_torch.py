"""Spans from torch's profiler of a GPU: whose work it is, what it is spent on, and when."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

from kernelprof.probes.engine import Unsupported
from kernelprof.probes.spans import (
    ALLOCATION,
    COPY,
    DEVICE_THREAD,
    DISPATCH,
    KERNEL,
    UPDATE,
    ProfiledCall,
    Span,
)

MODULE = "kernelprof.probes.spans_torch"
CALLING, BACKWARD = 1, 7  # threads
FORWARD_NODE = 40  # a sequence number
CALL = "kernelprof call"
NODE = "autograd::engine::evaluate_function: "


class DeviceType(Enum):
    """torch.autograd.DeviceType."""

    CPU = 0
    CUDA = 1


@dataclass
class Event:
    """A _KinetoEvent of torch: operators have numbers; what they launch bears them as links."""

    own_name: str
    began: int
    ended: int
    number: int = 0
    link: int = 0
    sequence: int = -1
    thread: int = CALLING
    device: DeviceType = DeviceType.CPU
    annotation: bool = False

    def name(self) -> str:
        return self.own_name

    def start_ns(self) -> int:
        return self.began

    def end_ns(self) -> int:
        return self.ended

    def duration_ns(self) -> int:
        return self.ended - self.began

    def correlation_id(self) -> int:
        return self.number

    def linked_correlation_id(self) -> int:
        return self.link

    def sequence_nr(self) -> int:
        return self.sequence

    def start_thread_id(self) -> int:
        return self.thread

    def device_type(self) -> DeviceType:
        return self.device

    def is_user_annotation(self) -> bool:
        return self.annotation


def on_gpu(name: str, began: int, ended: int, link: int = 0, annotation: bool = False) -> Event:
    return Event(
        name, began, ended, 9000 + began, link, device=DeviceType.CUDA, annotation=annotation
    )


# A call from 1000 to 3000: a layer forwards and backwards, an update, and a wait for the GPU.
TRAINING = [
    Event(CALL, 1000, 3000, 1, annotation=True),
    Event("kernelprof layer fc", 1010, 1200, 2, annotation=True),
    Event("aten::linear", 1020, 1190, 3),
    Event("aten::addmm", 1030, 1180, 4, sequence=FORWARD_NODE),
    Event("aten::empty", 1035, 1045, 5),
    Event("cudaLaunchKernel", 1100, 1150, 3, link=4),  # numbers of CUDA are others
    Event(NODE + "AddmmBackward0", 1300, 1500, 6, sequence=FORWARD_NODE, thread=BACKWARD),
    Event("aten::mm", 1310, 1400, 7, thread=BACKWARD),
    Event("cudaLaunchKernel", 1320, 1350, 12, link=7, thread=BACKWARD),
    Event("aten::copy_", 1410, 1480, 8, thread=BACKWARD),
    Event("Optimizer.step#SGD.step", 1600, 1800, 9, annotation=True),
    Event("aten::_foreach_add_", 1610, 1790, 10),
    Event("cudaStreamSynchronize", 1900, 2950, 13),
    Event("Activity Buffer Request", 1140, 1700, 0),  # the profiler's own, across all
    on_gpu(CALL, 1200, 2900, annotation=True),
    on_gpu("kernelprof layer fc", 1200, 1700, annotation=True),
    on_gpu("void cutlass::Kernel<float, 3>(cutlass::Params)", 1200, 1700, link=4),
    on_gpu("sgemm_nn", 1650, 2200, link=7),  # on another stream, a little earlier
    on_gpu("Memcpy DtoD (Device -> Device)", 2200, 2300, link=8),
    on_gpu("void at::native::multi_tensor_apply_kernel", 2300, 2400, link=10),
    on_gpu("Memcpy HtoD (Pageable -> Device)", 2500, 2600),
    on_gpu("of the call before", 500, 900, link=99),
]


@pytest.fixture(scope="module")
def spans_torch() -> Iterator[Any]:
    """The module, with as much of torch as it needs."""
    torch, autograd, profiler = (
        ModuleType(f"torch{name}") for name in ("", ".autograd", ".autograd.profiler")
    )
    autograd.DeviceType = DeviceType  # type: ignore[attr-defined]
    profiler.profile = nothing  # type: ignore[attr-defined]
    profiler.record_function = nothing  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for module in (torch, autograd, profiler):
            patch.setitem(sys.modules, module.__name__, module)
        patch.delitem(sys.modules, MODULE, raising=False)
        yield importlib.import_module(MODULE)
        sys.modules.pop(MODULE, None)


def nothing(*_: Any, **__: Any) -> AbstractContextManager[None]:
    return nullcontext()


def read(spans_torch: Any, moving: frozenset[str] = frozenset()) -> list[Span]:
    calls: list[ProfiledCall] = spans_torch.read_calls(TRAINING, moving, {}, True)
    assert [call.duration_ns for call in calls] == [2000]
    return calls[0].spans


def test_work_of_the_gpu_has_the_layer_of_its_operator(spans_torch: Any) -> None:
    found = [span for span in read(spans_torch) if span.thread == DEVICE_THREAD]
    assert found == [
        Span("cutlass::Kernel<float, 3>(cutlass::Params)", "fc", KERNEL, 200, 700, DEVICE_THREAD),
        Span("sgemm_nn", "fc", KERNEL, 700, 1200, DEVICE_THREAD),
        Span("Memcpy DtoD (Device -> Device)", "fc", COPY, 1200, 1300, DEVICE_THREAD),
        Span("at::native::multi_tensor_apply_kernel", "", UPDATE, 1300, 1400, DEVICE_THREAD),
        Span("Memcpy HtoD (Pageable -> Device)", "", COPY, 1500, 1600, DEVICE_THREAD),
    ]


def test_a_layer_that_moves_data_copies_as_its_own_work(spans_torch: Any) -> None:
    found = [span for span in read(spans_torch, frozenset({"fc"})) if span.thread == DEVICE_THREAD]
    whats = {span.name.split(" (")[0]: span.what for span in found}
    assert whats["Memcpy DtoD"] == KERNEL
    assert whats["Memcpy HtoD"] == COPY


def test_all_that_the_cpu_does_is_dispatch(spans_torch: Any) -> None:
    """But for memory that it asks for; what CUDA and the profiler do is no operator's work."""
    found = [span for span in read(spans_torch) if span.thread != DEVICE_THREAD]
    assert {span.what for span in found if span.name != "aten::empty"} == {DISPATCH}
    assert [span.what for span in found if span.name == "aten::empty"] == [ALLOCATION]
    launches = [span for span in found if span.name == "cudaLaunchKernel"]
    assert [(span.layer, span.thread) for span in launches] == [("fc", CALLING), ("fc", BACKWARD)]
    assert not [span for span in found if span.name == "Activity Buffer Request"]


def test_each_call_has_its_own(spans_torch: Any) -> None:
    """What is handed over in a call belongs to it, wherever the clocks say that it ran."""
    later = [
        Event("kernelprof call", 4000, 5000, 21, annotation=True),
        Event("aten::relu", 4100, 4200, 22),
        on_gpu("relu", 3999, 4500, link=22),
        on_gpu("sigmoid", 4900, 5100, link=22),
    ]
    _, call = spans_torch.read_calls([*TRAINING, *later], set(), {}, True)
    assert [span for span in call.spans if span.thread == DEVICE_THREAD] == [
        Span("relu", "", KERNEL, 0, 500, DEVICE_THREAD),
        Span("sigmoid", "", KERNEL, 900, 1000, DEVICE_THREAD),
    ]


def test_on_the_cpu_operators_are_what_they_are(spans_torch: Any) -> None:
    events = [event for event in TRAINING if event.device == DeviceType.CPU]
    (call,) = spans_torch.read_calls(events, set(), {}, False)
    whats = {span.name: span.what for span in call.spans}
    assert (whats["aten::addmm"], whats["aten::copy_"]) == (KERNEL, COPY)
    assert whats["aten::_foreach_add_"] == UPDATE


def test_a_profiler_that_sees_no_gpu_is_unsupported(spans_torch: Any) -> None:
    events = [event for event in TRAINING if event.device == DeviceType.CPU]
    with pytest.raises(Unsupported, match="sees nothing of the GPU") as refused:
        spans_torch.read_calls(events, set(), {}, True)
    assert "\n" not in str(refused.value)
