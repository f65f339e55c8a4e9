"""Engines on a GPU that show no stream, as far as a machine without one can tell.

Calls that nobody awaits yield right results, samples come from the CPU's clock, and where there is
no GPU that is said in a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kernelprof.engines import Environment, environment
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.network import MODES
from kernelprof.probes.primitive import FORWARD, Primitive

from .test_engine_contract import (
    PATIENCE_S,
    SAMPLES,
    TOLERANCE,
    UPDATE_TOLERANCE,
    assert_agrees,
    kernel_error,
    known_network,
)

ADAPTER = str(Path(__file__).resolve().parent / "queued_engine.py")
ENGINES = ("jax", "mxnet", "tensorflow")
LAST = list({primitive.kind: primitive for primitive in SAMPLES}.values())  # of each kind
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
SHORTER = ("float16", "bfloat16", "tf32")


def worker_of(
    engine: str, adapter: str = "", device: str = "cpu", variables: dict[str, str] | None = None
) -> Worker:
    """A worker of an adapter in the interpreter that has an engine."""
    found = environment(engine)
    if found is None:
        pytest.skip(f"engine {engine} is not installed: `kernelprof engines install {engine}`")
    own = Environment(engine, found.python, adapter or engine, found.variables)
    return Worker(own, usable_cpus()[:1], {"QUEUED_ENGINE": engine, **(variables or {})}, device)


@pytest.fixture(scope="module", params=ENGINES)
def queued(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with closing(worker_of(request.param, ADAPTER)) as running:
        yield running


@pytest.mark.parametrize("primitive", LAST, ids=lambda primitive: primitive.kind)
def test_kernels_that_nobody_awaits_agree(queued: Worker, primitive: Primitive) -> None:
    for pass_ in primitive.passes:
        assert_agrees(queued, (primitive,), pass_)


@pytest.mark.parametrize(("name", "mode"), list(product(["branching", "lstm"], MODES)))
def test_networks_that_nobody_awaits_agree(queued: Worker, name: str, mode: str) -> None:
    asked = {"network": known_network(name).to_json(), "batch": 2, "mode": mode, "seed": 5}
    assert max(queued.ask("check_network", PATIENCE_S, **asked)["errors"].values()) < TOLERANCE


def test_training_moves_the_weights(queued: Worker) -> None:
    """By steps whose results nobody awaits before the next one takes them over."""
    asked = {"network": known_network("branching").to_json(), "batch": 2, "seed": 5}
    errors = queued.ask("check_update", PATIENCE_S, **asked)["errors"]
    assert max(errors.values()) < UPDATE_TOLERANCE, errors


def test_samples_are_read_from_the_cpu_s_clock(queued: Worker) -> None:
    """All of it: until the work is done, which takes longer than to hand it over."""
    asked: dict[str, Any] = {"train": {"mode": "train", "whole": True}}
    about = {"network": known_network("branching").to_json(), "batch": 16, "seed": 5}
    built = queued.ask("build", PATIENCE_S, subjects=asked, warm_up_s=0.05, **about)["train"]
    assert [kernel["failure"] for kernel in built["kernels"] if kernel["failure"]] == []
    (sampled,) = queued.ask("turn", PATIENCE_S, subject="train", rounds=[0])["rounds"]
    queued.ask("drop", PATIENCE_S)
    assert set(sampled["gpu"]) == {"-1", *sampled["kernels"]}
    for all_ns, host_ns, replayed_ns in sampled["gpu"].values():
        assert 0 < host_ns <= all_ns
        assert replayed_ns == 0


def test_jax_has_products_of_shorter_numbers() -> None:
    """Of which its CPU has no TF32."""
    with closing(worker_of("jax", ADAPTER)) as running:
        for dtype, pass_ in product(SHORTER, Gemm.reads):
            kernel_error(running, (Gemm(37, 41, 43, dtype=dtype),), pass_)
    with closing(worker_of("jax")) as cpu:
        for dtype in SHORTER[:-1]:
            kernel_error(cpu, (Gemm(37, 41, 43, dtype=dtype),), FORWARD)
        with pytest.raises(WorkerError, match="no products in tf32") as refused:
            kernel_error(cpu, (Gemm(37, 41, 43, dtype=SHORTER[-1]),), FORWARD)
        assert refused.value.kind == "unsupported"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gpu_that_cannot_be_used_is_one_line(engine: str) -> None:
    """Whether the build has no CUDA, or there is no card: a variable hides those that are there."""
    with pytest.raises(WorkerError) as refused:
        worker_of(engine, device="cuda:0", variables=HIDDEN)
    assert refused.value.kind == "no_device"
    reason = refused.value.args[0]
    assert "\n" not in reason
    assert "cuda:0" in reason
    assert "name an interpreter " in reason or "`nvidia-smi` shows" in reason


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_setting_is_one_line(engine: str) -> None:
    said = "KERNELPROF_ALGORITHM_SEARCH is 'x'; a GPU"
    with pytest.raises(WorkerError, match=said) as refused:
        worker_of(engine, device="cuda:0", variables={"KERNELPROF_ALGORITHM_SEARCH": "x"})
    assert "\n" not in refused.value.args[0]
