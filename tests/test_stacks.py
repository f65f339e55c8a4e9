"""Reading and taking stacks: what each frame is, real workers, and a py-spy that cannot."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.diagnosis import stacks
from kernelprof.diagnosis.stacks import WHATS, Hot, Stacks, keep, parse, sample, what
from kernelprof.errors import KernelprofError
from kernelprof.launch import Worker
from kernelprof.probes.networks import NETWORKS

from .conftest import engine_worker

PATIENCE_S = 110
BATCH = 1024  # of which kernels outweigh Python's share of a call on any machine
SECONDS = 1.0
START_S = 6.0  # that py-spy may need before it looks: it reads an engine's symbols first
CALL = "<module> (boot.py:38);main (boot.py:29);Observer.repeat (probes/observer.py:110)"
# As py-spy 0.4.2 wrote them of real engines.
LEAVES = {
    "_single_tensor_sgd (torch/optim/sgd.py:379)": "python",
    "_handle_fromlist (<frozen importlib._bootstrap>:1229)": "python",
    "PyCFuncPtrType_new (_ctypes.c:2567)": "python",
    "_PyEval_EvalFrameDefault (libpython3.9.so.1.0)": "python",
    "0x7f2a1f2abf7a (libffi.so.8.1.2)": "python",
    "torch::is_tensor_and_append_overloaded (libtorch_python.so)": "dispatch",
    "at::_ops::empty_strided::call (libtorch_cpu.so)": "dispatch",
    "c10::TensorImpl::TensorImpl (libc10.so)": "dispatch",
    "dnnl::impl::primitive_hashing::get_md_hash (libtorch_cpu.so)": "dispatch",
    "dnnl_reorder_primitive_desc_create (libtorch_cpu.so)": "dispatch",
    "tensorflow::EagerOperation::AddInput (tensorflow/libtensorflow_cc.so.2)": "dispatch",
    "mxnet::imperative::SetDependency (mxnet/libmxnet.so)": "dispatch",
    "caffe::Blob<float>::LegacyShape (libcaffe.so.1.0.0)": "dispatch",
    "operator new (libstdc++.so.6.0.30)": "dispatch",
    "0x7ff018d167eb (?)": "kernel",
    "mkl_blas_def_sgemm_kernel_0_zen (libtorch_cpu.so)": "kernel",
    "at::native::(anonymous namespace)::cpu_max_pool<float, false> (libtorch_cpu.so)": "kernel",
    "at::native::(anonymous namespace)::avg_pool2d_kernel_impl (libtorch_cpu.so)": "kernel",
    "sgemm_kernel_SKYLAKEX (libscipy_openblas64_-32a4b2a6.so)": "kernel",
    "0x7f912d796b7c (libopenblasp-r0.3.13.so)": "kernel",
    "doit_bwd_data_par (libmklml_intel.so)": "kernel",
    "caffe::im2col_cpu<float> (libcaffe.so.1.0.0)": "kernel",
    "caffe::ReLULayer<float>::Backward_cpu (libcaffe.so.1.0.0)": "kernel",
    "Microsoft::MSR::CNTK::CPUMatrix<float>::MaxPoolingBackward (libCntk.Math-2.7.so)": "kernel",
    "FLOAT_add_X86_V3 (numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so)": "kernel",
    "gomp_team_barrier_wait_end (libgomp-a34b3233.so.1)": "kernel",
    "expf (libm.so.6)": "kernel",
    "malloc (libc.so.6)": "system",
    "0x7f3567d98a80 (libc-2.31.so)": "system",
    "__tls_get_addr (ld-linux-x86-64.so.2)": "system",
    "pthread_cond_signal (libc.so.6)": "system",
    "pthread_cond_wait (libc.so.6)": "waiting",
    "something (libunheardof.so.1)": "other",
    "": "other",
}


@pytest.mark.parametrize(("leaf", "kind"), LEAVES.items())
def test_leaves(leaf, kind):
    assert what([*CALL.split(";"), leaf]) == kind


def test_a_wait_that_has_no_name():
    """The callers of the C library tell."""
    waiting = [
        "MXNDArrayWaitAll (mxnet/libmxnet.so)",
        "mxnet::engine::ThreadedEngine::WaitForAll (mxnet/libmxnet.so)",
        "std::condition_variable::wait (libstdc++.so.6.0.30)",
        "pthread_cond_wait (libc.so.6)",
        "0x7f2a1f6a3f16 (libc.so.6)",
    ]
    assert what(waiting) == "waiting"
    assert (
        what([*waiting, *["f (mxnet/libmxnet.so)"] * 4, "0x7f2a1f6a3f16 (libc.so.6)"]) == "system"
    )


RAW = f"""\
{CALL};call (probes/on_numpy.py:9);sgemm_kernel_ZEN (libopenblas.so) 60
{CALL};call (probes/on_numpy.py:9);0x7f00 (libopenblas.so) 10
{CALL};call (probes/on_numpy.py:9);0x7f01 (libopenblas.so) 10
{CALL};call (probes/on_numpy.py:9) 15
{CALL};call (probes/on_numpy.py:9);malloc (libc.so.6) 5
<module> (boot.py:38);Worker.serve (probes/worker.py:73);read (libc.so.6) 900
 8
