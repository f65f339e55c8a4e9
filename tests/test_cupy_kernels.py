"""The kernels of the cupy engine without a GPU: against the oracle, and through CUDA's compiler."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import replace
from importlib.metadata import distribution
from itertools import product
from typing import Any

import numpy as np
import pytest

from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm
from kernelprof.probes.cupy_sources import ELEMENTWISE, SUMS
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.engine import Unsupported
from kernelprof.probes.memory_bound import Activation, Dropout, Pool2d
from kernelprof.probes.network import MODES, TRAIN
from kernelprof.probes.networks import CANONICAL
from kernelprof.probes.oracle import WrongResultError
from kernelprof.probes.primitive import (
    FORWARD,
    SHORTER_FLOATS,
    UPDATE,
    Primitive,
)
from kernelprof.probes.reference import KERNELS
from kernelprof.probes.selfcheck import kernel_error, network_errors, update_errors
from tests import cuda_as_c
from tests.cupy_engine import DEVICE
from tests.test_engine_contract import (
    MADE_UP,
    SAMPLES,
    TOLERANCE,
    UPDATE_TOLERANCE,
    known_network,
    result_names,
    small_instance,
)


@pytest.fixture(scope="module")
def engine(on_cupy: Any) -> Any:
    return on_cupy.start(DEVICE)


def kernel_of(primitive: Primitive, pass_: str) -> Kernel:
    return Kernel("layer", (primitive,), (pass_,), () if pass_ == UPDATE else (0,))


@pytest.mark.parametrize("primitive", SAMPLES, ids=lambda primitive: primitive.label)
def test_kernel_agrees_with_the_oracle(engine: Any, primitive: Primitive) -> None:
    for pass_ in primitive.passes:
        assert kernel_error(engine, kernel_of(primitive, pass_), seed=3) < TOLERANCE


@pytest.mark.parametrize("primitive", SAMPLES, ids=lambda primitive: primitive.label)
def test_kernel_computes_in_float64_too(
    cupy_device: Any, engine: Any, primitive: Primitive
) -> None:
    """Nothing on the way is rounded to float32, and indices of 64 bits find the same elements."""
    wide = replace(primitive, dtype="float64")  # type: ignore[call-arg]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_device, "LARGEST_INDEX", -1)
        for pass_ in wide.passes:
            assert kernel_error(engine, kernel_of(wide, pass_), seed=3) < 1e-12


def test_a_large_convolution_is_unfolded_in_parts(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = Conv2d(5, 4, 9, 7, 6, (3, 2), (2, 1), (1, 0, 2, 1), groups=2)
    compute_bound = importlib.import_module("kernelprof.probes.cupy_compute_bound")
    monkeypatch.setattr(compute_bound, "_UNFOLDED_BYTES", 2 * 4 * 24 * 40 + 3)
    parts = list(compute_bound._blocks(convolution, 4))
    assert len(parts) > 1
    assert sum(part.stop - part.start for part in parts) == 5
    for pass_ in convolution.passes:
        assert kernel_error(engine, kernel_of(convolution, pass_)) < TOLERANCE


def test_every_reference_kernel_has_its_counterpart(engine: Any) -> None:
    assert {kind: set(passes) for kind, passes in engine.table.items()} == {
        kind: set(passes) for kind, passes in KERNELS.items()
    }


@pytest.mark.parametrize("pass_", KERNELS["gemm"])
@pytest.mark.parametrize("dtype", SHORTER_FLOATS)
@pytest.mark.parametrize("stored", list(product((False, True), repeat=2)))
def test_products_in_shorter_floats(
    engine: Any, dtype: str, stored: tuple[bool, bool], pass_: str
) -> None:
    gemm = Gemm(17, 24, 40, *stored, dtype=dtype)
    assert kernel_error(engine, kernel_of(gemm, pass_)) < (2e-2 if dtype == "bfloat16" else 2e-3)


def test_dropout_draws_the_numbers_of_splitmix64(engine: Any) -> None:
    """The first numbers of seed 1234567 as its authors' own code prints them."""
    splitmix = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    x = engine.tools.place(np.ones(3, np.float64))
    drawn = np.array([(number >> 40) / 2**24 for number in splitmix])
    for rate in (0.1, 0.2, 0.4, 0.6):
        _, mask = engine.tools.elementwise("dropped", x, 1234567, rate, 1.0)
        np.testing.assert_array_equal(mask.get(), drawn >= rate)


