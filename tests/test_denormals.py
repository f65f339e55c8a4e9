"""Denormal numbers flushed by KERNELPROF_DENORMALS, in the first thread and in an engine's pool."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from kernelprof.engines import environment
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus

from .conftest import engine_worker

PATIENCE_S = 110
ON_X86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the control register is that of x86"
)
ELEMENTS = 2**22
ADAPTER = f"""
import torch
from .on_torch import start as start_torch

def start(device):
    engine = start_torch(device)
    facts = engine.facts
    def with_products():
        halves = torch.full(({ELEMENTS},), 1e-40) * 0.5
        bits = halves.numpy().view("int32")  # compared as numbers they would be zero in any case
        return dict(facts(), kept=int((bits != 0).sum()))
    engine.facts = with_products
    return engine
"""


@ON_X86
@pytest.mark.parametrize("engine", ["numpy", "torch", "caffe", "cntk"])
def test_flushed_in_the_first_thread(engine):
    worker = engine_worker(engine, variables={"KERNELPROF_DENORMALS": "flush"})
    try:
        facts = worker.ask("facts", PATIENCE_S)
    finally:
        worker.close()
    assert facts["denormals"] == "flushed to zero"
    assert facts["variables"]["KERNELPROF_DENORMALS"] == "flush"


@ON_X86
@pytest.mark.parametrize(("variables", "kept"), [({"KERNELPROF_DENORMALS": "flush"}, 0), ({}, 1)])
def test_flushed_in_the_threads_of_a_pool(variables, kept, tmp_path):
    """Two threads share a product of many numbers."""
    adapter = tmp_path / "denormal_products.py"
    adapter.write_text(ADAPTER)
    found = environment("torch")
    if found is None:
        pytest.skip("engine torch is not installed: `kernelprof engines install torch`")
    if len(usable_cpus()) < 2:
        pytest.skip("2 CPUs are needed")
    worker = Worker(replace(found, adapter=str(adapter)), usable_cpus()[:2], variables)
    try:
        facts = worker.ask("facts", PATIENCE_S)
    finally:
        worker.close()
    assert facts["threads"] == 2
    assert facts["kept"] == kept * ELEMENTS


def test_another_value_is_refused():
    with pytest.raises(WorkerError, match="KERNELPROF_DENORMALS=keep: only flush is known"):
        engine_worker("numpy", variables={"KERNELPROF_DENORMALS": "keep"})
