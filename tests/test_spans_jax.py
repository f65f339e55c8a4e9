"""Spans from JAX's profiler: which layer an operation of XLA's belongs to, and its work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kernelprof.probes import spans_jax
from kernelprof.probes.engine import Unsupported
from kernelprof.probes.jax_profiler import CALL, Event, events_of
from kernelprof.probes.network import TRAIN, Builder, Network
from kernelprof.probes.spans import COPY, DEVICE_THREAD, DISPATCH, KERNEL, UPDATE, Span
from kernelprof.probes.spans_jax import Lanes, Owners, profiled


def network() -> Network:
    """Its layers' scopes begin with their places, from 0: the input's."""
    net = Builder()
    x = net.convolution("conv a/b", net.input(3, 8, 8), 4, 3, padding=1)
    x = net.relu("relu", x)
    x = net.convolution("conv2", x, 8, 3, padding=1)
    net.softmax_loss(net.fully_connected("fc", net.pad_channels("pad", x, 12), 10))
    return Network("small", "", tuple(net.layers), 2, 2)


PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[16]{0})->(f32[16]{0})}

FileNames
1 "<stdin>"

%region_7.11 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[] parameter(0), metadata={op_name="reduce_sum"}
  %b.1 = f32[] parameter(1), metadata={op_name="reduce_sum"}
  ROOT %add.1 = f32[] add(%a.1, %b.1), metadata={op_name="jit(step)/jvp(1.conv_a_b)/reduce_sum"}
}

%fused_computation (p.1: f32[16,100], p.2: f32[]) -> f32[100] {
  %p.1 = f32[16,100]{1,0} parameter(0)
  %p.2 = f32[] parameter(1)
  %sum.1 = f32[100]{0} reduce(%p.1, %p.2), dimensions={0}, to_apply=%region_7.11, \
metadata={op_name="jit(step)/transpose(jvp(5.fc))/reduce_sum" stack_frame_id=7}
  ROOT %sub.1 = f32[100]{0} subtract(%p.2, %sum.1), metadata={op_name="jit(step)/5.fc/update/sub"}
}

%fused_computation.1 (p.3: f32[16]) -> f32[16] {
  %p.3 = f32[16]{0} parameter(0)
  %add.2 = f32[16]{0} add(%p.3, %p.3), metadata={op_name="jit(step)/jvp(1.conv_a_b)/add"}
  ROOT %max.1 = f32[16]{0} maximum(%add.2, %p.3), metadata={op_name="jit(step)/jvp(2.relu)/max"}
}

%fused_computation.2 (p.4: f32[16,100]) -> f32[100,16] {
  %p.4 = f32[16,100]{1,0} parameter(0)
  %transpose.1 = f32[100,16]{0,1} transpose(%p.4), dimensions={1,0}
  ROOT %copy.1 = f32[100,16]{1,0} copy(%transpose.1)
}

%fused_computation.3 (p.5: f32[16]) -> f32[16] {
  %p.5 = f32[16]{0} parameter(0)
  %c.1 = f32[16]{0} convolution(%p.5, %p.5), metadata={op_name="jit(step)/jvp(1.conv_a_b)/c"}
  ROOT %c.2 = f32[16]{0} convolution(%c.1, %p.5), metadata={op_name="jit(step)/jvp(3.conv2)/c"}
}

%fused_computation.4 (p.6: f32[16]) -> f32[16] {
  %p.6 = f32[16]{0} parameter(0)
  ROOT %mul.1 = f32[16]{0} multiply(%p.6, %p.6), metadata={op_name="jit(step)/5.fc/update/mul"}
}

ENTRY %main.13 (x.1: f32[16,100]) -> (f32[100], f32[16,100]) {
  %x.1 = f32[16,100]{1,0} parameter(0), metadata={op_name="x"}
  %conv.1 = f32[16,100]{1,0} convolution(%x.1, %x.1), window={size=3x3}, \
metadata={op_name="jit(step)/jvp(1.conv_a_b)/conv_general_dilated"}
  %add_maximum_fusion = f32[16,100]{1,0} fusion(%conv.1), kind=kLoop, \
calls=%fused_computation.1, metadata={op_name="jit(step)/jvp(2.relu)/max"}
  %pad.1 = f32[16,100]{1,0} pad(%add_maximum_fusion, %x.1), \
metadata={op_name="jit(step)/jvp(4.pad)/pad"}
  %pad.2 = f32[16,100]{1,0} pad(%add_maximum_fusion, %x.1), \
metadata={op_name="jit(step)/jvp(2.relu)/pad"}
  %copy_fusion = f32[100,16]{1,0} fusion(%pad.1), kind=kLoop, calls=%fused_computation.2
  %dot.1 = f32[100,100]{1,0} dot(%copy_fusion, %pad.1), \
metadata={op_name="jit(step)/transpose(jvp(5.fc))/dot_general"}
  %two = f32[16,100]{1,0} fusion(%x.1), kind=kCustom, calls=%fused_computation.3
  %sum_fusion = f32[100]{0} fusion(%pad.1, %x.1), kind=kLoop, calls=%fused_computation
  %mul_fusion = f32[16,100]{1,0} fusion(%x.1), kind=kLoop, calls=%fused_computation.4
  %filled = f32[16]{0} broadcast(%x.1), metadata={op_name="jit(step)/jvp(2.relu)/broadcast"}
  %loop = (s32[], f32[16,100]{1,0}) while(%x.1), condition=%region_7.11, body=%region_7.11, \
metadata={op_name="jit(step)/jvp(5.fc)/while"}
  %threefry = u32[2]{0} xor(%x.1, %x.1), metadata={op_name="jit(step)/random_split"}
  ROOT %tuple.2 = (f32[100]{0}, f32[16,100]{1,0}) tuple(%sum_fusion, %mul_fusion)
}
"""