def test_dropout_keeps_its_share_and_never_the_same(engine: Any) -> None:
    dropout = Dropout(100_000, rate=0.3)
    x = engine.tools.place(np.ones(100_000, np.float32))
    first, second = (engine.run(dropout, FORWARD, {"x": x}) for _ in range(2))
    kept = first["mask"].get()
    assert abs(kept.mean() - 0.7) < 0.01
    assert np.all(first["y"].get() == np.where(kept, np.float32(1 / 0.7), 0))
    assert 0.5 < (kept == second["mask"].get()).mean() < 0.66


def test_a_wrong_kernel_is_seen(on_cupy: Any, engine: Any) -> None:
    """So the tests above tell something: of factors in the wrong order, of a shifted window."""
    wrong = on_cupy.CupyEngine(engine.tools, engine.stream)
    wrong.table = {
        "batched_gemm": {FORWARD: lambda primitive, a, b: b @ a},
        "pool2d": {FORWARD: lambda primitive, x: x[:, :, 1:, 1:]},
    }
    for primitive in (BatchedGemm(2, 3, 3, 3), Pool2d("max", 1, 1, 3, 3, (2, 2), (1, 1))):
        with pytest.raises(WrongResultError, match="is off"):
            kernel_error(wrong, kernel_of(primitive, FORWARD))


def test_what_it_does_not_fuse(engine: Any) -> None:
    kernel = Kernel("layer", (Gemm(4, 5, 6), Activation("relu", 20)), (FORWARD,), (0, 1))
    with pytest.raises(Unsupported, match="fuse nothing"):
        engine.kernel(kernel, [{}, {}], False)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *product([*CANONICAL, *MADE_UP, "alexnet-bvlc", "transformer-encoder"], MODES),
        ("resnet-56", "infer"),
    ],
)
def test_network_agrees_with_the_oracle(engine: Any, name: str, mode: str) -> None:
    network = small_instance(known_network(name))
    batch = 2 if network.parameters() > 2e7 else 3
    errors = network_errors(engine, network, batch, mode, seed=5)
    assert errors.keys() == result_names(network, mode)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("name", [*CANONICAL, *MADE_UP])
def test_training_moves_the_weights_as_the_oracle_does(engine: Any, name: str) -> None:
    network = small_instance(known_network(name))
    errors = update_errors(engine, network, 3, seed=7)
    assert errors.keys() == result_names(network, TRAIN) - {"loss"}
    assert max(errors.values()) < UPDATE_TOLERANCE, errors


@pytest.mark.parametrize("index", ["int", "long long"])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_cudas_compiler_takes_every_source(number: str, index: str) -> None:
    """As real GPUs run them, in a loop as CuPy writes it."""
    typedefs = f"typedef {cuda_as_c.C_TYPES[number]} T;\ntypedef {index} Index;\n"
    kernels = {name: cuda_as_c.ElementwiseKernel(*each, name) for name, each in ELEMENTWISE.items()}
    for name, (reads, term) in SUMS.items():
        kernels[name] = cuda_as_c.ElementwiseKernel(reads, "T total", f"total = {term}", name)
    source = typedefs + "".join(
        f'extern "C" __global__ void kernelprof_{name}{cuda_as_c.loop(kernel, number)}'
        for name, kernel in kernels.items()
    )
    assert compile_cuda(source) == ""
    assert "identifier" in compile_cuda(source.replace("dy", "yd", 1))


def compile_cuda(source: str) -> str:
    """What NVRTC, which needs no GPU and no driver, has against a source."""
    (library,) = (
        file
        for file in distribution("nvidia-cuda-nvrtc").files or ()
        if file.name.startswith("libnvrtc.so")
    )
    nvrtc = ctypes.CDLL(str(library.locate()))
    program, length = ctypes.c_void_p(), ctypes.c_size_t()
    made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None)
    assert made == 0
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=compute_80", b"--diag-suppress=177")
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(length))
    log = ctypes.create_string_buffer(length.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert bool(failed) == (b"error" in log.value)
    return log.value.decode()
