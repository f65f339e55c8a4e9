"""What each engine's own profiler tells of whole networks, asked of real workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from itertools import product
from typing import Any, NamedTuple

import pytest

from kernelprof.diagnosis.own_times import OwnTimes, own_times
from kernelprof.launch import Worker
from kernelprof.probes.network import MODES, TRAIN, Network
from kernelprof.probes.networks import NETWORKS
from kernelprof.probes.spans import KERNEL, UPDATE, WHATS, Span
from tests.conftest import ON_CPU, engine_worker

PATIENCE_S = 120.0
BATCHES = {"fcn-r": 8, "alexnet-r": 4, "lstm": 4, "resnet-56": 2}
CALLS = 2
LEAST_COVERED = 0.7  # of a call that computes most of the time


class Profiled(NamedTuple):
    """Calls of a network under an engine's profiler."""

    network: Network
    mode: str
    plain_ns: list[int]
    calls: list[tuple[int, list[Span]]]

    def own_times(self) -> OwnTimes:
        return own_times(*self.calls[-1])


def profile(worker: Worker, name: str, batch: int, mode: str) -> Profiled:
    network = NETWORKS[name]()
    asked: dict[str, Any] = {"network": network.to_json(), "batch": batch, "mode": mode, "seed": 0}
    worker.ask("observe", PATIENCE_S, **asked)
    answer = worker.ask("profile", PATIENCE_S, calls=CALLS)
    calls = [
        (call["duration_ns"], [Span(*span) for span in call["spans"]]) for call in answer["calls"]
    ]
    return Profiled(network, mode, answer["plain_ns"], calls)


@pytest.fixture(scope="module", params=list(product(BATCHES, MODES)), ids="-".join)
def profiled(worker: Worker, request: pytest.FixtureRequest) -> Profiled:
    """Each network in each mode, in a worker of each engine."""
    name, mode = request.param
    return profile(worker, name, BATCHES[name], mode)


def test_each_call_is_told(profiled: Profiled) -> None:
    assert len(profiled.calls) == CALLS
    assert all(spans for _, spans in profiled.calls)
    assert len(profiled.plain_ns) == 2 * CALLS


def test_spans_lie_within_their_call(profiled: Profiled) -> None:
    for duration_ns, spans in profiled.calls:
        assert all(0 <= span.start_ns <= span.end_ns <= duration_ns for span in spans)


def test_spans_nest_on_each_thread(profiled: Profiled) -> None:
    for _, spans in profiled.calls:
        by_thread = defaultdict(list)
        for span in spans:
            by_thread[span.thread].append(span)
        for own in by_thread.values():
            assert crossing(own) == []


def crossing(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Spans that begin within another and end after it."""
    found: list[tuple[Span, Span]] = []
    around: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        while around and around[-1].end_ns <= span.start_ns:
            around.pop()
        if around and around[-1].end_ns < span.end_ns:
            found.append((around[-1], span))
        around.append(span)
    return found


def test_a_crossing_is_found() -> None:
    outer, inner = Span("a", "", KERNEL, 0, 5), Span("b", "", KERNEL, 1, 4)
    after, late = Span("c", "", KERNEL, 5, 6), Span("d", "", KERNEL, 4, 6)
    assert crossing([after, inner, outer]) == []
    assert crossing([late, inner, outer]) == [(outer, late)]


def test_whats_and_layers_are_known(profiled: Profiled) -> None:
    names = {layer.name for layer in profiled.network.layers} | {""}
    for _, spans in profiled.calls:
        assert {span.what for span in spans} <= set(WHATS)
        assert {span.layer for span in spans} <= names


def test_layers_that_compute_have_kernel_time(profiled: Profiled) -> None:
    network, mode = profiled.network, profiled.mode
    computing = {
        layer.name
        for layer in network.layers
        if any(primitive.compute_bound for primitive in network.primitives(layer, 1, mode))
    }
    times = profiled.own_times().by_owner
    timed = {owner.layer for owner, ns in times.items() if owner.what == KERNEL and ns > 0}
    assert timed >= computing


def test_only_training_updates(profiled: Profiled) -> None:
    times = profiled.own_times().by_owner
    updating = sum(ns for owner, ns in times.items() if owner.what == UPDATE)
    assert (updating > 0) == (profiled.mode == TRAIN)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("engine", ON_CPU)
def test_most_of_a_call_is_told(engine: str, cpus: int) -> None:
    with closing(engine_worker(engine, cpus)) as worker:
        times = profile(worker, "alexnet-r", 64, TRAIN).own_times()
    assert sum(times.by_owner.values()) >= LEAST_COVERED * times.duration_ns