@pytest.mark.parametrize(
    ("operation", "layer", "what"),
    [
        ("conv.1", "conv a/b", KERNEL),
        ("add_maximum_fusion", "relu", KERNEL),
        ("pad.1", "pad", KERNEL),
        ("pad.2", "relu", COPY),
        ("copy_fusion", "fc", COPY),
        ("dot.1", "fc", KERNEL),
        ("sum_fusion", "fc", KERNEL),
        ("mul_fusion", "fc", UPDATE),
        ("filled", "relu", KERNEL),
        ("loop", "fc", DISPATCH),
        ("threefry", "", DISPATCH),
        ("unheard.of", "", DISPATCH),
    ],
)
def test_an_operation_has_a_layer_and_a_work(operation: str, layer: str, what: str) -> None:
    assert Owners(network(), TRAIN, PROGRAM).span(operation) == (layer, what)


def test_products_of_several_layers_share_the_time_as_their_flop() -> None:
    """The second convolution takes in four channels and not three, and yields twice as many."""
    owners = Owners(network(), TRAIN, PROGRAM)
    assert owners.shares("two") == [
        ("conv a/b", KERNEL, pytest.approx(12 / 44)),
        ("conv2", KERNEL, pytest.approx(32 / 44)),
    ]
    events = [Event(CALL, "", 0, 100, 0), Event("two", "two", 10, 54, 1)]
    (call,) = profiled(events, owners)
    assert call.spans == [
        Span("two", "conv a/b", KERNEL, 10, 22, 0),
        Span("two", "conv2", KERNEL, 22, 54, 0),
    ]


def test_a_call_has_the_operations_that_began_within_it() -> None:
    events = [
        Event("dot.1", "dot.1", 290, 320, 1),
        Event(CALL, "", 300, 400, 0),
        Event("PjitFunction(jit(step))", "", 301, 330, 0),
        Event("PjitFunction(jit(other))", "", 301, 330, 2),
        Event("ThunkExecutor::Execute", "", 309, 398, 1),
        Event("dot.1", "dot.1", 310, 350, 1),
        Event("mul_fusion", "mul_fusion", 340, 401, 1),
        Event("dot.1", "dot.1", 401, 402, 1),
        Event(CALL, "", 100, 200, 0),
    ]
    first, second = profiled(events, Owners(network(), TRAIN, PROGRAM))
    assert (first.duration_ns, first.spans) == (100, [])
    assert second.spans == [
        Span("PjitFunction(jit(step))", "", DISPATCH, 1, 30, 0),
        Span("dot", "fc", KERNEL, 10, 50, 1),
        Span("mul_fusion", "fc", UPDATE, 40, 100, 2),
    ]


