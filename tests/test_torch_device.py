"""Torch on a GPU, as far as a machine without one can tell: all tensors there, settings, refusals.

Where the engine works on a GPU it works on torch's device "meta" too, whose tensors are shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from kernelprof.engines import Environment, environment
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.memory_bound import BatchNorm, SgdUpdate
from kernelprof.probes.network import MODES
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, UPDATE, Primitive

from .test_engine_contract import (
    CHAINS,
    MADE_UP,
    PATIENCE_S,
    SAMPLES,
    kernel_error,
    known_network,
    label,
    small_instance,
)

ADAPTER = str(Path(__file__).resolve().parent / "meta_engine.py")


def in_torch(adapter: str = "torch", device: str = "cpu", **variables: str) -> Worker:
    """A worker of an adapter in the interpreter that has torch."""
    found = environment("torch")
    if found is None:
        pytest.skip("engine torch is not installed: `kernelprof engines install torch`")
    own = Environment("torch", found.python, adapter, found.variables)
    return Worker(own, usable_cpus()[:1], variables, device)


@pytest.fixture(scope="module", params=["", "channels_last"], ids=["NCHW", "NHWC"])
def meta(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with closing(in_torch(ADAPTER, KERNELPROF_LAYOUT=request.param)) as running:
        yield running


@pytest.mark.parametrize("primitive", SAMPLES, ids=lambda primitive: primitive.label)
def test_every_kernel_runs_on_the_device_alone(meta: Worker, primitive: Primitive) -> None:
    for pass_ in primitive.passes:
        kernel_error(meta, (primitive,), pass_)


@pytest.mark.parametrize("primitives", CHAINS, ids=label)
def test_a_bias_goes_along_on_the_device(meta: Worker, primitives: tuple[Primitive, ...]) -> None:
    for pass_ in meta.ask("facts", PATIENCE_S)["fusion"]["chains"]:
        kernel_error(meta, primitives, pass_)


def test_a_batch_norm_goes_back_in_one_call(meta: Worker) -> None:
    assert "batch_norm" in meta.ask("facts", PATIENCE_S)["fusion"]["joint_passes"]
    kernel_error(meta, (BatchNorm(5, 3, 7, training=True),), BACKWARD_DATA, BACKWARD_WEIGHTS)


def test_parameters_are_updated_together(meta: Worker) -> None:
    """All of ResNet-50's and more, and the numbers are those of one by one."""
    assert meta.ask("facts", PATIENCE_S)["fusion"]["updated_together"] > 10**5
    for momentum in (0.0, 0.9):
        updates = tuple(SgdUpdate(size, momentum, 0.1) for size in (7, 1009, 1))
        kernel_error(meta, updates, UPDATE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32"])
def test_products_of_shorter_numbers_run_on_the_device(meta: Worker, dtype: str) -> None:
    """Those in TF32 with that switched on, all others without."""
    for pass_ in Gemm.reads:
        kernel_error(meta, (Gemm(37, 41, 43, dtype=dtype),), pass_)


@pytest.mark.parametrize(
    ("name", "mode"),
    list(product(["alexnet-r", "fcn-r", "lstm", "resnet-56", *MADE_UP], MODES)),
)
def test_every_network_runs_on_the_device_alone(meta: Worker, name: str, mode: str) -> None:
    network = small_instance(known_network(name)).to_json()
    meta.ask("check_network", PATIENCE_S, network=network, batch=2, mode=mode, seed=5)


def test_inference_leaves_tensors_that_training_can_use(meta: Worker) -> None:
    """Kernels of both share operands, and inference makes them first."""
    asked = {mode: {"mode": mode, "whole": False} for mode in ("infer", "train")}
    network = known_network("branching").to_json()
    about = {"network": network, "batch": 2, "seed": 5, "warm_up_s": 0.01}
    for mode, told in meta.ask("build", PATIENCE_S, subjects=asked, **about).items():
        assert [kernel["failure"] for kernel in told["kernels"] if kernel["failure"]] == [], mode
    meta.ask("drop", PATIENCE_S)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_of_shorter_numbers_agree_on_the_cpu(dtype: str) -> None:
    with closing(in_torch()) as cpu:
        for pass_ in Gemm.reads:
            kernel_error(cpu, (Gemm(37, 41, 43, dtype=dtype),), pass_)


def test_the_cpu_has_no_tf32() -> None:
    with closing(in_torch()) as cpu, pytest.raises(WorkerError, match="no products in tf32") as no:
        kernel_error(cpu, (Gemm(37, 41, 43, dtype="tf32"),), "forward")
    assert no.value.kind == "unsupported"


def test_a_gpu_that_cannot_be_used_is_one_line() -> None:
    """Whether torch is built without CUDA, or there is no card: a variable hides one that is."""
    with pytest.raises(WorkerError) as refused:
        in_torch(device="cuda:0", CUDA_VISIBLE_DEVICES="")
    assert refused.value.kind == "no_device"
    reason = refused.value.args[0]
    assert "\n" not in reason
    assert "install PyTorch's build for CUDA" in reason or "cannot use cuda:0" in reason


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("KERNELPROF_TF32", "yes", "a GPU's engine takes '1'"),
        ("KERNELPROF_ALGORITHM_SEARCH", "0", "a GPU's engine takes 'off'"),
    ],
)
def test_an_unknown_setting_is_one_line(name: str, value: str, wanted: str) -> None:
    with pytest.raises(WorkerError, match=f"{name} is '{value}'; {wanted}") as refused:
        in_torch(device="cuda:0", **{name: value})
    assert "\n" not in refused.value.args[0]
