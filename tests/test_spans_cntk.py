"""Spans from CNTK's profiler: its text, its nodes' layers, and a call under a planted profiler."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelprof.probes.spans import COPY, DISPATCH, KERNEL, UPDATE, Span
from kernelprof.probes.spans_cntk import Owners, layers_of_nodes, profiled_call, spans

MICROSECOND_NS = 1000
OWNERS = Owners(
    {"Times5": "fc", "Plus9": "fc", "Pad11": "pad", "Slice4": "lstm", "Parameter3": "fc"},
    rest="loss",
    movers=frozenset({"pad"}),
)


def records(*events: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Events of a name, a begin and an end in microseconds, as the profiler has them."""
    about = {"pid": 7, "tid": 7, "cat": "PERF"}
    return [
        {**about, "name": name, "ph": phase, "ts": ts}
        for name, begin, end in events
        for phase, ts in (("B", begin), ("E", end))
    ]


def text(*events: tuple[str, int, int]) -> str:
    """What the profiler writes; it names a phase when it ends, after the nodes within."""
    return "[\n" + ",\n".join(json.dumps(record) for record in records(*events)) + "\n]"


@pytest.mark.parametrize(
    ("name", "layer", "what"),
    [
        ("Times5Forward", "fc", KERNEL),
        ("Times5Backward", "fc", KERNEL),
        ("Slice4Forward", "lstm", COPY),
        ("Pad11Backward", "pad", KERNEL),
        ("Parameter3Backward", "fc", DISPATCH),
        ("ReduceElements75Forward", "loss", KERNEL),
        ("__Weight Update", "", UPDATE),
        ("__Forward + Backward", "", DISPATCH),
        ("_Minibatch Iteration", "", DISPATCH),
    ],
)
def test_an_event_has_its_nodes_layer_and_its_operations_work(
    name: str, layer: str, what: str
) -> None:
    kind = re.sub(r"\d+", "", name)
    assert spans(text((name, 3, 5)), 10_000, OWNERS) == [Span(kind, layer, what, 3_000, 5_000)]


def test_spans_come_outermost_first_and_stay_within_the_call() -> None:
    found = spans(
        text(
            ("Times5Forward", 20, 30),
            ("Plus9Forward", 30, 30),  # too short for the profiler's clock
            ("Plus9Backward", 35, 60),
            ("__Forward + Backward", 20, 60),
            ("_Minibatch Iteration", 10, 61),
        ),
        50_500,
        OWNERS,
    )
    assert [(span.name, span.start_ns, span.end_ns) for span in found] == [
        ("_Minibatch Iteration", 10_000, 50_500),
        ("__Forward + Backward", 20_000, 50_500),
        ("TimesForward", 20_000, 30_000),
        ("PlusBackward", 35_000, 50_500),
    ]


def test_text_that_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        spans("EventDescription,ThreadId\n", 1, OWNERS)
    begin, end = records(("Times5Forward", 1, 2))
    for broken in ([end, begin], [begin, {**end, "name": "Plus9Forward"}]):
        with pytest.raises(ValueError, match="no pair"):
            spans(json.dumps(broken), 1, OWNERS)


def function(uid: str, *inputs: Any, block: Any = None) -> Any:
    """A function of CNTK; ``block`` is what it is made of."""
    node = SimpleNamespace(uid=uid, inputs=inputs, is_block=block is not None)
    node.root_function = node
    node.block_root = block
    return node


def variable(uid: str) -> Any:
    """A parameter or an input."""
    return SimpleNamespace(uid=uid, is_output=False)


def output(owner: Any) -> Any:
    """What a function yields, for others to read."""
    return SimpleNamespace(uid=owner.uid + "_Output_0", is_output=True, owner=owner)


def test_nodes_belong_to_the_layer_that_first_needs_them() -> None:
    data, weights, bias = variable("Input1"), variable("Parameter2"), variable("Parameter3")
    times = function("Times4", data, weights)
    plus = function("Plus5", output(times), bias)
    inside = function("Softmax6", variable("Placeholder7"))
    softmax = function("Block8", output(plus), block=inside)
    whole = SimpleNamespace(uid="Composite9", root_function=softmax)  # what users hold
    found = layers_of_nodes({"data": data, "fc": plus, "dropped": plus, "softmax": whole})
    assert found["Input1"] == "data"
    assert {found[uid] for uid in ("Parameter2", "Parameter3", "Times4", "Plus5")} == {"fc"}
    assert {found[uid] for uid in ("Softmax6", "Block8")} == {"softmax"}


def test_a_loop_of_a_recurrent_layer_belongs_to_it() -> None:
    cell = function("Plus1")
    before = function("PastValue2", output(cell))
    cell.inputs = (output(before), variable("Parameter3"))
    assert layers_of_nodes({"lstm": cell})["PastValue2"] == "lstm"


class PlantedProfiler:
    """Writes down what a planted call says that it did, by this process's clock."""

    default_profiler_buffer_size = 1

    def __init__(self) -> None:
        self.done: list[tuple[str, int, int]] = []
        self.folder = ""
        self.began = 0

    def start_profiler(self, folder: str, sync_gpu: bool, size: int) -> None:
        """Take the folder to write to."""
        self.folder = folder

    def enable_profiler(self) -> None:
        """Time counts from here."""
        self.began = time.perf_counter_ns()

    def disable_profiler(self) -> None:
        """Nothing is told from now on."""

    def stop_profiler(self) -> None:
        """Write."""
        Path(self.folder, "now_summary_.txt").write_text("Description")
        Path(self.folder, "now_detail_.json").write_text(text(*self.done))

    def work(self, name: str, seconds: float) -> None:
        """Sleep, as the node of this name."""
        start = time.perf_counter_ns()
        time.sleep(seconds)
        start_us, end_us = (
            (at - self.began) // MICROSECOND_NS for at in (start, time.perf_counter_ns())
        )
        self.done.append((name, start_us, end_us))


def test_a_profiled_call_finds_its_times_and_leaves_no_files() -> None:
    profiler = PlantedProfiler()

    def call() -> None:
        profiler.work("Times5Forward", 0.02)
        time.sleep(0.01)
        profiler.work("Plus9Forward", 0.005)

    profiled = profiled_call(profiler, call, OWNERS)
    times, plus = profiled.spans
    assert times.end_ns - times.start_ns + MICROSECOND_NS >= 0.02e9
    assert plus.end_ns - plus.start_ns + MICROSECOND_NS >= 0.005e9
    assert plus.start_ns - times.end_ns >= 0.01e9 - MICROSECOND_NS
    assert times.start_ns >= 0
    assert plus.end_ns <= profiled.duration_ns
    assert not os.path.exists(profiler.folder)


def test_a_call_that_fails_leaves_no_files_either() -> None:
    profiler = PlantedProfiler()

    def call() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        profiled_call(profiler, call, OWNERS)
    assert not os.path.exists(profiler.folder)