def test_only_what_is_around_others_has_some_within() -> None:
    lanes = Lanes()
    assert lanes.take(7, 0, 100, around=True) == 0
    assert lanes.take(7, 10, 50, around=False) == 0
    assert lanes.take(7, 20, 30, around=False) == 1
    assert lanes.take(7, 30, 40, around=False) == 1
    assert lanes.take(7, 50, 110, around=False) == 1
    assert lanes.take(7, 60, 70, around=False) == 0
    assert lanes.take(8, 60, 70, around=False) == 2


def stat(name: str, began: int, ended: int, operation: str = "") -> Any:
    """An event as JAX tells it, with what it says of the program."""
    told = [("hlo_op", operation)] if operation else []
    return SimpleNamespace(name=name, start_ns=float(began), end_ns=float(ended), stats=told)


def plane(name: str, **lines: list[Any]) -> Any:
    named = [SimpleNamespace(name=line, events=events) for line, events in lines.items()]
    return SimpleNamespace(name=name, lines=named)


CALLER = [stat(CALL, 100, 400), stat("PjitFunction(jit(step))", 101, 130)]
STREAM = [
    stat("ampere_sgemm_128x64", 150, 250, "dot.1"),
    stat("MemcpyD2D", 250, 260, "copy_fusion"),
    stat("MemcpyH2D", 260, 270),
    stat("loop_multiply_fusion", 280, 390, "mul_fusion"),
]
OTHER_STREAM = [stat("wrapped_add", 240, 300, "conv.1"), stat("late", 395, 500)]


def test_a_gpu_has_the_operations_of_its_kernels() -> None:
    """All streams are one, in which nothing counts twice; what is told again is left out."""
    again = plane(
        "/device:GPU:0",
        **{"Stream #1(Compute)": STREAM, "Stream #2(Memcpy)": OTHER_STREAM, "XLA Ops": STREAM},
    )
    events = events_of([plane("/host:CPU", caller=CALLER), again])
    (call,) = profiled(events, Owners(network(), TRAIN, PROGRAM))
    assert [span for span in call.spans if span.thread != DEVICE_THREAD] == [
        Span("PjitFunction(jit(step))", "", DISPATCH, 1, 30, 0)
    ]
    gpu = [span[:5] for span in call.spans if span.thread == DEVICE_THREAD]
    assert gpu == [
        ("ampere_sgemm_128x", "fc", KERNEL, 50, 150),
        ("wrapped_add", "conv a/b", KERNEL, 150, 200),
        ("loop_multiply_fusion", "fc", UPDATE, 200, 290),
        ("late", "", KERNEL, 295, 300),
    ]


def test_copies_of_a_gpu_are_copies() -> None:
    card = plane("/device:GPU:0", **{"Stream #1(Compute)": STREAM})
    events = events_of([plane("/host:CPU", caller=CALLER), card])
    (call,) = profiled(events, Owners(network(), TRAIN, PROGRAM))
    copies = [(s.name, s.layer) for s in call.spans if s.what == COPY]
    assert copies == [("MemcpyD2D", "fc"), ("MemcpyH2D", "")]  # the first for a product


def test_a_profiler_that_sees_no_gpu_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = events_of([plane("/host:CPU", caller=CALLER)])
    monkeypatch.setattr(spans_jax, "recorded", lambda *_: seen)
    asked = (lambda: None, 1, PROGRAM, network(), TRAIN)
    assert len(spans_jax.profiled_calls(*asked)) == 1
    with pytest.raises(Unsupported, match="sees nothing of the GPU"):
        spans_jax.profiled_calls(*asked, finish=lambda: None)
