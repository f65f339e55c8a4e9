"""The study of comparisons: its runs, the adapter that slows a layer, and what is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelprof.engines import environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes import slowed
from kernelprof.probes.network import INFER
from kernelprof.runfile import RunFile
from kernelprof.studies.compared import (
    ADAPTER,
    HEALTHY_RUNS,
    LAYERS,
    SLOWED_RUNS,
    _body,
    _slowed_cases,
    _verdict,
    plan,
)
from tests.compared_run import Simulated, changed, simulate
from tests.planted_run import perceptron


def test_slowed_runs_are_spread_among_healthy_ones() -> None:
    planned = plan()
    assert Counter(bool(one.layer) for one in planned) == {False: HEALTHY_RUNS, True: SLOWED_RUNS}
    assert len({one.name for one in planned}) == len(planned)
    assert {one.layer for one in planned} == {"", *LAYERS}
    times = Counter(one.layer for one in planned if one.layer).values()
    assert max(times) - min(times) <= 1
    assert not planned[0].layer


def test_a_slowed_call_takes_longer_by_its_share() -> None:
    inner: list[int] = []

    def call() -> str:
        began = time.perf_counter_ns()
        while time.perf_counter_ns() - began < 200_000:
            pass
        inner.append(time.perf_counter_ns() - began)
        return "result"

    slow = slowed.SlowedCall(call, 0.5)
    began = time.perf_counter_ns()
    assert slow() == "result"
    assert time.perf_counter_ns() - began >= 1.5 * inner[0]
    assert slow.added_ns >= 0.5 * inner[0]


def test_a_slowed_network_takes_longer_by_what_its_kernels_do() -> None:
    class Still(slowed.WholeNetwork):
        parameters = 3

        def call(self) -> int:
            return 7

    kernels = [slowed.SlowedCall(lambda: None, 0.1) for _ in range(2)]
    for kernel in kernels:
        kernel.added_ns = 300_000
    network = slowed.SlowedNetwork(Still(), kernels)
    began = time.perf_counter_ns()
    assert network.call() == 7
    assert time.perf_counter_ns() - began >= 600_000
    assert network.parameters == 3


def test_the_adapter_slows_an_engine_without_changing_its_results() -> None:
    healthy = environment("numpy")
    assert healthy is not None
    variables = {"SLOWED_ENGINE": "numpy", "SLOWED_LAYER": "fc2", "SLOWED_SHARE": "0.5"}
    network = perceptron(width=32)
    worker = Worker(replace(healthy, adapter=str(ADAPTER)), usable_cpus()[:1], variables)
    try:
        answer = worker.ask(
            "build",
            60.0,
            network=network.to_json(),
            batch=4,
            subjects={INFER: {"mode": INFER, "whole": False}},
            seed=1,
            warm_up_s=0.01,
        )[INFER]
    finally:
        worker.close()
    assert "failure" not in answer
    assert all(kernel["failure"] is None for kernel in answer["kernels"])
    assert "fc2" in {kernel["layer"] for kernel in answer["kernels"]}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[dict[str, RunFile]]:
    usual = Simulated()
    runs = {
        "healthy-01": usual,
        "slowed-01": changed(usual, factors={"fc1": 1.5}),
        "healthy-02": changed(usual, seed=7),
    }
    paths = {name: simulate(tmp_path / f"{name}.kprof", run) for name, run in runs.items()}
    opened = {name: RunFile.open(path) for name, path in paths.items()}
    yield opened
    for file in opened.values():
        file.close()


def test_what_is_written_counts_alarms_and_finds(held: dict[str, RunFile]) -> None:
    cases = list(_slowed_cases(held))
    assert cases == [("healthy-01", "slowed-01", "fc1")]
    equal = [_verdict(held, "healthy-01", "healthy-02"), _verdict(held, "healthy-02", "healthy-01")]
    found = [_verdict(held, *cases[0])]
    assert found[0].found
    assert found[0].ratio == pytest.approx(1.5, rel=0.05)
    every = [replace(found[0], planted=layer) for layer in LAYERS]
    text = _body(equal, found, every, 2)
    alarms = sum(bool(one.slower) for one in equal)
    assert f"**{alarms} of 2 comparisons of equal runs" in text
    assert "was found in 1 of 1 runs" in text