"""


def test_shares_of_calls_alone():
    found = parse(RAW)
    assert found.samples == 100
    assert {name: part for name, part in found.shares.items() if part} == {
        "kernel": 0.8,
        "python": 0.15,
        "system": 0.05,
    }
    assert found.share("kernel") == 0.8
    assert found.hottest == (
        Hot("sgemm_kernel_ZEN", "libopenblas.so", 0.6),
        Hot("", "libopenblas.so", 0.2),
        Hot("malloc", "libc.so.6", 0.05),
    )
    assert Stacks.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "frame",
    [
        "repeat (mnt/observer.py:110)",
        "repeat (observer.py:84)",
        "Observer.repeat (a/observer.py:1)",
    ],
)
def test_calls_in_every_python(frame):
    assert parse(f"main (boot.py:1);{frame};f (a.py:1) 3\n").samples == 3


@pytest.mark.parametrize("raw", ["", " 8\n", "main (boot.py:1) 3", f"{CALL};x many"])
def test_without_calls(raw):
    with pytest.raises(KernelprofError, match="saw no call"):
        parse(raw)


@given(st.text(), st.integers(1, 10**6))
def test_whatever_a_frame_is_called_it_counts(name, count):
    line = f"{CALL};{name} {count}".splitlines()[0]
    stack, _, number = line.rpartition(" ")
    expected = int(number) if number.isdecimal() and number.isascii() else 0
    raw = f"{stack} {number}\n{CALL} 1\n"
    found = parse(raw)
    assert found.samples == expected + 1
    assert sum(found.shares.values()) == pytest.approx(1)
    assert set(found.shares) == set(WHATS)


def at_work(worker: Worker, network: str, batch: int) -> int:
    """The process of a worker that is ready to call a network."""
    asked = NETWORKS[network]().to_json()
    worker.ask("observe", PATIENCE_S, network=asked, batch=batch, mode="train", seed=0)
    return int(worker.ask("facts", PATIENCE_S)["pid"])


@pytest.mark.parametrize(
    "engine", ["numpy", "torch", "tensorflow", "jax", "mxnet", "caffe", "cntk"]
)
def test_engines(engine):
    """Native frames are seen in every interpreter, those of another root included."""
    worker = engine_worker(engine)
    try:
        pid = at_work(worker, "fcn-r", BATCH)
        with ThreadPoolExecutor() as pool:
            calls = pool.submit(
                worker.ask, "repeat", PATIENCE_S, calls=1, least_s=START_S + SECONDS
            )
            found = sample(pid, SECONDS)
            calls.result()
    finally:
        worker.close()
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.hottest
    busy = "waiting" if engine in ("tensorflow", "jax", "mxnet") else "kernel"
    assert found.share(busy) > 0.5, found


def test_files_to_keep(tmp_path):
    worker = engine_worker("numpy")
    try:
        pid = at_work(worker, "fcn-r", 8)
        with ThreadPoolExecutor() as pool:
            calls = pool.submit(worker.ask, "repeat", PATIENCE_S, calls=1, least_s=5.0)
            flame_graph, speedscope = keep(pid, SECONDS, tmp_path / "kept", "numpy")
            calls.result()
    finally:
        worker.close()
    assert flame_graph.read_text().rstrip().endswith("</svg>")
    assert "sgemm" in flame_graph.read_text()
    assert json.loads(speedscope.read_text())["profiles"]


def test_a_process_that_is_gone():
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    with pytest.raises(KernelprofError, match=f"process {gone} has ended"):
        sample(gone, SECONDS)


def test_without_py_spy(monkeypatch):
    monkeypatch.setattr(stacks.shutil, "which", lambda name, path=None: None)
    with pytest.raises(KernelprofError, match="py-spy is not installed: `pip install py-spy`"):
        sample(os.getpid(), SECONDS)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Error: Permission Denied: Try running again with elevated permissions\nReason: no",
            "Permi",
        ),
        ("Permission denied", "Permission denied"),
        ("", "status 3"),
    ],
)
def test_a_py_spy_that_may_not_look(said, reason, tmp_path, monkeypatch):
    fake = tmp_path / "py-spy"
    fake.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(stacks.shutil, "which", lambda name, path=None: str(fake))
    with pytest.raises(KernelprofError, match=rf"^py-spy: {reason}") as refused:
        sample(os.getpid(), SECONDS)
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelprofError, match="cannot write"):
        keep(os.getpid(), SECONDS, Path(tmp_path / "file"), "x")
