"""Blocks on a GPU: a simulated queue tells what must come out; a fake GPU runs in real workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.chains import calls as chain_of_calls
from kernelprof.engines import Environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes.device import EVENTS, HOST, Stream
from kernelprof.probes.gpu_timing import (
    AIM_NS,
    MOST_CALLS,
    calls_per_block,
    replayed_ns,
    time_on_stream,
)
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.probes.primitive import COLD, WARM
from kernelprof.probes.rotation import MOST_SETS, Rotation

FAKE_GPU = str(Path(__file__).resolve().parent / "fake_gpu.py")
CPUS = usable_cpus()[:1]
DEVICE = "cuda:2"
KERNEL_NS, LAUNCH_NS = 40_000, 4_000


class Queue(Stream):
    """A CPU and a GPU in a time of their own: a launch takes the one, the work the other."""

    def __init__(self, clock: str = EVENTS) -> None:
        self.clock = clock
        self.cpu_ns = self.gpu_ns = 0
        self.done: list[str] = []

    def launch(self, launch_ns: int, work_ns: int) -> None:
        self.done.append("call")
        self.cpu_ns += launch_ns
        self.gpu_ns = max(self.gpu_ns, self.cpu_ns) + work_ns

    def mark(self) -> int:
        self.done.append("mark")
        return self.cpu_ns if self.clock == HOST else max(self.gpu_ns, self.cpu_ns)

    def elapsed_ns(self, first: int, last: int) -> int:
        assert self.cpu_ns >= last
        return last - first

    def finish(self) -> None:
        self.done.append("finish")
        self.cpu_ns = max(self.cpu_ns, self.gpu_ns)


def queued_ns(launch_ns: int, work_ns: int, calls: int) -> int:
    """When a GPU is done with so many calls, by going through them: the oracle."""
    cpu = gpu = 0
    for _ in range(calls):
        cpu += launch_ns
        gpu = max(gpu, cpu) + work_ns
    return gpu


NS = st.integers(1, 100_000)


@given(NS, NS, st.integers(1, 300), st.sampled_from((EVENTS, HOST)))
def test_a_block_takes_what_the_queue_takes(
    launch_ns: int, work_ns: int, calls: int, clock: str
) -> None:
    stream = Queue(clock)
    stream.launch(7, 12_345)  # of before: an idle GPU begins
    held: list[Any] = ["kept", "released"]
    sides = time_on_stream(stream, lambda: stream.launch(launch_ns, work_ns), calls, held, 0, (1,))
    assert sides.events_ns == queued_ns(launch_ns, work_ns, calls)
    assert sides.host_ns > 0
    assert sides.graph_ns == 0
    assert held == [None, None]


@pytest.mark.parametrize(
    ("clock", "order"),
    [
        (EVENTS, ["finish", "mark", "call", "call", "mark", "finish"]),
        (HOST, ["finish", "mark", "call", "call", "finish", "mark", "finish"]),
    ],
)
def test_marks_lie_around_the_calls(clock: str, order: list[str]) -> None:
    stream = Queue(clock)
    time_on_stream(stream, lambda: stream.launch(1, 1), 2, [None], 0)
    assert stream.done == order


@given(NS, NS)
def test_a_replay_hides_the_launch_of_the_next(launch_ns: int, work_ns: int) -> None:
    """Only a graph that is shorter than its own launch shows it."""
    stream = Queue()
    stream.launch(3, 77_777)
    found = replayed_ns(stream, lambda: stream.launch(launch_ns, work_ns))
    assert found == max(work_ns, launch_ns)


class TestCallsOfABlock:
    """From the time of one call."""

    @given(st.floats(0.1, 1e10), st.sampled_from((EVENTS, HOST)), st.integers(1, MOST_SETS))
    def test_whole_turns_and_no_more_than_a_queue_holds(
        self, call_ns: float, clock: str, turns: int
    ) -> None:
        calls = calls_per_block(call_ns, clock, turns)
        assert calls >= 1
        assert calls % turns == 0
        assert calls <= max(MOST_CALLS, turns)

    @given(st.floats(1, 1e10), st.sampled_from((EVENTS, HOST)))
    def test_long_enough_if_the_queue_holds_so_many(self, call_ns: float, clock: str) -> None:
        calls = calls_per_block(call_ns, clock)
        assert calls == MOST_CALLS or calls * call_ns >= AIM_NS[clock]
        assert calls == 1 or (calls - 1) * call_ns < AIM_NS[clock]

    def test_fewer_where_more_would_not_be_handed_over(self) -> None:
        assert calls_per_block(10.0, EVENTS, most=7) == 7


Build = Callable[..., tuple[Worker, dict[str, Any]]]


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds a chain of products in a worker of the fake GPU, which ends with the test."""
    started: list[Worker] = []

    def _build(
        mode: str = INFER, cache: str = WARM, cpus: tuple[int, ...] = CPUS, **variables: str
    ) -> Any:
        own = {"FAKE_KERNEL_NS": str(KERNEL_NS), "FAKE_FLOP_PER_NS": "1000000000"}
        environment = Environment("fake", sys.executable, FAKE_GPU)
        worker = Worker(environment, cpus, {**own, **variables}, DEVICE)
        started.append(worker)
        answer = worker.ask(
            "build",
            60.0,
            network=chain_of_calls(2).to_json(),
            batch=2,
            subjects={mode: {"mode": mode, "whole": True}},
            seed=1,
            warm_up_s=0.01,
            cache=cache,
            together_bytes=0 if cache == WARM else 20_000,
        )
        return worker, answer[mode]

    yield _build
    for worker in started:
        worker.close()


def turn(worker: Worker, mode: str = INFER, rounds: int = 4) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = worker.ask("turn", 60.0, subject=mode, rounds=[*range(rounds)])[
        "rounds"
    ]
    return found


@pytest.mark.parametrize("mode", [INFER, TRAIN])
def test_every_sample_has_two_sides(build: Build, mode: str) -> None:
    worker, described = build(mode)
    for round_ in turn(worker, mode):
        samples = {"-1": round_["whole"], **round_["kernels"]}
        assert set(round_["gpu"]) == set(samples)
        for place, (calls, _, duration, *_) in samples.items():
            events_ns, host_ns, graph_ns = round_["gpu"][place]
            launches = len(described["kernels"]) if place == "-1" else 1
            assert duration == (graph_ns or events_ns)
            assert host_ns >= calls * launches * LAUNCH_NS
            assert events_ns >= calls * launches * KERNEL_NS
            assert (graph_ns == 0) == (place == "-1")
            assert graph_ns == 0 or graph_ns >= calls * KERNEL_NS


def test_a_kernel_takes_what_the_gpu_takes(build: Build) -> None:
    """Its launches cost the CPU more than it costs the GPU, and do not count."""
    worker, described = build(FAKE_KERNEL_NS="5000", FAKE_LAUNCH_NS="20000")
    rounds = turn(worker, rounds=8)
    for index in map(str, range(len(described["kernels"]))):
        blocks = [(round_["kernels"][index], round_["gpu"][index]) for round_ in rounds]
        assert min(sample[2] / sample[0] for sample, _ in blocks) == pytest.approx(5000, rel=0.01)
        assert all(sides[0] >= sample[0] * 20_000 for sample, sides in blocks)


def test_what_cannot_be_recorded_is_timed_by_events(build: Build) -> None:
    worker, described = build(FAKE_UNRECORDED="gemm")
    kinds = [kernel["primitives"][0]["kind"] for kernel in described["kernels"]]
    for round_ in turn(worker):
        for index, kind in enumerate(kinds):
            events_ns, _, graph_ns = round_["gpu"][str(index)]
            assert (graph_ns == 0) == (kind == "gemm")
            assert round_["kernels"][str(index)][2] == (graph_ns or events_ns)


def test_an_engine_that_shows_no_stream(build: Build) -> None:
    worker, described = build(FAKE_CLOCK=HOST)
    for round_ in turn(worker):
        calls, _, duration, *_ = round_["whole"]
        assert duration >= calls * len(described["kernels"]) * KERNEL_NS


def test_a_graph_of_cold_operands_holds_whole_turns(build: Build) -> None:
    worker, described = build(cache=COLD)
    rotation = Rotation(COLD, 20_000)
    turns = [rotation.turns(kernel["cold_bytes"]) for kernel in described["kernels"]]
    assert max(turns) > 1
    for round_ in turn(worker):
        for index, sets in enumerate(turns):
            assert round_["kernels"][str(index)][0] % sets == 0


def test_the_engine_hands_memory_back(build: Build) -> None:
    worker, _ = build()
    before = worker.ask("facts", 30.0)["released"]
    worker.ask("drop", 30.0)
    assert worker.ask("facts", 30.0)["released"] > before


def test_no_thread_of_a_gpus_engine_is_pinned(build: Build) -> None:
    if len(usable_cpus()) < 2:
        pytest.skip("2 CPUs are needed")
    cpus = sorted(usable_cpus()[:2])
    worker, _ = build(cpus=tuple(cpus))
    allowed = worker.ask("facts", 30.0)["thread_cpus"].values()
    assert all(list(each) == cpus for each in allowed)
